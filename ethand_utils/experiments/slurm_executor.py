"""Stages as SLURM jobs: the executor of Snakemake's SLURM plugin, made for long trainings and clusters of any kind.

The plugin makes the command that submits a job with its account, partition and GPUs. Here, a job has its stage's name,
and `squeue` alone says its state. A controller that does not answer is waited for; a job that can never start is ended;
a time limit is no failure as long as each job gets further than the one before it.
"""

import asyncio
import re
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from snakemake_executor_plugin_slurm import Executor
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string
from snakemake_executor_plugin_slurm.validation import validate_or_get_slurm_job_id, validate_slurm_extra
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.jobs import JobExecutorInterface
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

from ethand_utils.experiments.slurm import USUAL, QueuedJob, SlurmError, cancel_jobs, last_line, queued_jobs
from ethand_utils.experiments.stage_failures import forget_failure, read_failure, write_failure
from ethand_utils.failures import brief_failure

PLUGIN = "slurm"
LOOKS = 3  # times in a row that a job must look hopeless, or be missing, as both may pass when a controller starts
LOG_LINES = 5  # last lines of a job's log that are shown where its stage said nothing
COMMAND_FAILED = "RuleException:"  # begins what a job's Snakemake says then
NO_ANSWER = re.compile("contact slurm controller|timed out|Connection re", re.IGNORECASE)
REMEDIES = {
    "CANCELLED": "it was cancelled (scancel); the same command starts it again",
    "DEADLINE": "it met its deadline",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "it needed more memory than its job had; raise mem_mb of the profile",
    "TIMEOUT": "it met its time limit of {limit} before an epoch, or a chunk of the data, was complete; "
    "raise runtime of the profile",
}
NOT_TRIED_AGAIN = ("CANCELLED", "OUT_OF_MEMORY", "TIMEOUT")  # as it would end in the same way, or the user wants it


def register() -> None:
    """Let Snakemake's `--executor slurm` be this one, where the plugin is installed. The Snakefile calls this."""
    ExecutorPluginRegistry().plugins[PLUGIN].executor = StageExecutor


class StageExecutor(Executor):
    """Submits stages of the run in the working directory, and watches their jobs."""

    cancelled = False

    def __post_init__(self) -> None:
        """Begin to watch; a job's log is below `logs/` of the run unless the profile says otherwise."""
        super().__post_init__()
        self.folder = Path.cwd().resolve()
        self.looks: Counter[tuple[str, str]] = Counter()
        self.last_error = ""
        if not self.workflow.executor_settings.logdir:
            self.slurm_logdir = self.folder / "logs"

    @property
    def interval(self) -> float:
        """Seconds between two looks at the queue."""
        return self.workflow.executor_settings.init_seconds_before_status_checks

    async def sleep(self) -> None:
        """Wait until the next look, or the end of Snakemake."""
        end = time.monotonic() + self.interval
        while self.wait and time.monotonic() < end:
            await asyncio.sleep(0.2)

    def run_job(self, job: JobExecutorInterface) -> None:
        """Submit a stage; that SLURM refuses it is the stage's failure."""
        try:
            info = self._submit(job)
        except Exception as error:  # of a thread of the plugin's, where nobody else would see it
            reason = brief_failure(error)
            job.rule.restart_times = 0
            write_failure(self.folder, job.name, reason)
            self._report_job_error_threadsafe(SubmittedJobInfo(job), f"{reason}. ")
        else:
            self._report_job_submission_threadsafe(info)

    def get_account_arg(self, job: JobExecutorInterface) -> Iterator[str]:
        """Yield the account that the profile names; without one nothing is guessed, and SLURM takes the user's own."""
        return super().get_account_arg(job) if job.resources.get("slurm_account") else iter([""])

    def _submit(self, job: JobExecutorInterface) -> SubmittedJobInfo:
        """Return a stage's new job. Raises SlurmError when SLURM refuses it."""
        self._queue()  # an answer, without which the plugin could not ask for partitions
        log = self.slurm_logdir / job.name / "%j.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        validate_slurm_extra(job)
        asked = {
            "run_uuid": job.name,
            "slurm_logfile": log,
            "comment_str": self.folder,
            "account": next(self.get_account_arg(job)),
            "partition": self.get_partition_arg(job),
            "workdir": self.workflow.workdir_init,
        }
        command = get_submit_command(job, asked, self.workflow.executor_settings, self._failed_nodes)
        forget_failure(self.folder, job.name)
        progress = self._progress(job)
        job_id = self._sbatch(job, command + set_gres_string(job))
        self.logger.info(f"{job.name} is SLURM job {job_id}, log: {log.with_name(f'{job_id}.log')}")
        return SubmittedJobInfo(job, job_id, {"log": log.with_name(f"{job_id}.log"), "progress": progress})

    def _sbatch(self, job: JobExecutorInterface, command: str) -> str:
        """Return the id of a new job, submitted once SLURM answers. Raises SlurmError when it is refused."""
        script = f"#!/bin/sh\n{self.format_job_exec(job)}\n"
        while True:
            done = subprocess.run(shlex.split(command), input=script, capture_output=True, text=True)
            if done.returncode == 0:
                return validate_or_get_slurm_job_id(done.stdout.strip().split(";")[0], done.stdout)
            if not NO_ANSWER.search(done.stderr):
                raise SlurmError(f"SLURM refused its job: {last_line(done.stderr)}; it was asked `{command}`")
            self._pause()
            # SLURM may have taken the job although its answer was lost.
            submitted = [queued.id for queued in self._queue().values() if queued.active and queued.stage == job.name]
            if submitted:
                return submitted[0]

    def _queue(self) -> dict[str, QueuedJob]:
        """Return the run's jobs by id; where SLURM does not answer, say so and ask until it does.

        Raises SlurmError when Snakemake is interrupted meanwhile.
        """
        while not self.cancelled:
            try:
                jobs = queued_jobs(self.folder)
            except SlurmError as error:
                if not self.last_error:
                    self.logger.warning(f"{error}; asking again every {self.interval:g} s, jobs go on meanwhile")
                self.last_error = str(error)
                self._pause()
            else:
                if self.last_error:
                    self.logger.warning("SLURM answers again")
                self.last_error = ""
                return jobs
        raise SlurmError("interrupted")

    def _pause(self) -> None:
        """Wait until the next question, or an interruption."""
        end = time.monotonic() + self.interval
        while not self.cancelled and time.monotonic() < end:
            time.sleep(0.2)

    async def check_active_jobs(self, active_jobs: list[SubmittedJobInfo]) -> AsyncIterator[SubmittedJobInfo]:
        """Yield the jobs that have not ended, and report the others."""
        try:
            jobs = self._queue() if active_jobs else {}
        except SlurmError:  # interrupted: `cancel` ends them
            return
        for info in active_jobs:
            if self._goes_on(info, jobs.get(info.external_jobid)):
                yield info

    def _goes_on(self, info: SubmittedJobInfo, job: QueuedJob | None) -> bool:
        """Return whether a job is still to be watched; report it when it has ended, or end it when it cannot start."""
        if job is None:
            return self._missing(info)
        if job.state == "PENDING":
            return self._waits(info, job)
        if job.active:
            return True
        if job.state == "COMPLETED":
            self._succeed(info)
        elif job.state == "PREEMPTED" or (job.state == "TIMEOUT" and self._progress(info.job) != info.aux["progress"]):
            self.logger.info(f"{info.job.name}: {job.state} of SLURM job {job.id}; it goes on in another one")
            self.run_job(info.job)
        else:
            self._fail(info, self._reason(info, job), final=job.state in NOT_TRIED_AGAIN)
        return False

    def _waits(self, info: SubmittedJobInfo, job: QueuedJob) -> bool:
        """Return whether a pending job may start; say why it waits where that is unusual, and end a hopeless one."""
        self.looks[job.id, job.reason] += 1
        if job.hopeless and self.looks[job.id, job.reason] >= LOOKS:
            cancel_jobs([job])
            self._fail(
                info,
                f"SLURM job {job.id} could never start ({job.reason}), in the partition {job.partition} with a time "
                f"limit of {job.time_limit}, and was ended; change what the profile asks for, or its partitions",
                final=True,
            )
            return False
        if job.reason not in USUAL and self.looks[job.id, job.reason] == 1:
            self.logger.warning(f"{info.job.name}: SLURM job {job.id} waits: {job.reason}")
        return True

    def _missing(self, info: SubmittedJobInfo) -> bool:
        """Return whether to look again for a job that the queue lacks; else judge by what it should have made."""
        self.looks[info.external_jobid, "missing"] += 1
        if self.looks[info.external_jobid, "missing"] < LOOKS:
            return True
        if all(Path(output).exists() for output in info.job.output):
            self._succeed(info)
        else:
            self._fail(info, f"SLURM has forgotten job {info.external_jobid}, which left no result")
        return False

    def _succeed(self, info: SubmittedJobInfo) -> None:
        """Report a success; the job's log is removed unless the profile keeps it."""
        if not self.workflow.executor_settings.keep_successful_logs:
            info.aux["log"].unlink(missing_ok=True)
        self.report_job_success(info)

    def _fail(self, info: SubmittedJobInfo, reason: str, final: bool = False) -> None:
        """Report a failure, which `ethand run` repeats in its last lines; a final one is not tried again."""
        if final:
            info.job.rule.restart_times = 0
        log = f"; log: {info.aux['log']}" if info.aux["log"].exists() else ""
        write_failure(self.folder, info.job.name, reason + log)
        self.report_job_error(info, msg=f"{reason}. ", aux_logs=[str(info.aux["log"])])

    def _reason(self, info: SubmittedJobInfo, job: QueuedJob) -> str:
        """Return why a job ended: what SLURM says, unless that is that the stage failed, and what the stage said."""
        said = read_failure(self.folder, info.job.name)
        if job.state != "FAILED":
            remedy = REMEDIES.get(job.state, "").format(limit=job.time_limit)
            return ": ".join(filter(None, (f"{job.state} of SLURM job {job.id}", remedy, said)))
        return said or f"SLURM job {job.id} failed, and its log ends with\n{_log_end(info.aux['log'])}\n"

    def _progress(self, job: JobExecutorInterface) -> int:
        """Return when a stage last wrote what it goes on from: an epoch's checkpoint, or a chunk of the data."""
        folders = {self.folder / Path(output).parent / "state" for output in job.output} | {self.folder / "data"}
        files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
        return max((path.stat().st_mtime_ns for path in files), default=0)

    def cancel(self) -> None:
        """End all jobs of the run, those just submitted as well."""
        self.cancelled = True
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)
        try:
            cancel_jobs([job for job in queued_jobs(self.folder).values() if job.active])
        except SlurmError as error:
            self.logger.error(f"{error}; jobs of this run may go on: see `squeue --me`, end them with scancel")
        self.shutdown()


def _log_end(log: Path) -> str:
    """Return the last lines of a job's log, without what Snakemake adds when the stage's command has failed."""
    if not log.exists():
        return "nothing: it was not written"
    command, _, _ = log.read_text(errors="replace").partition(f"\n{COMMAND_FAILED}")
    return "\n".join(command.strip().splitlines()[-LOG_LINES:])
