"""LCS in tables: at the layer that is shown, at every layer, and between each two domains."""

from __future__ import annotations

from igascale.evaluation.results import ISOMERS, Consistency, EvaluationResult
from igascale.evaluation.table_cells import accuracy_cell, lcs_cells, short, splits
from igascale.tables import Cell, Column, Table

_LOWER = "lower is more consistent, but only where the accuracy is above chance (else marked ?)"


def consistency_tables(result: EvaluationResult) -> list[Table]:
    """What was measured of LCS; nothing for benchmarks alone, whose problems are told once each."""
    if ISOMERS not in result.suites and all(split.consistency is None for _, split in splits(result)):
        return []
    return [_at_one_layer(result), *_by_layer(result), *_by_pair(result)]


def _at_one_layer(result: EvaluationResult) -> Table:
    text = result.settings.get("lcs_text", "prompt")
    layers = {split.consistency.layer for _, split in splits(result) if split.consistency is not None}
    layer = ", ".join(map(str, sorted(layers)))
    names = ("LCS ×10²", "relative LCS", "between groups (relative)", "groups", "accuracy %")
    rows: list[list[Cell | str | None]] = []
    measured = [name for name, split in splits(result) if split.consistency is not None] or ["ID", "OOD"]
    for name, split in splits(result):
        lcs = split.consistency
        if name not in measured:
            continue
        if lcs is None:
            rows.append([name, None, None, None, None, accuracy_cell(split.accuracy)])
        else:
            between = short(lcs.between_groups)
            if lcs.collapsed:
                between = Cell(
                    f"{between.text} collapsed" if between else "collapsed", lcs.between_groups, emphasis="bad"
                )
            groups = Cell(str(lcs.groups), lcs.groups)
            rows.append([name, *lcs_cells(lcs, split.accuracy), between, groups, accuracy_cell(split.accuracy)])
    title = f"Logical Consistency Score (layer {layer}, tokens of the {text})"
    return Table(title, [Column("set", "left"), *map(Column, names)], rows, [_LOWER])


def _by_layer(result: EvaluationResult) -> list[Table]:
    """Table 5: a row per layer."""
    swept = [(name, split) for name, split in splits(result) if len(split.layers) > 1]
    if not swept:
        return []
    layers = sorted({lcs.layer for _, split in swept for lcs in split.layers})
    columns = [Column("layer")]
    for name, _ in swept:
        columns += [Column(f"{name} LCS ×10²"), Column(f"{name} relative")]
    rows: list[list[Cell | str | None]] = []
    for layer in layers:
        row: list[Cell | str | None] = [Cell(str(layer), layer)]
        for _, split in swept:
            row += lcs_cells(next((lcs for lcs in split.layers if lcs.layer == layer), None), split.accuracy)
        rows.append(row)
    return [Table("LCS by layer (index into hidden_states; 0 is the embedding)", columns, rows, [_LOWER])]


def _by_pair(result: EvaluationResult) -> list[Table]:
    """Between each two domains, at the layer that is shown."""
    rows: list[list[Cell | str | None]] = []
    for name, split in splits(result):
        for pair, value in _pairs(split.consistency).items():
            doubtful = lcs_cells(split.consistency, split.accuracy)[0]
            rows.append([name, pair, short(value, bool(doubtful and doubtful.mark))])
    if not rows:
        return []
    columns = [Column("set", "left"), Column("domains", "left"), Column("relative LCS")]
    return [Table("LCS between two domains", columns, rows, [_LOWER])]


def _pairs(lcs: Consistency | None) -> dict[str, float | None]:
    return dict(getattr(lcs, "pairs", None) or {})
