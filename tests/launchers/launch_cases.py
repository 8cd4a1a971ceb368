"""A launch in the background: its ranks' processes, what they write, and that none of them outlives it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil

from launching import environment


class Started:
    """``igascale launch`` under way, with the processes that ever ran below it."""

    def __init__(self, base: Path, run: Path, *arguments: str, env: dict[str, str] | None = None):
        self.run = run
        command = [sys.executable, "-m", "igascale", "launch", str(base), f"output_dir={run}", *arguments]
        self.process = subprocess.Popen(
            command, env={**environment(), **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.below: dict[int, psutil.Process] = {}

    def wait_for_steps(self, count: int, timeout: float = 120) -> None:
        """Until the run has logged so many steps."""
        deadline = time.monotonic() + timeout
        while len(steps(self.run)) < count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, "no progress"
            self.look()
            time.sleep(0.05)

    def look(self) -> None:
        """Note which processes there are."""
        try:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.below.setdefault(child.pid, child)
        except psutil.NoSuchProcess:
            pass

    def ranks(self) -> dict[int, psutil.Process]:
        """Rank -> its process."""
        self.look()
        found = {}
        for process in self.below.values():
            try:
                if "igascale" in process.cmdline() and "train" in process.cmdline() and process.environ().get("RANK"):
                    found[int(process.environ()["RANK"])] = process
            except psutil.Error:
                continue
        return found

    def finish(self, timeout: float = 120) -> tuple[int, str, str]:
        """Status, stdout and stderr, when it has ended."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, out, err

    def left(self, timeout: float = 20) -> list[psutil.Process]:
        """What still runs of all that was ever seen, after at most ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            alive = [p for p in self.below.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
            if not alive:
                return []
            time.sleep(0.1)
        return alive


def steps(run: Path) -> list[int]:
    """The steps in a run's metrics."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [r["step"] for line in lines if line.endswith("}") and (r := json.loads(line))["kind"] == "train"]


def launches(run: Path) -> list[dict]:
    """What the launcher recorded."""
    return [json.loads(line) for line in (run / "launches.jsonl").read_text().splitlines()]


def adapter(run: Path) -> bytes:
    """The result."""
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()
