"""A run's jobs in SLURM's queue as `squeue` shows them, and what reading the Snakefile loads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ethand_utils.experiments import slurm

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Function that puts a shell script of a name before all other commands."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")

    def write(name, script):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    return write


def test_jobs_of_other_runs_are_not_this_run_s(command, tmp_path):
    folder = tmp_path / "my run|1"
    rows = ((7, folder), (8, tmp_path / "other"), (9, f"{folder}2"), (10, "(null)"))
    lines = [f"{number}|RUNNING|None|gpu|1:00|04_train_g1|{comment}" for number, comment in rows]
    command("squeue", "cat <<END\n" + "\n".join(lines) + "\nEND")
    jobs = slurm.queued_jobs(folder)
    assert list(jobs) == ["7"]
    assert (jobs["7"].stage, jobs["7"].active, jobs["7"].hopeless) == ("04_train_g1", True, False)


@pytest.mark.parametrize(
    "script",
    ["echo 'squeue: error: no controller' >&2; exit 1", "exit 3", "kill -9 $$"],
    ids=["error", "none", "killed"],
)
def test_a_command_that_fails_is_one_line_and_not_an_empty_queue(script, command, tmp_path):
    command("squeue", script)
    with pytest.raises(slurm.SlurmError, match="squeue: ") as caught:
        slurm.queued_jobs(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reason", ["PartitionTimeLimit", "PartitionConfig", "InvalidQOS", "QOSMaxCpuPerJobLimit"])
def test_a_job_is_hopeless_only_while_it_is_pending(reason):
    def job(state, reason):
        return slurm.QueuedJob("1", state, reason, "gpu", "1:00", "index")

    assert job("PENDING", reason).hopeless
    assert not job("RUNNING", reason).hopeless
    assert not any(job("PENDING", usual).hopeless for usual in (*slurm.USUAL, "QOSMaxJobsPerUserLimit", "JobHeldUser"))


def test_a_second_call_waits_for_the_first_one_s_jobs_and_ends_hopeless_ones(command, tmp_path, capsys):
    row = f"3|PENDING|PartitionConfig|gpu|1:00|index|{tmp_path}"
    command("squeue", f"test -e {tmp_path}/ended || echo '{row}'")
    command("scancel", f'echo "$@" > {tmp_path}/ended')
    slurm.wait_for_jobs(tmp_path, seconds=0.01)
    assert (tmp_path / "ended").read_text().split() == ["3"]
    assert "3 index (PENDING, PartitionConfig)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_job_of_a_cluster_reads_the_snakefile_without_pytorch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('PyTorch was loaded')")
    drivers = "import os; exists = os.path.exists; os.path.exists = lambda p: p == '/dev/nvidiactl' or exists(p)"
    (tmp_path / "sitecustomize.py").write_text(drivers)
    folder = tmp_path / "outputs/ci"
    folder.mkdir(parents=True)
    shutil.copy(REPOSITORY / "Snakefile", tmp_path)
    shutil.copytree(REPOSITORY / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    (folder / "profile.yaml").write_text((REPOSITORY / "ethand_utils/experiments/profiles/ci.yaml").read_text())
    (folder / "settings").mkdir()
    for name in ("01_data", "04_train_g1"):
        (folder / f"settings/{name}.yaml").touch()
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}

    def read(*options):
        words = ["--snakefile", tmp_path / "Snakefile", "--directory", folder, "--dry-run", "--cores", "4", *options]
        command = [sys.executable, "-m", "snakemake", *words, "--", "g1/result.json"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    done = read("--config", "threads=8")
    assert done.returncode == 0, done.stderr
    assert "torch.py" in read().stdout  # without the number of cores, GPUs are counted
