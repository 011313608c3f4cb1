"""Outputs: what a command is about to write, checked against what it reads and against what lies there.

A command or function that writes to a path of the user's choice claims that path here before its work begins.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from ethand_utils.files import FileError


class OutputError(FileError):
    """A path that must not be written to."""


def claim_file(path: str | Path, reads: Iterable[str | Path | None] = (), suffixes: tuple[str, ...] = ()) -> Path:
    """Return the path of a file that is about to be written, which must not be there yet.

    Raises OutputError when something lies there, when it is, or lies inside, one of the files or folders that the
    command `reads`, when its name ends in none of `suffixes`, or when its folder cannot be written to.
    """
    path, reads = Path(path), [read for read in reads if read is not None]
    if suffixes and not path.name.lower().endswith(suffixes):
        raise OutputError(f"{path}: expected a file name that ends in {' or '.join(suffixes)}")
    _refuse_read(path, reads)
    if path.is_dir():
        raise OutputError(f"{path}: a folder; expected the name of a new file")
    if os.path.lexists(path):
        raise OutputError(f"{path}: exists already, and is not replaced; move it away, or choose another name")
    _require_writable(path.parent)
    return path


def claim_folder(
    path: str | Path, reads: Iterable[str | Path | None] = (), is_replaceable: Callable[[Path], bool] | None = None
) -> Path:
    """Return the real path of a folder that is about to be written as a whole, links resolved.

    It must not be there yet, or be empty, or `is_replaceable`: what the same command makes of the same inputs. Raises
    OutputError otherwise, and when it is, holds, or lies inside, one of the files or folders that the command `reads`.
    """
    path, reads = Path(path), [read for read in reads if read is not None]
    _refuse_read(path, reads)
    for read in reads:
        if is_inside(read, path):
            raise OutputError(f"{path}: holds {read}, which is read; choose another folder")
    require_folder(path)
    if path.exists() and any(path.iterdir()) and not (is_replaceable and is_replaceable(path)):
        raise OutputError(
            f"{path}: holds something that this command did not make of the same inputs, and is not replaced; "
            "choose another folder"
        )
    _require_writable(path if path.exists() else path.parent)
    return Path(os.path.realpath(path))


def claim_shared_folder(path: str | Path, reads: Iterable[str | Path | None] = ()) -> Path:
    """Return a folder in which results are about to be put beside whatever is there.

    Raises OutputError when it is one of the folders that the command `reads`, a file, or cannot be written to.
    """
    path = Path(path)
    for read in filter(None, reads):
        if same_path(path, read):
            raise OutputError(f"{path}: is what is read; choose another folder to write to")
    require_folder(path)
    _require_writable(path)
    return path


def claim_export(path: str | Path, format: str, reads: Iterable[str | Path | None] = ()) -> Path:
    """Return the path of a net that is about to be exported: .onnx, or for OpenVINO .xml with .bin beside it.

    Raises OutputError as `claim_file` does, for both files.
    """
    if format == "onnx":
        return claim_file(path, reads, (".onnx",))
    path = claim_file(path, reads, (".xml",))
    claim_file(path.with_suffix(".bin"), reads)
    return path


def require_folder(path: Path) -> None:
    """Raise OutputError when what lies at a path, if anything does, is no folder."""
    if path.is_symlink() and not path.exists():
        raise OutputError(f"{path}: a link to nothing; remove the link, or choose another folder")
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: a file, expected a folder; choose another folder")


def same_path(one: str | Path, other: str | Path) -> bool:
    """Return whether two paths, however they are spelled or linked, are one file or folder, there or not."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


def is_inside(path: str | Path, folder: str | Path) -> bool:
    """Return whether a path, there or not, lies below a folder, links resolved."""
    real = Path(os.path.realpath(path))
    return any(same_path(parent, folder) for parent in real.parents)


def relative_path(path: str | Path, folder: str | Path) -> str:
    """Return a path as seen from a folder, links resolved, so that both can be moved together."""
    return os.path.relpath(os.path.realpath(path), os.path.realpath(folder))


def digest(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_read(path: Path, reads: list[str | Path]) -> None:
    """Raise OutputError when a path is one of those that are read, or lies inside one."""
    for read in reads:
        if same_path(path, read):
            raise OutputError(f"{path}: is what is read ({read}); choose another path to write to")
        if is_inside(path, read):
            raise OutputError(f"{path}: lies inside {read}, which is read; choose a path outside of it")


def _require_writable(folder: Path) -> None:
    """Raise OutputError when a folder, or the nearest one above that is there, is none or cannot be written to."""
    nearest = next(parent for parent in (folder, *folder.absolute().parents) if os.path.lexists(parent))
    if not nearest.is_dir():
        raise OutputError(f"{folder}: {nearest} is no folder; choose another place to write to")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise OutputError(f"{folder}: {nearest} cannot be written to; choose another place")
