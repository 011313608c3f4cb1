"""Processes of a run: Snakemake and its stages end with the process that started them, and signals reach them all.

`python -m ethand_utils.experiments.processes STARTER LOCK MODULE ARGUMENT…` runs a module as `python -m` does. It holds
the lock file LOCK, unless that is `-`, and ends soon after its parent, the process STARTER, however that ends. The
leader of a session, as Snakemake is, interrupts its own group instead, so that it can cancel jobs on a cluster.
"""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ethand_utils.failures import report_failure
from ethand_utils.locks import BusyError, hold_named

MODULE = "ethand_utils.experiments.processes"
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL = 0.2  # seconds between two looks at the parent process


def ending_with_this(lock: Path, module: str) -> list[str]:
    """Return the command that runs a Python module, which holds a lock and ends with this process."""
    return [sys.executable, "-m", MODULE, str(os.getpid()), str(lock), module]


def call(command: list[str], cwd: Path) -> tuple[int, int | None]:
    """Run a command in a session of its own; return its exit status, and the first signal that came meanwhile, or None.

    The first signal of PASSED_ON interrupts the command and its children, as Ctrl-C in a terminal does. This process
    waits until they have ended, as they may have to cancel jobs on a cluster; a later Ctrl-C kills them. A signal that
    is ignored, as SIGHUP is under nohup, stays ignored.
    """
    received: list[int] = []
    started: list[subprocess.Popen] = []

    def pass_on(number: int, _frame) -> None:
        received.append(number)
        if not started:
            return
        if len(received) == 1:
            with contextlib.suppress(OSError):  # the terminal may be lost
                print("ethand: stopping what is at work; Ctrl-C again kills it", file=sys.stderr, flush=True)
            _signal_group(started[0], signal.SIGINT)
        elif number == signal.SIGINT:
            _signal_group(started[0], signal.SIGKILL)

    before = {number: signal.getsignal(number) for number in PASSED_ON}
    handled = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    try:
        for number in handled:
            signal.signal(number, pass_on)
        with subprocess.Popen(command, cwd=cwd, start_new_session=True) as process:
            started.append(process)
            if received:
                _signal_group(process, signal.SIGINT)
            status = process.wait()
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
    return status, received[0] if received else None


def _signal_group(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def end_with(starter: int) -> None:
    """End this process soon after `starter`, its parent, has ended, even killed."""

    def watch() -> None:
        while os.getppid() == starter:
            time.sleep(POLL)
        if os.getpid() == os.getsid(0):
            os.killpg(0, signal.SIGINT)
        else:
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Run the module that the command line names."""
    starter, lock, module, *arguments = sys.argv[1:]
    if os.getppid() != int(starter):
        sys.exit(1)  # it ended before this process began
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background processes ignore it
    end_with(int(starter))
    sys.argv = [module, *arguments]
    try:
        with contextlib.nullcontext() if lock == "-" else hold_named(Path(lock), module):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except BusyError as error:
        sys.exit(report_failure(error))


if __name__ == "__main__":
    main()
