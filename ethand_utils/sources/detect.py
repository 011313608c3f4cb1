"""Where a run's data set comes from: what lies in a folder."""

import os
from pathlib import Path

from ethand_utils.files import FileError
from ethand_utils.sources.course import PLACES
from ethand_utils.sources.course_io import IMAGES


def detect_source(folder: str | Path) -> str:
    """What lies in `folder`, by its files alone: `stores` (a data set, or one store), `course` or `interhand`.

    Stores have a `meta.json`; the course's files are `interhand.lmdb` and its companions, in the folder or in
    `data/InterHand2.6M`; InterHand2.6M is known by its annotation, `*data.json` with `*joint_3d.json` beside it,
    anywhere but below `images/`. Raises FileError when it is none of them.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder; data names {_LAYOUTS}")
    if (folder / "meta.json").exists() or any(p.parent.name[0] != "." for p in folder.glob("*/meta.json")):
        return "stores"
    if any((folder / place / IMAGES).exists() for place in PLACES):
        return "course"
    if _has_annotation(folder):
        return "interhand"
    raise FileError(f"{folder}: holds no data known here; expected {_LAYOUTS}")


_LAYOUTS = (
    "a folder of stores (<name>/meta.json; `ethand data render` makes one), or of the course's files "
    f"({IMAGES} and the lists; `ethand data course` reads them), or of InterHand2.6M (*data.json, *camera.json "
    "and *joint_3d.json with the images; `ethand data interhand` reads them)"
)


def _has_annotation(folder: Path) -> bool:
    """Whether an annotation lies below; `images/` is passed over, as it may hold millions of files."""
    for _, below, names in os.walk(folder):
        below[:] = [name for name in below if name != "images"]
        starts = {name.removesuffix("data.json") for name in names if name.endswith("data.json")}
        if any(f"{start}joint_3d.json" in names for start in starts):
            return True
    return False
