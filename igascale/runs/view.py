"""How ``igascale runs tail`` shows a run: a panel on a terminal, lines elsewhere."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from igascale.runs.following import Logs, Metrics
from igascale.runs.listing import COLOURS, duration, figure
from igascale.runs.reading import METRICS, read_run

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 60
_MEAN = 20  # steps that a mean or an ETA goes over


class Watched:
    """A run that is looked at again and again.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path):
        self.folder, self.metrics, self.logs = folder, Metrics(folder / METRICS), Logs(folder / "logs")
        self.run = read_run(folder)
        self.domains: list[str] = []

    def poll(self) -> tuple[int | None, list[dict[str, Any]], list[tuple[str, str]]]:
        """Look again; what is new: the step that the run was taken back to, records, lines of logs."""
        self.run = read_run(self.folder)  # before the records: a run that has ended writes no more of them
        back_at, records = self.metrics.poll()
        return back_at, records, self.logs.poll()

    def eta(self) -> float | None:
        """Seconds to the end, at the pace of the last steps."""
        paces = [r["seconds"] for r in list(self.metrics.steps)[-_MEAN:] if isinstance(r.get("seconds"), float)]
        if self.run.state != "running" or not paces or self.run.step is None or self.run.total is None:
            return None
        return sum(paces) / len(paces) * (self.run.total - self.run.step)


def record_line(record: dict[str, Any], total: int | None, eta: float | None = None) -> str:
    """One record as one line."""
    where = f"step {record['step']}" + (f"/{total}" if total else "")
    if record.get("kind") == "validation":
        parts = []
        for split, label in (("id", "validation (ID)"), ("ood", "unseen domains (OOD)")):
            if losses := _numbers(record.get(split)):
                shown = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
                parts.append(f"{label} {sum(losses.values()) / len(losses):.4f} [{shown}]")
        return f"{where} {'; '.join(parts)}"
    if record.get("skipped"):
        return f"{where} skipped: {record['skipped']}"
    by_domain = " ".join(f"{name} {loss:.3f}" for name, loss in _numbers(record.get("losses")).items())
    hook = "".join(f" {name} {value:.3g}" for name, value in _masks(record).items())
    ending = "" if eta is None else f" ETA {duration(eta)}"
    return (
        f"{where} loss {_short(record.get('loss'))} [{by_domain}] |g| {_short(record.get('grad_norm_before'))}->"
        f"{_short(record.get('grad_norm_after'))}{hook} lr {_short(record.get('lr'))} {_pace(record)}{ending}"
    )


def panel(watched: Watched, log_lines: int) -> RenderableType:
    """The whole view."""
    run, steps = watched.run, watched.metrics.steps
    title = Text.assemble(
        (run.name, "bold"), f"  {run.method or run.hook or ''}  ", (run.state, COLOURS.get(run.state, ""))
    )
    if run.world_size:
        title.append(f"  {run.world_size} rank{'s' if run.world_size > 1 else ''}", "dim")
    parts: list[RenderableType] = [title, _progress(watched)]
    if steps:
        parts += [_losses(watched), _curves(steps), Text(_figures(steps[-1]), "dim")]
    if run.checkpoints:
        parts.append(Text(f"last checkpoint: step {run.checkpoints[-1]} ({len(run.checkpoints)} kept)", "dim"))
    skipped = [r for r in steps if r.get("skipped")]
    if skipped:
        last = f"{len(skipped)} of the last {len(steps)} steps skipped; step {skipped[-1]['step']}: {skipped[-1]['skipped']}"
        parts.append(Text(last, "yellow"))
    parts += [Text(f"{name}: {line}", "yellow") for name, line in list(watched.logs.notable)[-log_lines:]]
    if run.message:
        parts.append(Text(run.message, COLOURS.get(run.state, "")))
    return Group(*parts)


def sparkline(values: Iterable[float], width: int = _WIDTH) -> str:
    """A curve in one line of text: means of equal parts, from the lowest to the highest.

    Example:
        >>> sparkline([1, 2, 3, 4, 5, 6, 7, 8]), sparkline([2, 2, 2]), sparkline([]), sparkline([3, 3, 1, 1], width=2)
        ('▁▂▃▄▅▆▇█', '▁▁▁', '', '█▁')
    """
    known = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
    if not known:
        return ""
    parts = min(width, len(known))
    edges = [round(k * len(known) / parts) for k in range(parts + 1)]
    means = [sum(known[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BARS[round((m - low) * scale)] for m in means)


def _progress(watched: Watched) -> RenderableType:
    run = watched.run
    row: list[RenderableType] = [Text("loading" if run.step is None else f"step {run.step}")]
    if run.step is not None and run.total:
        row = [
            ProgressBar(total=run.total, completed=run.step, width=32),
            Text(f"{run.step}/{run.total} {run.step / run.total:.0%}"),
        ]
    if watched.metrics.steps:
        row.append(Text(_pace(watched.metrics.steps[-1])))
    eta = watched.eta()
    if eta is not None:
        row.append(Text(f"ETA {duration(eta)}"))
    if run.ran_seconds is not None:
        row.append(Text(f"ran {duration(run.ran_seconds)}", "dim"))
    grid = Table.grid(padding=(0, 2))
    grid.add_row(*row)
    return grid


def _losses(watched: Watched) -> RenderableType:
    recent = list(watched.metrics.steps)[-_MEAN:]
    now = _numbers(recent[-1].get("losses"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("loss", "last step", f"mean of {len(recent)}", "validation"):
        table.add_column(name, justify="left" if name == "loss" else "right")
    validation = _numbers(watched.metrics.validation.get("id"))
    for domain, loss in now.items():
        past = [v for r in recent if (v := _numbers(r.get("losses")).get(domain)) is not None]
        table.add_row(domain, figure(loss), figure(sum(past) / len(past)), figure(validation.get(domain)))
    for domain, loss in _numbers(watched.metrics.validation.get("ood")).items():
        table.add_row(f"{domain} (unseen)", "", "", figure(loss))
    return table


def _curves(steps: deque[dict[str, Any]]) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for label, key in (("loss", "loss"), ("|g|", "grad_norm_before")):
        values: Sequence[float] = [v for r in steps if isinstance(v := r.get(key), int | float)]
        if values:
            grid.add_row(label, Text(sparkline(values), "cyan"), f"{min(values):.3g} to {max(values):.3g}")
    grid.add_row("", Text(f"steps {steps[0]['step']} to {steps[-1]['step']}", "dim"))
    return grid


def _figures(record: dict[str, Any]) -> str:
    """Gradient norms, what the hook tells, learning rate and memory of the last step."""
    told = [f"|g| {_short(record.get('grad_norm_before'))} -> {_short(record.get('grad_norm_after'))} after the rule"]
    told += [f"clip {_short(record.get('clip'))}", f"lr {_short(record.get('lr'))}"]
    told += [f"{name} {value:.3g}" for name, value in _numbers(record.get("hook")).items()]
    memory = record.get("peak_memory_bytes")
    if isinstance(memory, int):
        told.append(f"peak {memory / 2**30:.1f} GiB")
    return "  ".join(told)


def _masks(record: dict[str, Any]) -> dict[str, float]:
    hook = _numbers(record.get("hook"))
    return {label: hook[key] for key, label in (("mean_mask", "mask"), ("relative_change", "change")) if key in hook}


def _pace(record: dict[str, Any]) -> str:
    seconds, tokens = record.get("seconds"), record.get("tokens")
    if not isinstance(seconds, float) or not seconds:
        return ""
    pace = f"{seconds:.3g} s/step"
    return f"{pace} {tokens / seconds:.0f} tok/s" if isinstance(tokens, int) else pace


def _numbers(values: Any) -> dict[str, float]:
    if not isinstance(values, dict):
        return {}
    return {k: float(v) for k, v in values.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "?"
