"""Reading images: every file becomes uint8 RGB [H, W, 3], upright, or is refused in one line."""

import contextlib
import io
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ethand_utils.exceptions import EthandError
from ethand_utils.files import first_line

MAX_PIXELS = 400_000_000  # of an image: more would need many GB
REDUCED_PIXELS = 50_000_000  # of a photo as it is looked at: larger ones are decoded at a half, a quarter, …
MAX_REDUCED_SIDE = 16_000  # px of a photo as it is looked at: OpenCV takes no side above 32,766
BLACK = 10  # grey level, of 255, that no hand in the light stays below
ORIENTATION = 0x0112  # EXIF's tag
# What turns an image of EXIF's orientation 2…8 upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIGNATURES = {
    "JPEG": b"\xff\xd8",
    "PNG": b"\x89PNG",
    "WebP": b"RIFF",
    "TIFF": (b"II*\0", b"MM\0*"),
    "GIF": b"GIF8",
    "BMP": b"BM",
    "AVIF": (b"\0\0\0\x1cftyp", b"\0\0\0 ftyp"),
}
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class ImageError(EthandError):
    """An image that cannot be read or cropped."""


@dataclass(frozen=True)
class Photo:
    """A photo of `height` and `width` px, its `image` uint8 RGB [h, w, 3] smaller by the whole number `factor`."""

    image: np.ndarray
    height: int
    width: int
    factor: int = 1

    def thumbnail(self, side: int = 800) -> np.ndarray:
        """Return a small copy of the photo, uint8 RGB, at most `side` px a side, which outlives the photo's memory."""
        step = -(-max(self.image.shape) // side)
        return self.image[::step, ::step].copy()


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as uint8 RGB [H, W, 3], upright by its EXIF.

    Grey levels of more than 8 bits are scaled to 255. Raises ImageError, naming the file, when there is none, it is no
    image or a damaged one, has more than MAX_PIXELS, or values that are no grey levels.
    """
    return read_photo(path, MAX_PIXELS, MAX_PIXELS).image


def read_photo(
    path: str | Path, pixels: int = REDUCED_PIXELS, side: int = MAX_REDUCED_SIDE, factor: int | None = None
) -> Photo:
    """Read an image as `read_image` does, reduced by `factor`.

    By default that is the smallest power of two that leaves at most `pixels`, and at most `side` px a side. A JPEG is
    decoded at the smaller size, which saves time and memory.
    """
    _require_file(path)
    with _open(path) as file:
        return _photo(file, str(path), pixels, side, factor)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode the bytes of an image file as `read_image` does; errors name it `name`."""
    return _photo(io.BytesIO(data), name, MAX_PIXELS, MAX_PIXELS, None).image


def _open(path: str | Path) -> io.BufferedReader:
    """Open a file for reading. Raises ImageError when the operating system refuses."""
    try:
        return Path(path).open("rb")
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def _require_file(path: str | Path) -> None:
    """Raise ImageError unless a path is a file with something in it."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image; check the path") from None
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read ({first_line(error)}); check the path and its permissions") from None
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{path}: a folder, not an image; name the images in it")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{path}: not a regular file; expected an image such as JPEG or PNG")
    if not status.st_size:
        raise ImageError(f"{path}: an empty file, not a readable image; copy it again")


def _photo(file: io.BufferedIOBase, name: str, pixels: int, side: int, factor: int | None) -> Photo:
    """Return the photo in an open file, as `read_photo` does."""
    head = file.read(32)
    file.seek(0)
    _prepare_heic(head, name)
    try:
        with _large_images(), Image.open(file) as image:
            _require_size(image.size, name)
            factor = factor or _factor(image.size, pixels, side)
            pixels_read, (width, height) = _read_pixels(image, name, factor)
    except EthandError:
        raise
    except MemoryError:
        raise ImageError(f"{name}: does not fit into memory; reduce the image, or close other programs") from None
    except UnidentifiedImageError:
        raise ImageError(
            f"{name}: not a readable image ({_describe_head(head)}); expected JPEG, PNG or the like"
        ) from None
    except Exception as error:  # Pillow's decoders raise errors of many kinds for damaged files
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise ImageError(f"{name}: not a readable image: damaged or cut off ({reason}); copy it again") from None
    return Photo(pixels_read, height, width, factor)


@contextlib.contextmanager
def _large_images() -> Iterator[None]:
    """Let Pillow open an image of any size in the block, without warnings: `_require_size` is the limit here."""
    usual = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = usual


def _require_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}×{height} px, expected at most {MAX_PIXELS // 1_000_000} megapixels; reduce the image"
        )


def _factor(size: tuple[int, int], pixels: int, side: int) -> int:
    """Return the smallest power of two that reduces an image to at most `pixels`, and at most `side` px a side."""
    factor = 1
    while size[0] * size[1] > pixels * factor**2 or max(size) > side * factor:
        factor *= 2
    return factor


def _read_pixels(image: Image.Image, name: str, factor: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Return an image uint8 RGB [h, w, 3], upright and reduced by a factor, and its own upright (width, height)."""
    width, height = image.size
    image.draft(None, (max(1, width // factor), max(1, height // factor)))
    image.load()  # before its EXIF is read: Pillow turns a TIFF upright on the way
    reduced = next(step for step in (8, 4, 2, 1) if image.size == (-(-width // step), -(-height // step)))
    orientation = _orientation(image, name)
    colours = _colours(image, name)
    if factor > reduced:
        colours = colours.reduce(factor // reduced)
    if orientation in UPRIGHT:
        colours = colours.transpose(UPRIGHT[orientation])
    return np.asarray(colours), (height, width) if orientation >= 5 else (width, height)


def _orientation(image: Image.Image, name: str) -> int:
    """Return EXIF's orientation, 1…8; 1 where it says none. Raises ImageError where the EXIF is damaged."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception as error:  # Pillow raises errors of many kinds for damaged EXIF
        raise ImageError(
            f"{name}: its EXIF is damaged ({first_line(error)}), so that it is not known which side is up; save the "
            "image anew, or remove its EXIF"
        ) from None
    return orientation if orientation in UPRIGHT else 1


def _colours(image: Image.Image, name: str) -> Image.Image:
    """Return an image in Pillow's mode RGB."""
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(grey_levels(np.asarray(image), name))
    return image.convert("RGB")


def grey_levels(values: np.ndarray, name: str) -> np.ndarray:
    """Return grey levels [H, W] of another depth than 8 bits as uint8.

    Integers are of the depth, of 8, 10, 12, 14 or 16 bits, that their largest needs: cameras store fewer bits in 16.
    Fractions are of 0…1 or, where one is larger, of 0…255. Raises ImageError for other values, NaN among them.
    """
    low, high = (float(edge) for edge in (values.min(), values.max()))
    if not np.isfinite([low, high]).all():
        raise ImageError(f"{name}: has values that are no numbers (NaN or infinite); save it with 8 bits")
    fractions = values.dtype.kind == "f"
    if low < 0 or high > (255 if fractions else 65535):
        expected = "0 to 1 or 0 to 255" if fractions else "0 to 65535"
        raise ImageError(
            f"{name}: values from {low:g} to {high:g}, expected {expected}; save it as 8-bit grey or colour"
        )
    if fractions:
        return np.round(values * (255.0 if high <= 1 else 1.0)).astype(np.uint8)
    depth = max(8, -(-int(high).bit_length() // 2) * 2)
    return (values.astype(np.uint32) >> (depth - 8)).astype(np.uint8)


def _prepare_heic(head: bytes, name: str) -> None:
    """Let Pillow read HEIC by pillow-heif, if the file begins as one. Raises ImageError where that is not installed."""
    if head[4:8] != b"ftyp" or head[8:12] not in HEIC_BRANDS or b"avif" in head:
        return
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ImageError(
            f"{name}: HEIC, which needs the package pillow-heif; install it (pip install pillow-heif), or save the "
            "photo as JPEG"
        ) from None
    register_heif_opener()


def _describe_head(head: bytes) -> str:
    """Return what the first bytes of a file say, whose format Pillow could not identify."""
    for format, start in SIGNATURES.items():
        if head.startswith(start):
            return f"begins as {format}, but is damaged or cut off"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or not any(byte < 9 or byte > 126 for byte in head):
        return "text"
    return "of no format that Pillow reads"
