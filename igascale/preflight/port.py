"""The master port: free on the first host, and reachable from the others."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from igascale.preflight.finding import Finding, failed, listed, passed

_held: list[socket.socket] = []


def hold(port: int) -> dict[str, Any]:
    """Listen on the port, as rank 0 would, and greet whoever comes; or say who has it."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("", port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        return {"problem": error.strerror or str(error), "user": _who_listens(port)}
    _held.append(listener)
    threading.Thread(target=_greet, args=(listener,), daemon=True).start()
    return {"problem": None, "user": None}


def _greet(listener: socket.socket) -> None:
    with suppress(OSError):  # it was closed
        while True:
            visitor, _ = listener.accept()
            with visitor:
                visitor.sendall(b"igascale")


def _who_listens(port: int) -> str | None:
    import psutil

    with suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,)
            if listens and connection.pid:
                return f"{psutil.Process(connection.pid).name()}, pid {connection.pid}"
    return None


def reach(address: str, port: int, timeout: float = 5) -> str | None:
    """Why the held port cannot be reached from here; ``None`` where it can."""
    try:
        with socket.create_connection((address, port), timeout) as connection:
            greeting = connection.recv(8)
    except OSError as error:
        return error.strerror or str(error)
    return None if greeting == b"igascale" else "something else answers there"


def release() -> None:
    """Stop listening."""
    while _held:
        listener = _held.pop()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept, which else keeps the port
        listener.close()


def judge_free(host: str, port: int, held: Mapping[str, Any]) -> list[Finding]:
    """Whether the first host can listen there; nothing where it can, which :func:`judge_reach` says."""
    if held["problem"] is None:
        return []
    user = f" by {held['user']}" if held["user"] else ""
    remedy = "choose another --master-port, or end that process if it is left over from a run"
    return [failed("master port", f"{port} cannot be used on {host}: {held['problem']}{user}", remedy)]


def judge_reach(address: str, port: int, problems: Mapping[str, str | None]) -> list[Finding]:
    """Whether all others get through.

    Args:
        address: of the first host.
        port: that it listened on.
        problems: of :func:`reach` by host.
    """
    bad = {host: problem for host, problem in problems.items() if problem}
    if not bad:
        tried = f", reached from {listed(problems)}" if problems else ""
        return [passed("master port", f"{port} is free on {address}{tried}")]
    remedy = f"is {address} the address that they reach it by (--master-addr)? does a firewall block port {port}?"
    return [
        failed("master port", f"{host} cannot reach {address}:{port}: {problem}", remedy)
        for host, problem in bad.items()
    ]
