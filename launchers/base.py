"""What every launcher shares: what is to be started, and the commands that start it.

A backend is one file with a pure ``build_command(spec) -> list[Command]``, so that it is tested as data. Who runs the commands,
watches and ends them is :mod:`igascale.launching`.
"""

from __future__ import annotations

import errno
import random
import shlex
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

#: What each rank runs in front of ``spec.module``; naming the interpreter makes sure that it is the one igascale is in.
PYTHON = (sys.executable, "-u")
#: Where Linux says which ports outgoing connections get; and, where it does not, those that it or macOS gives them.
_OUTGOING, _OUTGOING_DEFAULT = Path("/proc/sys/net/ipv4/ip_local_port_range"), "32768 65535"


@dataclass(frozen=True)
class Host:
    """One node.

    Attributes:
        name: as ssh knows it.
        slots: ids of the devices to use; a rank each.
    """

    name: str
    slots: tuple[int, ...]


@dataclass(frozen=True)
class LaunchSpec:
    """What is to be started, with every default filled in.

    Attributes:
        hosts: the nodes, in the order of their ranks.
        module: Python module that each rank runs.
        arguments: its arguments.
        master_port: where ranks meet; see :func:`free_port`.
        master_addr: the first node, as the others reach it.
        environment: variables that every rank gets from igascale.
        forwarded: the caller's variables that ranks on other nodes get as well; see :mod:`igascale.launchers.environment`.
        folder: the working folder, the same on every node.
        hostfile: the file that ``hosts`` was read from.
        filtered: ``hosts`` is not all that the file names.
        devices: on this node alone, ids of its devices as ``CUDA_VISIBLE_DEVICES`` names them; ``None``: 0 to N - 1.
        env_file: for DeepSpeed's pdsh, a file of variables that it sets on every node.
        launcher: which of DeepSpeed's multi-node runners.
        node_rank: this node's place among ``hosts`` where the command is run on each of them by the user.
        rdzv: torchrun meets by c10d rendezvous instead of fixed node ranks.
        local_addr: this node's address, for the rendezvous.
        ssh_config: ``-F`` of ssh.
        ssh_port: ``-p`` of ssh.
        interface: network interface of Open MPI's own messages.
    """

    hosts: tuple[Host, ...]
    module: str
    arguments: tuple[str, ...]
    master_port: int
    master_addr: str = "127.0.0.1"
    environment: Mapping[str, str] = field(default_factory=dict)
    forwarded: Mapping[str, str] = field(default_factory=dict)
    folder: str = "."
    hostfile: str | None = None
    filtered: bool = False
    devices: tuple[str, ...] | None = None
    env_file: str | None = None
    launcher: str = "pdsh"
    node_rank: int | None = None
    rdzv: bool = False
    local_addr: str | None = None
    ssh_config: str | None = None
    ssh_port: int | None = None
    interface: str | None = None

    @property
    def world_size(self) -> int:
        """Ranks over all nodes."""
        return sum(len(host.slots) for host in self.hosts)

    @property
    def remote(self) -> bool:
        """Whether this process reaches other nodes itself."""
        return self.hostfile is not None and self.node_rank is None


@dataclass(frozen=True)
class Command:
    """One process to start on this node.

    Attributes:
        argv: the command.
        environment: on top of the caller's.
        script: what goes to its standard input, if anything; may hold secrets.
        where: for messages: the node, or the rank.
        on_sigterm: whether SIGTERM ends it in an orderly way.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    script: str | None = None
    where: str = "this node"
    on_sigterm: bool = True


def equal_slots(hosts: Sequence[Host]) -> int | None:
    """The number of slots of every node, or ``None`` where they differ.

    Example:
        >>> equal_slots([Host("a", (0, 1)), Host("b", (2, 3))]), equal_slots([Host("a", (0,)), Host("b", (0, 1))])
        (2, None)
    """
    counts = {len(host.slots) for host in hosts}
    return counts.pop() if len(counts) == 1 else None


def local_hosts(ranks: int) -> tuple[Host, ...]:
    """This node alone."""
    return (Host("localhost", tuple(range(ranks))),)


def export_lines(variables: Mapping[str, str]) -> str:
    """Shell lines that set variables, whatever their values hold.

    Example:
        >>> print(export_lines({"A": "it's $HOME"}), end="")
        export A='it'"'"'s $HOME'
    """
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def free_port() -> int:
    """A TCP port that is free on this host now, and that the system gives to nobody by itself.

    Outgoing connections have ports of a range of their own. Ranks open many: one could get this port before the run listens there.
    """
    first, last = map(int, (_OUTGOING.read_text() if _OUTGOING.is_file() else _OUTGOING_DEFAULT).split())
    allowed = [*range(10_000, first), *range(last + 1, 65_536)]
    for port in (*random.SystemRandom().sample(allowed, min(len(allowed), 100)), 0):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("", port))
            return int(probe.getsockname()[1])
    raise OSError(errno.EADDRINUSE, "no port is free")
