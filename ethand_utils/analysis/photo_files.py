"""Files of photos: which files are photos, where the results of each go, and what may be replaced there."""

import json
import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ethand_utils.data.images import ImageError
from ethand_utils.labels import HANDS
from ethand_utils.outputs import OutputError, claim_shared_folder, digest, relative_path

SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
RESULT = "hands.json"
RESULTS = Path("hands")  # where results lie that no folder is named for
PICTURES = (*HANDS, "visible", "overlay")  # names of its pictures, without .png


def describe_source(source: Path | None, folder: Path) -> dict:
    """Return what `hands.json` in a folder notes of a photo's file: its digest, and its path from that folder."""
    if source is None:
        return {}
    return {"photo_sha256": digest(source), "photo_path": relative_path(source, folder)}


def claim_result(folder: Path, photo: str, source: Path | None = None) -> set[Path]:
    """Return the pictures in a folder that an earlier result of the same photo left there, and that may be replaced.

    A photo is the same that has its name and, where its file `source` is known, its bytes or its path. Raises
    OutputError when the `hands.json` there is of another photo, or not one of ours, and when a picture is no
    longer as it was written: somebody has worked on it.
    """
    claim_shared_folder(folder)
    result = folder / RESULT
    refuse_others([path for path in (result,) if not _is_ours(result)])
    if not result.exists():
        refuse_others(folder / f"{name}.png" for name in PICTURES)
        return set()
    earlier = json.loads(result.read_text())
    notes = describe_source(source, folder)
    differs = [name for name, value in notes.items() if earlier.get(name, value) != value]
    if earlier["photo"] != photo or (notes and len(differs) == len(notes)):
        raise OutputError(
            f"{result}: of another photo ({earlier.get('photo_path', earlier['photo'])}), and not replaced; choose "
            "another folder (--out)"
        )
    digests = earlier.get("files")
    written = {path for path in _earlier_pictures(folder, earlier) if os.path.lexists(path)}
    if digests is not None:  # results of older versions have none
        refuse_others(path for path in written if digest(path) != digests.get(path.relative_to(folder).as_posix()))
    return written


def refuse_others(paths: Iterable[Path]) -> None:
    """Raise OutputError, naming the first, when one of some paths is there."""
    strange = next((path for path in sorted(paths) if os.path.lexists(path)), None)
    if strange:
        raise OutputError(
            f"{strange}: not made by `ethand predict`, or changed since, and so not replaced; choose another folder "
            "(--out)"
        )


def _earlier_pictures(folder: Path, earlier: dict) -> set[Path]:
    """Return the pictures that an earlier `hands.json` of a folder speaks of."""
    names = [str(one["folder"]) for one in earlier["hands"]]
    folders = [folder / name for name in names if name == "." or name.isdecimal()]
    return {target / f"{name}.png" for target in folders for name in PICTURES}


def _is_ours(result: Path) -> bool:
    try:
        earlier = json.loads(result.read_text())
        return isinstance(earlier["photo"], str) and all("folder" in one for one in earlier["hands"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def list_photos(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return the photos among `paths` and in folders among them, and those files of the folders that are no photos.

    A file among `paths` counts as a photo whatever its ending; in folders, endings decide (SUFFIXES). A photo that is
    named twice, by whatever path, counts once.
    """
    photos, others = {}, []
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if not path.is_dir() or (file.is_file() and file.suffix.lower() in SUFFIXES):
                photos.setdefault(os.path.realpath(file), file)
            elif file.is_file():
                others.append(file)
    return list(photos.values()), others


def result_folders(photos: list[Path], out: Path | None) -> list[Path]:
    """Return the folder of each photo's results: `out` for one alone, else one a photo below it, named as the photo.

    Without `out`, they lie below RESULTS, and one alone has a folder there too, which leaves room for the next photo.
    Photos whose names are the same, or are so to some file systems, get their ending or a number, too.
    """
    return [out] if out and len(photos) == 1 else photo_folders(photos, out or RESULTS)


def photo_folders(photos: list[Path], out: Path) -> list[Path]:
    """Return a folder below `out` for the results of each photo, no two the same, as `result_folders` names them."""
    folders: dict[str, Path] = {}
    for photo in photos:
        stem = photo.stem if photo.stem.strip(".") else f"photo{photo.name}"
        names = [stem, photo.name, *(f"{stem}-{number}" for number in range(2, len(photos) + 2))]
        name = next(name for name in names if _folded(name) not in folders)
        folders[_folded(name)] = out / name
    return list(folders.values())


def _folded(name: str) -> str:
    """Return what a file system that does not tell cases or accents' spellings apart makes of a name."""
    return unicodedata.normalize("NFC", name).casefold()


def parse_box(text: str) -> tuple[float, float, float, float]:
    """Parse `x,y,w,h` in px. Raises ImageError for anything but four numbers, width and height above 0."""
    try:
        x, y, w, h = map(float, text.split(","))
    except ValueError:
        raise ImageError(f"--box {text}: expected four numbers x,y,w,h in px") from None
    if not np.isfinite([x, y, w, h]).all() or w <= 0 or h <= 0:
        raise ImageError(f"--box {text}: expected numbers, width and height above 0")
    return x, y, w, h
