"""What all runs of a campaign share: data, configuration, the undisturbed run, its timeline, and the two hosts."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_plan import CHECKPOINT_EVERY, STEPS

TESTS = Path(__file__).resolve().parents[1]
REPOSITORY = TESTS.parent
HEARTBEAT_TIMEOUT = 15.0  # of the runs, seconds; the default is longer, and every cut would take as long
START_TIMEOUT = (
    90.0  # seconds for all ranks to arrive; a start takes about a fifth of it on two cores that are not busy
)
FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)


@dataclass
class Timeline:
    """Seconds of an undisturbed run.

    Attributes:
        first: from the launch to the first record.
        end: from the last record to the end of the last process.
        total: from the launch to the end.
    """

    first: float
    end: float
    total: float

    @property
    def exit_limit(self) -> float:
        """Within so many seconds of a fault nothing of a run may be left: the timeout, and generously what starting Python takes."""
        return HEARTBEAT_TIMEOUT + max(60.0, 3 * self.total)


class Rig:
    """Made once; closes what it opened.

    Args:
        base: an empty folder; every run gets one below.
        two_hosts: also build the two hosts.
    """

    def __init__(self, base: Path, two_hosts: bool):
        self.base, self.hosts, self.one_at_a_time = base, None, threading.Lock()
        self._closing = ExitStack()
        self.config = _prepare(base / "shared")
        self.reference = base / "reference"  # its run folder; see campaign.undisturbed
        self.timelines: dict[bool, Timeline] = {}
        if two_hosts:
            from two_hosts import TwoHosts

            self.hosts = TwoHosts(base / "hosts")
            self._closing.callback(self.hosts.close)

    def command(self, run: Path, two_hosts: bool, asynchronous: bool, resume: bool) -> list[str]:
        """``igascale launch`` of one attempt."""
        argv = [sys.executable, "-m", "igascale", "launch", str(self.config), f"output_dir={run}"]
        argv += [f"checkpoint.asynchronous={str(asynchronous).lower()}"]
        argv += ["--resume", "auto"] if resume else []
        if two_hosts:
            hosts = ["--hostfile", str(self.hosts.hostfile()), "--ssh-config", str(self.hosts.ssh_config)]
            return [*argv, "--backend", "deepspeed", *hosts]
        return [*argv, "--backend", "local", "-n", "2"]

    def environment(self, two_hosts: bool, inject: Path, temporary: Path) -> dict[str, str]:
        """Variables of one attempt's terminal; PYTHONPATH carries the marker to every process."""
        from launching import environment

        base = self.hosts.environment() if two_hosts else environment()
        return base | {"PYTHONPATH": os.pathsep.join([str(inject), str(REPOSITORY)]), "TMPDIR": str(temporary)}

    def close(self) -> None:
        """Take the two hosts down."""
        self._closing.close()


def why_no_two_hosts() -> str:
    """Why the two hosts cannot be had here; empty where they can."""
    try:
        from two_hosts import missing
    except ImportError:
        return "tests/hosts is not there"
    return missing()


def why_no_clock() -> str:
    """Why clocks cannot be changed here; empty where they can."""
    return "" if FAKETIME else "clock jumps need the package libfaketime"


def why_no_small_disk() -> str:
    """Why no small disk can be had here; empty where it can."""
    return "" if os.geteuid() == 0 and shutil.which("mount") else "a full disk needs root (mount)"


def fake_clock(file: Path) -> dict[str, str]:
    """Variables under which a process reads its offset from ``file``; monotonic time stays, as when an administrator sets a clock."""
    return {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
    }


def _prepare(folder: Path) -> Path:
    """Model, data and configuration: dropout for the random states, ``tau: auto`` and a warm start for the hook's state."""
    from runs import prepare

    folder.mkdir(parents=True)
    changes: dict[str, Any] = {
        "hook": {"name": "iga", "warm_start": True, "tau": "auto"},
        "lora": {"r": 4, "alpha": 8.0, "dropout": 0.1},
        "engine": {"name": "deepspeed", "threads": 1},
        # 6 of 64 groups a step: the 12 steps begin a second pass over the data.
        "train": {"max_steps": STEPS, "groups_per_batch": 3, "gradient_accumulation_steps": 2},
        "eval": {"every": 4, "max_groups": 2},
        "checkpoint": {"every": CHECKPOINT_EVERY, "keep": 2},
        "supervision": {"heartbeat_timeout": HEARTBEAT_TIMEOUT, "start_timeout": START_TIMEOUT},
    }
    return prepare(folder, **changes)
