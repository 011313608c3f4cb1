"""Export of stores in the course's own layout (REFERENCE.md section 5)."""

import contextlib
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ethand_utils.data.store import BOX, Store, StoreError
from ethand_utils.files import first_line, write_remedy
from ethand_utils.labels import HANDS
from ethand_utils.sources.course import COMPLETE, LABEL_BOXES, LABEL_IDS, PAIRED, PATH2ID, STORES, TEST
from ethand_utils.sources.course_io import (
    IMAGES,
    MASKS,
    PREFIX,
    CourseError,
    encode_image,
    encode_masks,
    image_key,
    mask_keys,
    save_pt,
    write_lmdb,
)

SPLITS = {name: "train" if name == "unpaired_images" else name for name in STORES}  # first folder of new img_paths
LAYOUT = "data/InterHand2.6M"  # the folder of the layout below the one that is asked for
SUBMISSION_SIZE = 128  # px a side of every mask the course's server takes
COLUMNS = ("id", "hand_type", "subject", "capture", "seq", "camera", "frame")


def export_course(stores: dict[str, Store], out: str | Path) -> Path:
    """Write stores in the course's layout into `out`/data/InterHand2.6M, which is returned, whole or not at all.

    `stores` is a data set (`datasets.open_dataset`); what `course.STORES` names is written, and other arrays, such as
    the masks of the test set, have no place in the layout. A single store of another name counts as `train`, without
    masks as `test`, without images as `unpaired_labels`. Every crop becomes a frame with itself as box; lists that
    have nothing to list are empty. Images of InterHand2.6M and of the course keep their `img_path`, others get one of
    their id. Captures and cameras are numbered where they are no numbers. Beyond the layout, entries have `id`,
    `subject`, `seq_name` and `box`, the box in our index, and the unpaired labels' boxes have a file, so that
    `course.read_course` gives back the same.

    Raises StoreError when arrays or columns are missing, CourseError when an id comes twice, when `out` has such a
    folder already, or when the disk is full.
    """
    stores = _roles(stores)
    pictures = {name: store for name, store in stores.items() if "images" in STORES[name][1]}
    labelled = {name: store for name, store in stores.items() if "masks" in STORES[name][1]}
    numbers = {column: _numbers(pictures.values(), column) for column in ("capture", "camera")}
    entries = {
        name: [_entry(name, row, store.size, numbers) for row in store.index.to_dict("records")]
        for name, store in pictures.items()
    }
    ids = {name: store.index["id"].astype(str).tolist() for name, store in labelled.items()}
    target = Path(out) / LAYOUT
    with _new_folder(target) as work:
        write_lmdb(work / IMAGES, _images(pictures, entries), sum(map(len, pictures.values())))
        write_lmdb(work / MASKS, _masks(labelled, ids), len(HANDS) * sum(map(len, labelled.values())))
        for name, value in _lists(entries, _label_boxes(stores.get("unpaired_labels"))).items():
            save_pt(work / name, value)
    return target


def _roles(stores: dict[str, Store]) -> dict[str, Store]:
    """Return the stores that have a place in the layout, by its name. Raises StoreError when one cannot fill it.

    An index without hand types and the like is refused, too.
    """
    roles = {name: stores[name] for name in STORES if name in stores}
    if not roles and len(stores) == 1:
        (store,) = stores.values()
        roles = {"unpaired_labels" if store.images is None else "test" if store.masks is None else "train": store}
    if not roles:
        raise StoreError(f"{', '.join(stores)}: none of these stores has a place in the layout, as {[*STORES]} have")
    for name, store in roles.items():
        store.require(*STORES[name][1])
        missing = [column for column in COLUMNS if column not in store.index]
        if missing:
            raise StoreError(f"{store.path}/index.parquet: has no column {missing[0]}, which the lists need")
    return roles


def _numbers(stores: Iterable[Store], column: str) -> dict[str, str]:
    """Return a number for each of a column's values, which other code reads as integers: itself, or its rank."""
    values = sorted({str(value) for store in stores for value in store.index[column]})
    if all(value.isdigit() for value in values):
        return {value: value for value in values}
    return {value: str(i) for i, value in enumerate(values)}


def img_path(name: str, row: dict) -> str:
    """Return `./data/InterHand2.6M/images/….jpg` for a row of the store `name`: its source's, else a path of its id."""
    match = re.search(r"(?:^|/)images/((?:train|val|test)/.+)\.jpg$", str(row.get("source", "")))
    path = match[1] if match else f"{SPLITS.get(name, 'test')}/{row['id']}"
    return f"{PREFIX}{path}.jpg"


def _entry(name: str, row: dict, size: int, numbers: dict[str, dict[str, str]]) -> dict:
    """Return the entry of a sample in the lists."""
    return {
        "img_path": img_path(name, row),
        **_boxes(row, size),
        "hand_type": str(row["hand_type"]),
        "capture": numbers["capture"][str(row["capture"])],
        "cam": numbers["camera"][str(row["camera"])],
        "frame": int(row["frame"]),
        "id": str(row["id"]),
        "subject": str(row["subject"]),
        "seq_name": str(row["seq"]),
    }


def _label_boxes(store: Store | None) -> dict[str, dict]:
    """Return the crop and the hands' own box of every unpaired label, by its id."""
    rows = [] if store is None else store.index.to_dict("records")
    return {str(row["id"]): _boxes(row, store.size) for row in rows}


def _lists(entries: dict[str, list[dict]], label_boxes: dict[str, dict]) -> dict[str, list | dict]:
    """Return the contents of every `.pt` file of the layout by its name."""
    train, val, test, unpaired = (entries.get(name, []) for name in ("train", "val", "test", "unpaired_images"))
    return {
        PAIRED.format("train"): train,
        PAIRED.format("val"): val,
        COMPLETE: train + unpaired,
        TEST: test,
        PATH2ID.format("train"): {image_key(entry["img_path"]): entry["id"] for entry in train},
        PATH2ID.format("val"): {image_key(entry["img_path"]): entry["id"] for entry in val},
        LABEL_IDS: list(label_boxes),
        LABEL_BOXES: label_boxes,
    }


def _boxes(row: dict, size: int) -> dict[str, list[float]]:
    """Return boxes (x, y, w, h) px: of the full frame, and the hands' in our index's frame, NaN where that has none."""
    own = [float(row.get(name, math.nan)) for name in BOX]
    return {"bbox": [0.0, 0.0, float(size), float(size)], "box": own}


def _images(stores: dict[str, Store], entries: dict[str, list[dict]]) -> Iterator[tuple[str, bytes]]:
    for name, store in stores.items():
        for entry, image in zip(entries[name], store.images, strict=True):
            yield entry["img_path"].removeprefix("./"), encode_image(np.asarray(image))


def _masks(stores: dict[str, Store], ids: dict[str, list[str]]) -> Iterator[tuple[str, bytes]]:
    for name, store in stores.items():
        for mask_id, masks in zip(ids[name], store.masks, strict=True):
            yield from zip(mask_keys(mask_id), encode_masks(np.asarray(masks)), strict=True)


@contextlib.contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Create a folder for the block to fill; it is renamed to `target` at the end, or removed if the block raises."""
    work = target.with_name(f".{target.name}.partial")
    try:
        if target.exists() and any(target.iterdir()):
            raise CourseError(f"{target}: holds something already; choose another folder, or move it away")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        yield work
        os.replace(work, target)
    except OSError as error:
        raise CourseError(f"{target}: could not be written ({first_line(error)}); {write_remedy(error)}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
