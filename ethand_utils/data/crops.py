"""Reading photos, cropping them as the course does, and putting masks of crops back into the frame."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ethand_utils.exceptions import EthandError
from ethand_utils.labels import CROP_OVER_BOX

MAX_CROP = 10  # largest side of a crop, over that of its photo


class ImageError(EthandError):
    """A photo that cannot be read or cropped."""


def read_image(path: str | Path) -> np.ndarray:
    """Read a photo as uint8 RGB [H, W, 3]. Raises ImageError when there is none or it is no image."""
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image; check the path") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ImageError(
            f"{path}: not a readable image ({type(error).__name__}); expected JPEG, PNG or the like"
        ) from None


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
    left, top = int(np.floor(x)), int(np.floor(y))
    reach = int(np.ceil(side)) + 1
    padded = Image.fromarray(image).crop((left, top, left + reach, top + reach))
    box = (x - left, y - top, x - left + side, y - top + side)
    return np.asarray(padded.resize((size, size), Image.Resampling.BILINEAR, box=box))


def uncrop_masks(masks: np.ndarray, crop: tuple[float, float, float], height: int, width: int) -> np.ndarray:
    """Put masks uint8 [2, size, size] of a crop back into the frame: uint8 [2, height, width], nearest neighbour."""
    x, y, side = crop
    size = masks.shape[-1]
    rows = np.floor((np.arange(height) + 0.5 - y) / side * size).astype(int)
    columns = np.floor((np.arange(width) + 0.5 - x) / side * size).astype(int)
    inside = ((rows >= 0) & (rows < size))[:, None] & ((columns >= 0) & (columns < size))[None]
    frame = masks[:, rows.clip(0, size - 1)][:, :, columns.clip(0, size - 1)]
    return np.where(inside, frame, 0).astype(np.uint8)
