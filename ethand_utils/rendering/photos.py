"""Photographs as backgrounds: random parts of those that installed packages carry."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

# Photographs that show no hand: the package, which is not imported, and the file in its folder.
PHOTOS = (
    ("skimage", "data/astronaut.png"),
    ("skimage", "data/brick.png"),
    ("skimage", "data/chelsea.png"),
    ("skimage", "data/coffee.png"),
    ("skimage", "data/coins.png"),
    ("skimage", "data/grass.png"),
    ("skimage", "data/gravel.png"),
    ("skimage", "data/motorcycle_left.png"),
    ("skimage", "data/page.png"),
    ("skimage", "data/rocket.jpg"),
    ("sklearn", "datasets/images/china.jpg"),
    ("sklearn", "datasets/images/flower.jpg"),
)
GAMMA = 2.2  # of the photographs
MIN_PART = 0.3  # least part of a photograph's shorter side that a background shows
BLUR = 0.02  # strongest defocus, as a share of the image's side
BRIGHTNESS, TINT = (-0.2, 0.35), 0.08  # logarithm of the gain: mean and deviation; deviation of each channel


def photo_path(package: str, name: str) -> Path:
    """Return the file of a photograph in the folder of an installed package."""
    return Path(find_spec(package).submodule_search_locations[0]) / name


@cache
def load_photo(package: str, name: str) -> np.ndarray:
    """Load a photograph once a process: uint8 [H, W, 3] RGB."""
    return np.asarray(Image.open(photo_path(package, name)).convert("RGB"))


def photo_background(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random part of a random photograph as linear radiance float32 [size, size, 3].

    Its scale, brightness, tint and sharpness are random, and half of them are mirrored.
    """
    photo = load_photo(*PHOTOS[rng.integers(len(PHOTOS))])
    side = int(min(photo.shape[:2]) * rng.uniform(MIN_PART, 1))
    top, left = (rng.integers(extent - side + 1) for extent in photo.shape[:2])
    part = photo[top : top + side, left : left + side]
    part = part[:, ::-1] if rng.random() < 0.5 else part
    method = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    part = cv2.resize(np.ascontiguousarray(part), (size, size), interpolation=method)
    part = cv2.GaussianBlur(part.astype(np.float32) / 255, (0, 0), max(rng.uniform(0, BLUR) * size, 0.1))
    brightness = np.exp(rng.normal(*BRIGHTNESS) + rng.normal(0, TINT, 3))
    return part**GAMMA * brightness.astype(np.float32)
