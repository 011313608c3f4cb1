"""The sample store: a folder of memory-mapped arrays with an index, opened for reading."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from ethand_utils.files import FileError, first_line
from ethand_utils.labels import HANDS

# 1: masks of rendered and fitted hands were open at the wrist, and hidden by their own forearm.
FORMAT = 2
ARRAYS = ("images", "masks", "front", "depth", "confidence")
# Columns of an index: the hands' bounding box, px of the camera's frame, and the share of each hand that is occluded.
BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
OCCLUDED = tuple(f"occluded_{hand}" for hand in HANDS)

HOW_TO_BUILD = "build one with `ethand data render --out FOLDER`"
HOW_TO_MEND = "copy the store again from where it came, or build it again in another folder"


class StoreError(FileError):
    """A store that is missing, damaged or cannot be written."""


def array_layout(name: str, count: int, size: int) -> tuple[tuple[int, ...], str]:
    """Return shape and dtype of a store's array (DESIGN.md, Contracts); `confidence` comes with pseudo-labels."""
    return {
        "images": ((count, size, size, 3), "uint8"),
        "masks": ((count, len(HANDS), size, size), "uint8"),
        "front": ((count, size, size), "uint8"),
        "depth": ((count, len(HANDS), size, size), "float32"),
        "confidence": ((count,), "float32"),
    }[name]


class Store:
    """A complete store opened for reading: `meta` dict, `index` DataFrame and the arrays of ARRAYS it has (else None).

    As read-only memory maps: `images` uint8 [n, H, W, 3], `masks` uint8 [n, 2, H, W] left first, `front` uint8
    [n, H, W], `depth` float32 [n, 2, H, W], the z-depth (m) of each limb as if alone, 0 where there is none, and
    `confidence` float32 [n]. Raises StoreError, naming the file, when one is missing or has another shape than `meta`
    says.
    """

    images: np.ndarray | None
    masks: np.ndarray | None
    front: np.ndarray | None
    depth: np.ndarray | None
    confidence: np.ndarray | None

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._require_store()
        self.meta = self._read("meta.json", _read_meta)
        if self.meta.get("format") != FORMAT:
            raise StoreError(
                f"{self.path}/meta.json: format {self.meta.get('format')}, expected {FORMAT} (hands closed at the "
                "wrist); make it anew with the command that made it"
            )
        self.size, self.count = int(self.meta["size"]), int(self.meta["count"])
        self.index = self._read("index.parquet", pd.read_parquet)
        if len(self.index) != self.count:
            raise StoreError(f"{self.path}/index.parquet: {len(self.index)} rows, expected {self.count}; {HOW_TO_MEND}")
        for name in ARRAYS:
            setattr(self, name, self.open_array(name) if name in self.meta["arrays"] else None)

    def __len__(self) -> int:
        return self.count

    def __reduce__(self):
        """Pickle the folder's path alone; unpickling opens the store again."""
        return type(self), (self.path,)

    def require(self, *names: str) -> "Store":
        """Return this store if it has the named arrays, else raise StoreError."""
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            raise StoreError(
                f"{self.path}: has no {missing[0]}.npy, which is needed here; it holds {self.meta['arrays']}"
            )
        return self

    def _require_store(self) -> None:
        """Raise StoreError, saying what lies at the path, unless that is a folder with a `meta.json`."""
        if not self.path.exists():
            raise StoreError(f"{self.path}: no store here; {HOW_TO_BUILD}, or check the path")
        if not self.path.is_dir():
            raise StoreError(f"{self.path}: a file, expected a store, which is a folder")
        if (self.path / "meta.json").exists():
            return
        stores = sorted(file.parent.name for file in self.path.glob("*/meta.json") if file.parent.name[0] != ".")
        if stores:
            raise StoreError(
                f"{self.path}: a data set, expected one of its stores ({', '.join(stores)}), such as "
                f"{self.path / stores[-1]}"
            )
        if (self.path / "index.parquet").exists():
            raise StoreError(f"{self.path}/meta.json: missing from this store; {HOW_TO_MEND}")
        raise StoreError(f"{self.path}: no store here (no meta.json in it); check the path, or {HOW_TO_BUILD}")

    def _read(self, name: str, read: Callable):
        file = self.path / name
        try:
            return read(file)
        except FileNotFoundError:
            raise StoreError(f"{file}: missing from this store; {HOW_TO_MEND}") from None
        except MemoryError:
            raise
        except Exception as error:  # damaged Parquet files and arrays raise errors of many kinds
            raise StoreError(f"{file}: cannot be read ({first_line(error)}); {HOW_TO_MEND}") from None

    def open_array(self, name: str) -> np.ndarray:
        """Open one of the store's arrays as a new memory map."""
        array = self._read(f"{name}.npy", lambda file: np.load(file, mmap_mode="r"))
        shape, dtype = array_layout(name, self.count, self.size)
        if array.shape != shape or array.dtype != dtype:
            raise StoreError(
                f"{self.path}/{name}.npy: {array.dtype} {list(array.shape)}, expected {dtype} {list(shape)}; "
                f"{HOW_TO_MEND}"
            )
        return array


def _read_meta(file: Path) -> dict:
    meta = json.loads(file.read_text())
    if not isinstance(meta, dict) or not {"format", "size", "count", "arrays"} <= meta.keys():
        raise ValueError("not the description of a store")
    if not all(type(meta[name]) is int and meta[name] >= 0 for name in ("size", "count")):
        raise ValueError(f"size {meta['size']!r}, count {meta['count']!r}: expected whole numbers of at least 0")
    if not isinstance(meta["arrays"], list) or not all(name in ARRAYS for name in meta["arrays"]):
        raise ValueError(f"arrays {meta['arrays']!r}: expected a list of some of {', '.join(ARRAYS)}")
    return meta


def is_made(path: str | Path, meta: dict) -> bool:
    """Return whether there is an undamaged store at `path` whose `meta.json` contains all of `meta`."""
    try:
        return Store(path).meta.items() >= meta.items()
    except StoreError:
        return False
