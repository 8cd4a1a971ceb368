"""Ranks on other hosts that stay after a verdict: one that is stopped, or waits in the kernel, cannot leave by itself."""

from __future__ import annotations

from igascale.launchers import ssh
from igascale.launchers.base import LaunchSpec
from igascale.supervision.monitor import Monitor

#: Seconds for a host to answer; one that is cut off has ranks that leave by themselves when they find no launcher.
_ANSWER = 8.0


def end_stuck(spec: LaunchSpec, monitor: Monitor) -> list[str]:
    """Kill, by process id, the ranks whose connection is still open.

    ssh's end does not reach what it started, and a stock launcher waits for a rank that stands still. What a process id belongs to is
    looked up on its host first.

    Returns:
        A line for each rank that could not be reached.
    """
    names = [host.name for host in spec.hosts for _ in host.slots]
    stuck = [status for rank, status in monitor.ranks.items() if rank in monitor.connected and status.ended is None]
    by_host: dict[str, list[int]] = {}
    for status in stuck:
        by_host.setdefault(names[status.rank], []).append(status.pid)
    if not by_host:
        return []

    def end(host: str) -> bool:
        script = "".join(
            f"tr '\\0' ' ' </proc/{pid}/cmdline 2>/dev/null | grep -q 'igascale train' && kill -9 {pid}\n"
            for pid in by_host[host]
        )
        return ssh.run(host, f"{script}exit 0\n", spec.ssh_config, spec.ssh_port, timeout=_ANSWER).returncode == 0

    reached = dict(zip(by_host, ssh.on_all(list(by_host), end)))
    return [
        f"warning: rank {s.rank} ({s.host}, pid {s.pid}) could not be ended: its host does not answer; it leaves by itself when it "
        "finds no launcher"
        for s in stuck
        if not reached[names[s.rank]]
    ]
