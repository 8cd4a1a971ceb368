"""A real Slurm on this machine: munged, slurmctld and one slurmd, with ports, keys and folders of their own.

They run in a network namespace with only a loopback, so that several test sessions do not meet, and are ended by their
process ids.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from launching import environment

PACKAGES = {
    "ip": "iproute2",
    "/usr/sbin/munged": "munge",
    "/usr/sbin/slurmctld": "slurmctld",
    "/usr/sbin/slurmd": "slurmd",
    "sbatch": "slurm-client",
}
NODE, ADDRESS = "node-s", "10.84.1.1"
_numbers = itertools.count()


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
        self.namespace = f"igs{os.getpid()}-{next(_numbers)}-s"
        subprocess.run(["ip", "netns", "add", self.namespace], check=True)
        self._teardown.callback(subprocess.run, ["ip", "netns", "delete", self.namespace], check=False)
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{ADDRESS} {NODE}\n")
        self._teardown.callback(self._end_all)
        self._hold()
        (self.folder / "slurm.conf").write_text(_CONF.format(folder=self.folder, node=NODE, address=ADDRESS))
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._daemon("/usr/sbin/munged", "--foreground", "--force", f"--key-file={key}", f"--socket={self._socket}",
                     f"--pid-file={self.folder}/run/munged.pid", f"--log-file={self.folder}/logs/munged.log",
                     f"--seed-file={self.folder}/run/munged.seed")  # fmt: skip
        _wait_for(self._socket.exists, "munged")
        self._daemon("/usr/sbin/slurmctld", "-D")
        self._daemon("/usr/sbin/slurmd", "-D", "-N", NODE)
        _wait_for(lambda: "idle" in self.run("sinfo", "-h", "-o", "%t").stdout, "an idle node")

    @property
    def _socket(self) -> Path:
        return self.folder / "run" / "munge.socket"

    def _hold(self) -> None:
        """Start the process that keeps the namespaces."""
        setup = (
            f"hostname {NODE} && mount --bind {self.folder / 'hosts'} /etc/hosts && ip link set lo up "
            # Slurm resolves addresses of hosts that have one beside the loopback only.
            f"&& ip link add eth0 type veth peer name eth1 && ip address add {ADDRESS}/24 dev eth0 && ip link set eth0 up && ip link set eth1 up "
            f"&& touch {self.folder / 'ready'} && exec sleep infinity"
        )
        # Not `ip netns exec`, which hides the cgroups that slurmd wants to see.
        enter = ["nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "--mount", "--uts"]
        self._holder = subprocess.Popen([*enter, "sh", "-c", setup], start_new_session=True)
        _wait_for((self.folder / "ready").exists, "namespaces", while_running=self._holder)

    def _enter(self, argv: tuple[str, ...], cwd: Path | str = "/") -> list[str]:
        go = ["sh", "-c", 'cd "$0" && exec "$@"', str(cwd), *argv]
        return ["nsenter", f"--target={self._holder.pid}", "--net", "--uts", "--mount", *go]

    def _daemon(self, *argv: str) -> None:
        with (self.folder / "logs" / f"{Path(argv[0]).name}.out").open("w") as log:
            daemon = subprocess.Popen(
                self._enter(argv), env=self.environment(), stdout=log, stderr=log, start_new_session=True
            )
        self._daemons.append(daemon)

    def environment(self) -> dict[str, str]:
        """What a user's terminal has."""
        return environment() | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *argv: str, cwd: Path | str = "/", timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a command on the node's terminal."""
        return subprocess.run(
            self._enter(argv, cwd),
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def igascale(self, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        """Run the command line there."""
        return self.run(sys.executable, "-m", "igascale", *arguments, cwd=cwd)

    def state(self, job: int | str) -> str:
        """``PENDING``, ``RUNNING``, ``COMPLETED``, ...; with the exit code where it has one (``FAILED 75:0``)."""
        text = self.run("scontrol", "show", "job", str(job), "--oneliner").stdout
        fields = dict(word.partition("=")[::2] for word in text.split() if "=" in word)
        code = fields.get("ExitCode", "0:0")
        return fields.get("JobState", "GONE") + (f" {code}" if code != "0:0" else "")

    def processes(self) -> list[int]:
        """Pids in the cluster's network namespace."""
        network = os.stat(f"/run/netns/{self.namespace}").st_ino
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if os.stat(entry / "ns" / "net").st_ino == network:
                        found.append(int(entry.name))
        return found

    def logs(self) -> str:
        """What the daemons said, for a failing test's message."""
        return "\n".join(f"{p.name}:\n{p.read_text()[-3000:]}" for p in sorted((self.folder / "logs").iterdir()))

    def _end_all(self) -> None:
        for pid in self.processes():
            if pid != self._holder.pid:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._holder.kill()
        for process in (*self._daemons, self._holder):
            process.wait()

    def close(self) -> None:
        """End the daemons and every job."""
        self._teardown.close()


def _wait_for(condition, what: str, while_running: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        ended = while_running is not None and while_running.poll() is not None
        assert not ended and time.monotonic() < deadline, f"{what}: did not come"
        time.sleep(0.1)


_CONF = """\
ClusterName=igascale
SlurmctldHost={node}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
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
KillWait=60
NodeName={node} NodeAddr={address} CPUs=4 State=UNKNOWN
PartitionName=test Nodes={node} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
