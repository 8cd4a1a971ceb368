"""Open files, locked memory, /dev/shm: limits that bite late and with strange messages."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path
from typing import Any

from igascale.preflight.finding import Facts, Finding, by_value, passed, warned

OPEN_FILES = 1024
SHARED_MEMORY = 1 << 30


def collect() -> dict[str, Any]:
    """Soft limits (-1: none), whether there is InfiniBand, bytes of /dev/shm."""
    infiniband = Path("/sys/class/infiniband")
    shm = shutil.disk_usage("/dev/shm") if Path("/dev/shm").is_dir() else None
    return {
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "locked_memory": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        "infiniband": infiniband.is_dir() and any(infiniband.iterdir()),
        "shm_free": shm.free if shm else 0,
    }


def judge(facts: Facts, ranks: dict[str, int]) -> list[Finding]:
    """Warnings only.

    Args:
        facts: of :func:`collect`.
        ranks: how many each host runs; shared memory serves ranks of one host.
    """
    findings = []
    low = {h: f"{f['open_files']} open files" for h, f in facts.items() if 0 <= f["open_files"] < OPEN_FILES}
    locked = {
        h: f"{f['locked_memory'] // 1024} KiB of locked memory"
        for h, f in facts.items()
        if f["infiniband"] and f["locked_memory"] >= 0
    }
    small = {
        h: f"{f['shm_free'] / 1e9:.2f} GB free in /dev/shm"
        for h, f in facts.items()
        if ranks[h] > 1 and f["shm_free"] < SHARED_MEMORY
    }
    for found, remedy in (
        (low, "ulimit -n 65536, or nofile in /etc/security/limits.conf; each connection of a rank is an open file"),
        (locked, "ulimit -l unlimited, or memlock in /etc/security/limits.conf: InfiniBand needs pinned memory"),
        (
            small,
            "ranks of one host talk through it: docker run --shm-size=8g, or mount it larger; NCCL fails without room",
        ),
    ):
        for value, hosts in by_value(found).items():
            findings.append(warned("limits", f"{value} on {', '.join(hosts)}", remedy))
    if not findings:
        least = min(facts.values(), key=lambda f: f["shm_free"])["shm_free"]
        files = [f["open_files"] for f in facts.values() if f["open_files"] >= 0]
        findings.append(
            passed(
                "limits", f"{min(files) if files else 'unlimited'} open files, {least / 1e9:.1f} GB free in /dev/shm"
            )
        )
    return findings
