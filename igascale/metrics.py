"""The figures of a run, written as they come: JSON lines, and boards on request."""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from igascale.boards import Board, open_boards
from igascale.config import RunConfig
from igascale.errors import UserError
from igascale.step import StepReport

METRICS = "metrics.jsonl"
ADAPTER_METRICS = "adapter_metrics.jsonl"
_MOST_RANKS = 64  # whose memory is listed at every step; of more, only the largest


class RunLog:
    """Writes ``metrics.jsonl`` (a line per logged step or validation) and ``adapter_metrics.jsonl`` (figures per adapter).

    Args:
        folder: the run folder; ``None`` on ranks that write nothing.
        config: the run; its ``logging`` section decides how often and where to.
        resume_step: drop the records of later steps, which a resumed run will write again; ``None`` for a new run.
    """

    def __init__(self, folder: Path | None, config: RunConfig, resume_step: int | None):
        self.every = config.logging.every
        self._metrics = self._adapters = None
        self._boards: list[Board] = []
        if folder is None:
            return
        self._metrics = _JsonLines(folder / METRICS, resume_step)
        self._adapters = _JsonLines(folder / ADAPTER_METRICS, resume_step)
        self._boards = open_boards(folder, config, resume_step)

    def train(
        self, step: int, report: StepReport, domains: tuple[str, ...], memory: Sequence[int] = (), **figures: float
    ) -> None:
        """Record an optimizer step.

        Args:
            step: counted from 1.
            report: what it did.
            domains: names, in the report's order.
            memory: most bytes that each rank had held when the step's gradients were summed; this rank's is taken anew, after the step.
            figures: lr, tokens, seconds, ...
        """
        if self._metrics is None or self._adapters is None or not (step % self.every == 0 or report.skipped):
            return
        scalars = {
            "loss": sum(report.losses) / len(report.losses),
            "grad_norm_before": report.norm_before,
            "grad_norm_after": report.norm_after,
            "clip": report.clip,
            "gir": report.gir,
            **figures,
        }
        losses = dict(zip(domains, report.losses))
        cosines = {
            f"{first}/{second}": report.cosines[m][n]
            for (m, first), (n, second) in combinations(enumerate(domains), 2)
            if report.cosines
        }
        nested: dict[str, Any] = {"losses": losses, "hook": report.stats, "cosines": cosines, "skipped": report.skipped}
        if report.mask_histogram:
            nested |= {"mask_histogram": _shares(report.mask_histogram), "mask_counted": report.mask_counted}
        held: dict[str, Any] = {"peak_memory_bytes": max(peak_memory(), *memory, 0)}
        if 1 < len(memory) <= _MOST_RANKS:
            held["peak_memory_by_rank"] = list(memory)
        self._metrics.write({"kind": "train", "step": step, **scalars, **nested, **held})
        if report.adapter_cosines:
            record: dict[str, dict[str, Any]] = {
                fqn: {"cosines": c, **report.adapter_stats.get(fqn, {})} for fqn, c in report.adapter_cosines.items()
            }
            for fqn, shares in report.mask_histograms.items():
                record[fqn]["mask_histogram"] = _shares(shares)
            self._adapters.write({"step": step, "domains": list(domains), "adapters": record})
        self._scalars(step, scalars, loss=losses, hook=report.stats, cosine=cosines)

    def validation(self, step: int, losses: Mapping[str, Mapping[str, float]]) -> None:
        """Record validation losses, ``{"id": {domain: loss}, "ood": ...}``."""
        if self._metrics is not None and losses:
            self._metrics.write({"kind": "validation", "step": step, **losses})
            self._scalars(step, {}, **{f"validation_{name}": values for name, values in losses.items()})

    def _scalars(self, step: int, scalars: Mapping[str, float], **groups: Mapping[str, float]) -> None:
        flat = dict(scalars) | {f"{g}/{k}": v for g, values in groups.items() for k, v in values.items()}
        for board in self._boards:
            board.add(flat, step)

    def close(self) -> None:
        """Close the files."""
        for log in (self._metrics, self._adapters, *self._boards):
            if log is not None:
                log.close()


class _JsonLines:
    """One JSON object with a ``step`` per line, handed to the system at each line.

    A full disk does not end a run here (``checkpoint.on_error`` decides that): lines wait in memory until there is room.
    """

    _MOST_WAITING = 64 * 2**20  # bytes; what comes then is lost

    def __init__(self, path: Path, resume_step: int | None):
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as kept:
                kept.writelines(_lines_until(path, resume_step))
            temporary.replace(path)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise UserError(f"{path} cannot be written: {error.strerror}; what is in it is intact") from None
        self._path, self._waiting, self._lost = path, b"", 0

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a record; NaN and infinities become null, so that every JSON reader can read the file."""
        line = (json.dumps(_clean(record)) + "\n").encode()
        waited = bool(self._waiting)
        if len(self._waiting) + len(line) > self._MOST_WAITING:
            self._lost += 1
        else:
            self._waiting += line
        error = self._flush()
        if error and not waited:
            print(f"warning: {self._path}: {error.strerror}; its lines wait in memory", file=sys.stderr, flush=True)

    def _flush(self) -> OSError | None:
        lines, done = self._waiting, 0
        try:
            before = self._file.seek(0, os.SEEK_END)
            while done < len(lines):
                done += self._file.write(lines[done:])
        except OSError as error:
            whole = lines.rfind(b"\n", 0, done) + 1
            with contextlib.suppress(OSError):  # half a line would spoil the next one, or the file if this is the end
                self._file.truncate(before + whole)
                done = whole
            self._waiting = lines[done:]
            return error
        self._waiting = b""
        return None

    def close(self) -> None:
        """Close the file, and say if it is not complete."""
        self._flush()
        if self._waiting or self._lost:
            lines = self._waiting.count(b"\n") + self._lost
            print(f"warning: the last {lines} lines of {self._path} could not be written", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            self._file.close()


def _shares(shares: list[float]) -> list[float]:
    """Rounded to what a picture shows: of a hundred adapters they would be half of the file."""
    return [round(share, 5) for share in shares]


def last_step(folder: Path) -> int:
    """The latest step that a run has recorded, 0 where it has none."""
    step = 0
    with contextlib.suppress(OSError), (folder / METRICS).open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                step = max(step, int(json.loads(line)["step"]))
    return step


def _lines_until(path: Path, step: int | None) -> Iterator[bytes]:
    """The records up to a step, one at a time: those of all adapters of a long run are too many for memory."""
    if step is None or not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                if json.loads(line)["step"] <= step:
                    yield line.rstrip(b"\n") + b"\n"
            except (ValueError, KeyError, TypeError):
                continue  # a line that was cut off when the run was killed, or that is no text any more


def _clean(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: _clean(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_clean(v) for v in value]
    return value


def peak_memory() -> int:
    """Most bytes this process has held: on the GPU as PyTorch counts them, else resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
