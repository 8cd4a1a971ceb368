"""Which address and network interface lead to another host."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import MutableMapping


def address_of(host: str, config_file: str | None = None) -> str:
    """The IPv4 address behind a name as ssh would resolve it, aliases of the ssh config included.

    Raises:
        OSError: the name does not resolve.
    """
    command = ["ssh", *(["-F", config_file] if config_file else []), "-G", "--", host]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        told = ""
    names = [line.split(None, 1)[1] for line in told.splitlines() if line.startswith("hostname ")]
    return socket.gethostbyname(names[0] if names else host)


def source_address(destination: str) -> str:
    """This host's own address on the route to ``destination`` (itself, where that is this host's). Nothing is sent.

    Raises:
        OSError: no route.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((destination, 9))
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """The interface that has ``address``."""
    import psutil

    for name, entries in psutil.net_if_addrs().items():
        if any(entry.family == socket.AF_INET and entry.address == address for entry in entries):
            return name
    return None


def choose_interface(environ: MutableMapping[str, str]) -> None:
    """Point gloo and NCCL to the interface on the route to ``MASTER_ADDR``; on a rank, before the process group.

    Gloo takes the address that the host's name resolves to. Where that is 127.0.0.1, as it often is in ``/etc/hosts``, ranks on other
    hosts wait for it until they give up. Every rank looks for itself: names of interfaces differ between hosts. What the
    user has set stays.
    """
    master = environ.get("MASTER_ADDR", "127.0.0.1")
    try:
        address = source_address(socket.gethostbyname(master))
    except OSError:
        return
    name = None if address.startswith("127.") else interface_of(address)
    if name and name != "lo":
        environ.setdefault("GLOO_SOCKET_IFNAME", name)
        environ.setdefault("NCCL_SOCKET_IFNAME", name)
