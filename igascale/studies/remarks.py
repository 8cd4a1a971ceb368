"""What a reader must know of a study's rows before comparing them: what is missing, at other data, or not tuned."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from igascale.studies.results import RowFindings
from igascale.tuning import Compared, claims, departures, describe_selection

OTHER_PROBLEMS, OTHER_TRAINING, OTHER_MODEL, LEAKED = "‡", "§", "¶", "!"


@dataclass
class Remarks:
    """Signs behind the names of rows, and what they and everything else mean.

    Attributes:
        signs: row -> signs.
        selected: row -> how its settings were chosen.
        notes: a sentence each.
        claims: what the comparison as a whole cannot show.
    """

    signs: dict[str, str] = field(default_factory=dict)
    selected: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)


def remarks(rows: Sequence[RowFindings]) -> Remarks:
    """Look over all rows together."""
    told = Remarks({row.name: "" for row in rows})
    _missing(rows, told)
    _problems(rows, told)
    _training(rows, told)
    _leaks(rows, told)
    for row in rows:
        if trained := _trained(row):
            told.selected[row.name] = _same(
                describe_selection(config.get("selection"), departures(config)) for config in trained
            )
    compared = [Compared.of(row.name, trained[0]) for row in rows if (trained := _trained(row))]
    told.claims = list(claims(compared))
    _surroundings(rows, told)
    return told


def _trained(row: RowFindings) -> list[Mapping[str, Any]]:
    return [finding.config for finding in row.found.values() if finding.job.trains]


def _missing(rows: Sequence[RowFindings], told: Remarks) -> None:
    for row in rows:
        for seed, reason in row.missing.items():
            told.notes.append(f"{row.name}{'' if seed is None else f', seed {seed}'}: {reason}")


def _problems(rows: Sequence[RowFindings], told: Remarks) -> None:
    """Rows are measured against the first one that has anything."""
    measured = [row for row in rows if row.found]
    if not measured:
        return
    first = next(iter(measured[0].found.values())).problems
    for row in measured:
        for finding in row.found.values():
            sides = [
                side for side in first.keys() | finding.problems.keys() if first.get(side) != finding.problems.get(side)
            ]
            if sides:
                named = ", ".join(f"{suite} {side.upper()}" for suite, side in sorted(sides))
                told.signs[row.name] += OTHER_PROBLEMS
                told.notes.append(
                    f"{OTHER_PROBLEMS} {row.name} was evaluated on other problems than {measured[0].name} ({named}): the two are not "
                    "comparable there"
                )
                break


def _training(rows: Sequence[RowFindings], told: Remarks) -> None:
    trained = [row for row in rows if _trained(row)]
    for name, sign, what in (
        ("data", OTHER_TRAINING, "trained on another file"),
        ("model", OTHER_MODEL, "another base model"),
    ):
        values = {row.name: getattr(next(iter(row.found.values())), name) for row in trained}
        for row in trained:
            if values[row.name] != values[trained[0].name]:
                told.signs[row.name] += sign
                told.notes.append(f"{sign} {row.name}: {what} than {trained[0].name}")


def _leaks(rows: Sequence[RowFindings], told: Remarks) -> None:
    for row in rows:
        if any((config.get("data") or {}).get("allow_leakage") for config in _trained(row)):
            told.signs[row.name] += LEAKED
            told.notes.append(
                f"{LEAKED} {row.name} was trained on the seed problems of its held-out files: inflated, no result"
            )


def _surroundings(rows: Sequence[RowFindings], told: Remarks) -> None:
    """Jobs that ran with other versions, or on other devices."""
    seen: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        for finding in row.found.values():
            facts: dict[str, Any] = {}
            with suppress(OSError, ValueError):
                facts = json.loads((finding.job.folder / "environment.json").read_text())
            if not facts:
                continue
            values = {
                name: facts.get("versions", {}).get(name)
                for name in ("igascale", "torch", "transformers", "peft", "deepspeed")
            }
            git = facts.get("git") or {}
            values["commit of igascale"] = git.get("commit") and git["commit"][:10] + ("+" if git.get("dirty") else "")
            values["ranks"] = facts.get("world_size")
            values["device"] = ((facts.get("ranks") or [{}])[0].get("gpu") or {}).get("name", "CPU")
            for name, value in values.items():
                seen.setdefault(name, {}).setdefault(str(value), []).append(finding.job.name)
    for name, by_value in seen.items():
        if len(by_value) > 1:
            shown = "; ".join(
                f"{value}: {jobs[0]}{f' and {len(jobs) - 1} more' if len(jobs) > 1 else ''}"
                for value, jobs in by_value.items()
            )
            told.claims.append(f"the jobs did not all run alike: {name} was {shown}")


def _same(values: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(values))
    return distinct[0] if len(distinct) == 1 else "differs: " + " / ".join(distinct)
