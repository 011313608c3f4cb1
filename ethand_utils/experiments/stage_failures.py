"""Why stages of a run failed: a file each, so that `ethand run` ends with the reasons, wherever the stages ran."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from ethand_utils.failures import brief_failure
from ethand_utils.files import atomic_write

FOLDER = "failed"  # of a run: <stage>.txt holds why the stage failed when it was last executed


def failure_file(folder: Path, stage: str) -> Path:
    """Return the file of a run that says why a stage failed."""
    return folder / FOLDER / f"{stage}.txt"


def write_failure(folder: Path, stage: str, reason: str) -> None:
    """Write why a stage failed."""
    with atomic_write(failure_file(folder, stage)) as temporary:
        temporary.write_text(reason.strip() + "\n", encoding="utf-8")


def read_failure(folder: Path, stage: str) -> str:
    """Return why a stage failed; empty where it did not say."""
    path = failure_file(folder, stage)
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def forget_failure(folder: Path, stage: str) -> None:
    """Remove what an earlier execution of a stage wrote."""
    failure_file(folder, stage).unlink(missing_ok=True)


@contextlib.contextmanager
def recorded_failure(folder: Path, stage: str) -> Iterator[None]:
    """Write why the block fails, an error of any kind, as the stage's failure, and raise it again."""
    forget_failure(folder, stage)
    try:
        yield
    except Exception as error:
        write_failure(folder, stage, brief_failure(error))
        raise


def forget_failures(folder: Path) -> None:
    """Remove what stages wrote when the run was last executed."""
    for path in (folder / FOLDER).glob("*.txt"):
        path.unlink()


def print_failures(folder: Path) -> None:
    """Print the stages that failed and why, in the order in which they did, on stderr."""
    for path in sorted((folder / FOLDER).glob("*.txt"), key=lambda path: path.stat().st_mtime_ns):
        print(f"{path.stem} failed: {read_failure(folder, path.stem)}", file=sys.stderr)
