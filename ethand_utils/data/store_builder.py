"""Building a store: several processes, chunk by chunk, complete or absent."""

import contextlib
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

from ethand_utils.data.store import FORMAT, Store, StoreError, array_layout, is_made
from ethand_utils.data.workers import parallel_map
from ethand_utils.files import atomic_write, first_line, hold, write_json, write_remedy

CHUNK = 64  # samples written between two resume points

FOLDER = ".parts"  # beside the stores; one folder a part below it, so that no two jobs write to the same file


def build_store(
    path: str | Path,
    make: Callable[[int], dict],
    count: int,
    size: int,
    arrays: tuple[str, ...],
    meta: dict,
    workers: int = 1,
    replace: bool = False,
    parts: Sequence[Store] = (),
) -> Store:
    """Write a store of `count` samples, several processes at a time, and open it.

    `make(i)` gives sample i as a dict with one entry per name in `arrays` (without its first axis) and `row`, a dict
    for the index; it must be picklable and depend on i alone, so that the bytes do not depend on `workers`. Work
    goes on in a hidden folder beside `path`, chunk by chunk: an interrupted build continues there when called with the
    same arguments, and `path` appears only when complete. A complete store made with the same `meta` is kept;
    one made otherwise is refused, or replaced once the new one is complete if `replace` says so. Whole chunks that one
    of `parts` (`parts.finished_parts`) holds are copied from there and not made.

    Raises StoreError when `path` holds something else, StoreError or FileError when the disk is full; what `make`
    raises passes through.
    """
    path, meta = Path(path), store_meta(count, size, arrays, meta)
    kept = kept_store(path, meta, replace)
    if kept is not None:
        return kept
    busy = StoreError(f"{path}: another process is building it; wait for it, or choose another folder")
    with contextlib.ExitStack() as held:
        with disk_errors(path):
            held.enter_context(hold(path.parent / f".{path.name}.lock", busy))
        _build(path, make, meta, workers, parts)
    return Store(path)


def _build(path: Path, make: Callable, meta: dict, workers: int, parts: Sequence[Store]) -> None:
    """Make what is missing in the working folder, and give it the name `path`."""
    work, count = path.parent / f".{path.name}.partial", meta["count"]
    with disk_errors(path):
        _prepare(work, meta)
        todo = [start for start in chunk_starts(count) if not _chunk_file(work, start).exists()]
    done = count - sum(min(CHUNK, count - start) for start in todo)
    with tqdm(total=count, initial=done, desc=path.name, unit="img") as progress:
        for written in _run_chunks(work, make, todo, meta, workers, parts):
            progress.update(written)
    with disk_errors(path):
        index = pd.concat([pd.read_parquet(_chunk_file(work, start)) for start in chunk_starts(count)])
        index.to_parquet(work / "index.parquet", index=False)
        _swap(work, path)


def store_meta(count: int, size: int, arrays: Sequence[str], meta: dict) -> dict:
    """What `meta.json` says of a store that `build_store` makes with these arguments."""
    return json.loads(json.dumps({"format": FORMAT, "size": size, "count": count, "arrays": list(arrays), **meta}))


def chunk_starts(count: int) -> range:
    """First samples of the chunks of a store of `count` samples."""
    return range(0, count, CHUNK)


def kept_store(path: Path, meta: dict, replace: bool) -> Store | None:
    """The complete store at `path` if it is to be kept. Raises StoreError where something else must not be replaced."""
    if path.exists() and not (path / "meta.json").exists() and any(path.iterdir()):
        raise StoreError(f"{path}: holds something that is no store; choose another folder")
    if replace or not (path / "meta.json").exists():
        return None
    store = Store(path)
    if store.meta != meta:
        raise StoreError(f"{path}: holds a store made with other settings; remove it or choose another folder")
    _tidy(path)
    return store


def _swap(work: Path, path: Path) -> None:
    """Give a complete store its name; an older one there goes only when the new one is in place."""
    old = _old(path)
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    os.replace(work, path)
    _tidy(path)


def _tidy(path: Path) -> None:
    """Remove what a build leaves beside a complete store, also one that was killed while doing so."""
    for left_over in (path / "chunks", _old(path)):
        shutil.rmtree(left_over, ignore_errors=True)


def _old(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn operating-system faults while writing into one StoreError; what is complete stays for the next try."""
    try:
        yield
    except OSError as error:
        remedy = f"{write_remedy(error)}: it goes on where it stopped"
        raise StoreError(f"{path}: could not be written ({first_line(error)}); {remedy}") from error


def _prepare(work: Path, meta: dict) -> None:
    """The working folder with its arrays at full size on disk; one made with other settings is thrown away."""
    meta_file = work / "meta.json"
    with contextlib.suppress(OSError, ValueError):
        if json.loads(meta_file.read_text()) == meta:
            return
    shutil.rmtree(work, ignore_errors=True)
    (work / "chunks").mkdir(parents=True)
    for name in meta["arrays"]:
        shape, dtype = array_layout(name, meta["count"], meta["size"])
        array = open_memmap(work / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
        length = array.offset + array.nbytes
        del array
        # Blocks are reserved now: a disk that fills up later would kill a process that writes to a memory map.
        with open(work / f"{name}.npy", "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, length)
    write_json(meta_file, meta)


def _run_chunks(
    work: Path, make: Callable, todo: list[int], meta: dict, workers: int, parts: Sequence[Store]
) -> Iterator[int]:
    """Write the chunks that start at `todo`; yields the number of samples of each as it is done."""
    held = {start: part for start in todo for part in parts if _holds(part, _chunk(start, meta))}
    for start, part in held.items():
        yield _copy_chunk(work, part, start, meta)
    todo = [start for start in todo if start not in held]
    write = partial(_write_chunk, work, make, meta)
    yield from parallel_map(write, todo, workers, work, preload=[type(make).__module__, __name__])


def _write_chunk(work: Path, make: Callable, meta: dict, start: int) -> int:
    """Make and write the samples of a chunk; returns their number."""
    samples = [make(i) for i in _chunk(start, meta)]
    rows = pd.DataFrame([sample["row"] for sample in samples])
    return _save_chunk(work, start, meta, rows, lambda name: np.stack([sample[name] for sample in samples]))


def _copy_chunk(work: Path, part: Store, start: int, meta: dict) -> int:
    """Copy the samples of a chunk from a part; returns their number."""
    first, samples = part.meta["first"], _chunk(start, meta)
    here = slice(samples.start - first, samples.stop - first)
    # Arrays are opened anew for every chunk, so that the memory in use does not grow with what has been read.
    return _save_chunk(work, start, meta, part.index[here], lambda name: part.open_array(name)[here])


def _save_chunk(work: Path, start: int, meta: dict, rows: pd.DataFrame, values: Callable[[str], np.ndarray]) -> int:
    """Write one chunk of every array, then its index rows, which mark it as done."""
    with disk_errors(work):
        for name in meta["arrays"]:
            array = np.load(work / f"{name}.npy", mmap_mode="r+")
            array[start : start + len(rows)] = values(name)
            array.flush()
        with atomic_write(_chunk_file(work, start)) as temporary:
            rows.to_parquet(temporary, index=False)
    return len(rows)


def _chunk(start: int, meta: dict) -> range:
    """The samples of the chunk that begins at `start`."""
    return range(start, min(start + CHUNK, meta["count"]))


def _holds(part: Store, samples: range) -> bool:
    first = part.meta["first"]
    return first <= samples.start and samples.stop <= first + len(part)


def _chunk_file(work: Path, start: int) -> Path:
    return work / "chunks" / f"{start:09d}.parquet"


@dataclass(frozen=True)
class Shard:
    """Part `number` of `of`, counted from 1: a share of every store of a data set. Raises StoreError for 0/4 or 5/4."""

    number: int
    of: int

    def __post_init__(self):
        if not 1 <= self.number <= self.of:
            raise StoreError(f"part {self}: expected I/K with I from 1 to K, such as 2/8")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """`2/8` → part 2 of 8. Raises StoreError for another text."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if not match:
            raise StoreError(f"part {text}: expected I/K with I from 1 to K, such as 2/8")
        return cls(*map(int, match.groups()))

    def samples(self, count: int) -> range:
        """This part's samples of a store of `count`: whole chunks, and none where there are fewer chunks than parts."""
        starts = chunk_starts(count)
        edges = [*starts, count]
        first, last = (edges[len(starts) * number // self.of] for number in (self.number - 1, self.number))
        return range(first, last)

    def folder(self, out: str | Path) -> Path:
        """Where this part of the data set in the folder `out` is built."""
        return Path(out) / FOLDER / f"{self.number}-of-{self.of}"


@dataclass(frozen=True)
class _Shifted:
    """`make` of a part: its sample i is sample `first` + i of the whole."""

    make: Callable[[int], dict]
    first: int

    def __call__(self, i: int) -> dict:
        return self.make(self.first + i)


def build_shard(
    path: str | Path,
    part: Shard,
    make: Callable[[int], dict],
    count: int,
    size: int,
    arrays: tuple[str, ...],
    meta: dict,
    workers: int = 1,
    replace: bool = False,
) -> Store | None:
    """Build one part of the store `path` of `count` samples, as `build_store` would, in the part's own folder.

    None where nothing is to do: the part is empty, or the whole store is there already. A whole store or a part made
    with other settings is refused, or with `replace` left for the join and made anew. Raises what `build_store` does.
    """
    path, wanted, samples = Path(path), store_meta(count, size, arrays, meta), part.samples(count)
    whole = kept_store(path, wanted, replace and not is_made(path, wanted))
    if whole is not None or not samples:
        return None
    mine = part.folder(path.parent) / path.name
    meta = {**meta, "first": samples.start, "whole": count}
    replace = replace and not is_made(mine, store_meta(len(samples), size, arrays, meta))
    return build_store(mine, _Shifted(make, samples.start), len(samples), size, arrays, meta, workers, replace)


def merge_shards(
    path: str | Path,
    make: Callable[[int], dict],
    count: int,
    size: int,
    arrays: tuple[str, ...],
    meta: dict,
    workers: int = 1,
    replace: bool = False,
) -> Store:
    """Build the store `path` from its finished parts, and by `make` where there is none; then remove its parts.

    The bytes are those of `build_store` alone. Killed, it goes on where it stopped when called again. Call it when no
    job is at work on a part any more. With `replace`, parts made with other settings are ignored, else refused, and
    a whole store made otherwise is replaced. Raises what `build_store` and `finished_parts` do.
    """
    path, wanted = Path(path), store_meta(count, size, arrays, meta)
    parts = finished_shards(path, wanted, ignore=replace)
    replace = replace and not is_made(path, wanted)
    store = build_store(path, make, count, size, arrays, meta, workers, replace, parts)
    del parts  # a network disk keeps the files of arrays that are still open
    for folder in _shard_folders(path):
        aside = folder.with_name(f".{folder.name}.joined")  # so that no half-removed part is ever found
        shutil.rmtree(aside, ignore_errors=True)
        with disk_errors(folder):
            os.replace(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)
    return store


def finished_shards(path: str | Path, wanted: dict, ignore: bool = False) -> list[Store]:
    """The complete parts of the store `path`, whose `meta.json` is to say `wanted`.

    Raises StoreError for a part that is damaged or was made with other settings, or leaves it out if `ignore`.
    """
    found = []
    for folder in _shard_folders(Path(path)):
        try:
            part = Store(folder)
            if _whole_meta(part) != wanted:
                remedy = f"use the options it was made with, or remove {folder.parent.parent}"
                raise StoreError(f"{folder}: a part made with other settings; {remedy}")
            found.append(part)
        except StoreError:
            if not ignore:
                raise
    return found


def _whole_meta(part: Store) -> dict:
    """What `meta.json` of the whole store says, going by a part's."""
    shared = {name: value for name, value in part.meta.items() if name not in ("first", "whole")}
    return {**shared, "count": part.meta.get("whole")}


def _shard_folders(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{FOLDER}/*/{path.name}"))


def remove_shards(out: str | Path) -> None:
    """Remove what is left of all parts of a data set that has been joined, unfinished ones too."""
    shutil.rmtree(Path(out) / FOLDER, ignore_errors=True)
