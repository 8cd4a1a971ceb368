"""Runs that the tests of this folder start on hosts: their configuration, what is waited for, what is compared."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import runs

#: Small but with everything that ranks exchange; checkpoints are frequent, so that something is there to go back to.
CHANGES = {
    "hook": {"name": "iga"},
    "engine": {"name": "deepspeed", "ds_config": "zero2"},
    "train": {"max_steps": 16, "groups_per_batch": 4, "gradient_accumulation_steps": 2},
    "checkpoint": {"every": 2},
    "eval": {"every": None, "max_groups": 4},
    "supervision": {"heartbeat_timeout": 20, "start_timeout": 300},
}


def prepare(folder: Path, **changes: Any) -> Path:
    """Model, data and ``run.yaml``; returns the folder, which is where commands are run."""
    runs.prepare(folder, **CHANGES | changes)
    return folder


def adapter(run: Path) -> str:
    """Fingerprint of a finished run's result, to the bit."""
    return hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def steps(run: Path) -> list[int]:
    """The steps in ``metrics.jsonl``."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [entry["step"] for entry in map(json.loads, lines) if entry["kind"] == "train"]


def saved(run: Path) -> int:
    """The step of the newest checkpoint; 0 without one."""
    return max((int(path.name.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*")), default=0)


def wait_for(condition: Callable[[], object], seconds: float, what: Callable[[], str] | str) -> None:
    """Return when the condition holds; fail with ``what`` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.05)
