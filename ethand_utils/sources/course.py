"""The course's LMDBs and lists (REFERENCE.md section 5) → stores."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ethand_utils.data.crops import crop_image, crop_square
from ethand_utils.data.datasets import REPORT, SkippedSamples, claim_report
from ethand_utils.data.images import ImageError
from ethand_utils.data.store import BOX, OCCLUDED, Store, StoreError, is_made
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.files import atomic_write, write_json
from ethand_utils.hands.amodal import beyond_frame
from ethand_utils.labels import HAND_TYPES, HANDS
from ethand_utils.sources.course_io import (
    IMAGES,
    MASKS,
    CourseError,
    SampleError,
    check_lmdb,
    decode_image,
    decode_masks,
    image_key,
    load_pt,
    mask_keys,
    open_lmdb,
)
from ethand_utils.sources.request import ReadRequest

FOLDERS = ("", "data/InterHand2.6M", "InterHand2.6M")  # below its root, one of which has the layout
LMDBS = {"images": IMAGES, "masks": MASKS}
PAIRED, COMPLETE, TEST = "datalist_{}_mp.pt", "datalist_train_complete.pt", "datalist_stud_test.pt"
PATH2ID, LABEL_IDS = "path2id_{}.pt", "unpaired_segm_ids.pt"
LABEL_BOXES = "unpaired_segm_boxes.pt"  # written by export-course only: `bbox` and `box` of each id
# Of every store: the lists it needs, and its arrays.
STORES = {
    "train": ((PAIRED.format("train"), PATH2ID.format("train")), ("images", "masks")),
    "val": ((PAIRED.format("val"), PATH2ID.format("val")), ("images", "masks")),
    "test": ((TEST,), ("images",)),
    "unpaired_images": ((COMPLETE, PAIRED.format("train")), ("images",)),
    "unpaired_labels": ((LABEL_IDS,), ("masks",)),
}
WORK = ".course"  # below the data set: tables of the listed samples, of their checks, and of the sound ones
CROP = ("crop_x", "crop_y", "crop_w", "crop_h")
LOOKUP = (*CROP, "mask")  # columns of the tables that are not of the index: where a sample's pixels are


def detect(folder: Path) -> bool:
    """Return whether the course's images are in `folder`, or in one of FOLDERS below it."""
    return any((folder / below / IMAGES).exists() for below in FOLDERS)


def read(root: Path, out: Path, request: ReadRequest) -> dict[str, Store]:
    """Build the stores that `request` describes with `read_course`."""
    r = request
    return read_course(root, out, r.size, r.train, r.val, r.test, r.unpaired, r.workers)


def read_course(
    root: str | Path,
    out: str | Path,
    size: int = 128,
    train: int | None = None,
    val: int | None = None,
    test: int | None = None,
    unpaired: int | None = None,
    workers: int = 1,
) -> dict[str, Store]:
    """Build a data set of `size`×`size` px from the course's files at `root` in the folder `out`; return its stores.

    The stores are those of STORES; paired ones have no `front`, the test set has no masks. `train`, `val`, `test` and
    `unpaired` limit their samples, which are then evenly spaced in the list (None: all, 0: no such store). A store
    whose lists are missing is left out. Images and masks are cropped by their box, which is in the index; unpaired
    labels, which have no box, by the square about their own foreground, widened as the course does. Every sample is
    checked first: broken ones are left out, counted by reason in `out`/report.json with some examples, and named in the
    parquet files of `out`/.course. An interrupted call resumes where it stopped.

    Raises CourseError when files are missing, damaged or unsafe, or no sample is sound, StoreError when a store in
    `out` was made otherwise, and what `build_store` raises.
    """
    folder, out = find_course(Path(root).expanduser()), Path(out)
    claim_report(out, folder)
    limits = {"train": train, "val": val, "test": test, "unpaired_images": unpaired, "unpaired_labels": unpaired}
    if size < 16 or any(limit is not None and limit < 0 for limit in limits.values()):
        raise CourseError(f"{out}: images need at least 16 px a side, a number of samples is 0 or more")
    listed, left_out = _read_lists(folder, [name for name, limit in limits.items() if limit != 0])
    chosen = {name: evenly_spaced(rows, limits[name]) for name, rows in listed.items()}
    readers = {name: _StoreReader(folder, out / name, rows, size) for name, rows in chosen.items() if rows}
    metas = {name: reader.meta() for name, reader in readers.items()}
    checks = {name: reader.check(metas[name], workers) for name, reader in readers.items()}
    report = _report(listed, checks) | {"root": str(root), "left_out": left_out}
    write_json(out / REPORT, report)
    if not any(report["kept"].values()):
        raise CourseError(f"{folder}: no sample of it is sound; {out / REPORT} says why")
    return {
        name: readers[name].build(metas[name], check, workers) for name, check in checks.items() if _count_sound(check)
    }


def find_course(root: str | Path) -> Path:
    """Return the folder at or below `root` that has the course's lists or LMDBs. Raises CourseError for none."""
    names = {IMAGES, MASKS, *(name for lists, _ in STORES.values() for name in lists)}
    for below in FOLDERS:
        folder = Path(root) / below
        if any((folder / name).exists() for name in names):
            return folder
    raise CourseError(f"{root}: no course data here; expected {IMAGES}, {MASKS} and lists such as {TEST}")


def evenly_spaced(values: list, limit: int | None) -> list:
    """Return at most `limit` of the values, evenly spaced and in their order."""
    if limit is None or limit >= len(values):
        return values
    return [values[i * len(values) // limit] for i in range(limit)]


def _read_lists(folder: Path, names: list[str]) -> tuple[dict[str, list[dict]], dict[str, str]]:
    """Return one row a sample for every store whose lists are there, and why the other stores are left out."""
    missing = {name: [file for file in STORES[name][0] if not (folder / file).exists()] for name in names}
    left_out = {name: f"no {' and no '.join(files)}" for name, files in missing.items() if files}
    load = cache(lambda file: load_pt(folder / file))
    complete = [name for name in names if name not in left_out]
    if not complete:
        raise CourseError(f"{folder}: has none of the course's lists, such as {TEST}; copy them here")
    try:
        return {name: _rows(folder, name, load) for name in tqdm(complete, desc="lists", unit="store")}, left_out
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        expected = "lists of dicts with img_path and bbox, path2id a dict, the ids a list"
        raise CourseError(f"{folder}: its .pt files are not the course's ({error}); expected {expected}") from None


def _rows(folder: Path, name: str, load: Callable) -> list[dict]:
    """Return a row for every sample that the lists of a store name; `load` reads a list by its file name."""
    if name == "unpaired_labels":
        boxes = load(LABEL_BOXES) if (folder / LABEL_BOXES).exists() else {}
        return [label_row(str(mask_id), boxes.get(str(mask_id), {})) for mask_id in load(LABEL_IDS)]
    files = STORES[name][0]
    if name == "unpaired_images":
        paired = {str(entry.get("img_path")) for entry in load(files[1])}
        return [image_row(entry) for entry in load(files[0]) if str(entry.get("img_path")) not in paired]
    ids = load(files[1]) if len(files) > 1 else {}
    return [image_row(entry, ids) for entry in load(files[0])]


def image_row(entry: dict, ids: dict | None = None) -> dict:
    """Return the row of an entry of a list: columns of the index, and LOOKUP with the id of its mask ("" if none).

    The box in the index is the one to crop by or, where export-course has noted it, the hands' own in another frame.
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
    """Return the row of masks without an image; only export-course writes an `entry` for them."""
    unknown = {"subject": "", "capture": "", "seq": "", "camera": "", "frame": -1}
    return {"id": mask_id, "hand_type": "", **unknown, **_boxes(entry), "source": "", "mask": mask_id}


def _frame_number(value) -> int:
    try:
        return int(np.int64(value))
    except (TypeError, ValueError, OverflowError):
        return -1


def _boxes(entry: dict) -> dict:
    """Return an entry's box for the index and its crop as columns; how much is occluded is unknown."""
    crop = entry.get("bbox")
    boxes = zip((*BOX, *CROP), (*_numbers(entry.get("box", crop)), *_numbers(crop)), strict=True)
    return dict(boxes) | dict.fromkeys(OCCLUDED, math.nan)


def _numbers(box) -> list[float]:
    """Return a box's four numbers, NaN where it has not four."""
    try:
        x, y, w, h = (float(number) for number in box)
    except (TypeError, ValueError):
        return [math.nan] * 4
    return [x, y, w, h]


@dataclass(frozen=True)
class _StoreReader:
    """Reads the samples of `rows` from the LMDBs in `folder` into the store `path`."""

    folder: Path
    path: Path
    rows: list[dict]
    size: int

    @property
    def arrays(self) -> tuple[str, ...]:
        return STORES[self.path.name][1]

    def meta(self) -> dict:
        """Return the `meta` of the store's plan, which changes with the rows and the LMDBs.

        Raises CourseError when an LMDB is missing or damaged, StoreError when something else is at `path`.
        """
        digest = hashlib.sha256(json.dumps([check_lmdb(self.folder / LMDBS[array]) for array in self.arrays]).encode())
        for row in self.rows:
            digest.update(json.dumps(row).encode())
        meta = {"source": "course", "split": self.path.name, "listed_sha256": digest.hexdigest()}
        if self.path.exists() and any(self.path.iterdir()) and not is_made(self.path, {"size": self.size, **meta}):
            raise StoreError(f"{self.path}: holds something else or other samples; choose another folder")
        return meta

    def check(self, meta: dict, workers: int) -> pd.DataFrame:
        """Check every sample; return their rows, with the reason why one cannot be used as `fault` ("" if it can)."""
        checks = self._work(f"check-{self.path.name}")
        sample = CheckedSample(self._sample("listed", self.rows))
        replace = not is_made(checks, {"size": self.size, **meta})
        return build_store(checks, StorePlan(sample, len(self.rows), self.size, (), meta), workers, replace).index

    def build(self, meta: dict, check: pd.DataFrame, workers: int) -> Store:
        """Build the store of the samples that `check` says are sound."""
        sound = check[check["fault"] == ""].drop(columns="fault")
        sample = self._sample("sound", sound.to_dict("records"))  # NaN stays NaN; from a DataFrame it would become null
        return build_store(self.path, StorePlan(sample, len(sound), self.size, self.arrays, meta), workers)

    def _sample(self, kind: str, rows: list[dict]) -> "CourseSample":
        """Write rows as a table, and return what makes a sample of each."""
        table = self._work(f"{kind}-{self.path.name}.parquet")
        with atomic_write(table) as temporary:
            pq.write_table(pa.Table.from_pylist(rows), temporary)
        return CourseSample(self.folder, table, self.size, self.arrays)

    def _work(self, name: str) -> Path:
        return self.path.parent / WORK / name


def _count_sound(check: pd.DataFrame) -> int:
    return int((check["fault"] == "").sum())


def _report(listed: dict[str, list], checks: dict[str, pd.DataFrame]) -> dict:
    """Return the report: samples listed in every store, read and kept, and those skipped, by reason and store."""
    faults = SkippedSamples()
    for name, check in checks.items():
        for reason, ids in check[check["fault"] != ""].groupby("fault")["id"]:
            for sample in ids:
                faults.add(reason, f"{name}: {sample}")
    return {
        "source": "course",
        "listed": {name: len(rows) for name, rows in listed.items()},
        "read": sum(map(len, checks.values())),
        "skipped": faults.most_common(),
        "kept": {name: _count_sound(check) for name, check in checks.items()},
    }


@dataclass(frozen=True)
class CourseSample:
    """Makes sample i of a course store: row i of `table`, a parquet file, from the LMDBs in `folder`."""

    folder: Path
    table: Path
    size: int
    arrays: tuple[str, ...]

    def row(self, i: int) -> dict:
        """Return row i of the table."""
        return _open_table(self.table, self.table.stat().st_mtime_ns).slice(i, 1).to_pylist()[0]

    def __call__(self, i: int) -> dict:
        row = self.row(i)
        try:
            return read_sample(self.folder, row, self.size, self.arrays)
        except SampleError as fault:
            raise CourseError(f"{self.folder}: {row['id']} was sound before, now {fault}; start again") from None


@dataclass(frozen=True)
class CheckedSample:
    """Makes row i of a check: the sample's, with the reason why it cannot be used as `fault` ("" if it can)."""

    sample: CourseSample

    def __call__(self, i: int) -> dict:
        listed, sample = self.sample.row(i), self.sample
        try:
            row = read_sample(sample.folder, listed, sample.size, sample.arrays)["row"]
        except SampleError as fault:
            return {"row": {**listed, "fault": str(fault)}}
        return {"row": {**row, **{name: listed[name] for name in LOOKUP}, "fault": ""}}


@lru_cache(maxsize=2)
def _open_table(path: Path, changed: int) -> pa.Table:
    return pq.read_table(path)


def read_sample(folder: Path, listed: dict, size: int, arrays: tuple[str, ...]) -> dict:
    """Return the sample of a row of a table at `size` px: `row` for the index, and `images` or `masks` as in `arrays`.

    Raises SampleError where the LMDBs in `folder` lack it, or it cannot be used.
    """
    image, masks = _frames(folder, listed, arrays)
    row, crop = {name: value for name, value in listed.items() if name not in LOOKUP}, [listed[name] for name in CROP]
    if image is None:
        row["hand_type"], crop = _visible_hands(masks, crop)
    if not np.isfinite([row[name] for name in BOX]).any():
        row |= zip(BOX, crop, strict=True)
    if row["hand_type"] not in HAND_TYPES:
        raise SampleError("hand_type: none of right, left, interacting")
    square = _square(crop)
    sample = {"row": row}
    if image is not None:
        try:
            sample["images"] = crop_image(image, square, size)
        except ImageError:
            raise SampleError("box: outside the frame, or out of all proportion to it") from None
    if masks is not None:
        sample["masks"] = crop_masks(masks, square, size)
    return sample


def _frames(folder: Path, listed: dict, arrays: tuple[str, ...]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return full frames: the image uint8 [H, W, 3] and the masks uint8 [2, H, W]; None if not in `arrays`."""
    image = masks = None
    if "images" in arrays:
        with open_lmdb(folder / IMAGES) as get:
            image = decode_image(get(listed["source"].removeprefix("./")))
    if "masks" in arrays:
        if not listed["mask"]:
            raise SampleError("mask: no id in path2id")
        with open_lmdb(folder / MASKS) as get:
            masks = decode_masks([get(key) for key in mask_keys(listed["mask"])])
    if image is not None and masks is not None and image.shape[:2] != masks.shape[1:]:
        raise SampleError("mask: of another size than the image")
    return image, masks


def _visible_hands(masks: np.ndarray, crop: list[float]) -> tuple[str, list[float]]:
    """Return the hand type of masks uint8 [2, H, W] and their crop: the given one or, if NaN, about the foreground."""
    present = masks.any((1, 2))
    if not present.any():
        raise SampleError("mask: shows no hand")
    if not np.isfinite(crop).any():
        rows, columns = (np.flatnonzero(masks.any((0, axis))) for axis in (2, 1))
        x, y, side = crop_square((columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1))
        crop = [float(x), float(y), float(side), float(side)]
    return HAND_TYPES[-1] if present.all() else HANDS[present.argmax()], crop


def _square(box: list[float]) -> tuple[float, float, float]:
    """Return the square (x, y, side) of a box that is square up to rounding: its longer side, about its centre."""
    if not np.isfinite(box).all():
        raise SampleError("box: not four numbers")
    x, y, w, h = box
    if min(w, h) <= 0:
        raise SampleError("box: of no size")
    side = max(w, h)
    return x + (w - side) / 2, y + (h - side) / 2, side


def crop_masks(masks: np.ndarray, square: tuple[float, float, float], size: int) -> np.ndarray:
    """Crop the square (x, y, side) from masks uint8 [2, H, W] at `size` px, nearest neighbour, 0 beyond the frame.

    A pixel takes the id at its centre, which is where `crops.crop_image` takes its colour from.
    """
    x, y, side = square
    height, width = masks.shape[1:]
    centres = (np.arange(size) + 0.5) / size * side
    rows, columns = np.floor(centres + y).astype(int), np.floor(centres + x).astype(int)
    cropped = masks[:, rows.clip(0, height - 1)][:, :, columns.clip(0, width - 1)]
    return np.where(beyond_frame(square, size, (width, height)), 0, cropped).astype(np.uint8)
