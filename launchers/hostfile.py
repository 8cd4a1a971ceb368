"""Hostfiles, ``name slots=N`` a line, and DeepSpeed's filters of them, ``hostA@hostB:0,2``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from igascale.errors import UserError, did_you_mean
from igascale.launchers.base import Host

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_EXAMPLE = "write 'name slots=N', such as 'node1 slots=8'"


def read(path: str | Path) -> tuple[Host, ...]:
    """Read and check a hostfile.

    Raises:
        UserError: no such file, or a bad line, named with its number.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(f"--hostfile {path}: {reason}; it holds a line for each node, 'name slots=N'") from None
    return parse(text, str(path))


def parse(text: str, source: str) -> tuple[Host, ...]:
    """The hosts of a hostfile, in its order.

    Args:
        text: its content. ``#`` begins a comment, empty lines are skipped.
        source: its name, for messages.

    Raises:
        UserError: names file and line, and what to write.

    Example:
        >>> parse("# cluster\\n\\nnode1 slots=2  # two GPUs\\nnode2 slots=1\\n", "hosts")
        (Host(name='node1', slots=(0, 1)), Host(name='node2', slots=(0,)))
    """
    seen: dict[str, int] = {}
    hosts = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        where = f"{source}:{number}"
        host = _host(words, where)
        if host.name in seen:
            raise UserError(
                f"{where}: host '{host.name}' is already on line {seen[host.name]}; a line for each node, with all its slots"
            )
        seen[host.name] = number
        hosts.append(host)
    if not hosts:
        raise UserError(f"{source}: names no host; {_EXAMPLE}")
    return tuple(hosts)


def _host(words: list[str], where: str) -> Host:
    name, rest = words[0], words[1:]
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{where}: '{name}' is not a host name; {_EXAMPLE} (one node a line; user names and ports go into the ssh config)"
        )
    if not rest:
        raise UserError(f"{where}: '{name}' without slots=N; {_EXAMPLE}")
    key, separator, count = rest[0].partition("=")
    if key != "slots" or not separator:
        raise UserError(f"{where}: '{rest[0]}' after the name; {_EXAMPLE} (no spaces around '=')")
    if not re.fullmatch(r"[0-9]{1,4}", count) or int(count) == 0:
        raise UserError(
            f"{where}: slots={count}: must be a whole number from 1 to 9999, the ranks to start on '{name}'"
        )
    if len(rest) > 1:
        raise UserError(f"{where}: '{rest[1]}' after slots={count}: nothing else is known here; {_EXAMPLE}")
    return Host(name, tuple(range(int(count))))


def select(hosts: Sequence[Host], include: str = "", exclude: str = "") -> tuple[Host, ...]:
    """Apply ``--include`` or ``--exclude``.

    Args:
        hosts: what the hostfile names.
        include: use these hosts, or these slots of a host, only.
        exclude: do not use these.

    Returns:
        What is left, in the hostfile's order.

    Raises:
        UserError: both, a bad filter, an unknown host or slot, or nothing is left.

    Example:
        >>> hosts = parse("a slots=4\\nb slots=4", "hosts")
        >>> select(hosts, include="b:0,2@a")
        (Host(name='a', slots=(0, 1, 2, 3)), Host(name='b', slots=(0, 2)))
        >>> select(hosts, exclude="a@b:3")
        (Host(name='b', slots=(0, 1, 2)),)
    """
    if include and exclude:
        raise UserError("--include and --exclude are two ways to say one thing: give one of them")
    if not include and not exclude:
        return tuple(hosts)
    option = "--include" if include else "--exclude"
    named = _parse_filter(include or exclude, option, {host.name: host for host in hosts})
    left = []
    for host in hosts:
        chosen = named.get(host.name, frozenset())
        slots = tuple(slot for slot in host.slots if (slot in chosen) == bool(include))
        if slots:
            left.append(Host(host.name, slots))
    if not left:
        raise UserError(f"{option} {include or exclude}: leaves no slot of any host")
    return tuple(left)


def _parse_filter(text: str, option: str, hosts: dict[str, Host]) -> dict[str, frozenset[int]]:
    """Host name -> the slots that the filter names."""
    named: dict[str, frozenset[int]] = {}
    whole = set()
    for part in text.split("@"):
        name, colon, slots = part.partition(":")
        if name not in hosts:
            raise UserError(
                f"{option} {text}: host '{name}' is not in the hostfile{did_you_mean(name, hosts)} "
                "(hosts are separated by '@', their slots by ',': hostA@hostB:0,2)"
            )
        if name in whole or (name in named and not colon):
            raise UserError(f"{option} {text}: host '{name}' is named as a whole and again; name it once")
        if not colon:
            whole.add(name)
            named[name] = frozenset(hosts[name].slots)
            continue
        chosen = set()
        for slot in slots.split(","):
            if not re.fullmatch(r"[0-9]{1,4}", slot) or int(slot) not in hosts[name].slots:
                last = hosts[name].slots[-1]
                raise UserError(f"{option} {text}: host '{name}' has no slot '{slot}'; its slots are 0 to {last}")
            chosen.add(int(slot))
        named[name] = named.get(name, frozenset()) | chosen
    return named
