"""A private SLURM on loopback: own key, ports and folder; two nodes for CPUs and one with GPUs, all on this host."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
NODES = ("c1", "c2", "g1")
CORES, MEMORY = 4, 8000
"""What each node says it has (MB); the host may have less."""

CONFIG = """\
ClusterName=cellmill
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# How long a job that SLURM starts again is held back: 120 s without this.
AuthInfo=socket={run}/munge/socket,cred_expire=10
CredType=cred/munge
StateSaveLocation={run}/state
SlurmdSpoolDir={run}/spool/%n
SlurmctldPidFile={run}/slurmctld.pid
SlurmdPidFile={run}/slurmd.%n.pid
SlurmctldLogFile={run}/log/slurmctld.log
SlurmdLogFile={run}/log/slurmd.%n.log
MpiDefault=none
SwitchType=switch/none
# Needs no cgroups.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=1,bf_interval=5,sched_interval=5
GresTypes=gpu
# Without this a job that names no memory takes a whole node.
DefMemPerCPU=500
ReturnToService=2
SlurmdTimeout=10
SlurmctldTimeout=30
InactiveLimit=0
KillWait=3
# squeue knows a finished job for an hour: `slurm-status-command: squeue` needs that.
MinJobAge=3600
MessageTimeout=10
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=cpu Nodes=c1,c2 Default=YES MaxTime=24:00:00 State=UP
PartitionName=gpu Nodes=g1 Default=NO MaxTime=24:00:00 State=UP
"""
# SLURM counts GPUs by their device files; two devices that every machine has stand in for two GPUs.
GPUS = """\
AutoDetect=off
NodeName=g1 Name=gpu Type=h200 File=/dev/null
NodeName=g1 Name=gpu Type=h200 File=/dev/zero
"""


def missing() -> list[str]:
    """SLURM's programs that are not installed here."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


def _path() -> str:
    return os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


@dataclass
class Cluster:
    """SLURM with its state in ``run``, a folder with a short name (sockets)."""

    run: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """For `sbatch` and whoever calls it: which cluster, and where its programs are."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        return kept | {"SLURM_CONF": str(self.run / "slurm.conf"), "PATH": f"{self.run}/bin{os.pathsep}{_path()}"}

    def call(self, *command: str, expect: int | None = 0) -> str:
        """Run one of SLURM's programs and give what it printed."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert expect is None or done.returncode == expect, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def start(self) -> None:
        """Write the configuration and start every daemon; returns when all nodes are idle."""
        for folder in ("munge", "state", "log", "bin", *(f"spool/{node}" for node in NODES)):
            (self.run / folder).mkdir(parents=True)
        self.run.chmod(0o755)
        (self.run / "munge").chmod(0o711)
        self._configure()
        key = self.run / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        munge = [
            f"--{name}={self.run}/munge/{name.split('-')[0]}"
            for name in ("socket", "pid-file", "log-file", "seed-file")
        ]
        self._daemon("munged", "munged", "--force", "--foreground", f"--key-file={key}", *munge)
        self._until(lambda: self._well("munge", "-S", f"{self.run}/munge/socket", "-n"), "munged answers")
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self._until(lambda: self.states() == ["idle"] * len(NODES), "all nodes are idle")

    def _configure(self) -> None:
        ports = _free_ports(1 + len(NODES))
        host = socket.gethostname().split(".")[0]
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CORES} RealMemory={MEMORY}"
            + (" Gres=gpu:h200:2" if node == "g1" else "")
            + " State=UNKNOWN"
            for node, port in zip(NODES, ports[1:], strict=True)
        )
        user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
        text = CONFIG.format(host=host, port=ports[0], user=user, run=self.run, nodes=nodes)
        (self.run / "slurm.conf").write_text(text)
        (self.run / "gres.conf").write_text(GPUS)
        (self.run / "cgroup.conf").write_text("CgroupAutomount=no\n")
        # The executor drops SLURM_CONF before its inner `srun`, which on a cluster finds /etc/slurm/slurm.conf.
        srun = self.run / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.run}/slurm.conf exec {shutil.which("srun", path=_path())} "$@"\n')
        srun.chmod(0o755)

    def start_controller(self) -> None:
        self._daemon("slurmctld", "slurmctld", "-D", "-i")
        self._until(lambda: "UP" in self.call("scontrol", "ping", expect=None), "slurmctld answers")

    def start_node(self, node: str) -> None:
        self._daemon(node, "slurmd", "-D", "-N", node)

    def stop_daemon(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop a node or ``slurmctld``."""
        process = self.daemons.pop(name)
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self) -> None:
        """End all jobs and daemons, the last started first."""
        if "slurmctld" in self.daemons:
            self.call("scancel", "--quiet", *self.jobs(), expect=None) if self.jobs() else None
        for name in reversed(list(self.daemons)):
            self.stop_daemon(name)
        self._reap()

    def _reap(self) -> None:
        """A job that a node failure cut off may go on without cgroups; its environment tells whose it is."""
        mine = f"SLURM_CONF={self.run}/slurm.conf".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if mine in variables and any(v.startswith((b"SLURMD_NODENAME=", b"SLURM_JOB_ID=")) for v in variables):
                os.kill(int(folder.name), signal.SIGKILL)

    def states(self) -> list[str]:
        return self.call("sinfo", "-h", "-N", "-o", "%t", expect=None).split()

    def jobs(self, *states: str) -> list[str]:
        """Ids of the jobs in these states (default: not ended)."""
        asked = ("--states", ",".join(states)) if states else ()
        return self.call("squeue", "-h", "-o", "%i", *asked).split()

    def submitted(self, folder: Path) -> list[tuple[str, str, str]]:
        """Of every job that was ever submitted from a folder: its comment (rule and wildcards), partition, node."""
        lines = self.call("squeue", "-h", "--states=all", "-o", "%Z|%k|%P|%N").splitlines()
        return [(k, p, n) for where, k, p, n in (line.split("|") for line in lines) if where == str(folder)]

    def logs(self) -> str:
        """The last lines of every log, for a failed test."""
        found = sorted((self.run / "log").iterdir())
        return "\n".join(f"--- {p.name}\n" + "\n".join(p.read_text().splitlines()[-15:]) for p in found)

    def _daemon(self, name: str, *command: str) -> None:
        with (self.run / "log" / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _well(self, *command: str) -> bool:
        return subprocess.run(command, env=self.environment, capture_output=True).returncode == 0

    def _until(self, true: object, what: str, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not true():  # type: ignore[operator]
            if time.monotonic() > end:
                raise AssertionError(f"not after {seconds} s: {what}\n{self.logs()}")
            time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
