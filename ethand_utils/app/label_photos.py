"""Photos to label: their files and names, small copies for a page, and a hand to begin with."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from ethand_utils.analysis.image_plots import save_image
from ethand_utils.analysis.photo_files import list_photos
from ethand_utils.data.images import Photo, read_photo
from ethand_utils.data.store import Store
from ethand_utils.exceptions import EthandError
from ethand_utils.hands.joints import CHAINS, WRIST, landmarks
from ethand_utils.hands.photo_fit import FEWEST, FEWEST_PALM
from ethand_utils.hands.rigs import load_rig
from ethand_utils.labels import LEFT, N_JOINTS
from ethand_utils.sources.label_files import HandLabel

PAGE_SIDE = 1024  # px a side of a photo in the page, at most
THUMB_SIDE = 120
THUMB_PIXELS = 500_000  # a photo is decoded at least at this size for its small picture
QUALITY = 92  # of JPEG
ADDED_LEFT = 0.35  # of the photo's width, where an added left hand is
ADDED_SHARE = 0.5  # of the photo's shorter side, that an added hand is long


class LabelPhotos:
    """The photos to label: those of a folder, of a list of files, or the images of a store.

    `names` are the shortest that all differ. A store's images are written as PNG files into `folder` when they are
    first asked for, because a label is of a file. Raises EthandError where there is no photo.
    """

    def __init__(self, images: str | Path | Sequence[str | Path] | Store, folder: Path):
        self._store = images.require("images") if isinstance(images, Store) else None
        if self._store is not None:
            self.files = [folder / f"{name}.png" for name in self._store.index["id"]]
        else:
            self.files = _files([images] if isinstance(images, str | Path) else images)
        if not self.files:
            raise EthandError(f"{images}: no photos here; expected files such as .jpg or .png")
        self.names = _names(self.files)

    def file(self, index: int) -> Path:
        """Return the file of a photo; a store's image is written to it first."""
        file = self.files[index]
        if self._store is not None and not file.exists():
            save_image(self._store.images[index], file)
        return file

    def index(self, name: str) -> int:
        """Return the index of the photo with a name. Raises EthandError when there is none."""
        if name not in self.names:
            raise EthandError(f"{name}: none of the {len(self.names)} photos to label, such as {self.names[0]}")
        return self.names.index(name)

    def thumbnail(self, index: int) -> bytes:
        """Return a small picture of a photo as JPEG; empty where it cannot be read, which opening it will say."""
        try:
            image = self._store.images[index] if self._store else read_photo(self.files[index], THUMB_PIXELS).image
            return _jpeg(image, THUMB_SIDE)
        except EthandError:
            return b""


def _files(paths: Sequence[str | Path]) -> list[Path]:
    if not isinstance(paths, Iterable):
        raise EthandError(f"{paths!r}: expected a folder of photos, a list of files, or a Store")
    paths = [Path(path) for path in paths]
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise EthandError(f"{missing[0]}: no such photo or folder; check the path")
    return list_photos(paths)[0]


def _names(files: list[Path]) -> list[str]:
    """Return the files' names, with their folder's where two are the same, and whole paths if need be."""
    for name in (lambda file: file.name, lambda file: f"{file.parent.name}/{file.name}", str):
        names = [name(file) for file in files]
        if max(Counter(names).values()) == 1:
            break
    return names


def page_image(photo: Photo) -> bytes:
    """Return a photo as JPEG of at most PAGE_SIDE px a side."""
    return _jpeg(photo.image, PAGE_SIDE)


def _jpeg(image: np.ndarray, side: int) -> bytes:
    height, width = image.shape[:2]
    scale = min(1, side / max(height, width))
    if scale < 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    # Colours at full resolution: edges of parts are read off them.
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY, *sampling])
    if not done:
        raise EthandError(f"an image of {width}×{height} px could not be encoded as JPEG")
    return data.tobytes()


def added_hand(side: int, size: tuple[int, int]) -> HandLabel:
    """Return the label of a hand to begin with: flat, seen from its back, upright in a half of the photo.

    `size` is the photo's (width, height) px. All its joints are guesses.
    """
    points = _flat_hand(side)
    points = points * (ADDED_SHARE * min(size) / np.ptp(points[:, 1]))
    return HandLabel(points + np.multiply(size, (ADDED_LEFT if side == LEFT else 1 - ADDED_LEFT, 0.5)), _all_guessed())


def completed_hand(hand: HandLabel, side: int, size: tuple[int, int]) -> HandLabel:
    """Return a first guess with all its joints marked as guesses, and those of a flat hand where it has too few.

    That hand is laid over the joints that there are.
    """
    if hand.placed.sum() >= FEWEST and hand.placed[[WRIST, *CHAINS[:, 0]]].sum() >= FEWEST_PALM:
        return HandLabel(hand.joints, hand.placed)
    if hand.placed.sum() < 2:
        return added_hand(side, size)
    flat, points = _flat_hand(side) @ (1, 1j), hand.joints @ (1, 1j)
    middles = flat[hand.placed].mean(), points[hand.placed].mean()
    flat, offsets = flat - middles[0], points[hand.placed] - middles[1]
    turn = np.vdot(flat[hand.placed], offsets) / np.vdot(flat[hand.placed], flat[hand.placed]).real
    laid = np.where(hand.placed, points, middles[1] + turn * flat)
    return HandLabel(np.stack([laid.real, laid.imag], 1), _all_guessed())


def _flat_hand(side: int) -> np.ndarray:
    """Return the joints [21, 2] of a hand at rest seen from its back, fingers upwards, about their middle."""
    points = landmarks(load_rig().hand)[:, [0, 2]]  # of a right hand, fingers towards −z
    return (points - points.mean(0)) * ((-1, 1) if side == LEFT else (1, 1))


def _all_guessed() -> np.ndarray:
    return np.ones(N_JOINTS, bool)
