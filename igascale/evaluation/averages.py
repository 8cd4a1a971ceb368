"""One figure over several benchmarks: the mean of theirs, with an interval from their own intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from igascale.evaluation.results import ISOMERS, EvaluationResult

Estimate = tuple[float, float, float]


@dataclass(frozen=True)
class Average:
    """A mean over benchmarks, each of the same weight whatever its size.

    Attributes:
        value: the mean.
        low, high: its 95% interval.
        over: the benchmarks.
    """

    value: float
    low: float
    high: float
    over: tuple[str, ...]


def mean_of(parts: Sequence[Estimate]) -> Estimate:
    r"""The mean of independent estimates, with an interval made of theirs.

    .. math:: \bar v = \frac1n \sum_i v_i, \quad
        L = \bar v - \frac1n \sqrt{\sum_i (v_i - l_i)^2}, \quad U = \bar v + \frac1n \sqrt{\sum_i (u_i - v_i)^2}

    Reference: Zou and Donner (2008), "Construction of confidence limits about effect measures: a general approach" (MOVER); for two
    parts and their difference it is Newcombe's method 10, which the gap has.

    Args:
        parts: value, low, high of each; at least one.
    """
    n = len(parts)
    value = math.fsum(v for v, _, _ in parts) / n
    below = math.hypot(*(v - low for v, low, _ in parts)) / n
    above = math.hypot(*(high - v for v, _, high in parts)) / n
    return value, value - below, value + above


def average(result: EvaluationResult, side: str) -> Average | None:
    """Mean accuracy over the benchmarks of one side, ``id`` or ``ood``; ``None`` where fewer than two have it.

    Isomer groups are no benchmark and stay out. The problems of different benchmarks are taken as independent.
    """
    found = {
        name: (split.accuracy.value, split.accuracy.low, split.accuracy.high)
        for name, suite in result.suites.items()
        if name != ISOMERS and (split := suite.splits.get(side)) is not None
    }
    return _average(found)


def average_gap(result: EvaluationResult) -> Average | None:
    """Mean ID minus OOD gap over the benchmarks that have both sides; ``None`` where fewer than two have."""
    found = {
        name: (suite.delta_gap, suite.delta_gap_low, suite.delta_gap_high)
        for name, suite in result.suites.items()
        if name != ISOMERS
        and suite.delta_gap is not None
        and suite.delta_gap_low is not None
        and suite.delta_gap_high is not None
    }
    return _average(found)


def _average(found: dict[str, Estimate]) -> Average | None:
    return Average(*mean_of(list(found.values())), over=tuple(found)) if len(found) > 1 else None
