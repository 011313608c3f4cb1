"""A run through the profile of SLURM, on a SLURM of this machine: limits, outages, failures, interruptions."""

import contextlib
import fcntl
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import nbformat
import pytest
from slurmhost import SlurmHost, why_not

from ethand_utils.experiments import workflow
from ethand_utils.experiments.config import load_profile
from ethand_utils.experiments.slurm import queued_jobs

REPOSITORY = Path(__file__).parents[2]
AWAY_SECONDS = 75
TRAINING, RESULT = "04_train_g1", "g1/result.json"
# Stand-ins for two notebooks: data at once, and a training of an epoch a second that goes on from its last epoch.
DATA_CELL = "(open_run(RUN).folder / 'data_summary.csv').write_text('store')"
TRAINING_CELL = """
import fcntl, os, time
run = open_run(RUN)
folder = run.folder / "g1"
checkpoint = folder / "state" / "last.pt"
checkpoint.parent.mkdir(parents=True, exist_ok=True)
with open(run.folder / "starts.txt", "a") as starts:
    print(os.environ["CUDA_VISIBLE_DEVICES"], file=starts)
if (run.folder / "broken").exists():
    raise ValueError("the learning rate is a banana")
lock = open(run.folder / "in_use", "w")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
done = int(checkpoint.read_text()) if checkpoint.exists() else 0
for epoch in range(done, run.profile.g1_epochs):
    time.sleep(1)
    checkpoint.write_text(str(epoch + 1))
for name in ("result.json", "weights.safetensors"):
    (folder / name).write_text(checkpoint.read_text())
"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm():
    """A running SLURM; the tests are skipped where there can be none."""
    if reason := why_not():
        pytest.skip(reason)
    host = SlurmHost()
    with contextlib.ExitStack() as stack:
        stack.callback(host.stop)
        host.start()
        yield host


class Terminal:
    """A call of `ethand run ci` in a terminal of its own, whose output is kept."""

    def __init__(self, root, *arguments):
        self.master, slave = pty.openpty()
        self.output, self.lost = root / f"terminal{len(list(root.glob('terminal*')))}.txt", threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ethand_utils.app.cli", "run", "ci", *arguments],
            cwd=root,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        """Keep what the screen has, until the call has ended or the terminal is lost."""
        with self.output.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while not self.lost.is_set():
                if select.select([self.master], [], [], 0.2)[0]:
                    file.write(os.read(self.master, 65536))
        os.close(self.master)

    def text(self):
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def wait_until(self, condition, seconds=240):
        """Wait until a condition holds, while the call is at work."""
        SlurmHost.wait_until(lambda: condition() or self.process.poll() is not None, seconds)
        assert self.process.poll() is None, self.text()[-4000:]

    def press_control_c(self):
        os.write(self.master, b"\x03")

    def lose(self):
        """Close the window: the system sends SIGHUP to what runs in it, and nothing reaches the screen any more."""
        self.lost.set()
        self.process.wait(120)

    def kill(self):
        """End the call and Snakemake as a crash of this host does: neither can end the jobs."""
        for process in reversed([self.process.pid, *descendants(self.process.pid)]):
            os.kill(process, signal.SIGKILL)
        self.process.wait(120)

    def end(self, seconds):
        """Wait for the end; returns the exit status and what the screen had."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"no end within {seconds} s:\n{self.text()[-4000:]}") from None
        self.reader.join(5)
        return status, self.text()


def descendants(process):
    """The processes that a process has started, and those that they have, each after the one that started it."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [one for child in map(int, children) for one in (child, *descendants(child))]


@pytest.fixture
def checkout(slurm, tmp_path):
    """Function that makes a checkout, with stand-ins for the notebooks of G1 unless they are to be the real ones."""

    def make(name, real=False):
        root = tmp_path / name
        shutil.copytree(REPOSITORY / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns(".*"))
        shutil.copytree(REPOSITORY / "cluster", root / "cluster")
        shutil.copy(REPOSITORY / "Snakefile", root)
        if not real:
            write_notebook(root / "notebooks/01_data.ipynb", DATA_CELL)
            write_notebook(root / "notebooks/04_train_g1.ipynb", TRAINING_CELL)
        return root

    yield make
    slurm.ask("scancel", "--user=root")
    slurm.wait_until(lambda: not slurm.ask("squeue", "--noheader"), 60)


def write_notebook(path, code):
    parameters = nbformat.v4.new_code_cell('RUN = "ci"  # run', metadata={"tags": ["parameters"]})
    imports = nbformat.v4.new_code_cell("from ethand_utils.experiments.run import open_run")
    cells = [imports, parameters, nbformat.v4.new_code_cell(code)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)


def call(root, *arguments, epochs=2, target=RESULT, asked=()):
    """Call `ethand run` with the profile of SLURM: a core a training, a look at the queue every two seconds."""
    options = ("--config", "threads=1", "--slurm-init-seconds-before-status-checks", "2", *asked, "--", target)
    settings = ("--set", f"g1_epochs={epochs}", *arguments)
    return Terminal(root, *settings, "--", "--profile", "cluster/slurm", *options)


def run_folder(root):
    return root / "outputs/ci"


def starts(root):
    """The GPU of each job in which the training began."""
    path = run_folder(root) / "starts.txt"
    return path.read_text().split() if path.exists() else []


def jobs(root):
    """The jobs of a checkout's run, the first first."""
    return sorted(queued_jobs(run_folder(root)).values(), key=lambda job: int(job.id))


def states(root, stage):
    """The states of a stage's jobs, the first first."""
    return [job.state for job in jobs(root) if job.stage == stage]


def test_time_limits_and_a_controller_that_is_away_stop_only_what_cannot_go_on(slurm, checkout):
    chain, long, stuck = checkout("my chain", real=True), checkout("long"), checkout("stuck")
    write_notebook(stuck / f"notebooks/{TRAINING}.ipynb", TRAINING_CELL.replace("sleep(1)", "sleep(1000)"))
    limit = ("--set-resources", f"{TRAINING}:runtime=2")
    training, endless = call(long, epochs=130, asked=limit), call(stuck, asked=limit)
    training.wait_until(lambda: starts(long))
    endless.wait_until(lambda: starts(stuck))
    arguments = ("--set", "chain=release", "--set", "render_parts=2")
    chained = call(chain, *arguments, target="index.html")
    chained.wait_until(lambda: states(chain, "render_1_of_2"))
    slurm.end("slurmctld.pid")
    time.sleep(AWAY_SECONDS)
    assert {terminal.process.poll() for terminal in (training, endless, chained)} == {None}
    slurm.call("slurmctld")

    status, screen = chained.end(400)
    assert status == 0, screen[-3000:]
    assert "asking again" in screen
    assert screen.strip().endswith("index.html")
    chain_stages = workflow.stages(load_profile("ci", {"chain": "release"}))
    names = {"render_1_of_2", "render_2_of_2", "index", *(stage.name for stage in chain_stages)}
    assert names == {job.stage for job in jobs(chain)}
    assert all((run_folder(chain) / path).stat().st_size for stage in chain_stages for path in stage.makes)

    status, screen = endless.end(200)
    assert status == 1
    assert "TIMEOUT" in last_lines(screen)
    assert "raise runtime" in last_lines(screen)
    assert states(stuck, TRAINING) == ["TIMEOUT"]

    status, screen = training.end(400)
    assert status == 0, screen[-3000:]
    assert (run_folder(long) / RESULT).read_text() == "130"
    *limited, last = states(long, TRAINING)
    assert (set(limited), last) == ({"TIMEOUT"}, "COMPLETED")
    assert len(starts(long)) == len(limited) + 1
    assert set(starts(long)) <= {"0", "1"}  # the numbers of the GPUs that SLURM gave
    assert "restart" not in screen  # none of Snakemake's attempts was used


def test_why_a_stage_failed_is_in_the_last_lines(slurm, checkout):
    root = checkout("failing")
    run_folder(root).mkdir(parents=True)
    (run_folder(root) / "broken").touch()
    status, screen = call(root).end(400)
    assert status == 1
    assert f"{TRAINING} failed" in last_lines(screen)
    assert "the learning rate is a banana" in last_lines(screen)
    log = Path(last_lines(screen).split("log: ")[1].splitlines()[0].strip())
    assert log.parent == run_folder(root) / "logs" / TRAINING
    assert "banana" in log.read_text()
    assert len(starts(root)) == 2  # the profile has one more try


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (("slurm_partition=short", "runtime=60"), "PartitionTimeLimit"),
        (("slurm_partition=narrow", "runtime=5", "cpus_per_task=2"), "PartitionConfig"),
        (("slurm_partition=nowhere",), "Invalid partition"),
    ],
)
def test_a_job_that_can_never_start_is_named_and_ended(asked, reason, slurm, checkout):
    root = checkout("hopeless")
    asked = ("--default-resources", "mem_mb=1000", *asked)
    status, screen = call(root, target="data_summary.csv", asked=asked).end(200)
    assert status == 1
    assert "01_data failed" in last_lines(screen)
    assert reason in last_lines(screen)
    assert not any(job.active for job in jobs(root))


def test_control_c_ends_the_jobs(slurm, checkout):
    root = checkout("stopped")
    terminal = call(root, epochs=200)
    terminal.wait_until(lambda: starts(root))
    terminal.press_control_c()
    status, screen = terminal.end(120)
    assert status != 0
    assert "Traceback" not in screen
    slurm.wait_until(lambda: states(root, TRAINING) == ["CANCELLED"], 30)


def test_after_a_lost_terminal_and_after_a_crash_the_same_command_trains_nothing_twice(slurm, checkout):
    closed, crashed = checkout("closed"), checkout("crashed")
    epochs = {closed: 20, crashed: 60}  # the job of the crashed one goes on until the second call looks
    first = {root: call(root, epochs=epochs[root]) for root in epochs}
    for root, terminal in first.items():
        terminal.wait_until(lambda root=root: starts(root))
    first[crashed].kill()
    first[closed].lose()
    again = {root: call(root, epochs=epochs[root]) for root in epochs}
    for root, terminal in again.items():
        status, screen = terminal.end(400)
        assert status == 0, screen[-3000:]
        assert (run_folder(root) / RESULT).read_text() == str(epochs[root])
        assert "FAILED" not in states(root, TRAINING)  # as a second training at the same time would
    assert "SLURM still has jobs of an earlier call" in again[crashed].text()
    assert len(starts(crashed)) == 1  # nothing could end its job, which was waited for


def last_lines(screen):
    return "\n".join(screen.strip().splitlines()[-4:])
