"""What a check says, and how hosts that differ are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

#: What the hosts answered: host -> facts. The first host is the one that others are compared with.
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
        name: of the check.
        status: a ``fail`` would stop or spoil the run; a ``warn`` may.
        found: what was seen, with the hosts it was seen on.
        remedy: what to do; empty with ``pass``.
    """

    name: str
    status: Literal["pass", "warn", "fail"]
    found: str
    remedy: str = ""


def passed(name: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(name, "pass", found)


def warned(name: str, found: str, remedy: str) -> Finding:
    """May matter."""
    return Finding(name, "warn", found, remedy)


def failed(name: str, found: str, remedy: str) -> Finding:
    """Has to be mended."""
    return Finding(name, "fail", found, remedy)


def by_value(values: Mapping[str, Any]) -> dict[Any, list[str]]:
    """Hosts by what they have, the first host's value first.

    Example:
        >>> by_value({"a": "2.1", "b": "2.0", "c": "2.1"})
        {'2.1': ['a', 'c'], '2.0': ['b']}
    """
    groups: dict[Any, list[str]] = {}
    for host, value in values.items():
        groups.setdefault(value, []).append(host)
    return groups


def differ(values: Mapping[str, Any]) -> str:
    """Who has what, in words.

    Example:
        >>> differ({"a": "2.1", "b": "2.0", "c": "2.1"})
        '2.1 on a, c; 2.0 on b'
    """
    return "; ".join(f"{value} on {', '.join(hosts)}" for value, hosts in by_value(values).items())


def listed(items: Iterable[str], most: int = 3) -> str:
    """The first few, and how many more.

    Example:
        >>> listed(["a", "b", "c", "d", "e"])
        'a, b, c and 2 more'
    """
    items = list(items)
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + more
