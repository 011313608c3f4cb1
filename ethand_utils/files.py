"""Files that are written whole or not at all."""

import contextlib
import errno
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from ethand_utils.exceptions import EthandError


class FileError(EthandError):
    """A file or folder that could not be written or read."""


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the name when the block ends well, and is gone if not.

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
    """What to do about a file that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, None):
        return "free some space and start again"
    return "choose a folder that can be written to, and start again"


@contextlib.contextmanager
def hold(path: Path, busy: EthandError) -> Iterator[None]:
    """Hold the lock file `path` for this process, however it ends; raises `busy` when another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists() or path.stat().st_ino != os.fstat(lock.fileno()).st_ino:
                raise BlockingIOError  # the process that held it has removed it in this moment
        except BlockingIOError:
            raise busy from None
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_json(path: str | Path, value: dict) -> None:
    """Write a JSON file whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n")


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
