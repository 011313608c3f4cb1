"""Processes of a run end together, hold locks while they live, and pass signals on; tried with small processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ethand_utils.experiments import processes

KILLS = 5  # of each signal, at random moments
ENDS_WITHIN = 15.0  # seconds, on a busy machine; alone it is less than one
FATAL = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# In place of `ethand run`, Snakemake and a stage: the first calls the second, which starts two of the third by a shell,
# as Snakemake does. Each writes its number into a file; the stage then counts in another, until it is ended.
RUN = """
import sys
from pathlib import Path
from ethand_utils.experiments.processes import call, ending_with_this
folder = Path(sys.argv[1])
(folder / "run.pid").write_text(str(__import__("os").getpid()))
status, stopped = call([*ending_with_this(folder / "chain.lock", "chain_stub"), str(folder)], cwd=folder)
sys.exit(128 + stopped if stopped else status)
"""
CHAIN = """
import os, subprocess, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "chain.pid").write_text(str(os.getpid()))
stage = "exec {} -m ethand_utils.experiments.processes $PPID - stage_stub {} {}"
started = [subprocess.Popen(["bash", "-c", stage.format(sys.executable, folder, n)]) for n in (1, 2)]
try:
    for process in started:
        process.wait()
except KeyboardInterrupt:
    for process in started:
        process.wait()
    (folder / "cleaned").touch()  # as Snakemake cancels its jobs
    sys.exit(1)
"""
STAGE = """
import os, sys, time
from pathlib import Path
folder, number = Path(sys.argv[1]), sys.argv[2]
(folder / f"stage{number}.pid").write_text(str(os.getpid()))
while True:
    (folder / f"stage{number}.beat").write_text(str(time.time()))
    time.sleep(0.05)
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Function that starts the three kinds of processes in a folder; returns the first one."""
    package = str(Path(processes.__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), package]))
    (tmp_path / "run_stub.py").write_text(RUN)
    (tmp_path / "chain_stub.py").write_text(CHAIN)
    (tmp_path / "stage_stub.py").write_text(STAGE)
    started = []

    def run(folder, **options):
        folder.mkdir(exist_ok=True)
        command = [sys.executable, tmp_path / "run_stub.py", folder]
        options = {"stderr": subprocess.DEVNULL, "start_new_session": True} | options
        started.append(subprocess.Popen(command, **options))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


def alive(folder):
    """The processes of a folder that are at work, by name."""
    names = []
    for file in folder.glob("*.pid"):
        stat = Path(f"/proc/{file.read_text()}/stat")
        if file.read_text() and stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
            names.append(file.stem)
    return names


def wait_until(condition, seconds=ENDS_WITHIN):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def at_work(folder):
    return len(list(folder.glob("*.beat"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", FATAL)
def test_whenever_a_run_is_ended_by_a_signal_all_its_processes_end(number, start, tmp_path):
    rng = np.random.default_rng(number)
    for trial in range(KILLS):
        folder = tmp_path / f"run{trial}"
        process = start(folder)
        if trial == 0:
            wait_until(lambda folder=folder: at_work(folder))
        else:
            wait_until((folder / "run.pid").exists)
            time.sleep(rng.random() * 1.5)
        process.send_signal(number)
        process.wait(ENDS_WITHIN)
        if number != signal.SIGKILL and trial == 0:
            assert alive(folder) == []  # waited for
            assert process.returncode == 128 + number
            assert (folder / "cleaned").exists()
        wait_until(lambda folder=folder: not alive(folder))
        time.sleep(1)  # what was just being started ends itself
        assert not alive(folder)


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["run", "chain"])
def test_while_a_process_of_a_killed_run_lives_its_lock_is_held(killed, start, tmp_path):
    folder = tmp_path / "run"
    start(folder)
    wait_until(lambda: at_work(folder))
    assert (folder / "chain.lock").exists()
    again = subprocess.run(
        [*processes.ending_with_this(folder / "chain.lock", "chain_stub"), folder], capture_output=True, text=True
    )
    assert again.returncode == 1
    assert "chain_stub is at work here already (host " in again.stderr
    os.kill(int((folder / f"{killed}.pid").read_text()), signal.SIGKILL)
    wait_until(lambda: not alive(folder))


def test_a_process_whose_starter_has_ended_before_it_began_does_nothing(start, tmp_path):
    start_nothing = [sys.executable, "-m", processes.MODULE, "999999", "-", "stage_stub", tmp_path, "1"]
    assert subprocess.run(start_nothing).returncode == 1
    assert not list(tmp_path.glob("*.beat"))


@pytest.mark.slow
def test_signals_reach_a_run_that_was_started_in_the_background_of_a_shell(start, tmp_path):
    """Where SIGINT is ignored, by inheritance, and SIGHUP too, by nohup."""

    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = start(tmp_path / "run", preexec_fn=ignore)
    wait_until(lambda: at_work(tmp_path / "run"))
    for number in (signal.SIGHUP, signal.SIGINT):
        process.send_signal(number)
    time.sleep(1)
    assert len(alive(tmp_path / "run")) == 4
    process.send_signal(signal.SIGTERM)
    process.wait(ENDS_WITHIN)
    assert (process.returncode, alive(tmp_path / "run")) == (128 + signal.SIGTERM, [])


@pytest.mark.slow
def test_a_second_ctrl_c_kills_what_does_not_end(start, tmp_path):
    (tmp_path / "chain_stub.py").write_text(CHAIN.replace('(folder / "cleaned").touch()', "time.sleep(1000)"))
    process = start(tmp_path / "run")
    wait_until(lambda: at_work(tmp_path / "run"))
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGHUP)  # as a terminal that closes may send, too: no reason to kill
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.wait(ENDS_WITHIN)
    wait_until(lambda: not alive(tmp_path / "run"))


def test_signals_are_handled_as_before_once_a_command_has_ended(tmp_path):
    before = [signal.getsignal(number) for number in processes.PASSED_ON]
    assert processes.call([sys.executable, "-c", "raise SystemExit(3)"], tmp_path) == (3, None)
    assert [signal.getsignal(number) for number in processes.PASSED_ON] == before


def processes_in(folder):
    """The processes whose current folder or command line is in a folder."""
    numbers = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            place = os.readlink(process / "cwd")
        except OSError:
            continue
        if words != [""] and any(word.startswith(str(folder)) for word in (place, *words)):
            numbers.append(int(process.name))
    return numbers


@pytest.mark.slow
def test_a_killed_ethand_run_leaves_nothing_at_work_and_goes_on_when_called_again(tmp_path):
    root, repository = tmp_path / "checkout", Path(__file__).parents[2]
    shutil.copytree(repository / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(repository / "Snakefile", root)
    command = [sys.executable, "-m", "ethand_utils.app.cli", "run", "ci", "--", "data_summary.csv"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")])}
    first = subprocess.Popen(command, cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until((root / "outputs/ci/data").exists, 120)
    assert len(processes_in(root)) >= 4
    first.kill()
    first.wait()
    wait_until(lambda: not processes_in(root), 30)
    again = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (root / "outputs/ci/data_summary.csv").exists()
    assert processes_in(root) == []
    assert not [path for path in (root / "outputs/ci").rglob("*") if path.name.endswith((".lock", ".lock.json"))]
