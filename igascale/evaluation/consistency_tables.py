"""What is inside of a model, in tables: LCS at the layer that is shown, at every layer, between domains; GIR of held-out groups."""

from __future__ import annotations

from igascale.evaluation.results import ISOMERS, Consistency, EvaluationResult
from igascale.evaluation.table_cells import accuracy_cell, doubtful, lcs_cells, percent, short, splits
from igascale.tables import Cell, Column, Table

_LOWER = "lower is more consistent, but only where the accuracy is above chance (else marked ?)"
Row = list[Cell | str | None]


def consistency_tables(result: EvaluationResult) -> list[Table]:
    """What was measured of LCS and GIR.

    Nothing for benchmarks alone, whose problems are told once each, and of a generator without hidden states.
    """
    outside = result.settings.get("generator") in ("endpoint", "vllm")
    if (outside or ISOMERS not in result.suites) and all(split.consistency is None for _, split in splits(result)):
        return []
    return [_at_one_layer(result), *_by_layer(result), *_by_pair(result), *_gir(result)]


def _at_one_layer(result: EvaluationResult) -> Table:
    found = [split.consistency for _, split in splits(result) if split.consistency is not None]
    layers = ", ".join(map(str, sorted({lcs.layer for lcs in found}))) or "none"
    texts = " and ".join(sorted({lcs.text for lcs in found})) or str(result.settings.get("lcs_text", "prompt"))
    names = ("LCS ×10²", "standard error ×10²", "relative LCS", "between groups (relative)", "groups", "accuracy %")
    measured = [name for name, split in splits(result) if split.consistency is not None] or ["ID", "OOD"]
    rows: list[Row] = []
    for name, split in splits(result):
        lcs = split.consistency
        if name not in measured:
            continue
        if lcs is None:
            rows.append([name, *[None] * 5, accuracy_cell(split.accuracy)])
            continue
        raw, relative = lcs_cells(lcs, split.accuracy)
        error = None if lcs.standard_error is None else short(100 * lcs.standard_error)
        groups = Cell(str(lcs.groups), lcs.groups)
        rows.append([name, raw, error, relative, _between(lcs), groups, accuracy_cell(split.accuracy)])
    title = f"Logical Consistency Score (layer {layers}, tokens of the {texts})"
    return Table(title, [Column("set", "left"), *map(Column, names)], rows, [_LOWER])


def _between(lcs: Consistency) -> Cell | None:
    """With the alarm where states of different problems are alike."""
    between = short(lcs.between_groups)
    if not lcs.collapsed:
        return between
    return Cell(f"{between.text} collapsed" if between else "collapsed", lcs.between_groups, emphasis="bad")


def _by_layer(result: EvaluationResult) -> list[Table]:
    """Table 5, turned: a row per layer."""
    swept = [(name, split) for name, split in splits(result) if len(split.layers) > 1]
    if not swept:
        return []
    layers = sorted({lcs.layer for _, split in swept for lcs in split.layers})
    columns = [Column("layer")]
    for name, _ in swept:
        columns += [Column(f"{name} LCS ×10²"), Column(f"{name} relative LCS")]
    rows: list[Row] = []
    for layer in layers:
        row: Row = [Cell(str(layer), layer)]
        for _, split in swept:
            row += lcs_cells(next((lcs for lcs in split.layers if lcs.layer == layer), None), split.accuracy)
        rows.append(row)
    return [Table("LCS by layer (index into hidden_states; 0 is the embedding)", columns, rows, [_LOWER])]


def _by_pair(result: EvaluationResult) -> list[Table]:
    """Between each two domains, at the layer that is shown."""
    rows: list[Row] = []
    for name, split in splits(result):
        lcs = split.consistency
        for pair, value in (lcs.pairs if lcs else {}).items():
            doubt = doubtful(lcs, split.accuracy)
            norm = lcs.mean_squared_norm if lcs else None
            rows.append([name, pair, short(100 * value, doubt), short(value / norm, doubt) if norm else None])
    if not rows:
        return []
    columns = [Column("set", "left"), Column("domains", "left"), Column("LCS ×10²"), Column("relative LCS")]
    return [Table("LCS between two domains", columns, rows, [_LOWER])]


def _gir(result: EvaluationResult) -> list[Table]:
    rows: list[Row] = []
    for name, split in splits(result):
        if (found := split.gir) is not None:
            told = found.overall
            factors = [short(told.gir), None if told.noise_share is None else percent(told.noise_share)]
            weights = [
                short(told.weight_gir),
                None if told.weight_noise_share is None else percent(told.weight_noise_share),
            ]
            rows.append([name, *factors, *weights, Cell(str(found.groups), found.groups)])
    if not rows:
        return []
    names = ("GIR", "of it noise %", "GIR of the weights", "of it noise %", "groups")
    notes = [
        "how much the domains' gradients disagree, over their mean; noise: the share that sampling alone explains, "
        "estimated (above 100%: all, as far as can be told)"
    ]
    return [
        Table(
            "Gradient invariance residual of held-out groups", [Column("set", "left"), *map(Column, names)], rows, notes
        )
    ]
