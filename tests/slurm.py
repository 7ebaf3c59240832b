"""A Slurm of one node on this machine, with an authentication, ports and folders of its own."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "scontrol", "sinfo", "squeue")
MUNGE = "key", "socket", "pid", "log", "seed"
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=5
SlurmdParameters=config_overrides
GresTypes=gpu
MpiDefault=none
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=64000 Gres=gpu:2
PartitionName=cpu Nodes={host} Default=YES MaxTime=60
PartitionName=gpu Nodes={host} MaxTime=60
"""
# Slurm counts GPUs by their device files; these two are on every machine.
GRES = "NodeName={host} Name=gpu File=/dev/null\nNodeName={host} Name=gpu File=/dev/zero\n"


def missing() -> str:
    """Why there can be no Slurm here, or an empty text."""
    absent = [program for program in PROGRAMS if not shutil.which(program)]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)}): apt install slurm-wlm munge"
    return "Slurm's daemons start as root only" if os.geteuid() else ""


@dataclass(frozen=True)
class Slurm:
    """A running Slurm; ``environ`` lets its programs find it."""

    root: Path
    environ: dict[str, str]

    def ask(self, *words: str) -> str:
        """What a program of Slurm prints; "" when it fails, or takes a minute."""
        try:
            done = subprocess.run(
                words, env=self.environ, capture_output=True, text=True, check=False, timeout=60
            )
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout.strip()

    def jobs(self, *flags: str) -> list[str]:
        """Numbers of the jobs that wait or run; tasks of arrays as ``array_task``."""
        return self.ask("squeue", "-h", "-r", "-o", "%i", *flags).split()

    def wait(self, seconds: float) -> None:
        """Wait until no job is left; raises TimeoutError."""
        end = time.monotonic() + seconds
        while self.jobs():
            if time.monotonic() > end:
                raise TimeoutError(self.ask("squeue"))
            time.sleep(1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _configure(root: Path) -> dict[str, str]:
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool", "munge"):
        (root / name).mkdir(mode=0o755)
    (root / "munge" / "key").write_bytes(os.urandom(1024))
    (root / "munge" / "key").chmod(0o400)
    control, node = _free_ports(2)
    values = {"host": host, "root": root, "control_port": control, "node_port": node}
    (root / "slurm.conf").write_text(CONF.format(**values))
    (root / "gres.conf").write_text(GRES.format(**values))
    return {**os.environ, "SLURM_CONF": str(root / "slurm.conf")}


def _daemons(root: Path) -> list[Sequence[str]]:
    key, place, pid, log, seed = (str(root / "munge" / name) for name in MUNGE)
    files = [f"--key-file={key}", f"--socket={place}", f"--pid-file={pid}"]
    return [
        ["munged", "--foreground", "--force", *files, f"--log-file={log}", f"--seed-file={seed}"],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-c"],
    ]


@contextmanager
def running() -> Iterator[Slurm]:
    """A Slurm with four cores, two GPUs by name, and the partitions ``cpu`` and ``gpu``."""
    root = Path(tempfile.mkdtemp(prefix="slurm-"))  # short, for the name of the socket
    root.chmod(0o755)
    environ = _configure(root)
    with (root / "daemons.log").open("w") as log:
        daemons = []
        for words in _daemons(root):
            daemons.append(subprocess.Popen(words, env=environ, stdout=log, stderr=log))
            time.sleep(1)
    slurm = Slurm(root, environ)
    try:
        _await_idle(slurm)
        yield slurm
    finally:
        slurm.ask("scancel", "--user=root")
        time.sleep(2)  # a killed job's processes end after the signal
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
        shutil.rmtree(root, ignore_errors=True)


def _await_idle(slurm: Slurm) -> None:
    for _ in range(60):
        if slurm.ask("sinfo", "-h", "-o", "%T") == "idle":
            return
        time.sleep(1)
    logs = [path.read_text()[-2000:] for path in slurm.root.glob("*.log")]
    raise RuntimeError("\n".join(["Slurm does not start:", slurm.ask("sinfo", "-R"), *logs]))
