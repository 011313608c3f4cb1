"""A run's jobs in SLURM's queue: how they stand, and how they are ended. Asks `squeue`, which needs no accounting."""

import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from ethand_utils.exceptions import EthandError

# States in which a job has ended; in every other one it waits, runs, or is about to end.
ENDED = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")
)
# Reasons for which a pending job never starts as it was submitted, and those of any job that waits for its turn
# ("JOB REASON CODES" in squeue's manual).
HOPELESS = re.compile(
    r"PartitionTimeLimit|PartitionConfig|BadConstraints|DependencyNeverSatisfied|Invalid(Account|QOS)"
    r"|(Account|QOS)NotAllowed|QOSMin\w+|\w+PerJob(Limit)?"
)
USUAL = frozenset(("BeginTime", "Cleaning", "None", "Priority", "Prolog", "Resources"))
ANSWER_SECONDS = 60  # longest wait for an answer of a command


class SlurmError(EthandError):
    """A command of SLURM that failed, or did not answer."""


@dataclass(frozen=True)
class QueuedJob:
    """A job of a run, in the words of SLURM; `reason` is why it is pending."""

    id: str
    state: str
    reason: str
    partition: str
    time_limit: str
    stage: str

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return self.state not in ENDED

    @property
    def hopeless(self) -> bool:
        """Whether it waits for what will not come."""
        return self.state == "PENDING" and HOPELESS.fullmatch(self.reason) is not None

    def __str__(self) -> str:
        """Return its id, stage and state in one phrase."""
        waits = f", {self.reason}" if self.state == "PENDING" and self.reason != "None" else ""
        return f"{self.id} {self.stage} ({self.state}{waits})"


def queued_jobs(folder: Path) -> dict[str, QueuedJob]:
    """Return the user's jobs of the run in a folder by id, also those that ended lately (`MinJobAge` of slurm.conf).

    A job carries the run's folder as its comment. Raises SlurmError when SLURM does not answer.
    """
    lines = _call("squeue", f"--user={os.getuid()}", "--states=all", "--noheader", "--format=%i|%T|%r|%P|%l|%j|%k")
    rows = [line.split("|", 6) for line in lines.splitlines()]
    return {row[0]: QueuedJob(*row[:6]) for row in rows if len(row) == 7 and row[6] == str(folder.resolve())}


def cancel_jobs(jobs: list[QueuedJob]) -> None:
    """End jobs. Raises SlurmError when SLURM does not answer."""
    if jobs:
        _call("scancel", *(job.id for job in jobs))


def wait_for_jobs(folder: Path, seconds: float = 10) -> None:
    """Wait until no job of an earlier `ethand run` on this folder is left, asking every few seconds.

    Two jobs would train the same net. A job that can never start is ended.
    """
    last = ""
    while True:
        try:
            jobs = [job for job in queued_jobs(folder).values() if job.active]
            cancel_jobs([job for job in jobs if job.hopeless])
            line = (
                f"SLURM still has jobs of an earlier call: {', '.join(map(str, jobs))}; waiting until they have ended"
            )
        except SlurmError as error:
            jobs, line = None, f"{error}; asking again every {seconds:g} s"
        if jobs == []:
            return
        if line != last:
            print(line, flush=True)
        last = line
        time.sleep(seconds)


def _call(*command: str) -> str:
    """Return what a command of SLURM prints. Raises SlurmError when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]}: no answer of SLURM within {ANSWER_SECONDS} s") from None
    if done.returncode:
        raise SlurmError(f"{command[0]}: {last_line(done.stderr) or f'exit status {done.returncode}'}")
    return done.stdout


def last_line(text: str) -> str:
    """Return the last line that is not empty, of what a command of SLURM says, from its `error:` on."""
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"^.*?error: ", "", lines[-1]).strip() if lines else ""
