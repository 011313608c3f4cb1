"""Properties of the sample store and of rendered data sets."""

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from ethand_utils.data import store_builder, workers
from ethand_utils.data.datasets import describe, open_dataset
from ethand_utils.data.store import ARRAYS, FORMAT, Store, StoreError, array_layout
from ethand_utils.data.store_builder import Shard, StorePlan, build_shard, build_store, merge_shards
from ethand_utils.exceptions import EthandError
from ethand_utils.files import FileError, atomic_write, write_json
from ethand_utils.labels import HAND_TYPES
from ethand_utils.sources import rendered as rendered_source
from ethand_utils.sources.rendered import TRUTH, RenderedSample, render_dataset

SIZE = 8  # px
META = {"source": "test", "seed": 0}


@dataclass
class Make:
    """Sample i of a made-up store; notes what it made, and stops with `fault` (or dies with it, a number) at `stop`."""

    arrays: tuple[str, ...] = ("images", "masks", "front")
    size: int = SIZE
    stop: int = -1
    fault: BaseException | int = 0
    made: list[int] = field(default_factory=list)

    def __call__(self, i: int) -> dict:
        if i == self.stop:
            if isinstance(self.fault, int):
                os._exit(self.fault)
            raise self.fault
        self.made.append(i)
        rng = np.random.default_rng(i)
        layouts = {name: array_layout(name, 1, self.size) for name in self.arrays}
        values = {name: rng.integers(0, 255, shape[1:]).astype(kind) for name, (shape, kind) in layouts.items()}
        return {**values, "row": {"id": f"s{i}", "hand_type": "left", "occluded_left": i / 7, "frame": i}}


def build(path, make=None, count=10, meta=META, arrays=("images", "masks", "front"), **options) -> Store:
    return build_store(path, StorePlan(make or Make(arrays), count, SIZE, arrays, meta), **options)


def build_and_die(path, count: int, stop: int) -> None:
    build(path, Make(stop=stop, fault=9), count)


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(store_builder, "CHUNK", 4)


# What a store is


def test_store_gives_back_what_was_made(tmp_path, small_chunks):
    built = build(tmp_path / "s")
    assert (len(built), built.size, built.meta["source"]) == (10, SIZE, "test")
    assert built.confidence is None
    for i in range(10):
        sample = Make()(i)
        assert built.index.loc[i].to_dict() == sample["row"]
        for name in ("images", "masks", "front"):
            np.testing.assert_array_equal(getattr(built, name)[i], sample[name])


def test_store_is_a_folder_of_arrays_an_index_and_settings(tmp_path):
    build(tmp_path / "s")
    assert set(contents(tmp_path / "s")) == {"meta.json", "index.parquet", "images.npy", "masks.npy", "front.npy"}
    assert [file.name for file in tmp_path.iterdir()] == ["s"]
    meta = json.loads((tmp_path / "s" / "meta.json").read_text())
    assert meta == {"format": FORMAT, "size": SIZE, "count": 10, "arrays": ["images", "masks", "front"], **META}
    assert np.load(tmp_path / "s" / "masks.npy", mmap_mode="r").shape == (10, 2, SIZE, SIZE)


def test_arrays_are_read_only_memory_maps(tmp_path):
    images = build(tmp_path / "s").images
    assert isinstance(images, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        images[0] = 0


@pytest.mark.parametrize("arrays", [("images",), ("masks", "front"), ("depth",), ("masks", "confidence")])
def test_arrays_a_source_cannot_give_are_absent(arrays, tmp_path):
    built = build(tmp_path / "s", arrays=arrays)
    assert tuple(name for name in ARRAYS if getattr(built, name) is not None) == arrays
    assert built.require(*arrays) is built
    absent = next(name for name in ARRAYS if name not in arrays)
    with pytest.raises(StoreError, match=f"has no {absent}.npy"):
        built.require(arrays[0], absent)


def test_depth_is_kept_in_full(tmp_path):
    built = build(tmp_path / "s", arrays=("masks", "depth"))
    assert (built.depth.shape, built.depth.dtype) == ((10, 2, SIZE, SIZE), np.float32)
    np.testing.assert_array_equal(built.depth[7], Make(("masks", "depth"))(7)["depth"])


# Building


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    count = store_builder.CHUNK * 2 + 3
    build(tmp_path / "one", count=count, workers=1)
    build(tmp_path / "two", count=count, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_bytes_do_not_depend_on_the_chunks(tmp_path, monkeypatch):
    build(tmp_path / "one")
    monkeypatch.setattr(store_builder, "CHUNK", 3)
    build(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), ValueError("a bad frame")], ids=["keyboard", "error"])
def test_interrupted_build_goes_on_where_it_stopped(fault, tmp_path, small_chunks):
    build(tmp_path / "whole")
    with pytest.raises(type(fault)):
        build(tmp_path / "s", Make(stop=9, fault=fault))
    assert not (tmp_path / "s").exists()
    with pytest.raises(StoreError, match="no store here"):
        Store(tmp_path / "s")
    rest = Make()
    build(tmp_path / "s", rest)
    assert rest.made == [8, 9]
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_build_interrupted_twice_at_the_first_sample_still_completes(tmp_path, small_chunks):
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path / "s", Make(stop=0, fault=KeyboardInterrupt()))
    assert len(build(tmp_path / "s")) == 10
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_killed_build_goes_on_where_it_stopped(tmp_path):
    count = store_builder.CHUNK + 10
    process = multiprocessing.get_context("spawn").Process(
        target=build_and_die, args=(tmp_path / "s", count, store_builder.CHUNK + 5)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not (tmp_path / "s").exists()
    rest = Make()
    build(tmp_path / "s", rest, count)
    assert rest.made == list(range(store_builder.CHUNK, count))
    build(tmp_path / "whole", count=count)
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def children_of(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_rendering_leaves_no_worker_and_goes_on_to_the_same_bytes(tmp_path):
    counts = {"train": store_builder.CHUNK + 30, "val": 1, "test": 1, "unpaired": 1}
    command = [sys.executable, "-m", "ethand_utils.app.cli", "data", "render", "--out", tmp_path / "d", "--size", "32"]
    command += [word for name, count in counts.items() for word in (f"--{name}", str(count))]
    process = subprocess.Popen([*command, "--workers", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: list((tmp_path / "d/.train.partial/chunks").glob("0*.parquet")))
    workers = children_of(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(workers) >= 2
    wait_until(lambda: not any(map(running, workers)))
    assert not (tmp_path / "d/train").exists()
    render_dataset(tmp_path / "d", **counts, size=32, workers=2)
    render_dataset(tmp_path / "whole", **counts, size=32, workers=1)
    assert contents(tmp_path / "d") == contents(tmp_path / "whole")


def test_interrupted_build_with_other_settings_starts_anew(tmp_path, small_chunks):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "s", Make(stop=9, fault=KeyboardInterrupt()))
    make = Make()
    assert build(tmp_path / "s", make, meta={**META, "seed": 1}).meta["seed"] == 1
    assert make.made == list(range(10))


def test_fault_of_a_worker_reaches_the_caller(tmp_path, monkeypatch, small_chunks):
    monkeypatch.setattr(workers, "ProcessPoolExecutor", lambda n, **_: ThreadPoolExecutor(n))  # starts at once
    with pytest.raises(ValueError, match="a bad frame"):
        build(tmp_path / "s", Make(stop=9, fault=ValueError("a bad frame")), workers=2)
    assert not (tmp_path / "s").exists()
    build(tmp_path / "whole")
    build(tmp_path / "s", workers=2)
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


def test_complete_store_with_the_same_settings_is_kept(tmp_path):
    build(tmp_path / "s")
    make = Make()
    assert len(build(tmp_path / "s", make)) == 10
    assert make.made == []


@pytest.mark.parametrize("other", [{"meta": {**META, "seed": 1}}, {"count": 11}, {"arrays": ("images",)}])
def test_store_made_with_other_settings_is_refused(other, tmp_path):
    build(tmp_path / "s")
    before = contents(tmp_path / "s")
    with pytest.raises(StoreError, match="other settings; choose another folder, or move it away"):
        build(tmp_path / "s", **other)
    assert contents(tmp_path / "s") == before


def test_replace_replaces_only_once_the_new_store_is_complete(tmp_path, small_chunks):
    build(tmp_path / "s")
    before = contents(tmp_path / "s")
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "s", Make(stop=5, fault=KeyboardInterrupt()), 6, replace=True)
    assert contents(tmp_path / "s") == before
    assert len(build(tmp_path / "s", count=6, replace=True)) == 6
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_folder_that_is_no_store_is_refused_and_left_alone(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("precious")
    with pytest.raises(StoreError, match="no store"):
        build(tmp_path / "s")
    assert contents(tmp_path / "s") == {"thesis.txt": b"precious"}


# Parts


def plan(make=None, count=10, **changes) -> StorePlan:
    make = make or Make()
    return replace(StorePlan(make, count, SIZE, make.arrays, META), **changes)


def assert_joined(path: Path, whole: Path) -> None:
    assert contents(path) == contents(whole)
    assert list(path.parent.glob("*/.*")) + list(path.parent.glob(".shards/*/*s*")) == []


@pytest.mark.parametrize("count", [1, 4, 10, 41, 400])
@pytest.mark.parametrize("of", [1, 2, 3, 8, 200])
def test_parts_share_the_samples_by_whole_chunks(of, count, small_chunks):
    shares = [Shard(number, of).samples(count) for number in range(1, of + 1)]
    assert [i for share in shares for i in share] == list(range(count))
    assert all(edge % 4 == 0 or edge == count for share in shares for edge in (share.start, share.stop))
    assert max(map(len, shares)) - min(map(len, shares)) <= 4


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "a/b", "1/0", "-1/2", "1/2/3", " 1/2", "1/2\n", "²/4", ""])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(StoreError, match="such as 2/8"):
        Shard.parse(text)
    assert str(Shard.parse("2/8")) == "2/8"


@pytest.mark.parametrize("of", [1, 2, 3, 7])
@pytest.mark.parametrize("arrays", [("images", "masks", "front", "depth"), ("masks", "confidence")])
def test_joined_parts_are_the_bytes_of_one_build(arrays, of, tmp_path, small_chunks):
    for number in reversed(range(1, of + 1)):
        build_shard(tmp_path / "d/s", Shard(number, of), plan(Make(arrays)))
    assert not (tmp_path / "d/s").exists()
    make = Make(arrays)
    assert len(merge_shards(tmp_path / "d/s", plan(make))) == 10
    assert make.made == []
    build(tmp_path / "whole", Make(arrays), arrays=arrays)
    assert_joined(tmp_path / "d/s", tmp_path / "whole")


def test_joining_makes_what_no_finished_part_has(tmp_path, small_chunks):
    build_shard(tmp_path / "d/s", Shard(2, 3), plan())
    with pytest.raises(KeyboardInterrupt):
        build_shard(tmp_path / "d/s", Shard(3, 3), plan(Make(stop=9, fault=KeyboardInterrupt())))
    make = Make()
    merge_shards(tmp_path / "d/s", plan(make))
    assert make.made == [0, 1, 2, 3, 8, 9]
    build(tmp_path / "whole")
    assert contents(tmp_path / "d/s") == contents(tmp_path / "whole")


def test_parts_of_different_sharing_join(tmp_path, small_chunks):
    for part in (Shard(1, 2), Shard(1, 3), Shard(3, 3)):
        build_shard(tmp_path / "d/s", part, plan(count=41))
    make = Make()
    merge_shards(tmp_path / "d/s", plan(make, count=41))
    assert make.made == list(range(20, 28))
    build(tmp_path / "whole", count=41)
    assert_joined(tmp_path / "d/s", tmp_path / "whole")


def test_joining_goes_on_with_an_interrupted_build(tmp_path, small_chunks):
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "d/s", Make(stop=5, fault=KeyboardInterrupt()))
    build_shard(tmp_path / "d/s", Shard(2, 2), plan())
    make = Make()
    merge_shards(tmp_path / "d/s", plan(make))
    assert make.made == []
    build(tmp_path / "whole")
    assert_joined(tmp_path / "d/s", tmp_path / "whole")


def test_an_interrupted_part_goes_on_where_it_stopped_in_a_folder_of_its_own(tmp_path, small_chunks):
    with pytest.raises(KeyboardInterrupt):
        build_shard(tmp_path / "d/s", Shard(2, 2), plan(Make(stop=9, fault=KeyboardInterrupt())))
    assert all(file.is_relative_to(tmp_path / "d/.shards/2-of-2") for file in tmp_path.rglob("*.npy"))
    rest = Make()
    build_shard(tmp_path / "d/s", Shard(2, 2), plan(rest))
    assert rest.made == [8, 9]
    again = Make()
    build_shard(tmp_path / "d/s", Shard(2, 2), plan(again))
    assert again.made == []


def test_an_interrupted_join_loses_nothing_and_copies_nothing_twice(tmp_path, monkeypatch, small_chunks):
    copied, stops, real = [], [0, 8], store_builder._copy_chunk

    def copy(work, shard, plan, start):
        if start in stops[:1]:
            stops.pop(0)
            raise KeyboardInterrupt
        copied.append(start)
        return real(work, shard, plan, start)

    monkeypatch.setattr(store_builder, "_copy_chunk", copy)
    for number in (1, 2):
        build_shard(tmp_path / "d/s", Shard(number, 2), plan())
    before = contents(tmp_path / "d/.shards")
    while stops:
        with pytest.raises(KeyboardInterrupt):
            merge_shards(tmp_path / "d/s", plan())
        assert not (tmp_path / "d/s").exists()
        assert contents(tmp_path / "d/.shards") == before
    make = Make()
    merge_shards(tmp_path / "d/s", plan(make))
    assert (copied, make.made) == ([0, 4, 8], [])
    build(tmp_path / "whole")
    assert_joined(tmp_path / "d/s", tmp_path / "whole")


@pytest.mark.parametrize("stop", [0, 1])
def test_join_interrupted_while_it_removes_the_parts_ends_when_called_again(stop, tmp_path, monkeypatch, small_chunks):
    calls = []

    def interrupted(folder, **_):
        calls.append(folder)
        if len(calls) > stop:
            raise KeyboardInterrupt
        shutil.rmtree(folder, ignore_errors=True)

    for number in (1, 2):
        build_shard(tmp_path / "d/s", Shard(number, 2), plan())
    with monkeypatch.context() as patch:
        patch.setattr(store_builder, "shutil", SimpleNamespace(rmtree=interrupted))
        with pytest.raises(KeyboardInterrupt):
            merge_shards(tmp_path / "d/s", plan())
    make = Make()
    merge_shards(tmp_path / "d/s", plan(make))
    assert make.made == []
    build(tmp_path / "whole")
    assert contents(tmp_path / "d/s") == contents(tmp_path / "whole")
    assert list(tmp_path.glob("d/.shards/*/s")) == []


@pytest.mark.parametrize("other", [{"meta": {**META, "seed": 1}}, {"count": 11}, {"arrays": ("images",)}])
def test_parts_made_with_other_settings_are_refused_or_else_ignored(other, tmp_path, small_chunks):
    build_shard(tmp_path / "d/s", Shard(1, 2), plan())
    make = Make()
    with pytest.raises(
        StoreError, match=r"\.shards/1-of-2/s: a shard made with other settings; .* or remove"
    ) as caught:
        merge_shards(tmp_path / "d/s", plan(make, **other))
    assert "\n" not in str(caught.value)
    assert make.made == []
    joined = merge_shards(tmp_path / "d/s", plan(make, **other), replace=True)
    assert make.made == list(range(len(joined)))
    assert list(tmp_path.glob("d/.shards/*/s")) == []


def test_a_part_made_with_other_settings_is_made_anew_only_when_told_to(tmp_path, small_chunks):
    build_shard(tmp_path / "d/s", Shard(1, 2), plan())
    make, other = Make(), {**META, "seed": 1}
    with pytest.raises(StoreError, match="1-of-2/s: holds a store made with other settings"):
        build_shard(tmp_path / "d/s", Shard(1, 2), plan(make, meta=other))
    for _ in range(2):
        build_shard(tmp_path / "d/s", Shard(1, 2), plan(make, meta=other), replace=True)
    assert make.made == [0, 1, 2, 3]


def test_a_part_of_a_store_that_is_there_is_not_made(tmp_path, small_chunks):
    build(tmp_path / "s")
    make, other = Make(), {**META, "seed": 1}
    for overwrite in (False, True):
        assert build_shard(tmp_path / "s", Shard(1, 2), plan(make), replace=overwrite) is None
    with pytest.raises(StoreError, match="other settings"):
        build_shard(tmp_path / "s", Shard(1, 2), plan(make, meta=other))
    assert make.made == []
    build_shard(tmp_path / "s", Shard(1, 2), plan(make, meta=other), replace=True)
    assert Store(tmp_path / "s").meta["seed"] == 0


def test_a_damaged_part_is_refused_by_name(tmp_path, small_chunks):
    build_shard(tmp_path / "d/s", Shard(1, 2), plan())
    truncated(tmp_path / "d/.shards/1-of-2/s/masks.npy")
    with pytest.raises(StoreError, match=r"1-of-2/s/masks\.npy: "):
        merge_shards(tmp_path / "d/s", plan())


def join_and_die(path, count: int, stop: int) -> None:
    merge_shards(path, plan(Make(stop=stop, fault=9), count))


def test_a_killed_join_goes_on_where_it_stopped(tmp_path):
    count = 3 * store_builder.CHUNK
    build_shard(tmp_path / "d/s", Shard(1, 3), plan(count=count))
    process = multiprocessing.get_context("spawn").Process(
        target=join_and_die, args=(tmp_path / "d/s", count, 2 * store_builder.CHUNK + 5)
    )
    process.start()
    process.join()
    assert process.exitcode == 9
    rest = Make()
    merge_shards(tmp_path / "d/s", plan(rest, count))
    assert rest.made == list(range(2 * store_builder.CHUNK, count))
    build(tmp_path / "whole", count=count)
    assert_joined(tmp_path / "d/s", tmp_path / "whole")


def test_a_build_killed_between_taking_its_name_and_tidying_up_is_tidied_later(tmp_path, monkeypatch, small_chunks):
    with monkeypatch.context() as patch:
        patch.setattr(store_builder, "_tidy", lambda path: None)
        build(tmp_path / "s")
    assert (tmp_path / "s/chunks").exists()
    build(tmp_path / "s")
    build(tmp_path / "whole")
    assert contents(tmp_path / "s") == contents(tmp_path / "whole")


# Damage


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 100)


def overwritten(file: Path) -> None:
    file.write_bytes(b"\x00garbage" * 20)


def emptied(file: Path) -> None:
    os.truncate(file, 0)


@pytest.mark.parametrize("damage", [Path.unlink, truncated, emptied, overwritten], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ["meta.json", "index.parquet", "images.npy", "masks.npy", "front.npy"])
def test_damaged_store_is_refused_with_the_name_of_the_file(name, damage, tmp_path):
    build(tmp_path / "s")
    damage(tmp_path / "s" / name)
    with pytest.raises(StoreError) as caught:
        Store(tmp_path / "s")
    assert str(caught.value).startswith(str(tmp_path / "s" / name))
    assert "build it again" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [np.zeros((9, SIZE, SIZE), "u1"), np.zeros((10, SIZE, SIZE), "f4")])
def test_array_of_another_shape_or_type_is_refused(wrong, tmp_path):
    build(tmp_path / "s")
    np.save(tmp_path / "s" / "front.npy", wrong)
    with pytest.raises(StoreError, match=r"front\.npy: .*expected uint8 \[10, 8, 8\]"):
        Store(tmp_path / "s")


def test_index_with_too_few_rows_is_refused(tmp_path):
    built = build(tmp_path / "s")
    built.index[:-1].to_parquet(tmp_path / "s" / "index.parquet")
    with pytest.raises(StoreError, match=r"index\.parquet: 9 rows, expected 10"):
        Store(tmp_path / "s")


def test_store_of_another_format_is_refused(tmp_path):
    build(tmp_path / "s")
    write_json(tmp_path / "s" / "meta.json", {**Store(tmp_path / "s").meta, "format": 99})
    with pytest.raises(StoreError, match=rf"meta\.json: format 99, expected {FORMAT}"):
        Store(tmp_path / "s")


def test_a_store_of_an_older_format_is_refused_for_reading_and_made_anew(tmp_path):
    meta = build(tmp_path / "s").meta
    write_json(tmp_path / "s" / "meta.json", {**meta, "format": FORMAT - 1, "renderer": "an older one"})
    with pytest.raises(StoreError, match=r"closed at the wrist\); make it anew"):
        Store(tmp_path / "s")
    assert build(tmp_path / "s").meta == meta


@pytest.mark.parametrize("other", [{"source": "mine"}, {"seed": 5}, {"count": 9}])
def test_an_older_store_of_other_settings_is_not_replaced(tmp_path, other):
    meta = {**build(tmp_path / "s").meta, "format": FORMAT - 1, **other}
    write_json(tmp_path / "s" / "meta.json", meta)
    with pytest.raises(StoreError, match="format"):
        build(tmp_path / "s")
    assert json.loads((tmp_path / "s" / "meta.json").read_text()) == meta


def test_absent_store_is_refused_with_advice(tmp_path):
    with pytest.raises(StoreError, match="no store here; build one with `ethand data render"):
        Store(tmp_path / "nothing")


# A full disk


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def assert_not_built_then_built_on_retry(path: Path, monkeypatch, reason: str, made_before: int) -> None:
    with pytest.raises(FileError, match=f"could not be written.*{reason}.*free some space") as caught:
        build(path)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, EthandError)
    assert not path.exists()
    monkeypatch.undo()
    monkeypatch.setattr(store_builder, "CHUNK", 4)
    rest = Make()
    assert len(build(path, rest)) == 10
    assert rest.made == list(range(made_before, 10))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_disk_full_when_reserving_leaves_nothing_under_the_name(tmp_path, monkeypatch, small_chunks):
    monkeypatch.setattr(os, "posix_fallocate", no_space)
    assert_not_built_then_built_on_retry(tmp_path / "s", monkeypatch, "No space left", made_before=0)


@pytest.mark.parametrize(("full_at", "kept"), [("a later chunk", 4), ("the index", 10)])
def test_disk_full_later_leaves_nothing_under_the_name(full_at, kept, tmp_path, monkeypatch, small_chunks):
    to_parquet = pd.DataFrame.to_parquet

    def until_full(rows, file, **options):
        full = rows.frame[0] > 0 if full_at == "a later chunk" else len(rows) == 10
        return (no_space if full else to_parquet)(rows, file, **options)

    monkeypatch.setattr(pd.DataFrame, "to_parquet", until_full)
    assert_not_built_then_built_on_retry(tmp_path / "s", monkeypatch, "No space left", made_before=kept)


def test_file_larger_than_the_system_allows_leaves_nothing_under_the_name(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    count = 2**20 // (3 * SIZE * SIZE) + 1000
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"could not be written.*File too large"):
            build(tmp_path / "s", count=count, arrays=("images",))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "s").exists()


def test_unwritable_folder_is_a_store_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="could not be written"):
        build(tmp_path / "file" / "s")


# atomic_write


@pytest.mark.parametrize("fault", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt(), ValueError("no")])
def test_failed_write_leaves_the_old_file_and_nothing_else(fault, tmp_path):
    file = tmp_path / "result.json"
    write_json(file, {"old": 1})
    expected = FileError if isinstance(fault, OSError) else type(fault)

    def fail():
        with atomic_write(file) as temporary:
            temporary.write_text("half")
            raise fault

    with pytest.raises(expected):
        fail()
    assert json.loads(file.read_text()) == {"old": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_written_file_replaces_the_old_one_whole_and_appears_only_at_the_end(tmp_path):
    file = tmp_path / "new" / "weights.bin"
    with atomic_write(file) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.suffix == ".bin"
        assert not file.exists()
    assert file.read_bytes() == b"new"
    assert list(file.parent.iterdir()) == [file]


# Rendered data sets

COUNTS = {"train": 9, "val": 3, "test": 3, "unpaired": 6}
PAIRED = ("train", "val", "test")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rendered") / "data"
    render_dataset(folder, **COUNTS, size=24)
    return folder


def test_data_set_has_every_split_and_the_truth_apart(rendered):
    stores = open_dataset(rendered)
    lengths = {"train": 9, "val": 3, "test": 3, "unpaired_images": 6, "unpaired_labels": 6, "unpaired_truth": 6}
    assert {name: len(split) for name, split in stores.items()} == lengths
    for name in PAIRED:
        assert stores[name].meta["arrays"] == ["images", "masks", "front"]
    assert stores["unpaired_images"].meta["arrays"] == ["images"]
    assert stores["unpaired_labels"].meta["arrays"] == stores[TRUTH].meta["arrays"] == ["masks", "front"]


def test_splits_share_no_subject_and_no_sample(rendered):
    stores = open_dataset(rendered)
    splits = [split.index for name, split in stores.items() if name != TRUTH]
    for column in ("subject", "id"):
        values = [value for split in splits for value in split[column].unique()]
        assert len(values) == len(set(values))
    masks = [mask.tobytes() for name, split in stores.items() if name != "unpaired_images" for mask in split.masks]
    assert len(masks) == len(set(masks))


def test_splits_share_no_hand_shape_nor_skin(monkeypatch):
    people, real = {}, rendered_source.sample_subject
    for split in rendered_source.SPLITS:
        drawn = people.setdefault(split, set())

        def noted(rng, rig, drawn=drawn):
            subject = real(rng, rig)
            drawn.add((subject.shape, tuple(subject.skin)))
            return subject

        monkeypatch.setattr(rendered_source, "sample_subject", noted)
        make = RenderedSample(split, subjects=4, size=16, seed=0, with_image=False)
        for i in range(8):
            make(i)
        assert len(drawn) == 4
    assert len(set.union(*people.values())) == 4 * len(people)


def test_splits_share_no_scene(monkeypatch):
    one = rendered_source.sample_subject(np.random.default_rng(0))
    monkeypatch.setattr(rendered_source, "sample_subject", lambda rng, rig: one)
    makes = [RenderedSample(split, subjects=4, size=16, seed=0, with_image=False) for split in rendered_source.SPLITS]
    masks = {make(i)["masks"].tobytes() for make in makes for i in range(4)}
    assert len(masks) == 4 * len(makes)


def test_truth_of_unpaired_images_is_theirs(rendered):
    stores = open_dataset(rendered)
    images, truth = stores["unpaired_images"], stores[TRUTH]
    pd.testing.assert_frame_equal(images.index, truth.index)
    make = RenderedSample("unpaired_images", images.meta["subjects"], 24, 0, with_image=True)
    for i in range(len(images)):
        sample = make(i)
        np.testing.assert_array_equal(sample["images"], images.images[i])
        np.testing.assert_array_equal(sample["masks"], truth.masks[i])
        np.testing.assert_array_equal(sample["front"], truth.front[i])


def test_index_describes_its_samples(rendered):
    for name in PAIRED:
        split = Store(rendered / name)
        for i, row in split.index.iterrows():
            present = tuple(split.masks[i].any((1, 2)))
            assert present == {"left": (True, False), "right": (False, True)}.get(row.hand_type, (True, True))
            for hand, share in enumerate((row.occluded_left, row.occluded_right)):
                assert np.isfinite(share) == present[hand]
            assert row.frame == i
            assert min(row.bbox_w, row.bbox_h) > 0
        assert split.index["hand_type"].isin(HAND_TYPES).all()
        assert {"id", "subject", "capture", "seq", "camera", "bbox_x", "bbox_y", "source"} <= set(split.index)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(rendered, tmp_path):
    again = render_dataset(tmp_path / "again", **COUNTS, size=24)
    for name in again:
        assert contents(rendered / name) == contents(tmp_path / "again" / name)
    other = render_dataset(tmp_path / "other", train=1, val=1, test=1, unpaired=1, size=24, seed=1)
    assert (other["train"].images[0] != again["train"].images[0]).any()
    assert (other["train"].masks[0] != again["train"].masks[0]).any()


def test_depth_comes_on_request_with_everything_else_the_same(rendered, tmp_path):
    stores = render_dataset(tmp_path / "d", **COUNTS, size=24, depth=True)
    for name, plain in open_dataset(rendered).items():
        assert plain.depth is None
        assert (stores[name].depth is None) == (plain.masks is None)
        for array in plain.meta["arrays"]:
            assert contents(rendered / name)[f"{array}.npy"] == contents(tmp_path / "d" / name)[f"{array}.npy"]
    train = stores["train"]
    assert (train.depth[train.masks > 0] > 0.5).all()
    assert not train.depth[train.index.hand_type == "left", 1].any()
    with pytest.raises(StoreError, match="other settings"):
        render_dataset(tmp_path / "d", **COUNTS, size=24)


def test_rendered_parts_join_to_the_same_bytes(rendered, tmp_path, monkeypatch, small_chunks):
    for number in (2, 1, 3):
        made = render_dataset(tmp_path / "d", **COUNTS, size=24, shard=Shard(number, 3))
    assert {name: len(store) for name, store in made.items()}["train"] == 1
    assert "d" not in [path.parent.name for path in tmp_path.rglob("meta.json")]
    monkeypatch.setattr(RenderedSample, "__call__", None)
    render_dataset(tmp_path / "d", **COUNTS, size=24)
    assert contents(tmp_path / "d") == contents(rendered)
    assert not (tmp_path / "d/.shards").exists()
    assert render_dataset(tmp_path / "d", **COUNTS, size=24, shard=Shard(1, 3)) == {}


def test_a_data_set_with_a_part_of_other_settings_is_refused_before_anything_is_rendered(tmp_path, monkeypatch):
    few = {"train": 1, "val": 1, "test": 1, "unpaired": 1}
    render_dataset(tmp_path / "d", **few, size=16, shard=Shard(1, 1))
    shutil.rmtree(tmp_path / "d/.shards/1-of-1/train")
    monkeypatch.setattr(RenderedSample, "__call__", None)
    with pytest.raises(StoreError, match="a shard made with other settings"):
        render_dataset(tmp_path / "d", **few, size=24)


@pytest.mark.slow
def test_parts_rendered_at_the_same_time_by_command_join(tmp_path, ethand):
    counts = {"train": store_builder.CHUNK + 6, "val": 1, "test": 1, "unpaired": 1}
    words = ["data", "render", "--out", tmp_path / "d", "--size", "16", "--workers", "1"]
    words += [word for name, count in counts.items() for word in (f"--{name}", str(count))]
    command = [sys.executable, "-m", "ethand_utils.app.cli", *words]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    jobs = [subprocess.Popen([*command, "--part", part], **quiet) for part in ("1/2", "2/2")]
    assert [job.wait() for job in jobs] == [0, 0]
    wrong = "ethand: shard 5/4: expected I/K with I from 1 to K, such as 2/8\n"
    assert ethand(*words, "--part", "5/4") == (1, "", wrong)
    assert not (tmp_path / "d/train").exists()
    assert ethand(*words)[0] == 0
    render_dataset(tmp_path / "whole", **counts, size=16)
    assert contents(tmp_path / "d") == contents(tmp_path / "whole")


def test_rendering_again_keeps_what_is_complete(rendered, monkeypatch):
    before = contents(rendered)
    monkeypatch.setattr(RenderedSample, "__call__", None)
    for overwrite in (False, True):
        render_dataset(rendered, **COUNTS, size=24, replace=overwrite)
    assert contents(rendered) == before


def test_other_settings_are_refused_unless_replaced(tmp_path):
    few = {"train": 1, "val": 1, "test": 1, "unpaired": 1}
    render_dataset(tmp_path / "d", **few, size=16)
    before = contents(tmp_path / "d")
    with pytest.raises(StoreError, match="train: holds a store made with other settings"):
        render_dataset(tmp_path / "d", **few, size=24)
    assert contents(tmp_path / "d") == before
    stores = render_dataset(tmp_path / "d", **few, size=24, replace=True)
    assert {split.size for split in stores.values()} == {24}


def test_store_of_another_renderer_is_not_taken_for_this_ones(rendered, monkeypatch):
    monkeypatch.setattr(rendered_source, "renderer_version", lambda: "another")
    with pytest.raises(StoreError, match="other settings"):
        render_dataset(rendered, **COUNTS, size=24)


@pytest.mark.parametrize("wrong", [{"train": 0}, {"unpaired": 0}, {"size": 8}])
def test_impossible_settings_are_refused_before_anything_is_written(wrong, tmp_path):
    with pytest.raises(StoreError, match="at least"):
        render_dataset(tmp_path / "d", **{**COUNTS, "size": 16, **wrong})
    assert not (tmp_path / "d").exists()


def test_describe_counts(rendered):
    split = Store(rendered / "train")
    row = describe(split)
    assert (row["samples"], row["size"], row["source"]) == (9, 24, "rendered")
    assert row["arrays"] == "images, masks, front"
    assert row["subjects"] == split.index["subject"].nunique() == 4
    for kind in HAND_TYPES:
        assert row[kind] == (split.index.hand_type == kind).sum()
    two = split.index[split.index.hand_type == "interacting"]
    assert row["occluded_share"] == pytest.approx((two.occluded_left.mean() + two.occluded_right.mean()) / 2)


def test_occluded_share_of_a_store_without_two_hands_is_unknown(tmp_path):
    index = {"hand_type": "left", "subject": "a", "occluded_left": 0.0, "occluded_right": float("nan")}
    built = build_store(
        tmp_path / "s", StorePlan(lambda i: {"front": np.zeros((8, 8)), "row": index}, 2, 8, ("front",), {})
    )
    row = describe(built)
    assert (row["left"], row["right"], row["interacting"], row["occluded_share"]) == (2, 0, 0, None)


def test_open_dataset_takes_a_data_set_or_one_store_and_nothing_else(rendered, tmp_path):
    assert list(open_dataset(rendered / "val")) == ["val"]
    with pytest.raises(StoreError, match="no data set here"):
        open_dataset(tmp_path)


def test_unfinished_store_is_no_part_of_a_data_set(tmp_path, small_chunks):
    build(tmp_path / "d" / "val")
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "d" / "train", Make(stop=9, fault=KeyboardInterrupt()))
    assert list(open_dataset(tmp_path / "d")) == ["val"]


def test_two_processes_never_build_the_same_store(tmp_path):
    def make(i):
        with pytest.raises(StoreError, match="another process is building it"):
            build_store(tmp_path / "s", StorePlan(make, 2, 8, (), {"source": "other"}))
        return {"row": {"id": i}}

    assert len(build_store(tmp_path / "s", StorePlan(make, 2, 8, (), {"source": "test"}))) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["s"]


def test_a_file_system_without_locks_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StoreError, match=r"could not be written .*not implemented"):
        build(tmp_path / "s")
    assert not (tmp_path / "s").exists()
