"""A SLURM of one node on this machine, for tests: two stand-ins for GPUs, no accounting, the profile's partitions."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

CONFIGURATION = Path("/etc/slurm")  # where a job's step looks, as Snakemake's plugin removes SLURM_CONF there
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "srun", "sacct")
TEXT = """
ClusterName=test
SlurmctldHost=localhost
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=2
MpiDefault=none
SwitchType=switch/none
KillWait=2
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=999000 Gres=gpu:2 State=UNKNOWN
PartitionName=cpu Nodes=localhost Default=YES MaxTime=1440 State=UP
PartitionName=gpu Nodes=localhost MaxTime=1440 State=UP
PartitionName=short Nodes=localhost MaxTime=5 State=UP
PartitionName=narrow Nodes=localhost MaxCPUsPerNode=1 State=UP
"""


def why_not() -> str:
    """Return why there can be no such SLURM on this machine; empty where there can."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if os.geteuid() != 0:
        return "needs root, as SLURM's daemons do"
    if missing:
        return f"needs Debian's slurmctld, slurmd, slurm-client and munge ({', '.join(missing)} missing)"
    if (CONFIGURATION / "slurm.conf").exists():
        return f"this machine has a SLURM of its own ({CONFIGURATION / 'slurm.conf'})"
    return ""


class SlurmHost:
    """The daemons, from `start` to `stop`, with their files in a temporary folder."""

    def start(self) -> None:
        """Start the daemons; returns when the node takes jobs."""
        self.folder = Path(tempfile.mkdtemp(prefix="slurm"))
        for name in ("munge", "state", "spool"):
            (self.folder / name).mkdir()
        for path in (self.folder, self.folder / "munge"):
            path.chmod(0o711)  # munged refuses a socket in a folder that not everybody may enter
        (self.folder / "munge/key").write_bytes(os.urandom(128))
        (self.folder / "munge/key").chmod(0o400)
        host = socket.gethostname().split(".")[0]
        (self.folder / "slurm.conf").write_text(TEXT.format(folder=self.folder, host=host, ports=free_ports(2)))
        devices = ("/dev/null", "/dev/zero")
        (self.folder / "gres.conf").write_text("".join(f"NodeName=localhost Name=gpu File={d}\n" for d in devices))
        CONFIGURATION.mkdir(exist_ok=True)
        for name in ("slurm.conf", "gres.conf"):
            (CONFIGURATION / name).symlink_to(self.folder / name)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self.call("munged", *(f"--{option}={self.folder}/munge/{file}" for option, file in files.items()))
        self.call("slurmctld")
        self.call("slurmd", "-N", "localhost")
        self.wait_until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%t"), 30)

    def stop(self) -> None:
        """End all jobs and the daemons, and remove their files."""
        self.ask("scancel", "--user=root")
        for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            self.end(name)
        for name in ("slurm.conf", "gres.conf"):
            if (CONFIGURATION / name).is_symlink():
                (CONFIGURATION / name).unlink()
        shutil.rmtree(self.folder)

    def end(self, name: str) -> None:
        """End the daemon that wrote a pid file."""
        if (self.folder / name).exists() and (self.folder / name).read_text().strip():
            pid = int((self.folder / name).read_text())
            os.kill(pid, signal.SIGTERM)
            self.wait_until(lambda: not Path(f"/proc/{pid}").exists(), 20)

    def call(self, *command: str) -> str:
        """Return what a command prints; an error when it fails."""
        done = subprocess.run(command, text=True, capture_output=True, timeout=30)
        assert done.returncode == 0, f"{command[0]}: {done.stderr}"
        return done.stdout

    def ask(self, *command: str) -> str:
        """Return what a command prints, whatever its exit status."""
        return subprocess.run(command, text=True, capture_output=True, timeout=60).stdout

    @staticmethod
    def wait_until(condition, seconds: float) -> None:
        """Wait until a condition holds; an error when it does not in time."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s"
            time.sleep(0.3)


def free_ports(count: int) -> list[int]:
    """Return numbers of ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
