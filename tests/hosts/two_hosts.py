"""Two hosts on one machine: network namespaces joined by a cable, with their own names, mounts and sshd.

The disk is the machine's, so a run folder is shared until a test mounts something over it on one host. What a host runs is found
by its network, and ended by process id.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from launching import environment
from own_namespaces import Host, wait_for

PACKAGES = {
    "ip": "iproute2",
    "ssh": "openssh-client",
    "/usr/sbin/sshd": "openssh-server",
    "pdsh": "pdsh",
    "nsenter": "util-linux",
}
SSH_PORT = 2284
_numbers = itertools.count()


def missing() -> str:
    """Why the two hosts cannot be had here; empty where they can."""
    if os.geteuid() != 0:
        return "two hosts need root (network namespaces)"
    lacking = sorted({package for program, package in PACKAGES.items() if shutil.which(program) is None})
    if lacking:
        return f"two hosts need the packages {', '.join(lacking)}"
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "true"], capture_output=True, text=True, check=False
    )
    return f"two hosts need network namespaces: {probe.stderr.strip()}" if probe.returncode else ""


class TwoHosts:
    """``node-a`` and ``node-b``.

    Args:
        folder: for keys and configuration files.

    Attributes:
        a: the first host; tests launch from here.
        b: the other one.
        ssh_config: a client configuration that reaches both by name.
    """

    a: Host
    b: Host

    def __init__(self, folder: Path):
        self.folder = folder
        self._teardown = ExitStack()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("user", "host"):
            _must("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name))
        # Interfaces in /sys are those of the network that mounted it; sshd wants a /run of its own.
        setup = "mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /run && mkdir /run/sshd || exit 1"
        for number, name in enumerate(("node-a", "node-b"), 1):
            host = Host(name, f"10.84.0.{number}", self.folder / name, setup)
            self._teardown.callback(host.close)
            setattr(self, name[-1], host)
        self.a.must("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", str(self.b.holder))
        self.ssh_config = self.folder / "ssh_config"
        self.ssh_config.write_text(_CLIENT.format(port=SSH_PORT, key=self.folder / "user"))
        for host in self.both:
            self.set_names(host)
            host.must("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            self.link(host, up=True)
            self.start_sshd(host)
        self._own = {host.name: set(host.processes()) for host in self.both}

    @property
    def both(self) -> tuple[Host, Host]:
        """In the order of a hostfile."""
        return self.a, self.b

    def close(self) -> None:
        """End whatever still runs on the two hosts, and take them down."""
        self._teardown.close()

    # What a test runs

    def environment(self, **changes: str) -> dict[str, str]:
        """The environment of a launching terminal."""
        return environment() | {
            "PDSH_RCMD_TYPE": "ssh",
            "PDSH_SSH_ARGS_APPEND": f"-F {self.ssh_config}",
            **changes,
        }

    def igascale(self, *arguments: str, cwd: Path, timeout: float = 1200) -> subprocess.CompletedProcess[str]:
        """Run the command line on ``node-a``, as a user there."""
        command = [sys.executable, "-m", "igascale", *arguments]
        return self.a.run(*command, cwd=cwd, env=self.environment(), timeout=timeout)

    def hostfile(self, text: str = "node-a slots=1\nnode-b slots=1\n") -> Path:
        """A hostfile with this text."""
        path = self.folder / f"hostfile-{next(_numbers)}"
        path.write_text(text)
        return path

    def left_over(self, patience: float = 60) -> dict[str, list[str]]:
        """What a test left running on each host, after ``patience`` seconds to end."""
        deadline = time.monotonic() + patience
        while True:
            found = {
                h.name: [f"{pid} {command}" for pid, command in h.processes().items() if pid not in self._own[h.name]]
                for h in self.both
            }
            if not any(found.values()) or time.monotonic() > deadline:
                return {name: processes for name, processes in found.items() if processes}
            time.sleep(0.2)

    def tidy(self) -> None:
        """End what a failed test left running, so that the next one starts on quiet hosts."""
        for host in self.both:
            for pid in host.processes().keys() - self._own[host.name]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    # What a test breaks

    def link(self, host: Host, up: bool) -> None:
        """Plug the network cable in, or pull it."""
        host.must("ip", "link", "set", "eth0", "up" if up else "down")

    def set_names(self, host: Host, own_address: str | None = None) -> None:
        """Write the host's /etc/hosts; ``own_address`` is what it believes its own name to be."""
        lines = ["127.0.0.1 localhost"]
        lines += [f"{own_address if h is host and own_address else h.address} {h.name}" for h in self.both]
        host.hosts_file.write_text("\n".join(lines) + "\n")

    def start_sshd(self, host: Host, **variables: str) -> None:
        """Start the host's sshd; ``variables`` are set in every session."""
        config = host.folder / "sshd_config"
        values = " ".join(f'{name}="{value}"' for name, value in variables.items())
        text = _SERVER.format(port=SSH_PORT, key=self.folder / "host", authorized=self.folder / "user.pub", host=host)
        config.write_text(text + (f"SetEnv {values}\n" if values else ""))
        host.must("/usr/sbin/sshd", "-f", str(config), "-E", str(host.folder / "sshd.log"))
        written = host.folder / "sshd.pid"
        wait_for(lambda: written.is_file() and written.read_text().endswith("\n"), f"sshd of {host.name}")
        if hasattr(self, "_own"):
            self._own[host.name].add(self.sshd(host))

    def sshd(self, host: Host) -> int:
        """Its process id."""
        return int((host.folder / "sshd.pid").read_text())

    def stop_sshd(self, host: Host) -> None:
        """End the host's sshd; sessions go on."""
        pid = self.sshd(host)
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: pid not in host.processes(), f"the end of sshd on {host.name}")
        (host.folder / "sshd.pid").unlink(missing_ok=True)

    @contextmanager
    def sshd_with(self, host: Host, **variables: str) -> Iterator[None]:
        """While this lasts, every ssh session of the host has these variables."""
        self.stop_sshd(host)
        self.start_sshd(host, **variables)
        try:
            yield
        finally:
            self.stop_sshd(host)
            self.start_sshd(host)

    @contextmanager
    def mounted(self, host: Host, over: Path, source: Path | None = None) -> Iterator[None]:
        """On this host alone, ``source`` (a file, a folder, or an empty file system) lies over the path ``over``."""
        what = ["--bind", str(source)] if source else ["-t", "tmpfs", "tmpfs"]
        host.must("mount", *what, str(over))
        try:
            yield
        finally:
            host.must("umount", "--lazy", str(over))


def _must(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"


_SERVER = """\
Port {port}
ListenAddress 0.0.0.0
HostKey {key}
PidFile {host.folder}/sshd.pid
AuthorizedKeysFile {authorized}
StrictModes no
UsePAM no
PasswordAuthentication no
MaxStartups 100
"""

_CLIENT = """\
Host *
  User root
  Port {port}
  IdentityFile {key}
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""
