"""What goes wrong: how it is prepared before the start, done at its moment, and undone before the resume."""

from __future__ import annotations

import errno
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import chaos_processes as processes
from chaos_plan import Fault
from chaos_rig import fake_clock

if TYPE_CHECKING:
    from chaos_run import Run


def plan(run: Run, fault: Fault) -> dict[str, Any]:
    """What the ranks' ``sitecustomize`` is told."""
    if fault.do == "clock":
        run.clock.write_text("+0")
        rank = {} if fault.victim == "all" else {"clock_rank": int(fault.victim.removeprefix("rank-"))}
        return {"clock": fake_clock(run.clock), "clock_for_all": not rank, **rank}
    if fault.moment.at == "operation":
        moment = fault.moment
        return {"stage": {"operation": moment.operation, "delay": moment.delay, "victim": fault.victim}}
    return {}


def apply(run: Run, fault: Fault) -> str:
    """Do it; what was done."""
    if fault.moment.at == "operation":
        return ""  # the rank did it
    if fault.do == "link":
        run.rig.hosts.link(run.rig.hosts.b, up=False)
        return "link down"
    if fault.do == "disk":
        return f"disk full: {_fill(run.disk / 'filler')} bytes"
    if fault.do == "clock":
        run.clock.write_text(f"{fault.hours:+d}h")
        return f"clock {fault.hours:+d} h"
    pid, who = _victim(run, fault.victim)
    while (
        fault.do == "stop" and pid == run.process.pid and run.process.poll() is None
    ):  # nobody could end a launcher that stands still alone
        time.sleep(0.05)
        pid, who = _victim(run, fault.victim)
    processes.kill(pid, signal.SIGSTOP if fault.do == "stop" else signal.SIGKILL)
    return f"{fault.do} {who}"


def undo(run: Run, fault: Fault) -> None:
    """Make room on the disk, plug the cable in."""
    if fault.do == "disk":
        (run.disk / "filler").unlink(missing_ok=True)
    if fault.do == "link":
        run.rig.hosts.link(run.rig.hosts.b, up=True)


def _victim(run: Run, victim: str) -> tuple[int, str]:
    """Process of a rank; before there is one, any process of the run but the launcher; at last the launcher."""
    if victim == "launcher":
        return run.process.pid, victim
    path = run.inject / f"{victim}.pid"
    if victim != "inner" and path.exists():
        return int(path.read_text()), victim
    ranks = {int(p.read_text()) for p in run.inject.glob("rank-*.pid")}
    others = {p: c for p, c in processes.of_run(run.marker).items() if p not in ranks | {run.process.pid}}
    if not others:
        return run.process.pid, "launcher (there was nothing else yet)"
    pid = random.Random(run.scenario.number).choice(sorted(others))
    return pid, others[pid][:120]


def _fill(path: Path) -> int:
    """Write until the disk is full, to the last byte."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 64, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        return file.tell()
