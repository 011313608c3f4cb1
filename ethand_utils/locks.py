"""Locks that say who holds them: one process at a time works in a folder, on this host or on another."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from ethand_utils.exceptions import EthandError
from ethand_utils.files import FileError, first_line, hold, write_remedy

BEAT = 5.0  # seconds between the signs of life of a holder
WATCH = 4 * BEAT  # seconds without one after which a holder on another host counts as ended
GRACE = 10.0  # seconds to wait for a holder that may be ending, as its parent process was killed
POLL = 0.2  # seconds between two attempts
Stamp = tuple[int, int]


class BusyError(EthandError):
    """Another process is at work on the same files."""


@contextlib.contextmanager
def hold_named(path: Path, work: str, grace: float = GRACE) -> Iterator[None]:
    """Hold the lock `path` for a piece of `work` until the block or the process ends.

    The operating system frees it however the process ends. Beside it, `<path>.json` names host, process and start, and
    is touched every BEAT seconds: file systems of clusters may have locks that other hosts do not see, or none at all.
    A holder on another host that was killed is therefore waited for, WATCH seconds. Raises BusyError, naming the
    holder, when another process still holds the lock after `grace` seconds, FileError where nothing can be written.
    """
    owner, deadline = path.with_name(f"{path.name}.json"), time.monotonic() + grace
    with contextlib.ExitStack() as stack:
        while True:
            try:
                locked = _lock(stack, path, work)
                _record_holder(owner, locked, path, work)
                break
            except BusyError:
                stack.pop_all().close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL)
        stack.callback(owner.unlink, missing_ok=True)
        stack.enter_context(_beating(owner))
        yield


def _lock(stack: contextlib.ExitStack, path: Path, work: str) -> bool:
    """Take the operating system's lock; return False where the file system has none. Raises as `hold_named`."""
    try:
        stack.enter_context(hold(path, _busy(path, work)))
    except NotImplementedError:
        return False
    except OSError as error:
        if path.parent.is_dir() and os.access(path.parent, os.W_OK) and path.exists():
            return False  # the file could be written, so it is the lock that is missing
        raise FileError(f"{path}: could not be written ({first_line(error)}); {write_remedy(error)}") from None
    return True


def _record_holder(owner: Path, locked: bool, path: Path, work: str) -> None:
    """Write who holds the lock. Raises BusyError while someone else shows signs of life, FileError as `hold_named`."""
    own = {"host": socket.gethostname(), "pid": os.getpid(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    stamp = _stamp(owner)
    if stamp and not (locked and _read(owner).get("host") == own["host"]):
        stamp = _last_stamp(owner, stamp, path, work)
    try:
        if stamp:
            _follow(owner, stamp, own, path, work)
        else:
            with open(owner, "x") as file:  # of two hosts at the same moment one fails
                json.dump(own, file)
    except FileExistsError:
        raise _busy(path, work) from None
    except OSError as error:
        raise FileError(f"{owner}: could not be written ({first_line(error)}); {write_remedy(error)}") from None


def _follow(owner: Path, stamp: Stamp, own: dict, path: Path, work: str) -> None:
    """Replace the record of a holder that has ended. Raises FileExistsError or BusyError where another host does so.

    The new record is first written to a file named after the old one's stamp, by one host at a time, and the record's
    own name is never free: whoever comes now finds the old holder or the new one.
    """
    claim = owner.with_name(f".{owner.name}.{stamp[0]}-{stamp[1]}")
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        left = _stamp(claim)
        if left is None or _last_stamp(claim, left, path, work) is None:
            raise
        _follow(claim, left, own, path, work)  # whoever made the claim was killed as well
    try:
        claim.write_text(json.dumps(own))
        if _stamp(owner) != stamp:
            raise FileExistsError(owner)
        os.replace(claim, owner)
    finally:
        claim.unlink(missing_ok=True)


def _busy(path: Path, work: str) -> BusyError:
    """Return the error that names the holder."""
    record = _read(path.with_name(f"{path.name}.json"))
    holder = f"host {record.get('host', 'unknown')}, process {record.get('pid', 'unknown')}"
    since = f", since {record['since']}" if "since" in record else ""
    return BusyError(f"{path.parent}: {work} is at work here already ({holder}{since}); wait for it, or end it first")


def _read(owner: Path) -> dict:
    """Return the record of a holder; empty where there is none, or half of one."""
    try:
        record = json.loads(owner.read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _last_stamp(owner: Path, stamp: Stamp, path: Path, work: str) -> Stamp | None:
    """Return the stamp of a record that nobody touches within WATCH seconds, whatever the clocks of the hosts say.

    None where the record goes meanwhile. Raises BusyError where it is touched.
    """
    deadline = time.monotonic() + WATCH
    while time.monotonic() < deadline:
        time.sleep(POLL)
        now = _stamp(owner)
        if now is None:
            return None
        if now != stamp:
            raise _busy(path, work)
    return stamp


def _stamp(owner: Path) -> Stamp | None:
    """Return which file a record is and when it was touched, or None where it is gone.

    Opening it makes a network file system ask afresh.
    """
    try:
        with open(owner, "rb") as file:
            status = os.fstat(file.fileno())
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


@contextlib.contextmanager
def _beating(owner: Path) -> Iterator[None]:
    """Touch the record every BEAT seconds."""
    ended = threading.Event()

    def beat():
        while not ended.wait(BEAT):
            with contextlib.suppress(OSError):  # a full disk is reported by what the work itself writes
                os.utime(owner)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
