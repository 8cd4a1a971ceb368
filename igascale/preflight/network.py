"""Which interface leads to the other hosts, and whether gloo and NCCL will take that one."""

from __future__ import annotations

import os
import socket
from typing import Any

from igascale.launchers.network import interface_of, source_address
from igascale.preflight.finding import Facts, Finding, failed, listed, passed, warned

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
#: NCCL leaves these out by itself.
_NCCL_AVOIDS = ("lo", "docker")


def collect(towards: str) -> dict[str, Any]:
    """Interfaces and names as this host sees them.

    Args:
        towards: address of another host: the first one's, and for the first one that of the second.
    """
    import psutil

    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    addresses = {
        name: [entry.address for entry in entries if entry.family == socket.AF_INET]
        for name, entries in psutil.net_if_addrs().items()
    }
    source: str | None = None
    problem = None
    try:
        source = source_address(towards)
    except OSError as error:
        problem = error.strerror or str(error)
    interface = interface_of(source) if source else None
    if interface:
        up.add(
            interface
        )  # it is on the route, whatever its flags say: the kernel sets "running" up to seconds after "up"
    name = socket.gethostname()
    try:
        own = socket.gethostbyname(name)
    except OSError:
        own = None
    return {
        "towards": towards,
        "interfaces": {name: found for name, found in addresses.items() if found and name in up},
        "source": source,
        "problem": problem,
        "interface": interface,
        "name": name,
        "own_address": own,
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def judge(facts: Facts) -> list[Finding]:
    """The route, the traps on it, and what the user has set."""
    findings, routes = [], []
    for host, told in facts.items():
        if told["problem"] or (told["source"] or "").startswith("127."):
            found = told["problem"] or f"its own address there is {told['source']}"
            findings.append(failed("network", f"{host} has no route to {told['towards']}: {found}",
                                   f"look at `ip route` on {host}; --master-addr names another address"))  # fmt: skip
            continue
        routes.append(f"{host} {told['interface']} {told['source']}")
        findings += _judge_variables(host, told) + _judge_name(host, told) + _judge_crowd(host, told)
    if routes and not any(finding.status == "fail" for finding in findings):
        findings.insert(0, passed("network", f"to the other hosts: {', '.join(routes)}"))
    return findings


def _judge_variables(host: str, told: dict[str, Any]) -> list[Finding]:
    """An interface that the user has chosen must be there, and better be the one with the route."""
    findings = []
    for variable, value in told["variables"].items():
        names = [name.strip() for name in value.lstrip("^=").split(",")]
        if value.startswith("^"):
            continue
        # NCCL takes prefixes, gloo does not.
        exact = variable.startswith("GLOO") or value.startswith("=")
        chosen = [
            n for n in told["interfaces"] if any(n == name or (not exact and n.startswith(name)) for name in names)
        ]
        have = listed(told["interfaces"], 6)
        remedy = f"unset it (igascale launch chooses {told['interface']}), or export {variable}={told['interface']}"
        if not chosen:
            findings.append(failed("interface", f"{variable}={value}, but {host} has {have}", remedy))
        elif told["interface"] not in chosen:
            found = f"{variable}={value} on {host}, but the way to {told['towards']} is {told['interface']}"
            findings.append(failed("interface", found, remedy))
    return findings


def _judge_name(host: str, told: dict[str, Any]) -> list[Finding]:
    """Gloo tells the other ranks the address that the host's own name resolves to."""
    own = told["own_address"]
    real = {
        address for addresses in told["interfaces"].values() for address in addresses if not address.startswith("127.")
    }
    if "GLOO_SOCKET_IFNAME" in told["variables"] or own in real:
        return []
    found = f"{told['name']} is {own or 'unknown'} on {host} itself, so that gloo would tell others to connect there"
    remedy = (
        f"igascale launch sets GLOO_SOCKET_IFNAME={told['interface']} by itself; for a plain deepspeed or torchrun export it, "
        f"or put '{told['source']} {told['name']}' into /etc/hosts of {host}"
    )
    return [warned("host name", found, remedy)]


def _judge_crowd(host: str, told: dict[str, Any]) -> list[Finding]:
    """Bridges of containers look like networks to NCCL."""
    if "NCCL_SOCKET_IFNAME" in told["variables"]:
        return []
    others = [n for n in told["interfaces"] if n != told["interface"] and not n.startswith(_NCCL_AVOIDS)]
    if not others:
        return []
    found = f"{host} also has {listed(others)}, which NCCL may choose"
    remedy = f"igascale launch sets NCCL_SOCKET_IFNAME={told['interface']} by itself; for a plain deepspeed or torchrun export it"
    return [warned("interface", found, remedy)]
