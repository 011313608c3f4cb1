"""Files of the course's layout (REFERENCE.md section 5): keys, `.pt` lists loaded safely, LMDBs and their images."""

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import lmdb
import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ethand_utils.data import images
from ethand_utils.exceptions import EthandError
from ethand_utils.files import FileError, atomic_write, first_line
from ethand_utils.labels import HANDS, LEFT, N_CLASSES

IMAGES, MASKS = "interhand.lmdb", "segm_train_val_mp.lmdb"
PREFIX = "./data/InterHand2.6M/images/"  # of every img_path
JPEG_QUALITY = 95
SLACK = 64  # pages at its end that an LMDB may number without ever having written them
BLACK = 8  # an image without any brighter value (of 255) is all black
READ_ALL = """
import lmdb, os, sys
path = sys.argv[1]
with lmdb.open(path, subdir=os.path.isdir(path), readonly=True, lock=False) as environment:
    with environment.begin(buffers=True) as transaction:
        for key, value in transaction.cursor():
            bytes(value[-1:])  # values lie in one piece
"""
# In the LMDB the left hand's parts follow the right's: 17…32.
STORED = {hand: N_CLASSES - 1 if i == LEFT else 0 for i, hand in enumerate(HANDS)}


class CourseError(FileError):
    """A file of the course's layout that is missing, damaged, unsafe or cannot be written."""


class SampleError(EthandError):
    """A sample that cannot be used; the text is a short reason, by which faults are counted."""


def image_key(img_path: str) -> str:
    """Return the name of an image in `path2id` and in submissions: what follows `images/`, without `.jpg`."""
    return re.sub(r"^.*?(?:^|/)images/", "", img_path).removesuffix(".jpg")


def mask_keys(mask_id: str) -> list[str]:
    """Return the keys of the masks of a sample, left hand first: `<id>__l`, `<id>__r`."""
    return [f"{mask_id}__{hand[0]}" for hand in HANDS]


def load_pt(path: Path):
    """Load the lists, dicts, texts, numbers and NumPy arrays of a `.pt` file; no other object is ever made from it.

    Raises CourseError when the file is missing, damaged, or asks for anything else, which it names.
    """
    import torch  # here, as the processes that read LMDBs need none of it

    try:
        with torch.serialization.safe_globals(_numpy_pieces()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CourseError(f"{path}: missing; expected one of the course's lists, copy it here") from None
    except Exception as error:  # a damaged pickle raises nearly anything
        forbidden = re.search(r"GLOBAL (\S+)", str(error))
        if forbidden:
            raise CourseError(
                f"{path}: holds {forbidden[1]}, which is refused, and nothing of it was run; "
                "expected lists, dicts and NumPy arrays only, take the file from a source you trust"
            ) from None
        reason = first_line(error).partition(". ")[0]  # what follows advises to load it without safety
        raise CourseError(f"{path}: damaged or no .pt file ({reason}); copy it again") from None


def _numpy_pieces() -> list:
    """Return what pickled NumPy arrays and numbers consist of, by the names of NumPy 2 and of NumPy 1."""
    pieces = [np._core.multiarray._reconstruct, np._core.multiarray.scalar]
    names = [(piece, f"numpy.{core}.multiarray.{piece.__name__}") for core in ("core", "_core") for piece in pieces]
    return [*names, np.ndarray, np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefdSUO"}]


def save_pt(path: Path, value) -> None:
    """Write a `.pt` file of plain lists and dicts, whole or not at all; the same value gives the same bytes."""
    import torch

    buffer = io.BytesIO()  # in a file, the archive's inner name would be the file's temporary one
    torch.save(value, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


@contextlib.contextmanager
def open_lmdb(path: Path) -> Iterator[Callable[[str], bytes | None]]:
    """Open an LMDB for the block, as a function from key to bytes, None where there is no such key.

    Opening takes some 30 µs; as nothing stays open, nothing is ever shared with another process (`fork` included).
    """
    try:
        with (
            lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False) as environment,
            environment.begin() as transaction,
        ):
            longest = environment.max_key_size()
            yield lambda key: transaction.get(key.encode()) if 0 < len(key.encode()) <= longest else None
    except lmdb.Error as error:
        raise CourseError(f"{path}: damaged or no LMDB ({first_line(error)}); copy it again") from None


def check_lmdb(path: Path) -> list[int]:
    """Return entries, last transaction and bytes in use of an LMDB, which change whenever it is written to.

    Raises CourseError when it is missing, no LMDB or cut off; reading a page that is cut off would kill the process.
    """
    file = path / "data.mdb" if path.is_dir() else path
    if not file.exists():
        raise CourseError(f"{file}: missing; expected the course's LMDB, copy it here")
    try:
        with lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False) as environment:
            stat, information = environment.stat(), environment.info()
    except lmdb.Error as error:
        raise CourseError(f"{path}: damaged or no LMDB ({first_line(error)}); copy it again") from None
    used, length = (information["last_pgno"] + 1) * stat["psize"], os.path.getsize(file)
    if length < used - SLACK * stat["psize"] or (length < used and not _readable(path)):
        raise CourseError(f"{file}: cut off, {length} bytes of {used}; copy it again")
    return [stat["entries"], information["last_txnid"], used]


def _readable(path: Path) -> bool:
    """Return whether all values of an LMDB are in its file, tried in another process, which dies where one is not."""
    return subprocess.run([sys.executable, "-c", READ_ALL, str(path)], capture_output=True).returncode == 0


def write_lmdb(path: Path, items: Iterable[tuple[str, bytes]], count: int) -> None:
    """Write `count` entries (key, bytes) as a new LMDB folder without a lock file, growing it as needed.

    Raises CourseError when a key comes twice, is too long, or the disk is full.
    """
    progress = iter(tqdm(items, total=count, desc=path.name, unit="entry"))
    try:
        with lmdb.open(str(path), map_size=1 << 24, lock=False, sync=False, metasync=False) as environment:
            while batch := list(islice(progress, 512)):
                while not _put(environment, batch, path):
                    environment.set_mapsize(2 * environment.info()["map_size"])
            environment.sync(True)
            written = environment.stat()["entries"]
    except lmdb.Error as error:
        raise CourseError(f"{path}: could not be written ({first_line(error)}); check the disk and the ids") from None
    if written != count:
        raise CourseError(f"{path}: {written} entries, expected {count}; start again")


def _put(environment: lmdb.Environment, batch: list[tuple[str, bytes]], path: Path) -> bool:
    """Write some entries, all or none; False where the LMDB has to grow first."""
    try:
        with environment.begin(write=True) as transaction:
            for key, value in batch:
                if not transaction.put(key.encode(), value, overwrite=False):
                    raise CourseError(f"{path}: {key} comes twice; expected an id of its own for every sample")
    except lmdb.MapFullError:
        return False
    return True


def encode_image(image: np.ndarray) -> bytes:
    """Encode an image uint8 [H, W, 3] as JPEG, every pixel with its own colour (4:4:4)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def decode_image(data: bytes | None) -> np.ndarray:
    """Decode a JPEG as uint8 RGB [H, W, 3]. Raises SampleError when there is none, it is damaged or all black."""
    if data is None:
        raise SampleError("image: not in the LMDB")
    try:
        pixels = images.decode_image(data, "image")
    except images.ImageError:
        raise SampleError("image: cannot be decoded") from None
    if pixels.max() <= BLACK:
        raise SampleError("image: all black")
    return pixels


def encode_png(mask: np.ndarray) -> bytes:
    """Encode a mask uint8 [H, W] or [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return buffer.getvalue()


def encode_masks(masks: np.ndarray) -> list[bytes]:
    """Encode masks uint8 [2, H, W] of ids 0…16 as in the LMDB: PNGs of three equal channels, the left's ids 17…32."""
    stored = [np.where(mask > 0, mask + STORED[hand], 0) for hand, mask in zip(HANDS, masks, strict=True)]
    return [encode_png(np.repeat(mask[..., None], 3, 2).astype(np.uint8)) for mask in stored]


def decode_masks(data: list[bytes | None]) -> np.ndarray:
    """Decode the PNGs of both hands, left first, as ids 0…16, uint8 [2, H, W].

    Raises SampleError when one is missing, damaged, of other ids or channels, or of another size than the other.
    """
    masks = [_decode_mask(png, STORED[hand]) for hand, png in zip(HANDS, data, strict=True)]
    if masks[0].shape != masks[1].shape:
        raise SampleError("mask: of another size than the other hand's")
    return np.stack(masks)


def _decode_mask(data: bytes | None, first: int) -> np.ndarray:
    """Decode a PNG of ids from `first` + 1 on as 0…16."""
    if data is None:
        raise SampleError("mask: not in the LMDB")
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception:  # Pillow's decoders raise errors of many kinds for damaged files
        raise SampleError("mask: cannot be decoded") from None
    channels = np.asarray(image).reshape(image.height, image.width, -1)
    stored = channels[..., 0]
    if image.mode not in ("L", "RGB") or (channels != stored[..., None]).any():
        raise SampleError("mask: expected three equal channels")
    mask = np.where(stored > 0, stored - np.uint8(first), 0).astype(np.uint8)  # too low an id wraps round to a high one
    if mask.max() >= N_CLASSES or ((stored > 0) & (mask == 0)).any():
        raise SampleError("mask: ids out of range")
    return mask
