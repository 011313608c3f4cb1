"""Samples of the course's layout (REFERENCE.md section 5): entries of its lists → rows of the index and arrays."""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ethand_utils.amodal import beyond_frame
from ethand_utils.course_files import (
    IMAGES,
    MASKS,
    CourseError,
    SampleFault,
    decode_image,
    decode_masks,
    image_key,
    mask_keys,
    open_lmdb,
)
from ethand_utils.crops import ImageError, crop_image, crop_square
from ethand_utils.labels import HAND_TYPES, HANDS

BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
CROP = ("crop_x", "crop_y", "crop_w", "crop_h")
SOURCES = (*CROP, "mask")  # what an entry says beyond the index: where to look


def image_row(entry: dict, ids: dict | None = None) -> dict:
    """A row of the index from an entry of a list, with its CROP and the id of its `mask` ("" if none).

    The box in the index is the one to crop by, or, where export-course has noted it, the hands' own in another frame.
    """
    path = str(entry.get("img_path", ""))
    key = image_key(path)
    parts, capture = key.split("/"), str(entry.get("capture", ""))
    return {
        "id": str(entry.get("id", key)),
        "hand_type": str(entry.get("hand_type", "")),
        "subject": str(entry.get("subject", "/".join(parts[:2]) if len(parts) > 2 else capture)),
        "capture": capture,
        "seq": str(entry.get("seq_name", parts[-3] if len(parts) > 3 else "")),
        "camera": str(entry.get("cam", "")),
        "frame": _frame_number(entry.get("frame")),
        **_boxes(entry),
        "source": path,
        "mask": str((ids or {}).get(key, "")),
    }


def label_row(mask_id: str, entry: dict) -> dict:
    """The same for masks without an image, of which only export-course notes an entry."""
    unknown = {"subject": "", "capture": "", "seq": "", "camera": "", "frame": -1}
    return {"id": mask_id, "hand_type": "", **unknown, **_boxes(entry), "source": "", "mask": mask_id}


def _frame_number(value) -> int:
    try:
        return int(np.int64(value))
    except (TypeError, ValueError, OverflowError):
        return -1


def _numbers(box) -> list[float]:
    """A box's four numbers, NaN where there are no such four."""
    try:
        x, y, w, h = (float(number) for number in box)
    except (TypeError, ValueError):
        return [math.nan] * 4
    return [x, y, w, h]


def _boxes(entry: dict) -> dict:
    """An entry's box for the index and its crop as columns; what is occluded is not known."""
    crop = entry.get("bbox")
    boxes = zip((*BOX, *CROP), (*_numbers(entry.get("box", crop)), *_numbers(crop)), strict=True)
    return {**dict(boxes), "occluded_left": math.nan, "occluded_right": math.nan}


@dataclass(frozen=True)
class CourseSample:
    """Makes sample i of a course store: row i of `table`, a parquet file, from the LMDBs in `folder`."""

    folder: Path
    table: Path
    size: int
    arrays: tuple[str, ...]

    def entry(self, i: int) -> dict:
        """What the table says of sample i."""
        return _table(self.table, self.table.stat().st_mtime_ns).slice(i, 1).to_pylist()[0]

    def __call__(self, i: int) -> dict:
        entry = self.entry(i)
        try:
            return read_sample(self.folder, entry, self.size, self.arrays)
        except SampleFault as fault:
            raise CourseError(f"{self.folder}: {entry['id']} was sound before, now {fault}; start again") from None


@dataclass(frozen=True)
class CheckedSample:
    """Row i of what `sample` makes, with the reason why it cannot be used in `fault` ("" if it can)."""

    sample: CourseSample

    def __call__(self, i: int) -> dict:
        entry, sample = self.sample.entry(i), self.sample
        try:
            row = read_sample(sample.folder, entry, sample.size, sample.arrays)["row"]
        except SampleFault as fault:
            return {"row": {**entry, "fault": str(fault)}}
        return {"row": {**row, **{name: entry[name] for name in SOURCES}, "fault": ""}}


@functools.lru_cache(maxsize=2)
def _table(path: Path, changed: int) -> pa.Table:
    return pq.read_table(path)


def read_sample(folder: Path, entry: dict, size: int, arrays: tuple[str, ...]) -> dict:
    """The sample of a listed `entry` at `size` px: `row` for the index, and `images` or `masks` as `arrays` says.

    Raises SampleFault where the LMDBs in `folder` lack it, or it is of no use.
    """
    image, masks = _frames(folder, entry, arrays)
    row, crop = {name: value for name, value in entry.items() if name not in SOURCES}, [entry[name] for name in CROP]
    if image is None:
        row["hand_type"], crop = _seen(masks, crop)
    if not np.isfinite([row[name] for name in BOX]).any():
        row |= zip(BOX, crop, strict=True)
    if row["hand_type"] not in HAND_TYPES:
        raise SampleFault("hand_type: none of right, left, interacting")
    square = _square(crop)
    sample = {"row": row}
    if image is not None:
        sample["images"] = _crop(image, square, size)
    if masks is not None:
        sample["masks"] = crop_masks(masks, square, size)
    return sample


def _frames(folder: Path, entry: dict, arrays: tuple[str, ...]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Full frames: the image uint8 [H, W, 3] and the masks uint8 [2, H, W], None what `arrays` does not name."""
    image = masks = None
    if "images" in arrays:
        with open_lmdb(folder / IMAGES) as get:
            image = decode_image(get(entry["source"].removeprefix("./")))
    if "masks" in arrays:
        if not entry["mask"]:
            raise SampleFault("mask: no id in path2id")
        with open_lmdb(folder / MASKS) as get:
            masks = decode_masks([get(key) for key in mask_keys(entry["mask"])])
    if image is not None and masks is not None and image.shape[:2] != masks.shape[1:]:
        raise SampleFault("mask: of another size than the image")
    return image, masks


def _seen(masks: np.ndarray, crop: list[float]) -> tuple[str, list[float]]:
    """Hand type and crop of masks uint8 [2, H, W] without an image: the given one, else one about the foreground."""
    there = masks.any((1, 2))
    if not there.any():
        raise SampleFault("mask: shows no hand")
    if not np.isfinite(crop).any():
        rows, columns = (np.flatnonzero(masks.any((0, axis))) for axis in (2, 1))
        x, y, side = crop_square((columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1))
        crop = [float(x), float(y), float(side), float(side)]
    return HAND_TYPES[-1] if there.all() else HANDS[there.argmax()], crop


def _square(box: list[float]) -> tuple[float, float, float]:
    """The crop (x, y, side) of a box that is square already, up to rounding: its longer side, about its centre."""
    if not np.isfinite(box).all():
        raise SampleFault("box: not four numbers")
    x, y, w, h = box
    if min(w, h) <= 0:
        raise SampleFault("box: of no size")
    side = max(w, h)
    return x + (w - side) / 2, y + (h - side) / 2, side


def _crop(image: np.ndarray, square: tuple[float, float, float], size: int) -> np.ndarray:
    try:
        return crop_image(image, square, size)
    except ImageError:
        raise SampleFault("box: outside the frame, or out of all proportion to it") from None


def crop_masks(masks: np.ndarray, crop: tuple[float, float, float], size: int) -> np.ndarray:
    """The square (x, y, side) of masks uint8 [2, H, W] at `size` px, nearest neighbour, 0 beyond the frame.

    A pixel takes the id at its centre, which is where `crops.crop_image` takes its colour from.
    """
    x, y, side = crop
    height, width = masks.shape[1:]
    at = (np.arange(size) + 0.5) / size * side
    rows, columns = np.floor(at + y).astype(int), np.floor(at + x).astype(int)
    cropped = masks[:, rows.clip(0, height - 1)][:, :, columns.clip(0, width - 1)]
    return np.where(beyond_frame(crop, size, (width, height)), 0, cropped).astype(np.uint8)
