"""Cropping photos, as the course does or turned, and putting masks of crops back into the frame."""

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from ethand_utils.data.images import ImageError
from ethand_utils.labels import CROP_OVER_BOX

MAX_CROP = 10  # largest side of a crop, over that of its photo
MAX_PADDED = 4096  # px a side of a square that is cropped with its black border first: a larger one would need GBs


def crop_square(box: tuple[float, float, float, float]) -> tuple[float, float, float]:
    """Return the course's crop (x, y, side) of a box (x, y, w, h), px: its longer side × 1.25 about its centre."""
    x, y, w, h = box
    side = max(w, h) * CROP_OVER_BOX
    return x + w / 2 - side / 2, y + h / 2 - side / 2, side


def crop_image(image: np.ndarray, crop: tuple[float, float, float], size: int) -> np.ndarray:
    """Crop the square (x, y, side) of an image uint8 [H, W, 3] to `size`×`size`, bilinear, black beyond the frame.

    Raises ImageError when the square does not touch the image or is out of proportion to it.
    """
    x, y, side = crop
    height, width = image.shape[:2]
    if side <= 0 or x >= width or y >= height or x + side <= 0 or y + side <= 0:
        raise ImageError(f"box: the crop {x:.0f},{y:.0f} of side {side:.0f} px lies outside the {width}×{height} image")
    if side > MAX_CROP * max(height, width):
        raise ImageError(f"box: the crop's side of {side:.0f} px is out of proportion to the {width}×{height} image")
    if side > MAX_PADDED:
        return TurnedSquare((x + side / 2, y + side / 2), side).crop(image, size)
    left, top = int(np.floor(x)), int(np.floor(y))
    reach = int(np.ceil(side)) + 1
    padded = Image.fromarray(image).crop((left, top, left + reach, top + reach))
    box = (x - left, y - top, x - left + side, y - top + side)
    return np.asarray(padded.resize((size, size), Image.Resampling.BILINEAR, box=box))


@dataclass(frozen=True)
class TurnedSquare:
    """A square of a photo: its `centre` (x, y) and `side` in px, and its direction `up`, a unit vector (x, y)."""

    centre: tuple[float, float]
    side: float
    up: tuple[float, float] = (0.0, -1.0)

    def matrix(self, size: int) -> np.ndarray:
        """Return the affine [2, 3] from pixel indices of the square at `size`×`size` px to those of the photo."""
        across = (-self.up[1], self.up[0])
        linear = self.side / size * np.stack([across, np.negative(self.up)], 1)
        return np.concatenate([linear, (self.centre - linear @ np.full(2, size / 2))[:, None]], 1) + _half_pixel(linear)

    def crop(self, image: np.ndarray, size: int) -> np.ndarray:
        """Return the square of an image uint8 [H, W, 3] at `size`×`size` px, black beyond the frame."""
        return warp_image(image, self.matrix(size), size)

    def uncrop(self, maps: np.ndarray, height: int, width: int) -> np.ndarray:
        """Put maps uint8 [k, size, size] of the square back into the frame: uint8 [k, height, width], nearest."""
        matrix, how = self.matrix(maps.shape[-1]), cv2.INTER_NEAREST
        return np.stack([cv2.warpAffine(np.ascontiguousarray(one), matrix, (width, height), flags=how) for one in maps])


def _half_pixel(linear: np.ndarray) -> np.ndarray:
    """Return what turns an affine of positions, whose pixels have their middles at ½, into one of indices."""
    shift = np.zeros((2, 3))
    shift[:, 2] = linear @ np.full(2, 0.5) - 0.5
    return shift


def warp_image(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Return size×size px of an image uint8 [H, W, 3], black beyond its border.

    `matrix` [2, 3] is the affine from the result's pixel indices to the image's. An image that shrinks is first reduced
    by area, so that fine detail does not turn into noise.
    """
    shrinks = int(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if shrinks >= 2:
        height, width = (max(1, length // shrinks) for length in image.shape[:2])
        matrix = matrix.copy()
        matrix[:, 2] += 0.5
        matrix *= np.array([[width / image.shape[1]], [height / image.shape[0]]])
        matrix[:, 2] -= 0.5
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
