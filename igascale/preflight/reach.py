"""ssh: how long a shell takes; clocks: how far apart they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from igascale.preflight.finding import Finding, failed, passed, warned

SLOW_SHELL = 5.0
#: Seconds between clocks from which logs of several hosts cannot be compared, and from which credentials are refused.
VISIBLE_SKEW, HARMFUL_SKEW = 1.0, 60.0


@dataclass(frozen=True)
class Offset:
    """How far a host's clock is ahead of ours, in seconds, and by how much that may be wrong."""

    seconds: float
    error: float


def measure_offset(ask: Callable[[], float], times: int = 3) -> Offset:
    """Ask for the time; the answer belongs to the middle of the shortest round trip.

    Args:
        ask: returns the other clock's time.
        times: how often to ask.
    """
    best = Offset(0.0, float("inf"))
    for _ in range(times):
        wall, start = time.time(), time.monotonic()
        there = ask()
        half = (time.monotonic() - start) / 2
        if half < best.error:
            best = Offset(there - (wall + half), half)
    return best


def judge_shells(seconds: Mapping[str, float]) -> list[Finding]:
    """A shell came on these hosts after so many seconds."""
    told = ", ".join(f"{host} {value:.2f} s" for host, value in seconds.items())
    if max(seconds.values()) > SLOW_SHELL:
        slow = ", ".join(host for host, value in seconds.items() if value > SLOW_SHELL)
        return [warned("ssh", told, f"slow: look at the login scripts, and at UseDNS in sshd_config, on {slow}")]
    return [passed("ssh", told)]


def judge_clocks(offsets: Mapping[str, Offset]) -> list[Finding]:
    """The clocks of all hosts against the first one's."""
    hosts = list(offsets)
    first, findings = offsets[hosts[0]], []
    for host in hosts[1:]:
        skew = offsets[host].seconds - first.seconds
        sure = abs(skew) - offsets[host].error - first.error
        if sure > VISIBLE_SKEW:
            found = f"{host} is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} {hosts[0]}"
            remedy = f"set the clock of {host} by NTP (chronyc tracking, timedatectl); times in logs cannot be compared"
            report = failed if sure > HARMFUL_SKEW else warned
            findings.append(report("clock", found, remedy))
    if not findings:
        error = max(offset.error for offset in offsets.values())
        worst = max(abs(offset.seconds - first.seconds) for offset in offsets.values())
        findings.append(passed("clock", f"within {worst * 1e3:.1f} ms of each other (± {error * 1e3:.1f} ms)"))
    return findings
