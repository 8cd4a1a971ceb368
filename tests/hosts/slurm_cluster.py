"""A real Slurm on this machine: munged, slurmctld and one slurmd, with ports, keys and folders of their own.

They run in a network namespace with only a loopback, so that several test sessions do not meet, and are ended by their
process ids.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from launching import environment
from own_namespaces import Host, wait_for

PACKAGES = {
    "ip": "iproute2",
    "/usr/sbin/munged": "munge",
    "/usr/sbin/slurmctld": "slurmctld",
    "/usr/sbin/slurmd": "slurmd",
    "sbatch": "slurm-client",
}
NODE, ADDRESS = "node-s", "10.84.1.1"


def missing() -> str:
    """Why Slurm cannot be had here; empty where it can."""
    if os.geteuid() != 0:
        return "a Slurm cluster needs root"
    lacking = sorted({package for program, package in PACKAGES.items() if shutil.which(program) is None})
    return f"a Slurm cluster needs the packages {', '.join(lacking)}" if lacking else ""


class SlurmCluster:
    """One node with two CPUs, partition ``test``.

    Args:
        folder: for configuration, state and logs.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._teardown = ExitStack()
        self._daemons: list[subprocess.Popen[bytes]] = []
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for name in ("state", "spool", "logs", "run"):
            (self.folder / name).mkdir(parents=True)
        # Slurm resolves addresses only of hosts that have one beside the loopback.
        setup = f"""ip link add eth0 type veth peer name eth1 && ip address add {ADDRESS}/24 dev eth0 || exit 1
            ip link set eth0 up && ip link set eth1 up || exit 1"""
        self.host = Host(NODE, ADDRESS, self.folder / "host", setup)
        self._teardown.callback(self._end)
        self.host.hosts_file.write_text(f"127.0.0.1 localhost\n{ADDRESS} {NODE}\n")
        (self.folder / "slurm.conf").write_text(_CONF.format(folder=self.folder, node=NODE, address=ADDRESS))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._daemon("/usr/sbin/munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self._socket}",
                     f"--pid-file={self.folder}/run/munged.pid", f"--log-file={self.folder}/logs/munged.log",
                     f"--seed-file={self.folder}/run/munged.seed")  # fmt: skip
        wait_for(self._socket.exists, "munged")
        self._daemon("/usr/sbin/slurmctld", "-D")
        self._daemon("/usr/sbin/slurmd", "-D", "-N", NODE)
        wait_for(lambda: "idle" in self.run("sinfo", "-h", "-o", "%t").stdout, "an idle node")

    @property
    def _socket(self) -> Path:
        return self.folder / "run" / "munge.socket"

    def _daemon(self, *argv: str) -> None:
        with (self.folder / "logs" / f"{Path(argv[0]).name}.out").open("w") as log:
            daemon = subprocess.Popen(
                self.host.enter(argv), env=self.environment(), stdout=log, stderr=log, start_new_session=True
            )
        self._daemons.append(daemon)

    def environment(self) -> dict[str, str]:
        """What a user's terminal has."""
        return environment() | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *argv: str, cwd: Path | str = "/", timeout: float = 1200) -> subprocess.CompletedProcess[str]:
        """Run a command on the node's terminal."""
        return self.host.run(*argv, cwd=cwd, env=self.environment(), timeout=timeout)

    def igascale(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run the command line there."""
        return self.run(sys.executable, "-m", "igascale", *arguments, cwd=cwd)

    def state(self, job: str) -> str:
        """``PENDING``, ``RUNNING``, ``COMPLETED``, ..."""
        return self._field(job, "JobState")

    def restarts(self, job: str) -> int:
        """How often the job has been put back into the queue."""
        return int(self._field(job, "Restarts"))

    def _field(self, job: str, name: str) -> str:
        found: dict[str, str] = {}

        def told() -> bool:  # a controller that is busy may not answer in time
            text = self.run("scontrol", "show", "job", job, "--oneliner").stdout
            found.update(word.partition("=")[::2] for word in text.split() if "=" in word)
            return name in found

        wait_for(told, f"{name} of job {job}")
        return found[name]

    def logs(self) -> str:
        """What the daemons said, for a failing test's message."""
        return "\n".join(f"{p.name}:\n{p.read_text()[-3000:]}" for p in sorted((self.folder / "logs").iterdir()))

    def _end(self) -> None:
        self.host.close()
        for daemon in self._daemons:
            daemon.wait()

    def close(self) -> None:
        """End the daemons and every job."""
        self._teardown.close()


_CONF = """\
ClusterName=igascale
SlurmctldHost={node}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket,cred_expire=15
CryptoType=crypto/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
MpiDefault=none
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldLogFile={folder}/logs/slurmctld.log
SlurmdLogFile={folder}/logs/slurmd.log
SlurmctldPort=6817
SlurmdPort=6818
SchedulerType=sched/backfill
SchedulerParameters=requeue_setup_env_fail,bf_interval=1,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobRequeue=1
KillWait=30
MessageTimeout=60
BatchStartTimeout=60
NodeName={node} NodeAddr={address} CPUs=4 State=UNKNOWN
PartitionName=test Nodes={node} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
