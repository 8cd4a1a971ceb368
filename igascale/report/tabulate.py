"""The tables of the report that stand on their own: what ran, and how well it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from igascale.evaluation.efficiency import efficiency
from igascale.evaluation.efficiency_table import Cost, efficiency_table
from igascale.evaluation.matched import match
from igascale.evaluation.matched_table import matched_table
from igascale.evaluation.results import ISOMERS, SuiteResult
from igascale.evaluation.selection_marks import legend, selection_mark
from igascale.report.collect import Collected
from igascale.report.figures.accuracy import side
from igascale.report.pairs import Side
from igascale.tables import Cell, Column, Table, number

_Row = list[Cell | str | None]


def headline(runs: Sequence[Collected], ahead: Mapping[Side, str]) -> Table:
    """A line per run: accuracy with its interval, gap and LCS; how it was selected and made.

    Args:
        runs: what was collected.
        ahead: the run to emphasise on a side of a suite, where one is ahead of all others.
    """
    suites = dict.fromkeys(s for run in runs for s in (run.evaluation.suites if run.evaluation else {}))
    sides = list(dict.fromkeys((s, p) for run in runs for s in suites for p in _splits(run, s)))
    heads = [Column("run", "left"), *(Column(f"{side(s, p)} %") for s, p in sides)]
    gaps = [s for s in suites if any(_gap(run, s) is not None for run in runs)]
    heads += [Column("gap" if s == ISOMERS else f"{s} gap") for s in gaps]
    heads += [Column("relative LCS (ID)")] if ISOMERS in suites else []
    heads += [Column(name, "left") for name in ("selected", "hook", "method")]
    rows: list[_Row] = []
    for run in runs:
        row: _Row = [run.name]
        for s, p in sides:
            cell = _accuracy(run, s, p)
            row.append(replace(cell, emphasis="best") if cell and ahead.get((s, p)) == run.name else cell)
        row += [_gap(run, s) for s in gaps]
        row += [_lcs(run)] if ISOMERS in suites else []
        row += [selection_mark(run.config).mark, run.hook, run.run.method or None]
        rows.append(row)
    notes = [legend([selection_mark(run.config) for run in runs])]
    notes += ["accuracy with its 95% interval; gap: ID minus OOD, in points"] if sides else []
    marks = {c.mark for row in rows for c in row if isinstance(c, Cell)}
    if "*" in marks:
        notes.append("* not told from chance, or below it")
    if "?" in marks:
        notes.append("? means nothing: collapsed, or accuracy not above chance")
    if sides and len(runs) > 1:
        notes.append(
            "bold: ahead of every other run, problem by problem (p < 0.05 by Holm); where samples are missing, no other interval "
            "reaches it"
            if ahead
            else "none is bold: no run is shown to be ahead of every other"
        )
    return Table("Results", heads, rows, notes)


def cost(runs: Sequence[Collected]) -> Table | None:
    """Table 3: time, memory and parameters, beside what was reached; ``None`` without a run that has a configuration."""
    costs = []
    for run in runs:
        if run.config:
            costs.append(Cost.of(run.name, efficiency(run.folder), run.evaluation))
    return efficiency_table(costs) if costs else None


def matched(runs: Sequence[Collected]) -> Table | None:
    """OOD where all runs have one in-distribution validation loss, beside OOD at the end; ``None`` where fewer than two were validated."""
    validated = [run for run in runs if run.config and any(key[0] == "id" for key in run.metrics.validation)]
    if len(validated) < 2:
        return None
    return matched_table(match([run.folder for run in validated], [run.name for run in validated]))


def facts(runs: Sequence[Collected]) -> Table:
    """What each run is: model, data, seed, steps, state."""
    heads = [Column(n, "left") for n in ("run", "state")]
    heads += [Column("steps"), Column("seed"), Column("model", "left"), Column("LoRA r"), Column("learning rate")]
    heads += [Column("ranks"), Column("training data", "left"), Column("domains", "left"), Column("igascale", "left")]
    rows: list[_Row] = []
    for run in runs:
        step = "" if run.run.step is None else f"{run.run.step:,}" + (f" / {run.run.total:,}" if run.run.total else "")
        rows.append(
            [
                run.name,
                run.run.state,
                Cell(step, run.run.step) if step else None,
                _plain(run.setting("seed")),
                _plain(run.setting("model.path")),
                _plain(run.setting("lora.r")),
                _plain(run.setting("optimizer.lr")),
                _plain(run.run.world_size),
                _data(run),
                ", ".join(run.domains) or None,
                _commit(run),
            ]
        )
    return Table("Runs", heads, rows, ["training data: name of the file and the beginning of its SHA-256"])


def _splits(run: Collected, suite: str) -> list[str]:
    of = _suite(run, suite)
    return list(of.splits) if of else []


def _suite(run: Collected, suite: str) -> SuiteResult | None:
    return run.evaluation.suites.get(suite) if run.evaluation else None


def _accuracy(run: Collected, suite: str, split: str) -> Cell | None:
    of = _suite(run, suite)
    result = of.splits.get(split) if of else None
    if result is None:
        return None
    a = result.accuracy
    doubtful = a.low <= a.chance
    marks: Any = {"mark": "*", "emphasis": "dim"} if doubtful else {}
    return number(100 * a.value, low=100 * a.low, high=100 * a.high, **marks)


def _gap(run: Collected, suite: str) -> Cell | None:
    of = _suite(run, suite)
    if of is None or of.delta_gap is None:
        return None
    low, high = (None if v is None else 100 * v for v in (of.delta_gap_low, of.delta_gap_high))
    return number(100 * of.delta_gap, low=low, high=high, sign=True)


def _lcs(run: Collected) -> Cell | None:
    of = _suite(run, ISOMERS)
    split = of.id if of else None
    lcs = split.consistency if split else None
    if split is None or lcs is None or lcs.relative is None:
        return None
    doubtful = lcs.collapsed or split.accuracy.low <= split.accuracy.chance
    return Cell(
        f"{lcs.relative:.4g}", lcs.relative, mark="?" if doubtful else "", emphasis="dim" if doubtful else "none"
    )


def _plain(value: Any) -> Cell | str | None:
    if value is None:
        return None
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(f"{value:g}" if isinstance(value, float) else str(value), value if numeric else None)


def _data(run: Collected) -> str | None:
    path, digest = run.setting("data.train"), run.data_sha256("train")
    if path is None:
        return None
    return str(path).rsplit("/", 1)[-1] + (f" ({digest[:8]})" if digest else "")


def _commit(run: Collected) -> str | None:
    git, versions = run.environment.get("git"), run.environment.get("versions")
    version = versions.get("igascale") if isinstance(versions, dict) else None
    commit = git.get("commit") if isinstance(git, dict) else None
    told = [str(version)] * bool(version) + [str(commit)[:8]] * bool(commit)
    if isinstance(git, dict) and git.get("dirty"):
        told.append("with changes")
    return ", ".join(told) or None
