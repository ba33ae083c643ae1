"""A real SLURM on this machine, for tests: slurmctld and one slurmd, as whoever runs the tests, without
systemd or munge.
"""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cli import environment
from slurm_accounting import Accounting

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
NAME = "tests"

CONFIG = """
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmctldPort={port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=30
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=4000
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
{accounting}
JobRequeue=1
KillWait=2
MinJobAge=300
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
MaxArraySize=1001
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=64000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""

# What a launch on this cluster says.
LAUNCHER = (
    "hydra/launcher=slurm",
    "hydra.launcher.gpus_per_node=null",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.allow_dirty=true",
)


def until(condition: Callable[[], object], what: str, seconds: float = 240) -> float:
    """Wait for a condition; the seconds that it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"waited in vain for {what}"
        time.sleep(0.1)
    return time.monotonic() - start


def status(*arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """`mirrorpo status`, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mirrorpo.status", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextmanager
def started(what: str, *, cpus: int, kill_wait_s: int = 2) -> Iterator["Cluster"]:
    """A cluster until the block ends; where it does not start, the test is skipped, saying what is not
    tested.
    """
    # A short path, since slurmd's sockets lie below it.
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        cluster = Cluster(Path(folder), cpus=cpus)
        text = cluster.config.read_text()
        cluster.config.write_text(text.replace("KillWait=2", f"KillWait={kill_wait_s}"))
        try:
            try:
                cluster.start()
            except (AssertionError, subprocess.CalledProcessError) as error:
                pytest.skip(f"NOT TESTED: {what}, which is installed and does not start here: {error}")
            yield cluster
        finally:
            cluster.stop()


def missing() -> str | None:
    """Why no cluster can run here; None when one can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    return (
        f"SLURM is not installed here (no {', '.join(absent)}): apt-get install slurm-wlm" if absent else None
    )


@dataclass
class Cluster:
    """A folder with the cluster's state; commands find it through SLURM_CONF.

    Attributes:
        folder: short, since slurmd puts sockets below it.
        cpus: CPUs that the node pretends to have.
        accounted: with a database, so that sacct answers.
        further: lines of slurm.conf.
    """

    folder: Path
    cpus: int
    accounted: bool = False
    further: str = ""

    def __post_init__(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir(parents=True)
        self.accounting = Accounting(self.folder, _free_port(), _free_port()) if self.accounted else None
        kept = self.accounting.lines if self.accounting else "AccountingStorageType=accounting_storage/none"
        ports = {"port": _free_port(), "node_port": _free_port(), "accounting": kept, "name": NAME}
        text = CONFIG.format(
            host=socket.gethostname().split(".")[0],
            user=getpass.getuser(),
            folder=self.folder,
            cpus=self.cpus,
            **ports,
        )
        self.config.write_text(text + self.further)

    @property
    def config(self) -> Path:
        return self.folder / "slurm.conf"

    def start(self) -> "Cluster":
        """Its daemons, and wait for an idle node."""
        if self.accounting:
            self.accounting.start(self.environment(), NAME)
        self.start_daemon("slurmctld")
        self.start_daemon("slurmd")
        self._until(lambda: "idle" in self.run("sinfo", "-h", "-o", "%T", check=False), "an idle node")
        return self

    def start_daemon(self, name: str, *options: str) -> None:
        subprocess.run(
            [shutil.which(name) or name, "-f", str(self.config), *options],
            check=True,
            env=self.environment(),
            capture_output=True,
        )

    def pid(self, name: str) -> int:
        """Of a daemon."""
        return int((self.folder / f"{name}.pid").read_text())

    def kill_daemon(self, name: str) -> None:
        """SIGKILL, as a machine that dies would; jobs' own processes live on."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        self._until(lambda: _gone(pid), f"the end of {name}")

    def repair(self) -> None:
        """What an administrator does after a node died while a job was being started on it: put it back,
        release the job.
        """
        if any(word in self.run("sinfo", "-h", "-o", "%T", check=False) for word in ("drain", "down")):
            self.run(
                "scontrol",
                "update",
                f"NodeName={socket.gethostname().split('.')[0]}",
                "State=RESUME",
                check=False,
            )
        for line in self.run("squeue", "-h", "-r", "-o", "%i|%r", check=False).splitlines():
            job, _, why = line.partition("|")
            if "held" in why:
                self.run("scontrol", "release", job, check=False)

    def stop(self) -> None:
        """End all jobs, then the daemons."""
        self.run("scancel", f"--user={getpass.getuser()}", check=False)
        end = time.time() + 20
        while time.time() < end and self.run("squeue", "-h", check=False):
            time.sleep(0.2)
        for name in ("slurmd", "slurmctld"):
            file = self.folder / f"{name}.pid"
            if file.exists() and not _gone(int(file.read_text())):
                self.kill_daemon(name)
        if self.accounting:
            self.accounting.stop()

    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.config)}

    def run(self, *command: str, check: bool = True) -> str:
        """A command of SLURM's; what it prints, stripped."""
        result = subprocess.run(
            command, capture_output=True, text=True, env=self.environment(), timeout=60, check=False
        )
        assert not check or result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
        return result.stdout.strip()

    def _until(self, condition, what: str) -> None:
        end = time.time() + 20
        while not condition():
            assert time.time() < end, (
                f"waited in vain for {what}: {(self.folder / 'slurmctld.log').read_text()[-2000:]}"
            )
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _gone(pid: int) -> bool:
    # A zombie that nobody reaps is gone too.
    file = Path(f"/proc/{pid}/stat")
    return not file.exists() or file.read_text().rpartition(")")[2].split()[0] == "Z"
