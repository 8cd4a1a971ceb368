"""The paper's own figures, and which of them its other figures contradict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from igascale import methods

#: Benchmarks of Table 1 by their names here; Table 2 has the first three.
BENCHMARKS = ("arb", "logiqa2", "reclor", "math")
_EPSILON = 1e-9


@dataclass(frozen=True)
class Figure:
    """A printed figure.

    Attributes:
        value: as printed.
        std: as printed, or ``None``.
        where: table, row and column.
        contradicted: what other cells of the paper make of it, or empty.
    """

    value: float
    std: float | None
    where: str
    contradicted: str = ""


@dataclass(frozen=True)
class Paper:
    """Everything that is transcribed: ``cells[table][method][column]``.

    Attributes:
        remarks: of a table, beyond its cells.
        trainable_millions: Table 3's caption.
    """

    cells: Mapping[int, Mapping[str, Mapping[str, Figure]]]
    remarks: Mapping[int, list[str]]
    trainable_millions: float

    def row(self, table: int, method: str | None) -> Mapping[str, Figure]:
        """A row's figures by column; empty where the paper has no such row."""
        return self.cells[table].get(method or "", {})

    def label(self, table: int, method: str) -> str:
        """The row's name as printed."""
        rows = [row.label for row in methods.find(method).rows if row.table == (1 if table in (3, 5) else table)]
        return rows[0] if rows else method


@cache
def paper() -> Paper:
    """Read ``paper.yaml`` and compare its figures with one another."""
    raw = yaml.safe_load((Path(__file__).parent / "paper.yaml").read_text(encoding="utf-8"))
    cells = {1: _table1(raw), 2: _table2(raw["table2"]), 3: _table3(raw), 5: _table5(raw["table5"])}
    return Paper(cells, raw["remarks"], raw["table3"]["trainable_millions"])


def _table1(raw: Mapping[str, Any]) -> dict[str, dict[str, Figure]]:
    table, found = raw["table1"], {}
    for method, values in table["rows"].items():
        row = {
            column: Figure(mean, std, _where(1, method, column))
            for column, (mean, std) in zip(table["columns"], values, strict=True)
        }
        gaps = [row[f"{name} id"].value - row[f"{name} ood"].value for name in BENCHMARKS]
        row["gap"] = _checked(table["gap"][method], fmean(gaps), 0.105, 1, method, "gap", "its own cells give {:.2f}")
        row["average ood"] = Figure(
            fmean(row[f"{name} ood"].value for name in BENCHMARKS),
            None,
            _where(1, method, "mean of the four OOD cells"),
        )
        found[method] = row
    return found


def _table2(table: Mapping[str, Any]) -> dict[str, dict[str, Figure]]:
    found: dict[str, dict[str, Figure]] = {}
    for method, values in table["rows"].items():
        named = dict(zip(table["columns"], values, strict=True))
        row = {c: Figure(v, None, _where(2, method, c)) for c, v in named.items() if v is not None}
        full = found.get("iga", row)
        for name in BENCHMARKS[:3]:
            if (printed := named[f"{name} delta"]) is not None:
                difference = row[f"{name} ood"].value - full[f"{name} ood"].value
                row[f"{name} delta"] = _checked(
                    printed, difference, 0.15, 2, method, f"{name} delta", "its cells give {:.1f}"
                )
        deltas = [row[f"{name} ood"].value - full[f"{name} ood"].value for name in BENCHMARKS[:3]]
        told = "its cells give {:.2f}"
        row["average delta"] = _checked(named["average delta"], fmean(deltas), 0.105, 2, method, "average delta", told)
        found[method] = row
    return found


def _table3(raw: Mapping[str, Any]) -> dict[str, dict[str, Figure]]:
    table, found, first = raw["table3"], {}, _table1(raw)
    for method, values in table["rows"].items():
        row = {c: Figure(v, None, _where(3, method, c)) for c, v in zip(table["columns"], values, strict=True)}
        mean, hours = first[method]["average ood"].value, row["hours per epoch"].value
        printed = row["average ood"].value
        row["average ood"] = _checked(printed, mean, 0.1, 3, method, "average ood", "Table 1's cells give {:.2f}")
        rate, told = row["accuracy per hour"].value, "its cells give {:.2f}"
        row["accuracy per hour"] = _checked(
            rate, printed / hours, rate * (0.05 / printed + 0.05 / hours), 3, method, "accuracy per hour", told
        )
        found[method] = row
    return found


def _table5(table: Mapping[str, Any]) -> dict[str, dict[str, Figure]]:
    found = {
        method: {
            str(c): Figure(v, None, _where(5, method, f"layer {c}"))
            for c, v in zip(table["columns"], values, strict=True)
        }
        for method, values in table["rows"].items()
    }
    ratios = {}
    for column, printed in zip(map(str, table["columns"]), table["ratio"], strict=True):
        ratio = found["iga"][column].value / found["erm-sft"][column].value
        ratios[column] = _checked(printed, ratio, 0.01, 5, "ratio", f"layer {column}", "its cells give {:.3f}")
    return {**found, "ratio": ratios}


def _checked(printed: float, computed: float, rounding: float, table: int, row: str, column: str, told: str) -> Figure:
    """A printed figure beside what it should be; it is contradicted where rounding, its own and that of what it is computed from, cannot
    explain the difference."""
    wrong = abs(printed - computed) > rounding + _EPSILON
    return Figure(printed, None, _where(table, row, column), told.format(computed) if wrong else "")


def _where(table: int, row: str, column: str) -> str:
    return f"Table {table}, {row}, {column}"
