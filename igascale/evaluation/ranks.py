"""Several processes of this machine answer one evaluation's questions; the parent waits and ends them. Plain Python.

They share nothing but the ``answers`` folder: each appends to a file of its own, the first one reads all and writes the result.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.evaluation.answering import Progress
from igascale.evaluation.request import Request
from igascale.evaluation.results import RESULT_FILE, EvaluationResult, read_result
from igascale.evaluation.store import ANSWERS
from igascale.evaluation.worker import PROGRESS

_POLL = 0.1
_GRACE = 5.0  # seconds between asking a process to end and ending it


def perform_on_ranks(request: Request, count: int, progress: Progress | None = None) -> EvaluationResult:
    """:func:`igascale.evaluation.perform.perform` by ``count`` processes, on GPUs one for each.

    Raises:
        UserError: a process failed or died; all others are ended. What was answered is kept.
    """
    if request.device not in (None, "cpu", "cuda"):
        raise UserError(
            f"--device {request.device} is one device; leave it out with --num-processes, or say cpu or cuda"
        )
    folder = Path(request.out) / ANSWERS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROGRESS).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(count):
            processes.append(_start(request, rank, count, folder))
        _watch(processes, folder, progress)
    finally:
        _end(processes)
    return read_result(Path(request.out) / RESULT_FILE)


def _start(request: Request, rank: int, count: int, folder: Path) -> subprocess.Popen[bytes]:
    environment = dict(os.environ)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    with _log(folder, rank).open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "igascale.evaluation.worker"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which ends them
        )
    assert process.stdin is not None
    told = json.dumps({"request": request.to_json(), "rank": rank, "world": count})
    with suppress(BrokenPipeError):  # it died at once: told by who waits
        process.stdin.write(told.encode() + b"\n")
        process.stdin.flush()
    return process


def _watch(processes: Sequence[subprocess.Popen[bytes]], folder: Path, progress: Progress | None) -> None:
    """Until all have ended well, or one has not."""
    shown = None
    while True:
        codes = [process.poll() for process in processes]
        for rank, (process, code) in enumerate(zip(processes, codes)):
            if code:
                raise UserError(_verdict(rank, process.pid, code, folder))
        if progress is not None and (record := _read(folder / PROGRESS)) not in (None, shown):
            shown = record
            progress(record["stage"], record["done"], record["total"])
        if all(code == 0 for code in codes):
            return
        time.sleep(_POLL)


def _verdict(rank: int, pid: int, code: int, folder: Path) -> str:
    """One line: the process's own last word, or how it ended."""
    with suppress(OSError):
        lines = _log(folder, rank).read_text(errors="replace").splitlines()
        said = [line for line in lines if line.startswith("error: ")]
        if said:
            return said[-1].removeprefix("error: ")
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with exit status {code}"
    return (
        f"process {rank} (pid {pid}) {how}, and the others were ended; {_log(folder, rank)} has its output. What was answered is "
        "kept: the same command goes on"
    )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """No process is left behind."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    end = time.monotonic() + _GRACE
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            with suppress(OSError):
                process.stdin.close()


def _log(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank:04d}.log"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None
