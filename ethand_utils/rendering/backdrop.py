"""Background of the capture dome (lights, clothes), and the response of its cameras to light."""

import cv2
import numpy as np

from ethand_utils.rendering.photos import photo_background
from ethand_utils.rendering.scenes import Scene
from ethand_utils.rendering.subjects import Subject

CLOTH_SHARE = 0.7  # of the images that show clothes behind the hands
FULL_CLOTH_SHARE = 0.35  # of those, clothes that fill the image
MONOCHROME_SHARE, PHOTO_MONOCHROME_SHARE = 0.5, 0.1  # of the capture's cameras, of those that take photographs
CAST, PHOTO_CAST = ((0.95, 0.36), (1.55, 0.95)), ((0.9, 0.8), (1.1, 1.2))  # least and greatest gain of green and blue
REFERENCE_SIZE = 128  # px a side of the crop that lengths in px below refer to
STAR_SIDE = 71  # px of a light's picture, odd
JPEG_SHARE = 0.5
HAND_GREY = 0.25  # radiance of hands for which a camera is set; darker skin gets part of the difference


def background(scene: Scene, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return radiance float32 [size, size, 3] of what is behind the hands: a photograph, or the dome.

    The dome is black, with its lights and their flares, and often a person's clothes.
    """
    if scene.photo:
        return photo_background(size, rng)
    image = np.full((size, size, 3), rng.uniform(0.0, 0.05) ** 2, np.float32)
    if rng.random() < CLOTH_SHARE:
        cloth = _cloth(scene.subject, size, rng)
        cover = _cover(size, rng)[..., None]
        image += cover * (cloth - image)
        lights = rng.poisson(1.2)
    else:
        cover, lights = 0, rng.poisson(5)
    star = _star(size, rng)
    for _ in range(lights):
        _add_light(image, star, cover, rng)
    return image


def _smooth(size: int, cells: int, rng: np.random.Generator, narrower: int = 1) -> np.ndarray:
    """Return smooth noise float32 [size, size] of about unit deviation: `cells` waves a side, more if `narrower`."""
    coarse = rng.normal(0, 1, (cells + 2, cells * narrower + 2)).astype(np.float32)
    if rng.random() < 0.5:
        coarse = coarse.T
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


def _cover(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return where clothes are, float32 [size, size] 0…1: everywhere, or to one side of a wavy line."""
    if rng.random() < FULL_CLOTH_SHARE:
        return np.ones((size, size), np.float32)
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.35, 0.25)
    line = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    side = np.cos(angle) * line + (np.sin(angle) * line)[:, None] - offset + 0.02 * _smooth(size, 3, rng)
    return np.clip(side * size / 2, 0, 1)


def _cloth(subject: Subject, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return the person's shirt in its folds, radiance float32 [size, size, 3]."""
    colour = subject.shirt.astype(np.float32) * rng.uniform(0.3, 1.2)
    trim = subject.trim.astype(np.float32) * rng.uniform(0.3, 1.2)
    grid = {"checked": _check, "striped": _stripes, "print": _print}.get(subject.pattern)
    share = grid(size, rng)[..., None] if grid else np.float32(0)
    cloth = colour + share * (trim - colour)
    folds = 1 + 0.15 * _smooth(size, 2, rng) + rng.uniform(0.05, 0.2) * _smooth(size, 2, rng, int(rng.integers(3, 7)))
    if subject.pattern in ("checked", "striped"):
        cloth = _crumpled(np.ascontiguousarray(cloth), size, rng)
    return cloth * np.clip(folds, 0.1, 2)[..., None]


def _bands(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a row of repeated bands float32 [size] in 0…1: broad ones and thin lines."""
    period = rng.uniform(0.12, 0.5) * size
    phase = (np.arange(size) + rng.uniform(0, period)) % period / period
    row = np.zeros(size, np.float32)
    for start, width, strength in zip(rng.random(3), rng.uniform(0.02, 0.35, 3), rng.uniform(0.2, 1, 3), strict=True):
        row[(phase - start) % 1 < width] += strength
    return np.clip(row, 0, 1)


def _check(size: int, rng: np.random.Generator) -> np.ndarray:
    return (_bands(size, rng)[:, None] + _bands(size, rng)) / 2


def _stripes(size: int, rng: np.random.Generator) -> np.ndarray:
    across = np.broadcast_to(_bands(size, rng), (size, size))
    return across if rng.random() < 0.5 else across.T


def _print(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a drawing on the shirt: some strokes and blots, float32 [size, size] in 0…1."""
    drawing = np.zeros((size, size), np.uint8)
    for _ in range(rng.integers(1, 4)):
        points = (rng.uniform(0, 1, 2) + rng.normal(0, 0.12, (rng.integers(3, 9), 2))) * size
        points = points.astype(np.int32)[None]
        if rng.random() < 0.15:
            cv2.fillPoly(drawing, points, 255, cv2.LINE_AA)
        else:
            cv2.polylines(drawing, points, bool(rng.random() < 0.5), 255, int(rng.integers(1, 4)), cv2.LINE_AA)
    return drawing.astype(np.float32) / 255


def _crumpled(cloth: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a pattern rotated a little and bent by folds."""
    angle, strength = rng.normal(0, 0.2), rng.uniform(0.003, 0.015) * size
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u = cos * x - sin * y + strength * _smooth(size, 4, rng)
    v = sin * x + cos * y + strength * _smooth(size, 4, rng)
    return cv2.remap(cloth, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _star(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return one light as the lens shows it, float32 [side, side]: a disc, a halo and the rays of its aperture."""
    side = STAR_SIDE * size // REFERENCE_SIZE | 1
    y, x = (np.mgrid[0:side, 0:side].astype(np.float32) - side // 2) * (REFERENCE_SIZE / size)
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    sharp = rng.uniform(0.5, 0.9)
    rays = np.abs(np.cos(rng.choice([3, 4]) * (angle + rng.uniform(0, np.pi)))) ** np.clip(sharp * radius**1.6, 2, 400)
    disc = np.clip(rng.uniform(2.8, 5.5) - radius, 0, 1)
    return 6 * disc + rays * 0.8 * np.exp(-radius / rng.uniform(5, 10)) + 0.5 * np.exp(-radius / 3)


def _add_light(image: np.ndarray, star: np.ndarray, cover: np.ndarray | int, rng: np.random.Generator) -> None:
    """Add a light at a random pixel, unless clothes are before it."""
    size, reach = len(image), len(star) // 2
    row, column = rng.integers(0, size, 2)
    if np.ndim(cover) and cover[row, column, 0] > 0.5:
        return
    top, left = row - reach, column - reach
    rows, columns = slice(max(top, 0), min(top + len(star), size)), slice(max(left, 0), min(left + len(star), size))
    piece = star[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    image[rows, columns] += (rng.uniform(0.3, 1.2) * piece)[..., None] * rng.uniform(0.8, 1.0, 3).astype(np.float32)


def camera_response(
    radiance: np.ndarray, middle_grey: float, rng: np.random.Generator, photo: bool = False
) -> np.ndarray:
    """Return the camera's uint8 image of radiance float32 [size, size, 3].

    `middle_grey` is the radiance of the hands, for which the exposure is set. About half of the capture's cameras are
    monochrome, the others see skin in a yellow-green cast; one that takes a `photo` is mostly true to colours. Then
    come defocus, gamma, noise and JPEG.
    """
    size = len(radiance)
    exposure = rng.uniform(0.10, 0.30) / HAND_GREY * (HAND_GREY / middle_grey) ** rng.uniform(0.4, 0.9)
    radiance = radiance * np.float32(exposure)
    mono = rng.random() < (PHOTO_MONOCHROME_SHARE if photo else MONOCHROME_SHARE)
    if mono:
        radiance = cv2.transform(radiance, np.array([[0.4, 0.45, 0.15]], np.float32))
    else:
        green, blue = rng.uniform(*(PHOTO_CAST if photo else CAST))
        radiance = radiance * np.array([1.0, green, blue], np.float32)
    blur = rng.uniform(0.45, 0.8) * size / REFERENCE_SIZE
    if rng.random() < 0.05:
        blur *= 2
    image = cv2.GaussianBlur(np.clip(radiance, 0, 1.5), (0, 0), blur)
    image = np.clip(image, 0, 1) ** np.float32(1 / rng.uniform(1.9, 2.5))
    image = image + rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0.001, 0.009))
    image = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < JPEG_SHARE:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 97))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_UNCHANGED)
    return np.repeat(image.reshape(size, size, 1), 3, axis=2) if mono else image
