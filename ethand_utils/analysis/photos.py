"""Masks of photos: the hands that a photo shows, what a net makes of them, and the files that say so."""

import json
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from ethand_utils.analysis.hand_finder import HandView
from ethand_utils.analysis.landmark_prior import landmark_prior
from ethand_utils.data.images import ImageError, Photo
from ethand_utils.files import atomic_write, write_json
from ethand_utils.labels import COLOURS, FRONT_NONE, HANDS, LEFT, N_CLASSES, PARTS, RIGHT, slug
from ethand_utils.outputs import OutputError, claim_room, digest
from ethand_utils.training.inference import PLAIN, Inference, predict

SHOWN_SIZE = 256  # px of a photo's square, at least, in which masks are interpolated and shown
LEFT_OFFSET = N_CLASSES - 1  # added to the left hand's ids in visible.png, as in the course's files
SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
RESULT = "hands.json"
PICTURES = (*HANDS, "visible", "overlay")  # names of its pictures, without .png
OPACITY = 0.6  # of masks over a photo


@dataclass(frozen=True)
class PhotoHands:
    """One or two hands of a photo.

    `view` is where they are, `crop` uint8 [S, S, 3] its square with `crop_masks` uint8 [2, S, S]; `masks` uint8
    [2, H, W] and `front` uint8 [H, W] (None: the net does not say it) lie in the photo's frame. `presence` of each hand
    float [2] and `confidence` are in 0…1.
    """

    view: HandView
    crop: np.ndarray
    crop_masks: np.ndarray
    masks: np.ndarray
    front: np.ndarray | None
    presence: np.ndarray
    confidence: float

    @property
    def visible(self) -> np.ndarray | None:
        """The part that is seen at each pixel: uint8 [H, W], right hand 1…16, left hand 17…32; None without `front`."""
        if self.front is None:
            return None
        left, right = (np.where(self.front == hand + 1, self.masks[hand], 0) for hand in (LEFT, RIGHT))
        return (right + np.where(left > 0, left + LEFT_OFFSET, 0)).astype(np.uint8)

    def describe(self) -> dict:
        """Return what `hands.json` says of them."""
        box = [round(value, 1) for value in self.view.box]
        hands = {name: self._describe_hand(hand) for hand, name in enumerate(HANDS)}
        return {"box": box, "confidence": round(self.confidence, 4), **hands}

    def _describe_hand(self, hand: int) -> dict:
        area = np.bincount(self.masks[hand].ravel(), minlength=N_CLASSES)
        pixels, occluded = int(area[1:].sum()), None
        if self.front is not None and pixels:
            other = (self.masks[hand] > 0) & (self.front != hand + 1) & (self.front != FRONT_NONE)
            occluded = round(float(other.sum() / pixels), 4)
        parts = {slug(name): int(area[part]) for part, name in enumerate(PARTS) if part and area[part]}
        presence = round(float(self.presence[hand]), 4)
        return {"present": pixels > 0, "presence": presence, "occluded_share": occluded, "part_areas_px": parts}


def predict_view(
    model: nn.Module, image: np.ndarray | Photo, size: int, view: HandView, how: Inference = PLAIN
) -> PhotoHands:
    """Predict the hands that a photo, uint8 RGB [H, W, 3] or reduced, shows in a view, by a net of `size` px.

    The view and the masks are of the photo's own size. Raises ImageError when the view lies outside the photo.
    """
    photo = image if isinstance(image, Photo) else Photo(image, *image.shape[:2])
    image, height, width = photo.image, photo.height, photo.width
    reduced = view.scaled(1 / photo.factor)
    enlarge = -(-SHOWN_SIZE // size)
    large = size * enlarge
    _require_inside(view, height, width)
    crop = reduced.square.crop(image, size)
    predicted = predict(model, crop[None], how, view.sides, enlarge, hands_prior(view, large))
    in_photo = view.square.uncrop(predicted.masks[0], height, width)
    front = None if predicted.front is None else view.square.uncrop(predicted.front, height, width)[0]
    crop = reduced.square.crop(image, large)
    return PhotoHands(
        view, crop, predicted.masks[0], in_photo, front, predicted.presence[0], float(predicted.confidence[0])
    )


def hands_prior(view: HandView, size: int) -> np.ndarray | None:
    """Return what the hands of a view say of its parts, float32 [2, 17, size, size]; None where none was found."""
    if not view.hands:
        return None
    prior, matrix = np.ones((len(HANDS), N_CLASSES, size, size), np.float32), view.square.matrix(size)
    for hand in view.hands:
        inside = np.linalg.solve(matrix[:, :2], (hand.landmarks - 0.5 - matrix[:, 2]).T).T + 0.5
        prior[hand.side] = landmark_prior(inside, size)
    return prior


def _require_inside(view: HandView, height: int, width: int) -> None:
    (x, y), reach = view.square.centre, view.square.side / 2
    if x + reach <= 0 or y + reach <= 0 or x - reach >= width or y - reach >= height:
        box = ",".join(f"{value:g}" for value in view.box)
        raise ImageError(f"box {box} px lies outside the photo of {width}×{height} px; expected the hands' x,y,w,h")


def save_photo(
    folder: str | Path, photo: str, image: np.ndarray | Photo, hands: list[PhotoHands], source: Path | None = None
) -> None:
    """Write what was predicted of the photo named `photo`, uint8 RGB [H, W, 3] or reduced, into `folder`.

    Of one view that is `left.png` and `right.png` (part ids 0…16 in the photo's frame), `visible.png` where the net
    says which hand is in front, and `overlay.png`; of several, a numbered folder each with the same. `hands.json`
    describes them all, and is the only file where the photo has no hands; of the photo's file `source` it keeps the
    digest. Pictures of an earlier result of the same photo go.

    Raises OutputError as `claim_result` does, before anything is written, and FileError where the disk refuses.
    """
    folder = Path(folder)
    sha256 = None if source is None else digest(source)
    written = claim_result(folder, photo, sha256)
    single = len(hands) == 1
    folders = [folder if single else folder / str(number + 1) for number in range(len(hands))]
    files = {place / name: picture for place, one in zip(folders, hands, strict=True) for name, picture in _files(one)}
    _refuse_others(files.keys() - written)
    for path in written - files.keys():
        path.unlink(missing_ok=True)
    for path, picture in files.items():
        with atomic_write(path) as temporary:
            Image.fromarray(picture).save(temporary)
    results = [
        one.describe() | {"folder": place.name if not single else "."}
        for place, one in zip(folders, hands, strict=True)
    ]
    height, width = (image.height, image.width) if isinstance(image, Photo) else image.shape[:2]
    digests = {path.relative_to(folder).as_posix(): digest(path) for path in files}
    facts = {"photo": photo, "photo_sha256": sha256, "width": width, "height": height, "files": digests}
    write_json(folder / RESULT, facts | {"hands": results})


def claim_result(folder: Path, photo: str, sha256: str | None) -> set[Path]:
    """Return the pictures in a folder that an earlier result of the same photo left there, and that may be replaced.

    Raises OutputError when the `hands.json` there is of another photo, or not one of ours, and when a picture is no
    longer as it was written: somebody has worked on it.
    """
    claim_room(folder)
    result = folder / RESULT
    _refuse_others([path for path in (result,) if not _is_ours(result)])
    if not result.exists():
        _refuse_others(folder / f"{name}.png" for name in PICTURES)
        return set()
    earlier = json.loads(result.read_text())
    known = earlier.get("photo_sha256")
    if earlier["photo"] != photo or (sha256 is not None and known not in (None, sha256)):
        raise OutputError(
            f"{result}: of another photo ({earlier['photo']}), and not replaced; choose another folder (--out)"
        )
    digests = earlier.get("files")
    written = {path for path in _earlier_pictures(folder, earlier) if os.path.lexists(path)}
    if digests is not None:  # results of older versions have none
        _refuse_others(path for path in written if digest(path) != digests.get(path.relative_to(folder).as_posix()))
    return written


def _refuse_others(paths: Iterable[Path]) -> None:
    """Raise OutputError, naming the first, when one of some paths is there."""
    strange = next((path for path in sorted(paths) if os.path.lexists(path)), None)
    if strange:
        raise OutputError(
            f"{strange}: not made by `ethand predict`, or changed since, and so not replaced; choose another folder "
            "(--out)"
        )


def _files(hands: PhotoHands) -> list[tuple[str, np.ndarray]]:
    masks = [(f"{name}.png", mask) for name, mask in zip(HANDS, hands.masks, strict=True)]
    visible = [] if hands.visible is None else [("visible.png", hands.visible)]
    panels = [hands.crop, *(_overlay(hands.crop, mask) for mask in hands.crop_masks)]
    return [*masks, *visible, ("overlay.png", np.concatenate(panels, axis=1))]


def _overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Blend the parts' colours over an image; without the figures' library, which is slow to import."""
    blended = (1 - OPACITY) * image + OPACITY * COLOURS[mask]
    return np.where((mask > 0)[..., None], blended, image).astype(np.uint8)


def _earlier_pictures(folder: Path, earlier: dict) -> set[Path]:
    """Return the pictures that an earlier `hands.json` of a folder speaks of."""
    names = [str(one["folder"]) for one in earlier["hands"]]
    folders = [folder / name for name in names if name == "." or name.isdecimal()]
    return {place / f"{name}.png" for place in folders for name in PICTURES}


def _is_ours(result: Path) -> bool:
    try:
        earlier = json.loads(result.read_text())
        return isinstance(earlier["photo"], str) and all("folder" in one for one in earlier["hands"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def list_photos(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return the photos among `paths` and in the folders among them, and the files of the folders that are none.

    A file that is named itself counts as a photo whatever its ending; in folders, endings decide (SUFFIXES). A photo
    that is named twice, by whatever path, counts once.
    """
    photos, others = {}, []
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if not path.is_dir() or (file.is_file() and file.suffix.lower() in SUFFIXES):
                photos.setdefault(os.path.realpath(file), file)
            elif file.is_file():
                others.append(file)
    return list(photos.values()), others


def result_folders(photos: list[Path], out: Path) -> list[Path]:
    """Return the folder of each photo's results: `out` for one alone, else one a photo below it, named as the photo.

    Photos that would share a folder get their ending, or a number, too; so do those whose names some file systems
    take for the same.
    """
    if len(photos) == 1:
        return [out]
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
