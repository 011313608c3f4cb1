"""Building a store: chunk by chunk, in several processes, and optionally in shards built by several jobs."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap
from tqdm.auto import tqdm

from ethand_utils.data.store import ARRAYS, FORMAT, Store, StoreError, array_layout, is_made
from ethand_utils.data.workers import parallel_map
from ethand_utils.files import atomic_write, first_line, hold, write_json, write_remedy
from ethand_utils.outputs import require_folder

CHUNK = 64  # samples written between two resume points

# What commands write into a store; whatever else lies there is the user's.
OWN_FILES = re.compile(
    rf"(meta\.json|index\.parquet|metrics\.parquet|confusion\.npz|chunks|({'|'.join(ARRAYS)})\.npy)|\..*\.partial(\..*)?"
)
FOLDER = ".shards"  # beside the stores; one folder a shard below it, so that no two jobs write to the same file


@dataclass(frozen=True)
class StorePlan:
    """Contents of a store that is to be built.

    `make(i)` returns sample i as a dict with one entry per name in `arrays` (without its first axis) and `row`, a dict
    for the index. It must be picklable and depend on i alone, so that the bytes do not depend on the number of workers.
    `meta` describes how the samples are made; a store with another `meta` counts as another store.
    """

    make: Callable[[int], dict]
    count: int
    size: int
    arrays: tuple[str, ...]
    meta: dict

    def meta_json(self) -> dict:
        """Return the contents of the store's `meta.json`."""
        layout = {"format": FORMAT, "size": self.size, "count": self.count, "arrays": list(self.arrays)}
        return json.loads(json.dumps(layout | self.meta))

    def subset(self, samples: range) -> "StorePlan":
        """Return the plan of a store of these samples alone."""
        meta = self.meta | {"first": samples.start, "whole": self.count}
        return dataclasses.replace(self, make=_Shifted(self.make, samples.start), count=len(samples), meta=meta)


@dataclass(frozen=True)
class _Shifted:
    """`make` of a shard: its sample i is sample `first` + i of the store."""

    make: Callable[[int], dict]
    first: int

    def __call__(self, i: int) -> dict:
        return self.make(self.first + i)


def build_store(
    path: str | Path, plan: StorePlan, workers: int = 1, replace: bool = False, shards: Sequence[Store] = ()
) -> Store:
    """Build the store `path`, several processes at a time, and open it.

    Work goes on in a hidden folder beside `path`, chunk by chunk: an interrupted build resumes there when called with
    the same plan, and `path` appears only when complete. A complete store of the same plan is kept; one made with other
    settings is refused, or with `replace` replaced once the new one is complete. Chunks that lie within one of `shards`
    (`finished_shards`) are copied from there.

    Raises StoreError when `path` holds something else, StoreError or FileError when the disk is full; what `make`
    raises passes through.
    """
    path = Path(path)
    store = kept_store(path, plan, replace)
    if store is not None:
        return store
    path = Path(os.path.realpath(path))  # the folder that a link names is replaced, not the link
    busy = StoreError(f"{path}: another process is building it; wait for it, or choose another folder")
    with contextlib.ExitStack() as stack:
        with disk_errors(path):
            stack.enter_context(hold(path.parent / f".{path.name}.lock", busy))
        _build(path, plan, workers, shards)
    return Store(path)


def _build(path: Path, plan: StorePlan, workers: int, shards: Sequence[Store]) -> None:
    """Write the missing chunks to the working folder, then rename it to `path`."""
    work, count = path.parent / f".{path.name}.partial", plan.count
    with disk_errors(path):
        _prepare(work, plan)
        missing = [start for start in chunk_starts(count) if not _chunk_file(work, start).exists()]
    done = count - sum(len(_chunk(start, plan)) for start in missing)
    with tqdm(total=count, initial=done, desc=path.name, unit="img") as progress:
        for written in _write_chunks(work, plan, missing, workers, shards):
            progress.update(written)
    with disk_errors(path):
        index = pd.concat([pd.read_parquet(_chunk_file(work, start)) for start in chunk_starts(count)])
        index.to_parquet(work / "index.parquet", index=False)
        _swap(work, path)


def chunk_starts(count: int) -> range:
    """Return the first samples of the chunks of a store of `count` samples."""
    return range(0, count, CHUNK)


def kept_store(path: Path, plan: StorePlan, replace: bool) -> Store | None:
    """Return the complete store at `path` if it is to be kept.

    One of the plan's, but of an older format, is not. Raises StoreError where something else must not be replaced,
    OutputError where no folder can be.
    """
    require_folder(path)
    if path.exists() and not (path / "meta.json").exists() and any(path.iterdir()):
        raise StoreError(f"{path}: holds something that is no store; choose another folder")
    if replace or not (path / "meta.json").exists() or _is_older(path, plan):
        return None
    store = Store(path)
    if store.meta != plan.meta_json():
        raise StoreError(f"{path}: holds a store made with other settings; choose another folder, or move it away")
    _tidy(path)
    return store


def _is_older(path: Path, plan: StorePlan) -> bool:
    """Return whether the store at `path` is what the plan makes, but of an older format, so that it is made anew."""
    try:
        meta, new = json.loads((path / "meta.json").read_text()), plan.meta_json()
        same = all(meta[name] == new[name] for name in (meta.keys() & new.keys()) - {"format", "renderer"})
        return meta["format"] < FORMAT and same
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def _swap(work: Path, path: Path) -> None:
    """Rename a complete store to `path`; an older one there is removed only when the new one is in place.

    Files of others in the older one go over to the new one.
    """
    old = _old(path)
    _keep_others(old, work)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    os.replace(work, path)
    _tidy(path)


def _tidy(path: Path) -> None:
    """Remove what a build leaves beside a complete store, also one that was killed while doing so."""
    _keep_others(_old(path), path)
    for left_over in (path / "chunks", _old(path)):
        shutil.rmtree(left_over, ignore_errors=True)


def _keep_others(old: Path, new: Path) -> None:
    """Move what no command wrote from an older store to the one that takes its place."""
    for file in sorted(old.iterdir()) if old.is_dir() else ():
        if not OWN_FILES.fullmatch(file.name) and not os.path.lexists(new / file.name):
            os.replace(file, new / file.name)


def _old(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn operating-system errors while writing into a StoreError; finished chunks stay for the next try."""
    try:
        yield
    except OSError as error:
        remedy = f"{write_remedy(error)}: it goes on where it stopped"
        raise StoreError(f"{path}: could not be written ({first_line(error)}); {remedy}") from error


def _prepare(work: Path, plan: StorePlan) -> None:
    """Create the working folder with its arrays at full size on disk; one made with other settings is thrown away."""
    meta_file, meta = work / "meta.json", plan.meta_json()
    with contextlib.suppress(OSError, ValueError):
        if json.loads(meta_file.read_text()) == meta:
            return
    shutil.rmtree(work, ignore_errors=True)
    (work / "chunks").mkdir(parents=True)
    for name in plan.arrays:
        shape, dtype = array_layout(name, plan.count, plan.size)
        array = open_memmap(work / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
        length = array.offset + array.nbytes
        del array
        # Blocks are reserved now: a disk that fills up later would kill a process that writes to a memory map.
        with open(work / f"{name}.npy", "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, length)
    write_json(meta_file, meta)


def _write_chunks(
    work: Path, plan: StorePlan, starts: list[int], workers: int, shards: Sequence[Store]
) -> Iterator[int]:
    """Write the chunks that begin at `starts`; yields the number of samples of each when it is done."""
    shard_of = {start: shard for start in starts for shard in shards if _contains(shard, _chunk(start, plan))}
    for start, shard in shard_of.items():
        yield _copy_chunk(work, shard, plan, start)
    to_make = [start for start in starts if start not in shard_of]
    write = partial(_write_chunk, work, plan)
    yield from parallel_map(write, to_make, workers, work, preload=[type(plan.make).__module__, __name__])


def _write_chunk(work: Path, plan: StorePlan, start: int) -> int:
    """Make and write the samples of a chunk; returns their number."""
    samples = [plan.make(i) for i in _chunk(start, plan)]
    rows = pd.DataFrame([sample["row"] for sample in samples])
    return _save_chunk(work, plan, start, rows, lambda name: np.stack([sample[name] for sample in samples]))


def _copy_chunk(work: Path, shard: Store, plan: StorePlan, start: int) -> int:
    """Copy the samples of a chunk from a shard; returns their number."""
    first, samples = shard.meta["first"], _chunk(start, plan)
    chosen = slice(samples.start - first, samples.stop - first)
    # Arrays are opened anew for every chunk, so that the memory in use does not grow with what has been read.
    return _save_chunk(work, plan, start, shard.index[chosen], lambda name: shard.open_array(name)[chosen])


def _save_chunk(
    work: Path, plan: StorePlan, start: int, rows: pd.DataFrame, values: Callable[[str], np.ndarray]
) -> int:
    """Write one chunk of every array, then its index rows, which mark it as done."""
    with disk_errors(work):
        for name in plan.arrays:
            array = np.load(work / f"{name}.npy", mmap_mode="r+")
            array[start : start + len(rows)] = values(name)
            array.flush()
        with atomic_write(_chunk_file(work, start)) as temporary:
            rows.to_parquet(temporary, index=False)
    return len(rows)


def _chunk(start: int, plan: StorePlan) -> range:
    """Return the samples of the chunk that begins at `start`."""
    return range(start, min(start + CHUNK, plan.count))


def _contains(shard: Store, samples: range) -> bool:
    first = shard.meta["first"]
    return first <= samples.start and samples.stop <= first + len(shard)


def _chunk_file(work: Path, start: int) -> Path:
    return work / "chunks" / f"{start:09d}.parquet"


@dataclass(frozen=True)
class Shard:
    """Share `number` of `of`, counted from 1, of every store of a data set. Raises StoreError for 0/4 or 5/4."""

    number: int
    of: int

    def __post_init__(self):
        if not 1 <= self.number <= self.of:
            raise StoreError(f"shard {self}: expected I/K with I from 1 to K, such as 2/8")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read `2/8` as shard 2 of 8. Raises StoreError for another text."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not match:
            raise StoreError(f"shard {text}: expected I/K with I from 1 to K, such as 2/8")
        return cls(*map(int, match.groups()))

    def samples(self, count: int) -> range:
        """Return this shard's samples of a store of `count`: only full chunks, none if there are fewer than shards."""
        starts = chunk_starts(count)
        edges = [*starts, count]
        first, last = (edges[len(starts) * number // self.of] for number in (self.number - 1, self.number))
        return range(first, last)

    def folder(self, out: str | Path) -> Path:
        """Return the folder in which this shard of the data set `out` is built."""
        return Path(out) / FOLDER / f"{self.number}-of-{self.of}"


def build_shard(
    path: str | Path, shard: Shard, plan: StorePlan, workers: int = 1, replace: bool = False
) -> Store | None:
    """Build one shard of the store `path`, as `build_store` does, in the shard's own folder.

    Returns None when there is nothing to do: the shard is empty, or the complete store exists already. A complete store
    made with other settings is refused, or with `replace` left for `merge_shards`; such a shard is refused, or with
    `replace` built anew. Raises what `build_store` does.
    """
    path, samples = Path(path), shard.samples(plan.count)
    complete = kept_store(path, plan, replace and not is_made(path, plan.meta_json()))
    if complete is not None or not samples:
        return None
    folder, plan = shard.folder(path.parent) / path.name, plan.subset(samples)
    return build_store(folder, plan, workers, replace and not is_made(folder, plan.meta_json()))


def merge_shards(path: str | Path, plan: StorePlan, workers: int = 1, replace: bool = False) -> Store:
    """Build the store `path` from its finished shards, make the samples that none has, and remove the shards.

    The bytes are those of `build_store` alone. If killed, it resumes when called again. Call it only when no job is
    building a shard any more. With `replace`, shards made with other settings are ignored, else refused, and a complete
    store made with other settings is replaced. Raises what `build_store` and `finished_shards` do.
    """
    path = Path(path)
    shards = finished_shards(path, plan, ignore=replace)
    store = build_store(path, plan, workers, replace and not is_made(path, plan.meta_json()), shards)
    del shards  # a network disk keeps the files of arrays that are still open
    for folder in _shard_folders(path):
        aside = folder.with_name(f".{folder.name}.merged")  # renamed first: a half-removed shard is never used
        shutil.rmtree(aside, ignore_errors=True)
        with disk_errors(folder):
            os.replace(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)
    return store


def finished_shards(path: str | Path, plan: StorePlan, ignore: bool = False) -> list[Store]:
    """Return the complete shards of the store `path`.

    Raises StoreError for a shard that is damaged or was made with other settings, or leaves it out if `ignore`.
    """
    shards, expected = [], plan.meta_json()
    for folder in _shard_folders(Path(path)):
        try:
            shard = Store(folder)
            if _merged_meta(shard) != expected:
                remedy = f"use the options it was made with, or remove {folder.parent.parent}"
                raise StoreError(f"{folder}: a shard made with other settings; {remedy}")
            shards.append(shard)
        except StoreError:
            if not ignore:
                raise
    return shards


def _merged_meta(shard: Store) -> dict:
    """Return `meta.json` of the store to which a shard belongs."""
    shared = {name: value for name, value in shard.meta.items() if name not in ("first", "whole")}
    return shared | {"count": shard.meta.get("whole")}


def _shard_folders(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{FOLDER}/*/{path.name}"))


def build_stores(
    out: Path, plans: dict[str, StorePlan], workers: int = 1, replace: bool = False, shard: Shard | None = None
) -> dict[str, Store]:
    """Build the stores of a data set in the folder `out`, merging their shards, or one `shard` of each; return them.

    Shards that do not fit are refused before any work begins. Raises what `build_shard` and `merge_shards` do.
    """
    if shard is not None:
        built = {name: build_shard(out / name, shard, plan, workers, replace) for name, plan in plans.items()}
        return {name: store for name, store in built.items() if store is not None}
    for name, plan in plans.items():
        finished_shards(out / name, plan, ignore=replace)
    stores = {name: merge_shards(out / name, plan, workers, replace) for name, plan in plans.items()}
    shutil.rmtree(out / FOLDER, ignore_errors=True)  # unfinished shards, too
    return stores
