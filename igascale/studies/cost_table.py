"""Table 3 of the paper from a study's run folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from igascale.evaluation.efficiency import WARM_UP, Efficiency, efficiency
from igascale.evaluation.significance import STD_OF, over_seeds
from igascale.studies import records, results
from igascale.studies.paper import Paper
from igascale.studies.paper_tables import Cells, in_table1, name_cell, paper_cell, paper_name, seeds_cell
from igascale.studies.remarks import Remarks
from igascale.studies.results import RowFindings
from igascale.tables import Cell, Column, Table, number

_COLUMNS = ("h/epoch", "peak memory GiB", "trainable M", "average OOD %", "OOD %/(h/epoch)", "compute hours", "seeds")


def table3(rows: Sequence[RowFindings], paper: Paper, told: Remarks) -> Table:
    """Time of an epoch, memory and size, and accuracy for them."""
    chosen = [row for row in rows if in_table1(row, paper)]
    costs = {row.name: [efficiency(f.job.folder) for f in row.found.values() if f.job.trains] for row in chosen}
    cells: list[Cells] = []
    shown: set[str] = set()
    for row in chosen:
        found = costs[row.name]
        ood = row.values(results.average_ood)
        rates = [
            rate
            for seed, finding in row.found.items()
            if finding.job.trains
            and seed in ood
            and (rate := efficiency(finding.job.folder).per_epoch_hour(ood[seed])) is not None
        ]
        measured: Cells = [
            _cell(found, lambda e: e.hours_per_epoch),
            _cell(found, lambda e: None if e.peak_memory_bytes is None else e.peak_memory_bytes / 2**30),
            _cell(found, lambda e: None if e.trainable is None else e.trainable / 1e6),
            _of(list(ood.values()), 1),
            _of(rates),
            _cell(found, lambda e: e.compute_hours),
        ]
        cells.append([name_cell(row, told), *measured, seeds_cell(row)])
        printed = paper.row(3, row.row.stands_for)
        if printed and row.row.stands_for and row.row.stands_for not in shown:
            shown.add(row.row.stands_for)
            rate_cell = paper_cell(printed["accuracy per hour"], 2)
            of_paper = [paper_cell(printed[name]) for name in ("hours per epoch", "peak GB")]
            trainable = Cell(f"{paper.trainable_millions:g}", paper.trainable_millions, mark="†", emphasis="dim")
            ood_cell = paper_cell(printed["average ood"])
            cells.append(
                [paper_name(paper, 3, row.row.stands_for), *of_paper, trainable, ood_cell, rate_cell, None, None]
            )
    title = "Table 3: what a method costs"
    return Table(
        title, [Column("method", "left"), *map(Column, _COLUMNS)], cells, _notes(costs, chosen, paper, shown, told)
    )


def _notes(
    costs: dict[str, list[Efficiency]], rows: Sequence[RowFindings], paper: Paper, shown: set[str], told: Remarks
) -> list[str]:
    found = [cost for of_row in costs.values() for cost in of_row]
    hardware = list(dict.fromkeys(cost.hardware for cost in found))
    notes = (
        [
            f"hardware: {hardware[0]}"
            if len(hardware) == 1
            else f"DIFFERENT HARDWARE, compare no times: {'; '.join(hardware)}"
        ]
        if found
        else []
    )
    beside = max((records.read(f.job.records).at_a_time for row in rows for f in row.found.values()), default=1)
    if beside > 1:
        notes.append(f"up to {beside} jobs ran at a time on this machine: the times are not those of a run alone")
    notes += [
        f"h/epoch: median step but for the first {WARM_UP} after each start, times the steps of an epoch; compute hours: training time of "
        "all attempts times devices",
        "OOD %/(h/epoch) is the paper's Acc/CHr",
    ]
    if memory := list(dict.fromkeys(cost.memory_of for cost in found)):
        notes.append(f"peak memory: {'; '.join(memory)}")
    short = list(
        dict.fromkeys(f"{name}: {note}" for name, of_row in costs.items() for cost in of_row for note in cost.notes)
    )
    notes += [*short, f"{STD_OF}."]
    if shown:
        notes.append("the paper's rows: 8 H100, LLaMA-2-7B, GB")
        notes += [f"† {remark}" if "83M" in remark else remark for remark in paper.remarks.get(3, [])]
    return [*notes, *told.notes]


def _cell(costs: Sequence[Efficiency], figure: Callable[[Efficiency], float | None]) -> Cell | None:
    return _of([value for cost in costs if (value := figure(cost)) is not None])


def _of(values: Sequence[float], digits: int | None = None) -> Cell | None:
    """Mean and spread, in three figures unless ``digits`` after the point are asked for."""
    if not values:
        return None
    found = over_seeds(values)
    if digits is not None:
        return number(found.mean, digits, std=found.std)
    text = f"{found.mean:,.0f}" if abs(found.mean) >= 1000 else f"{found.mean:.3g}"
    if found.std:
        text += f" ± {found.std:,.0f}" if found.std >= 100 else f" ± {found.std:.2g}"
    return Cell(text, found.mean, std=found.std)
