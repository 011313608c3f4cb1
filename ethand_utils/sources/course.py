"""The course's LMDBs and lists (REFERENCE.md section 5) → stores."""

import functools
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ethand_utils.data.crops import ImageError, crop_image, crop_square
from ethand_utils.data.datasets import EXAMPLES, REPORT, SkippedSamples
from ethand_utils.data.store import Store, StoreError, is_made
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

BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
CROP = ("crop_x", "crop_y", "crop_w", "crop_h")
SOURCES = (*CROP, "mask")  # what an entry says beyond the index: where to look

PLACES = ("", "data/InterHand2.6M", "InterHand2.6M")  # where below its root the layout may lie
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
WORK = ".course"  # below the data set: what was listed, and how each sample was found


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
        except SampleError as fault:
            raise CourseError(f"{self.folder}: {entry['id']} was sound before, now {fault}; start again") from None


@dataclass(frozen=True)
class CheckedSample:
    """Row i of what `sample` makes, with the reason why it cannot be used in `fault` ("" if it can)."""

    sample: CourseSample

    def __call__(self, i: int) -> dict:
        entry, sample = self.sample.entry(i), self.sample
        try:
            row = read_sample(sample.folder, entry, sample.size, sample.arrays)["row"]
        except SampleError as fault:
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
        raise SampleError("hand_type: none of right, left, interacting")
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
            raise SampleError("mask: no id in path2id")
        with open_lmdb(folder / MASKS) as get:
            masks = decode_masks([get(key) for key in mask_keys(entry["mask"])])
    if image is not None and masks is not None and image.shape[:2] != masks.shape[1:]:
        raise SampleError("mask: of another size than the image")
    return image, masks


def _seen(masks: np.ndarray, crop: list[float]) -> tuple[str, list[float]]:
    """Hand type and crop of masks uint8 [2, H, W] without an image: the given one, else one about the foreground."""
    there = masks.any((1, 2))
    if not there.any():
        raise SampleError("mask: shows no hand")
    if not np.isfinite(crop).any():
        rows, columns = (np.flatnonzero(masks.any((0, axis))) for axis in (2, 1))
        x, y, side = crop_square((columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1))
        crop = [float(x), float(y), float(side), float(side)]
    return HAND_TYPES[-1] if there.all() else HANDS[there.argmax()], crop


def _square(box: list[float]) -> tuple[float, float, float]:
    """The crop (x, y, side) of a box that is square already, up to rounding: its longer side, about its centre."""
    if not np.isfinite(box).all():
        raise SampleError("box: not four numbers")
    x, y, w, h = box
    if min(w, h) <= 0:
        raise SampleError("box: of no size")
    side = max(w, h)
    return x + (w - side) / 2, y + (h - side) / 2, side


def _crop(image: np.ndarray, square: tuple[float, float, float], size: int) -> np.ndarray:
    try:
        return crop_image(image, square, size)
    except ImageError:
        raise SampleError("box: outside the frame, or out of all proportion to it") from None


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
    """Read the course's layout at `root` into a data set of `size`×`size` px in the folder `out`; its stores by name.

    Stores as STORES has them; paired ones without `front`, the test set without masks. Of each at most so many samples
    as said are taken, evenly spread over its list (None: all, 0: no such store); a store whose lists are not there is
    left out. Images and masks are cropped by their box, which the index has, too; unpaired labels, which have none, by
    the square about their own foreground, widened as the course does. Every sample is looked at first: broken ones are
    left out, counted in `out`/report.json by reason with some examples, and named in the parquet files of
    `out`/.course. Interrupted, both go on where they stopped.

    Raises CourseError when files are missing, damaged or unsafe, or no sample is sound; else what `build_store` does.
    """
    folder, out = find_course(Path(root).expanduser()), Path(out)
    limits = {"train": train, "val": val, "test": test, "unpaired_images": unpaired, "unpaired_labels": unpaired}
    if size < 16 or any(limit is not None and limit < 0 for limit in limits.values()):
        raise CourseError(f"{out}: images need at least 16 px a side, a number of samples is 0 or more")
    wanted = [name for name, limit in limits.items() if limit != 0]
    listed, left_out = _read_lists(folder, wanted)
    taken = {name: stratified_sample(rows, limits[name]) for name, rows in listed.items()}
    plans = {name: _plan(folder, out, name, rows, size) for name, rows in taken.items() if rows}
    checked = {name: _check(out, name, plan, taken[name], workers) for name, plan in plans.items()}
    report = _report(listed, checked) | {"root": str(root), "left_out": left_out}
    write_json(out / REPORT, report)
    if not any(report["kept"].values()):
        raise CourseError(f"{folder}: no sample of it is sound; {out / REPORT} says why")
    return {name: _build(out, name, plans[name], index, workers) for name, index in checked.items() if _kept(index)}


def find_course(root: str | Path) -> Path:
    """The folder at or below `root` that has the course's lists or LMDBs. Raises CourseError when there is none."""
    names = {IMAGES, MASKS, *(name for lists, _ in STORES.values() for name in lists)}
    for place in PLACES:
        folder = Path(root) / place
        if any((folder / name).exists() for name in names):
            return folder
    raise CourseError(f"{root}: no course data here; expected {IMAGES}, {MASKS} and lists such as {TEST}")


def stratified_sample(values: list, limit: int | None) -> list:
    """At most `limit` of the values, evenly spread over them and in their order."""
    if limit is None or limit >= len(values):
        return values
    return [values[i * len(values) // limit] for i in range(limit)]


def _read_lists(folder: Path, names: list[str]) -> tuple[dict[str, list[dict]], dict[str, str]]:
    """One dict a sample for every store whose lists are there, and why the others are left out."""
    missing = {name: [file for file in STORES[name][0] if not (folder / file).exists()] for name in names}
    left_out = {name: f"no {' and no '.join(files)}" for name, files in missing.items() if files}
    load = functools.cache(lambda file: load_pt(folder / file))
    here = [name for name in names if name not in left_out]
    if not here:
        raise CourseError(f"{folder}: has none of the course's lists, such as {TEST}; copy them here")
    try:
        return {name: _listed(folder, name, load) for name in tqdm(here, desc="lists", unit="store")}, left_out
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        expected = "lists of dicts with img_path and bbox, path2id a dict, the ids a list"
        raise CourseError(f"{folder}: its .pt files are not the course's ({error}); expected {expected}") from None


def _listed(folder: Path, name: str, load: Callable) -> list[dict]:
    """What the lists say of every sample of a store."""
    if name == "unpaired_labels":
        boxes = load(LABEL_BOXES) if (folder / LABEL_BOXES).exists() else {}
        return [label_row(str(mask_id), boxes.get(str(mask_id), {})) for mask_id in load(LABEL_IDS)]
    files = STORES[name][0]
    if name == "unpaired_images":
        paired = {str(entry.get("img_path")) for entry in load(files[1])}
        return [image_row(entry) for entry in load(files[0]) if str(entry.get("img_path")) not in paired]
    ids = load(files[1]) if len(files) > 1 else {}
    return [image_row(entry, ids) for entry in load(files[0])]


@dataclass(frozen=True)
class _Plan:
    """How a store is built: what its samples come from, and what its `meta.json` is to say."""

    folder: Path
    size: int
    arrays: tuple[str, ...]
    meta: dict

    def sample(self, table: Path) -> CourseSample:
        return CourseSample(self.folder, table, self.size, self.arrays)


def _plan(folder: Path, out: Path, name: str, rows: list[dict], size: int) -> _Plan:
    """Raises CourseError when an LMDB is missing or damaged, StoreError when something else is where the store goes."""
    arrays = STORES[name][1]
    lmdbs = [check_lmdb(folder / {"images": IMAGES, "masks": MASKS}[array]) for array in arrays]
    digest = hashlib.sha256(json.dumps(lmdbs).encode())
    for row in rows:
        digest.update(json.dumps(row).encode())
    meta = {"source": "course", "split": name, "listed_sha256": digest.hexdigest()}
    path = out / name
    if path.exists() and any(path.iterdir()) and not is_made(path, {"size": size, **meta}):
        raise StoreError(f"{path}: holds something else or other samples; remove it or choose another folder")
    return _Plan(folder, size, arrays, meta)


def _check(out: Path, name: str, plan: _Plan, rows: list[dict], workers: int) -> pd.DataFrame:
    """Every sample of a store tried once: its row, with `fault`."""
    table, path = out / WORK / f"listed-{name}.parquet", out / WORK / f"check-{name}"
    _write_table(table, rows)
    made = is_made(path, {"size": plan.size, **plan.meta})
    check = StorePlan(CheckedSample(plan.sample(table)), len(rows), plan.size, (), plan.meta)
    return build_store(path, check, workers, replace=not made).index


def _write_table(path: Path, rows: list[dict]) -> None:
    with atomic_write(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)


def _kept(index: pd.DataFrame) -> int:
    return int((index["fault"] == "").sum())


def _report(listed: dict[str, list], checked: dict[str, pd.DataFrame]) -> dict:
    """The report: samples listed in every store, read and kept, and those skipped by reason, named with their store."""
    faults = SkippedSamples()
    for name, index in checked.items():
        for reason, ids in index[index["fault"] != ""].groupby("fault")["id"]:
            for sample in ids.head(EXAMPLES):
                faults.add(reason, f"{name}: {sample}")
            faults.found[reason]["count"] += max(0, len(ids) - EXAMPLES)
    return {
        "source": "course",
        "listed": {name: len(rows) for name, rows in listed.items()},
        "read": sum(map(len, checked.values())),
        "skipped": faults.commonest_first(),
        "kept": {name: _kept(index) for name, index in checked.items()},
    }


def _build(out: Path, name: str, plan: _Plan, index: pd.DataFrame, workers: int) -> Store:
    table, sound = out / WORK / f"sound-{name}.parquet", index[index["fault"] == ""].drop(columns="fault")
    _write_table(table, sound.to_dict("records"))  # NaN stays NaN; from a DataFrame it would become null
    store = StorePlan(plan.sample(table), len(sound), plan.size, plan.arrays, plan.meta)
    return build_store(out / name, store, workers)
