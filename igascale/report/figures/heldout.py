"""Conflict on held-out groups: GIR per adapter, layer × projection, in and out of distribution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from igascale.evaluation.results import HeldOutResidual
from igascale.evaluation.table_cells import short
from igascale.report.adapters import Places, place
from igascale.report.collect import Collected
from igascale.report.figures.accuracy import side
from igascale.report.figures.atlas import GIR, Grid, frame_of, heat_map, scale_of
from igascale.report.figures.frame import Figure, colour_bar, layouts
from igascale.tables import Cell, Column, Table, number
from igascale.tables.table import as_cell

TITLE = "GIR on held-out groups"
MUCH_NOISE = 0.8


def residuals(run: Collected) -> Iterator[tuple[str, HeldOutResidual]]:
    """By side of each suite, where it was measured."""
    for suite, of in (run.evaluation.suites if run.evaluation else {}).items():
        for split, result in of.splits.items():
            if result.gir is not None:
                yield side(suite, split), result.gir


def held_out(run: Collected, name: str, runs: Sequence[Collected]) -> Figure | None:
    """Heat maps of one run, a panel per side; the scale is that of all runs, so that they can be told apart by it.

    Args:
        run: to show.
        name: of its files.
        runs: all of the report.
    """
    found = [(title, of) for title, of in residuals(run) if any(r.gir is not None for r in of.adapters.values())]
    if not found:
        return None
    adapters = list(dict.fromkeys(adapter for _, of in found for adapter in of.adapters))
    places = place(adapters)
    grids = [_grid(places, adapters, of) for _, of in found]
    everywhere = [r.gir for other in runs for _, of in residuals(other) for r in of.adapters.values()]
    span, ticks = scale_of(GIR, [v for v in everywhere if v is not None])
    panels, height, left = frame_of([title for title, _ in found], places)
    wide, narrow = layouts(panels, columns=max(2, len(panels)), height=height, left=left, bottom=122, gap=160)
    if len(found) == 1:
        wide["xaxis"]["domain"] = [0.0, 0.45]
    data: list[dict[str, Any]] = []
    for i, (grid, (_, of)) in enumerate(zip(grids, found), 1):
        noise = places.grid(adapters, [_noise(of, adapter) for adapter in adapters])
        told_noise = [["not known" if v is None else f"{100 * v:.0f}%" for v in row] for row in noise]
        trace = heat_map(GIR, i, places, grid)
        trace["hovertemplate"] = trace["hovertemplate"].replace("<extra>", "<br>of it noise: %{text}<extra>")
        data.append(trace | {"text": told_noise})
        for layout in (wide, narrow):
            colour_bar(layout, i, GIR.scale, span, GIR.bar, below=68, ticks=ticks)
    told = [f"{title} {_told(of)}" for title, of in found]
    caption = (
        "Conflict between the domains' gradients of the final adapter on groups that it was not trained on, and takes no step on. One "
        "scale for all runs and sets. Part of every cell is noise of few groups: the pointer says how much, and the data."
    )
    title = f"{TITLE}: {run.name}"
    alt = f"Heat maps, layer by projection. {title}. {'; '.join(told)}."
    table = _table(title, found, places)
    return Figure(f"gir-held-out-{name}", title, alt, data, wide, narrow, table, _summary(table), caption, run.name)


def overall(runs: Sequence[Collected]) -> Table | None:
    """A line per run and side: GIR over all adapters beside the noise in it, and the loss that it is the gradient of."""
    rows: list[list[Cell | str | None]] = []
    for run in runs:
        for title, of in residuals(run):
            noisy = (of.overall.noise_share or 0.0) > MUCH_NOISE
            losses = [loss for loss in of.losses.values() if loss is not None]
            cosines = [cosine for cosine in of.overall.cosines.values() if cosine is not None]
            rows.append(
                [
                    run.name,
                    title,
                    short(of.overall.gir, noisy),
                    _percent(of.overall.noise_share),
                    number(sum(cosines) / len(cosines), 3) if cosines else None,
                    number(sum(losses) / len(losses), 3) if losses else None,
                    Cell(f"{of.groups:,}", of.groups),
                ]
            )
    if not rows:
        return None
    heads = ("GIR", "of it noise %", "mean cosine", "loss", "groups")
    notes = [
        "GIR = ΣV / Σḡ² over all adapters of the final adapter, on groups that it was not trained on; of it noise: what sampling alone "
        f"explains, estimated, and may exceed 100%; ?: more than {MUCH_NOISE:.0%} of it is noise, and says nothing of conflict"
    ]
    return Table(TITLE, [Column("run", "left"), Column("set", "left"), *map(Column, heads)], rows, notes)


def _percent(share: float | None) -> Cell | None:
    return None if share is None else number(100 * share, 0)


def _told(of: HeldOutResidual) -> str:
    known = [(r.gir, name) for name, r in of.adapters.items() if r.gir is not None]
    return f"from {min(known)[0]:.3g} ({min(known)[1]}) to {max(known)[0]:.3g} ({max(known)[1]})"


def _table(title: str, found: Sequence[tuple[str, HeldOutResidual]], places: Places) -> Table:
    rows: list[list[Cell | str | None]] = []
    for name, of in found:
        for adapter, r in of.adapters.items():
            row, column = places.at[adapter]
            values = (r.gir, r.noise_share, r.weight_gir, r.weight_noise_share)
            rows.append([name, adapter, places.rows[row], places.columns[column], *map(short, values)])
    heads = [Column(n, "left") for n in ("set", "adapter", "layer", "projection")]
    return Table(title, heads + [Column(n) for n in ("GIR", "noise share", "weight GIR", "weight noise share")], rows)


def _summary(table: Table) -> Table:
    """The adapters of most conflict on each side."""
    rows: list[list[Cell | str | None]] = []
    for name in dict.fromkeys(str(row[0]) for row in table.rows):
        mine = [row for row in table.rows if row[0] == name]
        rows += sorted(mine, key=lambda row: -(as_cell(row[4]).value or 0.0))[:10]
    left_out = len(table.rows) - len(rows)
    notes = [f"the adapters with most conflict; {left_out} more are in the file"] if left_out else []
    return replace(table, rows=rows, notes=notes)


def _grid(places: Places, adapters: Sequence[str], of: HeldOutResidual) -> Grid:
    return places.grid(adapters, [r.gir if (r := of.adapters.get(adapter)) else None for adapter in adapters])


def _noise(of: HeldOutResidual, adapter: str) -> float | None:
    found = of.adapters.get(adapter)
    return found.noise_share if found else None
