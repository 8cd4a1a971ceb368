"""``adapter_metrics.jsonl`` as a few frames over time: figures of every adapter, and where in the network each one sits."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from igascale.report.curves import number

MOST_FRAMES = 60
#: Records that are parsed for a frame; the steps between them are passed over.
MOST_RECORDS = 20
MEAN_COSINE = "mean_cosine"

_STEP = re.compile(rb'\s*\{\s*"step"\s*:\s*(\d+)')
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.(.+)$")
_GROUPS = re.compile(r"^(?:self_attn|self_attention|attention|attn|mlp)\.")


@dataclass
class AdapterFrames:
    """Figures of all adapters over time.

    Attributes:
        adapters: their names, in the order of the file.
        spans: first and last step of each frame.
        values: figure -> ``[frames][adapters]``, means over the frame's records; ``None`` where there is none.
        lists: figure that is a list (a histogram) -> its mean over adapters and records, of each frame.
        records: in the file.
        parsed: of them, those that went into the frames.
        damaged: lines that are not whole records.
        missing: there is no such file.
    """

    adapters: list[str] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    values: dict[str, list[list[float | None]]] = field(default_factory=dict)
    lists: dict[str, list[list[float] | None]] = field(default_factory=dict)
    records: int = 0
    parsed: int = 0
    damaged: int = 0
    missing: bool = False


@dataclass(frozen=True)
class Places:
    """Adapters on a grid: a row per layer, a column per projection; what is in no layer has a row of its own.

    Attributes:
        rows: names, from the first layer to the last, then the others.
        columns: names of the projections, in the order of the first layer.
        at: adapter -> row and column.
    """

    rows: list[str]
    columns: list[str]
    at: dict[str, tuple[int, int]]

    def grid(self, adapters: Sequence[str], values: Sequence[float | None]) -> list[list[float | None]]:
        """Values of adapters as ``[rows][columns]``."""
        cells: list[list[float | None]] = [[None] * len(self.columns) for _ in self.rows]
        for adapter, value in zip(adapters, values):
            row, column = self.at[adapter]
            cells[row][column] = value
        return cells


def place(adapters: Sequence[str]) -> Places:
    """Find layer and projection in names such as ``model.layers.3.self_attn.q_proj``.

    Example:
        >>> places = place(["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj", "lm_head"])
        >>> places.rows, places.columns
        (['0', '1', 'lm_head'], ['up_proj', 'other'])
    """
    parts = {name: match for name in adapters if (match := _LAYER.search(name))}
    stems = {name: name[: match.start(1)] for name, match in parts.items()}
    several = len(set(stems.values())) > 1  # an encoder and a decoder, say
    rows = sorted({(stems[name], int(match[1])) for name, match in parts.items()})
    row_names = {row: f"{row[0]}{row[1]}" if several else str(row[1]) for row in rows}
    rests = list(dict.fromkeys(match[2] for match in parts.values()))
    short = [_GROUPS.sub("", rest) for rest in rests]
    columns = dict(zip(rests, short if len(set(short)) == len(rests) else rests))
    others = [name for name in adapters if name not in parts]
    names = [*columns.values(), *(["other"] if others else [])]
    all_rows = [*row_names.values(), *others]
    at = {n: (rows.index((stems[n], int(m[1]))), names.index(columns[m[2]])) for n, m in parts.items()}
    at |= {name: (len(rows) + i, len(names) - 1) for i, name in enumerate(others)}
    return Places(all_rows, names, at)


def read_adapters(path: Path) -> AdapterFrames:
    """Read the file, whole or not; never fails. Records that no frame needs are passed over unparsed."""
    steps = [step for step in _steps(path) if step is not None]
    found = AdapterFrames(records=len(steps), missing=not path.is_file())
    frames = _Frames([(steps[first], steps[end - 1]) for first, end in _bounds(len(steps))])
    wanted = _wanted(len(steps))
    at = -1
    for step, line in _lines(path):
        if step is None:
            found.damaged += bool(line.strip())
            continue
        at += 1
        if at not in wanted:
            continue
        try:
            adapters = dict(json.loads(line)["adapters"])
        except (ValueError, KeyError, TypeError):
            found.damaged += 1
            continue
        found.parsed += 1
        frames.add(wanted[at], adapters)
    frames.into(found)
    return found


def _bounds(records: int) -> list[tuple[int, int]]:
    """First record of each frame, and the one after its last."""
    frames = min(MOST_FRAMES, records)
    return [(f * records // frames, (f + 1) * records // frames) for f in range(frames)]


def _wanted(records: int) -> dict[int, int]:
    """Which records go into which frame: at most :data:`MOST_RECORDS` of each, evenly spread."""
    wanted = {}
    for frame, (first, end) in enumerate(_bounds(records)):
        count = min(MOST_RECORDS, end - first)
        for i in range(count):
            wanted[first + (i + 1) * (end - first) // count - 1] = frame
    return wanted


def _lines(path: Path) -> Iterator[tuple[int | None, bytes]]:
    try:
        with path.open("rb") as file:
            for line in file:
                match = _STEP.match(line)
                # Without its end a line was cut off when the run was killed.
                yield (int(match[1]) if match and line.endswith(b"\n") else None), line
    except OSError:
        return


def _steps(path: Path) -> Iterator[int | None]:
    return (step for step, _ in _lines(path))


class _Frames:
    """Sums of what was parsed."""

    def __init__(self, spans: list[tuple[int, int]]):
        self._names: dict[str, int] = {}
        self._spans, self._filled = spans, [False] * len(spans)
        self._sums: list[dict[tuple[str, str], list[float]]] = [{} for _ in spans]
        self._lists: list[dict[str, tuple[list[float], int]]] = [{} for _ in spans]

    def add(self, frame: int, adapters: dict[str, Any]) -> None:
        self._filled[frame] = True
        for name, figures in adapters.items():
            if not isinstance(figures, dict):
                continue
            self._names.setdefault(name, len(self._names))
            for figure, value in figures.items():
                if figure == "cosines":
                    figure, value = MEAN_COSINE, mean_off_diagonal(value)
                if isinstance(value, list):
                    self._add_list(frame, figure, value)
                elif (known := number(value)) is not None:
                    sums = self._sums[frame].setdefault((figure, name), [0.0, 0])
                    sums[0] += known
                    sums[1] += 1

    def _add_list(self, frame: int, figure: str, value: list[Any]) -> None:
        numbers = [known for v in value if (known := number(v)) is not None]
        total, count = self._lists[frame].get(figure, ([0.0] * len(numbers), 0))
        if numbers and len(numbers) == len(value) == len(total):
            self._lists[frame][figure] = ([a + b for a, b in zip(total, numbers)], count + 1)

    def into(self, found: AdapterFrames) -> None:
        frames = [i for i, filled in enumerate(self._filled) if filled]
        found.adapters = list(self._names)
        found.spans = [self._spans[i] for i in frames]
        figures = dict.fromkeys(figure for i in frames for figure, _ in self._sums[i])
        for figure in figures:
            sums = [[self._sums[i].get((figure, name)) for name in found.adapters] for i in frames]
            found.values[figure] = [[s[0] / s[1] if s else None for s in row] for row in sums]
        for figure in dict.fromkeys(figure for i in frames for figure in self._lists[i]):
            lists = [self._lists[i].get(figure) for i in frames]
            found.lists[figure] = [None if of is None else [total / of[1] for total in of[0]] for of in lists]


def mean_off_diagonal(cosines: Any) -> float | None:
    """Mean cosine between two different domains, of a ``[D, D]`` list; ``None`` where it is none."""
    try:
        pairs = [number(row[n]) for m, row in enumerate(cosines) for n in range(len(cosines)) if n != m]
    except (TypeError, IndexError):
        return None
    known = [value for value in pairs if value is not None]
    return sum(known) / len(known) if known else None
