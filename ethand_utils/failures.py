"""How failures are reported: in one line each that can be foreseen, with a traceback in a file the others."""

import errno
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path

from ethand_utils.exceptions import EthandError
from ethand_utils.files import first_line, write_remedy

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CRASHED = 70  # exit status of a command that a fault of its own ended (EX_SOFTWARE)


def failure_line(error: BaseException) -> str | None:
    """Return the one line that tells a user of an error what, where and what to do; None for a fault of the code."""
    if isinstance(error, EthandError):
        return " ".join(str(error).split())
    if is_out_of_memory(error):
        return f"not enough memory ({first_line(error)}); close other programs, or give less at once"
    if isinstance(error, OSError):
        return _system_line(error)
    if isinstance(error, SyntaxError) and str(error.filename).endswith(".py"):  # a module that its user changed
        return f"{error.filename}, line {error.lineno}: {error.msg}; mend the line, and start again"
    return None


def brief_failure(error: BaseException) -> str:
    """Return an error as one line: that of `failure_line`, or the type and first line of a fault of the code."""
    return failure_line(error) or f"{type(error).__name__}: {first_line(error)}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there is no memory left, here or on the GPU; PyTorch need not be imported."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _system_line(error: OSError) -> str:
    """Return the line of an error of the operating system."""
    where = f"{error.filename}: " if error.filename is not None else ""
    if isinstance(error, FileNotFoundError):
        remedy = "check the path"
    elif isinstance(error, PermissionError):
        remedy = "check its permissions"
    elif isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
        remedy = "check which of its parts is a file and which a folder"
    elif error.errno in FULL:
        remedy = write_remedy(error)
    else:
        remedy = "check the disk or the connection, and start again"
    return f"{where}{error.strerror or first_line(error)}; {remedy}"


def save_traceback(error: BaseException) -> Path:
    """Write an error's traceback with the command and the versions to a file of its own; return its path.

    The file lies in the user's folder of logs or, where that cannot be written to, among the temporary files.
    """
    from platformdirs import user_log_path  # imported when something has failed, and not by every command

    import ethand_utils

    name = f"failed-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 1_000_000_000:09d}.txt"
    head = f"{' '.join(sys.argv)}\nethand {ethand_utils.__version__}, Python {platform.python_version()}\n\n"
    text = head + "".join(traceback.format_exception(error))
    for folder in (user_log_path("ethand"), Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8", errors="backslashreplace")
            return folder / name
        except OSError as refused:
            last = refused
    raise last


def report_failure(error: BaseException) -> int:
    """Print an error as one line on stderr, its traceback in a file where it is a fault of the code; return the status.

    That is 1 for what a user can mend, CRASHED for what nobody foresaw.
    """
    line = failure_line(error)
    if line is not None:
        print(f"ethand: {line}", file=sys.stderr)
        return 1
    try:
        where = f"the traceback is in {save_traceback(error)}, please report it"
    except OSError:
        traceback.print_exception(error)
        where = "the traceback is above, please report it"
    print(f"ethand: a fault of the program ({brief_failure(error)}); {where}", file=sys.stderr)
    return CRASHED


def show_failures_in_one_line() -> None:
    """Let a notebook show each error that can be foreseen as one line; others keep their traceback in the notebook.

    Outside of IPython nothing changes.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        shell.set_custom_exc((EthandError, OSError, MemoryError), _show)


def _show(shell, kind: type, error: BaseException, trace, tb_offset=None) -> list[str]:
    """Show an error in a notebook, and return what was shown."""
    lines = [f"{kind.__name__}: {failure_line(error)}"]
    shell._showtraceback(kind, error, lines)
    return lines
