"""Locks that name their holder: one at a time, on one host or several, with the file system's locks or without."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from ethand_utils import locks
from ethand_utils.exceptions import EthandError
from ethand_utils.locks import BusyError, hold_named

HOLDER = """
import sys, time, threading
from pathlib import Path
from ethand_utils import locks
locks.BEAT = 0.05
with locks.hold_named(Path(sys.argv[1]), "a training"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Signs of life that come soon, and are missed soon."""
    monkeypatch.setattr(locks, "BEAT", 0.05)
    monkeypatch.setattr(locks, "WATCH", 0.6)
    monkeypatch.setattr(locks, "POLL", 0.02)


@pytest.fixture
def holder(tmp_path):
    """A process that holds `lock`."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "lock"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def elsewhere(monkeypatch, locks_of_files):
    """Let this process be on another host, whose locks of files the others do not see."""
    monkeypatch.setattr(locks.socket, "gethostname", lambda: "node7")

    @contextlib.contextmanager
    def own(path, busy):
        yield

    def none(path, busy):
        path.touch()
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "hold", own if locks_of_files else none)


def test_a_lock_is_held_by_one_and_leaves_nothing(tmp_path):
    with hold_named(tmp_path / "in/lock", "a training"):
        assert json.loads((tmp_path / "in/lock.json").read_text())["pid"] == os.getpid()
        with pytest.raises(BusyError), hold_named(tmp_path / "in/lock", "a training", grace=0):
            pass
    assert list((tmp_path / "in").iterdir()) == []


@pytest.mark.parametrize("other_host", [None, True, False])
def test_a_second_holder_is_refused_and_told_host_process_and_start(holder, tmp_path, monkeypatch, other_host):
    host = locks.socket.gethostname()
    if other_host is not None:
        elsewhere(monkeypatch, other_host)
    said = rf"a training is at work here already \(host {host}, process {holder.pid}, since 20.*\); wait for it"
    with pytest.raises(BusyError, match=said), hold_named(tmp_path / "lock", "a training", grace=0):
        pass
    assert json.loads((tmp_path / "lock.json").read_text())["pid"] == holder.pid


@pytest.mark.parametrize("other_host", [None, True, False])
def test_a_killed_holder_is_followed_soon(holder, tmp_path, monkeypatch, other_host):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "lock.json").exists()
    if other_host is not None:
        elsewhere(monkeypatch, other_host)
    began = time.monotonic()
    with hold_named(tmp_path / "lock", "a training"):
        waited = time.monotonic() - began
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert (waited >= locks.WATCH) == (other_host is not None)


def test_one_that_is_ending_is_waited_for(holder, tmp_path):
    threading.Timer(0.3, holder.kill).start()
    with hold_named(tmp_path / "lock", "a training", grace=30):
        assert holder.wait() == -signal.SIGKILL


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"host": 3}'])
def test_a_damaged_record_holds_nothing_up(tmp_path, damage):
    (tmp_path / "lock.json").write_bytes(damage)
    with hold_named(tmp_path / "lock", "a training"):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("locks_of_files", [True, False])
def test_of_many_at_the_same_moment_never_two_hold(tmp_path, monkeypatch, locks_of_files, killed):
    """Threads, as hosts whose locks do not see each other."""
    elsewhere(monkeypatch, locks_of_files)
    monkeypatch.setattr(locks.socket, "gethostname", lambda: f"node{threading.get_ident()}")
    if killed:
        (tmp_path / "lock.json").write_text('{"host": "node0", "pid": 1}')
    inside, most, together = [], [], threading.Barrier(8)

    def work():
        together.wait()
        with contextlib.suppress(BusyError), hold_named(tmp_path / "lock", "a training", grace=0):
            inside.append(1)
            most.append(len(inside))
            time.sleep(1)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}


def test_whoever_comes_too_late_never_frees_the_name_of_the_new_holders_record(tmp_path, monkeypatch):
    elsewhere(monkeypatch, False)
    record, stamp_of = tmp_path / "lock.json", locks._stamp
    record.write_text('{"host": "node0", "pid": 1}')
    killed = stamp_of(record)
    monkeypatch.setattr(locks, "_last_stamp", lambda *args: killed)  # both watched the record of the one killed

    def stamp_beside(owner):
        assert record.exists()
        return stamp_of(owner)

    with hold_named(tmp_path / "lock", "a training"):
        held = record.read_text()
        monkeypatch.setattr(locks, "_stamp", stamp_beside)
        with pytest.raises(BusyError), hold_named(tmp_path / "lock", "a training", grace=0):
            pass
        assert record.read_text() == held
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "lock.json"]


def test_one_that_was_killed_as_it_followed_another_is_followed(tmp_path, monkeypatch):
    elsewhere(monkeypatch, False)
    record = tmp_path / "lock.json"
    record.write_text('{"host": "node0", "pid": 1}')
    inode, modified = locks._stamp(record)
    (tmp_path / f".lock.json.{inode}-{modified}").write_text('{"host": "node1"')
    with hold_named(tmp_path / "lock", "a training"):
        assert json.loads(record.read_text())["host"] == "node7"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "lock.json"]


@pytest.mark.parametrize("folder", ["file/in", "/proc/self/nowhere"])
def test_a_place_without_writing_is_named_in_one_line(tmp_path, folder):
    (tmp_path / "file").touch()
    lock = hold_named(tmp_path / folder / "lock", "a training")
    with pytest.raises(EthandError, match="could not be written") as caught, lock:
        pass
    assert len(str(caught.value).splitlines()) == 1


def test_an_error_inside_passes_and_frees_the_lock(tmp_path):
    with pytest.raises(ValueError, match="mine"), hold_named(tmp_path / "lock", "a training"):
        raise ValueError("mine")
    with hold_named(tmp_path / "lock", "a training", grace=0):
        pass
