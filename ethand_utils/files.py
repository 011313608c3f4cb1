"""Atomic writes, lock files, and the error of a file that cannot be written or read."""

import contextlib
import errno
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ethand_utils.exceptions import EthandError


class FileError(EthandError):
    """A file or folder that could not be written or read."""


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, renamed to it when the block succeeds and removed when it fails.

    Raises FileError when the operating system refuses, a full disk included; an older file stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(f"{path}: could not be written ({first_line(error)}); {write_remedy(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_remedy(error: OSError) -> str:
    """Return what to do about a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, None):
        return "free some space and start again"
    return "choose a folder that can be written to, and start again"


@contextlib.contextmanager
def hold(path: Path, busy: EthandError) -> Iterator[None]:
    """Hold the lock file `path` until the block or the process ends. Raises `busy` when another process holds it.

    Raises OSError where the lock file cannot be written, or the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, fallback_to_soft=False)  # a soft lock would stay when its process is killed
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise busy from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # removed while it is held, as FileLock refuses a removed lock file
            path.unlink()
        lock.release()


def write_json(path: str | Path, value: dict) -> None:
    """Write a JSON file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type where it has none."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
