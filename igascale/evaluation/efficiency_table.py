"""Table 3: what runs cost, beside what they reached. Times of different hardware are shown, marked, and never ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from igascale.evaluation.accuracy import Accuracy
from igascale.evaluation.averages import Average, average
from igascale.evaluation.efficiency import WARM_UP, Efficiency
from igascale.evaluation.results import ISOMERS, EvaluationResult
from igascale.evaluation.table_cells import accuracy_with_interval, average_cell
from igascale.tables import Cell, Column, Table, emphasise_best

#: Column -> whether more is better; these are times or hang on them.
_RANKED = {
    "s/step": False,
    "h/epoch": False,
    "tokens/s": True,
    "peak memory GiB": False,
    "compute hours": False,
    "OOD %/compute h": True,
    "OOD %/(h/epoch)": True,
}
_COLUMNS = (
    "s/step",
    "h/epoch",
    "tokens/s",
    "peak memory GiB",
    "trainable M",
    "devices",
    "compute hours",
    "OOD %",
    "OOD %/compute h",
    "OOD %/(h/epoch)",
)


@dataclass(frozen=True)
class Cost:
    """A run in the table.

    Attributes:
        name: as the table calls it.
        efficiency: what it cost.
        ood: out-of-distribution accuracy, where it was evaluated.
        ood_of: on what: ``isomer groups``, or the benchmarks of an average.
    """

    name: str
    efficiency: Efficiency
    ood: Accuracy | Average | None = None
    ood_of: str = ""

    @classmethod
    def of(cls, name: str, efficiency: Efficiency, result: EvaluationResult | None) -> Cost:
        """With the average over benchmarks where there are several, else that of the isomer groups, else of the one benchmark."""
        if result is None:
            return cls(name, efficiency)
        if (mean := average(result, "ood")) is not None:
            return cls(name, efficiency, mean, f"the average of {', '.join(mean.over)}")
        sides = {suite: part.ood.accuracy for suite, part in result.suites.items() if part.ood is not None}
        if ISOMERS in sides:
            return cls(name, efficiency, sides[ISOMERS], "the isomer groups")
        return next(
            (cls(name, efficiency, accuracy, suite) for suite, accuracy in sides.items()), cls(name, efficiency)
        )


def efficiency_table(costs: Sequence[Cost], title: str = "What the runs cost") -> Table:
    """The table, with its caveats as notes; the best of a column is emphasised where that is more than luck (:func:`_can_be_ranked`)."""
    kinds = list(dict.fromkeys(cost.efficiency.hardware_key for cost in costs))
    alike = len(kinds) == 1
    marks = {key: "" if alike else chr(ord("a") + i % 26) for i, key in enumerate(kinds)}
    rows: list[list[Cell | str | None]] = [_row(cost, marks[cost.efficiency.hardware_key]) for cost in costs]
    table = Table(title, [Column("run", "left"), *map(Column, _COLUMNS)], rows, _notes(costs, marks, alike))
    if alike:
        for column, largest in _RANKED.items():
            if _can_be_ranked(column, costs):
                table = emphasise_best(table, column, largest)
    return table


def _can_be_ranked(column: str, costs: Sequence[Cost]) -> bool:
    """Whether the best of a column is better: not by luck of a busy machine or of few problems, nor by another number of steps."""
    if column.startswith(("compute", "OOD")) and len({cost.efficiency.steps for cost in costs}) > 1:
        return False
    if column.startswith("OOD"):
        if len({cost.ood_of for cost in costs if cost.ood_of}) > 1:
            return False
        hours = [
            found.compute_hours if column == "OOD %/compute h" else found.hours_per_epoch
            for found in (cost.efficiency for cost in costs)
        ]
        return _first_is_apart([(-c.ood.high / h, -c.ood.low / h) for c, h in zip(costs, hours) if c.ood and h])
    if column in ("s/step", "h/epoch", "tokens/s"):
        found = [(cost.efficiency.seconds_low, cost.efficiency.seconds_high) for cost in costs]
        return _first_is_apart([(low, high) for low, high in found if low is not None and high is not None])
    return True


def _first_is_apart(ranges: Sequence[tuple[float, float]]) -> bool:
    """Whether the lowest range overlaps with no other."""
    lowest, *others = sorted(ranges) or [(0.0, 0.0)]
    return all(other[0] > lowest[1] for other in others)


def significant(value: float | None, figures: int = 3, mark: str = "") -> Cell | None:
    """A number in three figures, or in whole ones with the thousands set apart; footnote letters go before brackets of none.

    Example:
        >>> significant(0.0087049).text, significant(12345.6).text
        ('0.0087', '12,346')
    """
    if value is None:
        return None
    text = f"{value:,.0f}" if abs(value) >= 10**figures else f"{value:.{figures}g}"
    return Cell(text, value, mark=f" {mark}" if mark else "")


def _row(cost: Cost, mark: str) -> list[Cell | str | None]:
    found = cost.efficiency
    ood = None if cost.ood is None else 100 * cost.ood.value
    memory = None if found.peak_memory_bytes is None else found.peak_memory_bytes / 2**30
    return [
        cost.name,
        _with_quartiles(significant(found.seconds_per_step, mark=mark), found),
        significant(found.hours_per_epoch, mark=mark),
        significant(found.tokens_per_second, mark=mark),
        significant(memory, mark=mark),
        None if found.trainable is None else significant(found.trainable / 1e6),
        Cell(str(found.devices), found.devices) if found.devices else None,
        significant(found.compute_hours, mark=mark),
        average_cell(cost.ood) if isinstance(cost.ood, Average) else accuracy_with_interval(cost.ood),
        None if ood is None else significant(found.per_compute_hour(ood), mark=mark),
        None if ood is None else significant(found.per_epoch_hour(ood), mark=mark),
    ]


def _with_quartiles(cell: Cell | None, found: Efficiency) -> Cell | None:
    return None if cell is None else replace(cell, low=found.seconds_low, high=found.seconds_high)


def _notes(costs: Sequence[Cost], marks: dict[tuple[str, ...], str], alike: bool) -> list[str]:
    hardware = {cost.efficiency.hardware_key: cost.efficiency.hardware for cost in costs}
    notes = []
    if alike:
        notes.append(f"hardware: {next(iter(hardware.values()), 'none')}")
    else:
        told = "; ".join(f"{marks[key]}: {words}" for key, words in hardware.items())
        notes.append(f"DIFFERENT HARDWARE, so times are not ranked: {told}")
    notes.append(
        f"s/step: median of the recorded steps but the first {WARM_UP} after each start; h/epoch: times the steps of an epoch, without "
        "validation and checkpoints; compute hours: training time of all attempts times devices"
    )
    notes.append(
        "OOD %/(h/epoch) is the paper's Acc/CHr; OOD %/compute h falls with every hour, so that it favours runs that end early"
    )
    if alike and len(costs) > 1:
        notes.append(
            "bold: the best of a column; of times only where its quartiles, of accuracies where its interval overlaps with no other"
        )
    if measured := dict.fromkeys(cost.ood_of for cost in costs if cost.ood_of):
        notes.append(
            f"OOD %: of {'; '.join(measured)}" + ("; NOT OF THE SAME for all runs" if len(measured) > 1 else "")
        )
    if len({cost.efficiency.steps for cost in costs}) > 1:
        steps = ", ".join(f"{cost.name} {cost.efficiency.steps:,}" for cost in costs)
        notes.append(f"steps differ, so compute hours are not ranked: {steps}")
    of: dict[str, list[str]] = {}
    for cost in costs:
        of.setdefault(cost.efficiency.memory_of, []).append(cost.name)
    notes.append("peak memory: " + "; ".join(of) if len(of) == 1 else _memories(of))
    sizes = {f"r={found.r}, {found.modules} modules" for cost in costs if (found := cost.efficiency).modules}
    if sizes:
        notes.append(f"trainable: numbers in the adapter's file ({'; '.join(sorted(sizes))})")
    return [*notes, *(f"{cost.name}: {note}" for cost in costs for note in cost.efficiency.notes)]


def _memories(of: dict[str, list[str]]) -> str:
    return "peak memory is not of one kind: " + "; ".join(f"{kind} ({', '.join(names)})" for kind, names in of.items())
