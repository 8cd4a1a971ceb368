"""Evaluation results as rich tables. Chance stands beside every accuracy, and accuracy beside every LCS."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from igascale.evaluation.accuracy import Accuracy
from igascale.evaluation.results import ISOMERS, Consistency, EvaluationResult, SplitResult, SuiteResult

# Sign and style of an accuracy against chance; the sign carries the meaning where there is no colour.
_VERDICTS = {"above": ("▲", "green"), "at": ("≈", "yellow"), "below": ("▼", "red")}
LEGEND = "▲ above, ≈ not told from, ▼ below chance (always the most frequent answer); 95% intervals"


@dataclass(frozen=True)
class MethodResult:
    """One line of the comparison; what was not measured is ``None``."""

    method: str
    result: EvaluationResult
    seconds_per_step: float | None = None
    peak_memory_bytes: float | None = None


def against_chance(accuracy: Accuracy) -> str:
    """``above``, ``at`` or ``below``: where the whole interval lies."""
    if accuracy.low > accuracy.chance:
        return "above"
    return "below" if accuracy.high < accuracy.chance else "at"


def evaluation_table(result: EvaluationResult, title: str = "Evaluation") -> RenderableType:
    """Every split, domain and kind of one model, with LCS and gap below."""
    table = Table(title=escape(title), caption=LEGEND, caption_justify="left")
    table.add_column("set")
    for column in ("accuracy %", "95% interval", "chance %", "no answer %", "samples"):
        table.add_column(column, justify="right")
    for name, split in _splits(result):
        table.add_row(Text(name, style="bold"), *_accuracy_cells(split.accuracy))
        for part, accuracy in {**split.per_domain, **split.per_kind}.items():
            table.add_row(Text(f"  {part}"), *_accuracy_cells(accuracy))
        table.add_section()
    gaps = [
        Text(f"{_prefix(name)}ID − OOD: ").append_text(_gap(suite)).append(" points")
        for name, suite in result.suites.items()
        if suite.delta_gap is not None
    ]
    return Group(table, _consistency_table(result), *gaps, *_warnings(result))


def comparison_table(rows: Sequence[MethodResult], title: str = "Methods") -> RenderableType:
    """One line per method: accuracy, gap, LCS of the ID groups, time and memory."""
    table = Table(title=escape(title), caption=_comparison_caption(rows), caption_justify="left")
    table.add_column("method")
    for column in ("ID %", "OOD %", "gap", "LCS", "relative LCS", "s/step", "peak memory"):
        table.add_column(column, justify="right")
    notes = []
    for row in rows:
        suite = row.result.isomers
        id_, ood = suite.id, suite.ood
        table.add_row(
            Text(row.method),
            _with_interval(id_.accuracy) if id_ else "–",
            _with_interval(ood.accuracy) if ood else "–",
            _gap(suite),
            *(_lcs_cells(id_) if id_ else ("–", "–")),
            "–" if row.seconds_per_step is None else f"{row.seconds_per_step:.3f}",
            "–" if row.peak_memory_bytes is None else f"{row.peak_memory_bytes / 2**20:,.0f} MiB",
        )
        notes += [Text.assemble(f"{row.method}: ", note) for note in _warnings(row.result)]
    return Group(table, *notes)


def _splits(result: EvaluationResult) -> list[tuple[str, SplitResult]]:
    return [
        (f"{_prefix(name)}{side.upper()}", split)
        for name, suite in result.suites.items()
        for side, split in suite.splits.items()
    ]


def _prefix(suite: str) -> str:
    """What is evaluated by default goes without a name."""
    return "" if suite == ISOMERS else f"{suite} "


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _marked(accuracy: Accuracy) -> Text:
    sign, style = _VERDICTS[against_chance(accuracy)]
    return Text(f"{sign} {_percent(accuracy.value)}", style=style)


def _with_interval(accuracy: Accuracy) -> Text:
    return _marked(accuracy).append(f" [{100 * accuracy.low:.0f}, {100 * accuracy.high:.0f}]", style="dim")


def _accuracy_cells(accuracy: Accuracy) -> list[RenderableType]:
    return [
        _marked(accuracy),
        Text(f"[{_percent(accuracy.low)}, {_percent(accuracy.high)}]"),
        _percent(accuracy.chance),
        _percent(accuracy.parse_failures),
        str(accuracy.samples),
    ]


def _gap(suite: SuiteResult) -> Text:
    if suite.delta_gap is None or suite.delta_gap_low is None or suite.delta_gap_high is None:
        return Text("–")
    low, high = (round(100 * bound) for bound in (suite.delta_gap_low, suite.delta_gap_high))
    return Text(f"{100 * suite.delta_gap:+.1f}").append(f" [{low}, {high}]", style="dim")


def _lcs_cells(split: SplitResult) -> tuple[Text, Text]:
    """Raw and relative; greyed and marked where accuracy or the states say that they mean nothing."""
    lcs = split.consistency
    if lcs is None:
        return Text("–"), Text("–")
    if lcs.lcs is None or lcs.relative is None:
        return Text("not finite", style="red"), Text("not finite", style="red")
    doubtful = lcs.collapsed or against_chance(split.accuracy) != "above"
    style, mark = ("dim", "?") if doubtful else ("", "")
    return Text(f"{lcs.lcs:.4g}{mark}", style=style), Text(f"{lcs.relative:.4g}{mark}", style=style)


def _consistency_table(result: EvaluationResult) -> RenderableType:
    text = result.settings.get("lcs_text", "prompt")
    table = Table(
        title=f"Logical Consistency Score (layer {result.settings.get('lcs_layer')}, tokens of the {text})",
        caption="lower is more consistent, but only where the accuracy is above chance (else marked ?)",
        caption_justify="left",
    )
    table.add_column("set")
    for column in ("LCS", "relative LCS", "between groups (relative)", "accuracy %"):
        table.add_column(column, justify="right")
    for name, split in _splits(result):
        table.add_row(name, *_lcs_cells(split), _between(split.consistency), _marked(split.accuracy))
    return table


def _between(lcs: Consistency | None) -> str:
    return "–" if lcs is None or lcs.between_groups is None else f"{lcs.between_groups:.4g}"


def _warnings(result: EvaluationResult) -> list[Text]:
    notes = []
    for name, split in _splits(result):
        if split.consistency is not None and split.consistency.collapsed:
            message = f"{name}: hidden states hardly differ between problems: collapsed, LCS means nothing"
            notes.append(Text(message, style="bold red"))
        if split.unfinished > 0.02:
            limit = result.settings.get("max_new_tokens")
            message = f"{name}: {_percent(split.unfinished)}% of the texts ran into the limit of {limit} new tokens"
            notes.append(Text(message, style="yellow"))
    return notes


def _comparison_caption(rows: Sequence[MethodResult]) -> str:
    chances = []
    for name in ("ID", "OOD"):
        values = {_percent(split.accuracy.chance) for row in rows for n, split in _splits(row.result) if n == name}
        if values:
            chances.append(f"{name} {' / '.join(sorted(values))}%")
    return f"chance: {', '.join(chances)}. {LEGEND}. LCS of the ID groups; ? = not meaningful at that accuracy."
