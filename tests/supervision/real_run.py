"""Real training on two ranks under a stock launcher, watched by process id."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import psutil

from igascale.checkpoints import content, find, manifest
from igascale.launchers.base import free_port

from launching import environment

HERE = Path(__file__).parent
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc_per_node", "{n}", "--master_port", "{port}", "--module"],
    "deepspeed": [
        *("deepspeed.launcher.runner", "--num_accelerators", "{n}", "--master_port", "{port}"),
        *("--no_local_rank", "--log_level", "error", "--module"),
    ],
}
FOREVER = ("engine.name=deepspeed", "train.max_steps=100000", "checkpoint.every=2", "eval.every=null")


class RealRun:
    """``igascale train`` on ``n`` ranks in ``folder``; use it as a context, which leaves no process behind.

    Attributes:
        patience: seconds for what must come. Where one test has waited in vain, the others wait less: what is broken breaks many.
    """

    patience: ClassVar[float] = 600.0

    def __init__(self, launcher: str, config: Path, out: Path, *overrides: str, n: int = 2):
        self.folder, self.n = out, n
        command = [part.format(n=n, port=free_port()) for part in LAUNCHERS[launcher]]
        arguments = ["igascale", "train", str(config), f"output_dir={out}", *FOREVER, *overrides]
        out.parent.mkdir(parents=True, exist_ok=True)
        self.output = out.parent / f"{out.name}.txt"
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, *arguments],
                env=environment(),
                cwd=HERE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pids: dict[int, int] = {}
        self._all: set[psutil.Process] = set()

    def __enter__(self) -> RealRun:
        return self

    def __exit__(self, *error: object) -> None:
        for process in [*self._all, psutil.Process(self.process.pid)] if self.process.poll() is None else self._all:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(60)

    def find_ranks(self) -> None:
        """Learn which process is which rank."""

        def found() -> bool:
            with suppress(psutil.NoSuchProcess):  # the launcher has ended, which is seen next
                self.look()
            return len(self.pids) == self.n

        self._until(found)

    def _until(self, holds: Callable[[], bool], after_its_end: bool = False) -> None:
        """Wait for something to be so, which it is while the launcher lives, or also afterwards."""
        deadline = time.monotonic() + RealRun.patience
        while True:
            ended = self.process.poll() is not None
            if holds():
                return
            assert after_its_end or not ended, self.text()
            if time.monotonic() > deadline:
                RealRun.patience = 60.0
                raise AssertionError((self.pids, self.text()))
            time.sleep(0.05)

    def look(self) -> None:
        for process in psutil.Process(self.process.pid).children(recursive=True):
            self._all.add(process)
            try:
                if "igascale" in process.cmdline() and "RANK" in process.environ():
                    arguments = process.cmdline()
                    if arguments[arguments.index("igascale") - 1] == "-m":
                        self.pids[int(process.environ()["RANK"])] = process.pid
            except psutil.Error:
                continue

    def until_step(self, step: int) -> None:
        """Wait until so many steps are recorded."""
        self.find_ranks()
        self._until(lambda: self.steps() >= step)
        self.look()

    def steps(self) -> int:
        """How many are recorded."""
        metrics = self.folder / "metrics.jsonl"
        return metrics.read_text().count('"kind": "train"') if metrics.is_file() else 0

    def signal(self, rank: int, signum: int) -> None:
        os.kill(self.pids[rank], signum)

    def until_said(self, words: str) -> None:
        """Wait until the output holds these words."""
        self._until(lambda: words in self.text())

    def gone(self) -> None:
        """Wait until no rank is left."""
        self._until(lambda: not any(self.alive(rank) for rank in range(self.n)), after_its_end=True)

    def alive(self, rank: int) -> bool:
        try:
            process = psutil.Process(self.pids[rank])
            return process in self._all and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED)
        except psutil.NoSuchProcess:
            return False

    def end(self, seconds: float = 300) -> int:
        """The launcher's own status, when it has ended."""
        return self.process.wait(seconds)

    def text(self) -> str:
        return self.output.read_text()

    def said(self) -> list[str]:
        """The lines that igascale wrote as errors."""
        return [line for line in self.text().splitlines() if line.lstrip("\x1b[31m").startswith("error")]

    def check_checkpoint(self) -> int:
        """The latest checkpoint is whole; returns its step."""
        found = find.find(self.folder, "auto")
        assert found.folder is not None
        assert not found.damaged
        manifest.verify(found.folder)
        return content.load(found.folder).step


__all__ = ["RealRun", "signal"]
