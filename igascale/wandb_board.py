"""Weights & Biases, from a process of its own, so that nothing it or the network does can stop or delay a step.

The training process only puts lines into a queue; a thread passes them to ``python -m igascale.wandb_sender``, which alone imports
``wandb``. The run's id lies in ``wandb.json`` of the run folder, so that a resumed run goes on in the same page. Steps that a resumed
run takes again are the same, and W&B, which has them, leaves them out; where they will not be (``--allow-change``), the id is forgotten when
the run goes on, and the page is a new one.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from igascale.config import RunConfig
from igascale.files import write_atomically
from igascale.wandb_sender import GAVE_UP, IDENTITY

GRACE = 15.0  # seconds that the end of a run waits for what is still to be sent
_STUCK = 2.0  # seconds more for a sender that does not keep to them
_ROOM = 20_000  # lines kept for a sender that is slower than the run


class WandbBoard:
    """Sends scalars to Weights & Biases.

    Args:
        folder: the run folder.
        config: the run; its page shows it.
        grace: seconds that :meth:`close` waits.
    """

    def __init__(self, folder: Path, config: RunConfig, grace: float = GRACE):
        self.folder, self.grace, self.dropped = folder, grace, 0
        start = {
            "id": self._identity(),
            "project": config.logging.wandb_project or os.environ.get("WANDB_PROJECT") or "igascale",
            "name": config.logging.wandb_name or folder.name,
            "dir": str(folder),
            "config": config.model_dump(mode="json"),
        }
        self._lines: queue.Queue[str | None] = queue.Queue(_ROOM)
        # A session of its own: Ctrl-C at the terminal is for the run, whose end the sender learns from its closed pipe.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "igascale.wandb_sender", str(grace)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._send, daemon=True).start()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._put(start)

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Queue the scalars of a step; never waits."""
        self._put({"step": step, "scalars": dict(scalars)})

    def close(self) -> None:
        """Wait ``grace`` seconds for the sender to finish; what is then not sent stays in the run folder."""
        deadline = time.monotonic() + self.grace + _STUCK  # the sender keeps the clock itself
        with suppress(queue.Full):
            self._lines.put(None, timeout=self.grace)
        try:
            status = self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._listener.join(_STUCK)
        if self.dropped or status not in (0, GAVE_UP):
            _warn("not every record was sent; metrics.jsonl has them all")

    def _identity(self) -> str:
        path = self.folder / IDENTITY
        try:
            return str(json.loads(path.read_text())["id"])
        except (OSError, ValueError, KeyError, TypeError):
            identity = secrets.token_hex(4)
            with suppress(OSError):  # a full disk: the page of a resumed run will be another one
                write_atomically(path, json.dumps({"id": identity}) + "\n")
            return identity

    def _put(self, record: dict[str, Any]) -> None:
        try:
            self._lines.put_nowait(json.dumps(record) + "\n")
        except queue.Full:
            self.dropped += 1

    def _send(self) -> None:
        # On a rank SIGPIPE ends the process (igascale.cli); a sender that has died must not.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPIPE])
        pipe: IO[str] = self._process.stdin  # type: ignore[assignment]
        with suppress(OSError, ValueError):  # the sender is gone, and has said why
            while (line := self._lines.get()) is not None:
                pipe.write(line)
                pipe.flush()
        with suppress(OSError):
            pipe.close()

    def _listen(self) -> None:
        pipe: IO[str] = self._process.stdout  # type: ignore[assignment]
        with suppress(OSError, ValueError):
            for line in pipe:
                _warn(line.strip())


def _warn(message: str) -> None:
    print(f"W&B: {message}", file=sys.stderr, flush=True)
