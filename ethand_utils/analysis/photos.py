"""Masks of photos: the hands that a photo shows, what a net makes of them, and the files that say so."""

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from ethand_utils.analysis.hand_finder import HandView
from ethand_utils.analysis.landmark_prior import landmark_prior
from ethand_utils.analysis.photo_files import RESULT, claim_result, describe_source, refuse_others
from ethand_utils.data.images import ImageError, Photo
from ethand_utils.files import atomic_write, write_json
from ethand_utils.labels import COLOURS, FRONT_NONE, HANDS, LEFT, N_CLASSES, PARTS, RIGHT, slug
from ethand_utils.training.photo_graph import PhotoGraph, enlargement
from ethand_utils.training.predicted import PLAIN, Inference, Predicted

LEFT_OFFSET = N_CLASSES - 1  # added to the left hand's ids in visible.png, as in the course's files
OPACITY = 0.6  # of masks over a photo

if TYPE_CHECKING:
    from torch import nn


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

    def resized(self, height: int, width: int) -> "PhotoHands":
        """Return the hands with their masks in the photo's frame at another size, px: small ones to look at."""
        size, how = (width, height), cv2.INTER_NEAREST
        masks = np.stack([cv2.resize(mask, size, interpolation=how) for mask in self.masks])
        front = None if self.front is None else cv2.resize(self.front, size, interpolation=how)
        return replace(self, masks=masks, front=front)

    def _describe_hand(self, hand: int) -> dict:
        # By rows, as bincount makes eight bytes of every pixel.
        area = sum(np.bincount(rows.ravel(), minlength=N_CLASSES) for rows in np.array_split(self.masks[hand], 32))
        pixels, occluded = int(area[1:].sum()), None
        if self.front is not None and pixels:
            other = (self.masks[hand] > 0) & (self.front != hand + 1) & (self.front != FRONT_NONE)
            occluded = round(float(other.sum() / pixels), 4)
        parts = {slug(name): int(area[part]) for part, name in enumerate(PARTS) if part and area[part]}
        presence = round(float(self.presence[hand]), 4)
        return {"present": pixels > 0, "presence": presence, "occluded_share": occluded, "part_areas_px": parts}


def predict_view(
    model: "nn.Module | PhotoGraph", image: np.ndarray | Photo, size: int, view: HandView, how: Inference = PLAIN
) -> PhotoHands:
    """Predict the hands that a photo, uint8 RGB [H, W, 3] or reduced, shows in a view, by a net of `size` px.

    A `PhotoGraph` has its own size and way, in place of `size` and `how`. The view and the masks are of the photo's
    own size. Raises ImageError when the view lies outside the photo.
    """
    photo = image if isinstance(image, Photo) else Photo(image, *image.shape[:2])
    image, height, width = photo.image, photo.height, photo.width
    reduced = view.scaled(1 / photo.factor)
    large = size * enlargement(size)
    _require_inside(view, height, width)
    crop = reduced.square.crop(image, size)
    predicted = _predict(model, crop[None], how, view.sides, hands_prior(view, large))
    in_photo = view.square.uncrop(predicted.masks[0], height, width)
    front = None if predicted.front is None else view.square.uncrop(predicted.front, height, width)[0]
    crop = reduced.square.crop(image, large)
    return PhotoHands(
        view, crop, predicted.masks[0], in_photo, front, predicted.presence[0], float(predicted.confidence[0])
    )


def _predict(model, images: np.ndarray, how: Inference, sides: tuple[int, ...], prior: np.ndarray | None) -> Predicted:
    if isinstance(model, PhotoGraph):
        return model.predict(images, sides, prior)
    from ethand_utils.training.inference import predict

    return predict(model, images, how, sides, enlargement(images.shape[1]), prior)


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
    describes them all, notes digest and path of the photo's file `source`, and is the only file where the photo has no
    hands. Pictures of an earlier result of the same photo are removed.

    Raises OutputError as `claim_result` does, before anything is written, and FileError where the disk refuses; the
    earlier pictures are gone by then, and `hands.json` may name some that are missing.
    """
    folder = Path(folder)
    written = claim_result(folder, photo, source)
    single = len(hands) == 1
    folders = [folder if single else folder / str(number + 1) for number in range(len(hands))]
    pairs = list(zip(folders, hands, strict=True))
    files = {target / name: _png(picture) for target, view_hands in pairs for name, picture in _files(view_hands)}
    refuse_others(files.keys() - written)
    results = [one.describe() | {"folder": "." if single else target.name} for target, one in pairs]
    height, width = (image.height, image.width) if isinstance(image, Photo) else image.shape[:2]
    digests = {path.relative_to(folder).as_posix(): hashlib.sha256(png).hexdigest() for path, png in files.items()}
    facts = {"photo": photo, **describe_source(source, folder), "width": width, "height": height}
    for path in written:
        path.unlink(missing_ok=True)
    # Before the pictures, so that what an interruption leaves is known as ours when the photo is predicted again.
    write_json(folder / RESULT, facts | {"hands": results, "files": digests})
    for path, png in files.items():
        with atomic_write(path) as temporary:
            temporary.write_bytes(png)


def _png(picture: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "png")
    return content.getvalue()


def _files(hands: PhotoHands) -> list[tuple[str, np.ndarray]]:
    masks = [(f"{name}.png", mask) for name, mask in zip(HANDS, hands.masks, strict=True)]
    visible = [] if hands.visible is None else [("visible.png", hands.visible)]
    panels = [hands.crop, *(_overlay(hands.crop, mask) for mask in hands.crop_masks)]
    return [*masks, *visible, ("overlay.png", np.concatenate(panels, axis=1))]


def _overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Blend the parts' colours over an image; without the figures' library, which is slow to import."""
    blended = (1 - OPACITY) * image + OPACITY * COLOURS[mask]
    return np.where((mask > 0)[..., None], blended, image).astype(np.uint8)
