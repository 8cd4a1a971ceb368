r"""Out-of-distribution loss and accuracy where runs have fitted their own domains equally well (docs/evaluation.md).

A rule that learns more slowly looks better out of distribution at the end only because it has fitted the training domains less. So
runs are also compared at one in-distribution validation loss that all of them reach.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.evaluation.accuracy import Accuracy
from igascale.evaluation.results import ISOMERS, RESULT_FILE, read_result
from igascale.evaluation.run_records import check_run, records

AT_FIRST = "below it at the first validation already: where it was crossed is not known"


@dataclass(frozen=True)
class Validation:
    """Validation losses after a step, means over domains, in nats per token; ``ood`` is ``None`` where it was not finite or not measured."""

    step: int
    id: float
    ood: float | None


@dataclass(frozen=True)
class Crossing:
    """Where a run first comes down to the matched loss.

    Attributes:
        step: between two validations by linear interpolation.
        ood: out-of-distribution loss there, likewise.
        exact: ``False`` where the first validation is below the loss already, and stands in for the crossing.
    """

    step: float
    ood: float | None
    exact: bool = True


@dataclass(frozen=True)
class Nearest:
    """The evaluated checkpoint whose validation loss is nearest to the matched one.

    Attributes:
        step: of the checkpoint.
        distance: its ID validation loss minus the matched one.
        accuracy: out of distribution, on the isomer groups.
    """

    step: int
    distance: float
    accuracy: Accuracy


@dataclass(frozen=True)
class MatchedRun:
    """One run at the matched loss.

    Attributes:
        name: the run.
        crossing: ``None`` where it never comes there, or was not validated.
        end: its last validation.
        lowest: its lowest ID loss.
        nearest: an accuracy near the crossing, where a checkpoint was evaluated.
        why_not: why there is no crossing, or what is to be known of it.
    """

    name: str
    crossing: Crossing | None
    end: Validation | None
    lowest: float | None
    nearest: Nearest | None = None
    why_not: str = ""


@dataclass(frozen=True)
class Matched:
    """Several runs at one in-distribution loss; ``loss`` is ``None`` where no run was validated."""

    loss: float | None
    runs: tuple[MatchedRun, ...]


def match(folders: Sequence[Path], names: Sequence[str] | None = None, loss: float | None = None) -> Matched:
    """Compare runs where they have the same in-distribution validation loss.

    Args:
        folders: of the runs.
        names: what to call them; by default their folders.
        loss: the loss to compare at; by default the lowest that every run with validations reaches.

    Raises:
        UserError: a folder is no run; ``loss`` is not a positive number.
    """
    if loss is not None and not (math.isfinite(loss) and loss > 0):
        raise UserError(f"the validation loss to compare at is {loss}; give a positive number")
    told = names or [str(folder) for folder in folders]
    curves = [_read(folder) for folder in folders]
    if loss is None:
        loss = matched_loss([curve.kept for curve in curves])
    runs = [_run(name, folder, curve, loss) for name, folder, curve in zip(told, folders, curves, strict=True)]
    return Matched(loss, tuple(_with_domains(runs, curves)))


def matched_loss(curves: Sequence[Sequence[Validation]]) -> float | None:
    """The lowest ID loss that every run comes down to; runs without validations have no say."""
    return max((min(v.id for v in curve) for curve in curves if curve), default=None)


def first_crossing(curve: Sequence[Validation], loss: float) -> Crossing | None:
    """Where the line through the validations first comes down to ``loss``.

    Args:
        curve: by step.
        loss: that is looked for.
    """
    for before, after in pairwise([None, *curve]):
        if after is None or after.id > loss:
            continue
        if before is None:
            return Crossing(after.step, after.ood, exact=after.id == loss)
        part = (before.id - loss) / (before.id - after.id)
        ood = None if before.ood is None or after.ood is None else before.ood + part * (after.ood - before.ood)
        return Crossing(before.step + part * (after.step - before.step), after.ood if part == 1 else ood)
    return None


def loss_at(curve: Sequence[Validation], step: int) -> float | None:
    """ID loss after a step, interpolated between validations; ``None`` outside of them."""
    for before, after in pairwise(curve):
        if before.step <= step <= after.step:
            return before.id + (step - before.step) / (after.step - before.step) * (after.id - before.id)
    return next((v.id for v in curve if v.step == step), None)


def validations(folder: Path) -> list[Validation]:
    """The validations of a run by step; those whose ID loss was not finite are left out.

    Raises:
        UserError: it is no run folder.
    """
    return _read(folder).kept


@dataclass(frozen=True)
class _Curve:
    """A run's validations; how many were left out; the domains that their losses are means over, ID and OOD."""

    kept: list[Validation]
    left_out: int
    domains: tuple[tuple[str, ...], ...]


def _read(folder: Path) -> _Curve:
    found = [r for r in records(check_run(folder), "validation")[0] if r.get("id")]
    kept = [Validation(r["step"], id_, _mean(r.get("ood"))) for r in found if (id_ := _mean(r["id"])) is not None]
    sides = [found[0].get(side) if found else None for side in ("id", "ood")]
    domains = tuple(tuple(sorted(side)) if isinstance(side, dict) else () for side in sides)
    return _Curve(kept, len(found) - len(kept), domains)


def _with_domains(runs: list[MatchedRun], curves: list[_Curve]) -> list[MatchedRun]:
    """Runs whose losses are means over other domains than those of the first are not compared in silence."""
    first = next((curve.domains for curve in curves if curve.kept), ())
    told = []
    for run, curve in zip(runs, curves):
        if curve.kept and curve.domains != first:
            over = ", ".join(d for side in curve.domains for d in side)
            run = replace(
                run, why_not="; ".join(filter(None, (f"OTHER DOMAINS: its losses are over {over}", run.why_not)))
            )
        told.append(run)
    return told


def _mean(losses: Any) -> float | None:
    """Over the domains; ``None`` where one of them is missing or not finite."""
    if not isinstance(losses, dict) or not losses:
        return None
    values = list(losses.values())
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values):
        return None
    return math.fsum(values) / len(values)


def _run(name: str, folder: Path, read: _Curve, loss: float | None) -> MatchedRun:
    curve, left_out = read.kept, read.left_out
    if not curve or loss is None:
        why = "no validation loss was finite" if left_out else "no validation is recorded (eval.every, data.validation)"
        return MatchedRun(name, None, None, None, why_not=why)
    lowest, crossing = min(v.id for v in curve), first_crossing(curve, loss)
    if crossing is None:
        return MatchedRun(name, None, curve[-1], lowest, why_not=f"never comes down to it: its lowest is {lowest:.4f}")
    whys = [
        "" if crossing.exact else AT_FIRST,
        "no out-of-distribution loss there (data.ood)" if crossing.ood is None else "",
        f"validations whose loss was not finite: {left_out}, left out" if left_out else "",
    ]
    return MatchedRun(name, crossing, curve[-1], lowest, _nearest(folder, curve, loss), "; ".join(filter(None, whys)))


def _nearest(folder: Path, curve: list[Validation], loss: float) -> Nearest | None:
    """Among the run's evaluations of checkpoints, and of its final adapter, those with an OOD side of isomer groups."""
    found = []
    for step, file in _evaluations(folder, curve[-1].step):
        at = loss_at(curve, step)
        if at is None:
            continue
        suite = read_result(file).suites.get(ISOMERS)
        if suite is not None and suite.ood is not None:
            found.append(Nearest(step, at - loss, suite.ood.accuracy))
    return min(found, key=lambda nearest: (abs(nearest.distance), nearest.step), default=None)


def _evaluations(folder: Path, last: int) -> list[tuple[int, Path]]:
    """Step and file of each; the final adapter is that of the last step."""
    root = folder / "evaluation"
    steps = [(re.fullmatch(r"step-(\d+)", path.name), path / RESULT_FILE) for path in sorted(root.glob("step-*"))]
    found = [(int(step[1]), file) for step, file in steps if step and file.is_file()]
    final = root / RESULT_FILE
    return [*found, *([(last, final)] if final.is_file() and (folder / "adapter").is_dir() else [])]
