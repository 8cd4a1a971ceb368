"""The process that talks to Weights & Biases for a run: JSON lines in, words for the user out.

It ends when its input does, at the latest ``grace`` seconds after, whatever the network does: it does not outlive its run.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from contextlib import suppress
from typing import Any, TextIO

IDENTITY = "wandb.json"  # in the run folder: the id of the run's page
GAVE_UP = 3  # exit status: told the user that not everything was sent


def main() -> None:
    """``python -m igascale.wandb_sender GRACE``."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)  # the run decides when it is over
    grace, words = float(sys.argv[1]), os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what wandb itself prints is not for the user of the run
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_CONSOLE", "off")
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(lines, words, grace), daemon=True).start()
    try:
        _send(lines, words)
    except Exception as error:
        with suppress(OSError):
            print(f"{_told(error)}: nothing more is sent; metrics.jsonl has everything", file=words)
    os._exit(0)  # nothing that wandb registered for the end of its process may hold it up


def _read(lines: queue.Queue[str | None], words: TextIO, grace: float) -> None:
    """Take lines while wandb is busy; when there are no more, start the clock."""
    for line in sys.stdin:
        lines.put(line)
    lines.put(None)
    clock = threading.Timer(grace, _give_up, (words, grace))
    clock.daemon = True
    clock.start()


def _send(lines: queue.Queue[str | None], words: TextIO) -> None:
    import wandb

    first = lines.get()
    run = first and _start(json.loads(first), words)
    if not run:
        return
    while (line := lines.get()) is not None:
        record = json.loads(line)
        run.log(record["scalars"], step=record["step"])
    run.finish()
    wandb.teardown()


def _start(facts: dict[str, Any], words: TextIO) -> Any:
    """The W&B run, on the network or, where that fails, in files of the run folder."""
    import wandb

    try:
        run = wandb.init(resume="allow", **facts)
    except Exception as error:  # no network, no key (nobody is asked for one: there is no terminal), no such project
        print(f"{_told(error)}: keeping the records in {facts['dir']}/wandb, for `wandb sync`", file=words)
        return wandb.init(resume="allow", **facts, mode="offline")
    if getattr(run, "url", None):
        print(run.url, file=words)
    return run


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _give_up(words: TextIO, grace: float) -> None:
    with suppress(OSError):  # nobody listens any more: the run was killed
        print(
            f"not everything was sent within {grace:.0f} s; `wandb sync` on its folder in wandb/ sends the rest",
            file=words,
        )
    os._exit(GAVE_UP)


if __name__ == "__main__":
    main()
