"""A launch in the background: its ranks' processes, what they write, and that none of them outlives it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import psutil

from launching import environment


class Started:
    """``igascale launch`` under way, with the processes that ever ran below it."""

    all: ClassVar[list[Started]] = []
    #: Seconds for what must come. Where one test has waited in vain, the others wait less: what is broken breaks many.
    patience: ClassVar[float] = 600.0

    def __init__(self, base: Path, run: Path, *arguments: str, env: dict[str, str] | None = None):
        self.run = run
        command = [sys.executable, "-m", "igascale", "launch", str(base), f"output_dir={run}", *arguments]
        self.process = subprocess.Popen(
            command, env={**environment(), **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.below: dict[int, psutil.Process] = {}
        Started.all.append(self)

    @classmethod
    def kill_all(cls) -> None:
        """End what still runs of all launches."""
        for started in cls.all:
            started.look()
            started.process.kill()
            for process in started.below.values():
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        cls.all.clear()

    def wait_for_steps(self, count: int) -> None:
        """Until the run has logged so many steps."""
        self._wait_for(lambda: len(steps(self.run)) >= count, f"no step {count}")

    def wait_for_log(self, rank: int, text: str) -> None:
        """Until a rank's log says so."""
        log = self.run / "logs" / f"rank-{rank:04d}.log"
        self._wait_for(lambda: log.is_file() and text in log.read_text(), f"rank {rank} did not say '{text}'")

    def _wait_for(self, holds: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + Started.patience
        while True:
            ended = self.process.poll() is not None  # looked at first: its last words are there then
            if holds():
                return
            assert not ended, (otherwise, self.process.communicate())
            if time.monotonic() > deadline:
                Started.patience = 60.0
                self.process.kill()
                raise AssertionError((otherwise, self.process.communicate()))
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

    def finish(self) -> tuple[int, str, str]:
        """Status, stdout and stderr, when it has ended."""
        try:
            out, err = self.process.communicate(timeout=Started.patience)
        except subprocess.TimeoutExpired:
            Started.patience = 60.0
            self.process.kill()
            raise
        return self.process.returncode, out, err

    def left(self, timeout: float = 120) -> list[psutil.Process]:
        """What still runs of all that was ever seen, after at most ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            alive = [p for p in self.below.values() if runs_on(p)]
            if not alive:
                return []
            time.sleep(0.1)
        return alive


def runs_on(process: psutil.Process) -> bool:
    """Whether it has not ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def steps(run: Path) -> list[int]:
    """The steps in a run's metrics; a line that is being written does not count yet."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [r["step"] for line in lines if line.endswith("\n") and (r := json.loads(line))["kind"] == "train"]


def launches(run: Path) -> list[dict]:
    """What the launcher recorded."""
    return [json.loads(line) for line in (run / "launches.jsonl").read_text().splitlines()]


def adapter(run: Path) -> bytes:
    """The result."""
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()
