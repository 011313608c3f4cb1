"""Parts of stores: shares that independent jobs build, each in a folder of its own, and that one build then joins."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ethand_utils.building import build_store, chunk_starts, disk_errors, kept_store, store_meta
from ethand_utils.store import Store, StoreError, is_made

FOLDER = ".parts"  # beside the stores; one folder a part below it, so that no two jobs write to the same file


@dataclass(frozen=True)
class Part:
    """Part `number` of `of`, counted from 1: a share of every store of a data set. Raises StoreError for 0/4 or 5/4."""

    number: int
    of: int

    def __post_init__(self):
        if not 1 <= self.number <= self.of:
            raise StoreError(f"part {self}: expected I/K with I from 1 to K, such as 2/8")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> "Part":
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


def build_part(
    path: str | Path,
    part: Part,
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


def join_parts(
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
    parts = finished_parts(path, wanted, ignore=replace)
    replace = replace and not is_made(path, wanted)
    store = build_store(path, make, count, size, arrays, meta, workers, replace, parts)
    del parts  # a network disk keeps the files of arrays that are still open
    for folder in _part_folders(path):
        aside = folder.with_name(f".{folder.name}.joined")  # so that no half-removed part is ever found
        shutil.rmtree(aside, ignore_errors=True)
        with disk_errors(folder):
            os.replace(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)
    return store


def finished_parts(path: str | Path, wanted: dict, ignore: bool = False) -> list[Store]:
    """The complete parts of the store `path`, whose `meta.json` is to say `wanted`.

    Raises StoreError for a part that is damaged or was made with other settings, or leaves it out if `ignore`.
    """
    found = []
    for folder in _part_folders(Path(path)):
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


def _part_folders(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{FOLDER}/*/{path.name}"))


def remove_parts(out: str | Path) -> None:
    """Remove what is left of all parts of a data set that has been joined, unfinished ones too."""
    shutil.rmtree(Path(out) / FOLDER, ignore_errors=True)
