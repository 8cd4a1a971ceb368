"""Bootstrap intervals of accuracies and of what is made of them: gaps, averages over benchmarks, differences of runs.

Shape legend: K groups, J sets, T distinct groups, R resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["percentile", "bca"]
#: One body of problems: what each answer was worth, by the group whose problem it shares.
Outcomes = Mapping[Hashable, Sequence[float]]

RESAMPLES = 9999
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A confidence interval, and how it was made."""

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class _Stratum:
    """Groups that are in the same sets. Equal ones are kept once: only how often each is drawn matters.

    Attributes:
        sums: ``[T, J]``, of the outcomes in each set.
        sizes: ``[T, J]``, how many outcomes.
        counts: ``[T]``, how many groups are like this.
    """

    sums: NDArray[np.float64]
    sizes: NDArray[np.float64]
    counts: NDArray[np.int64]


def outcomes(pairs: Iterable[tuple[Hashable, float]]) -> dict[Hashable, list[float]]:
    """``(group, outcome)`` pairs by group, in the order they come."""
    groups: dict[Hashable, list[float]] = {}
    for group, value in pairs:
        groups.setdefault(group, []).append(float(value))
    return groups


def estimate(sets: Sequence[Outcomes], weights: Sequence[float]) -> float:
    """The weighted sum of the sets' means, each over instances."""
    means = [
        sum(sum(values) for values in groups.values()) / sum(len(values) for values in groups.values())
        for groups in sets
    ]
    return float(sum(weight * mean for weight, mean in zip(weights, means)))


def bootstrap_interval(
    sets: Sequence[Outcomes],
    weights: Sequence[float] = (1.0,),
    *,
    method: Method = "bca",
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    r"""Interval of a weighted sum of means, by resampling whole groups.

    .. math:: \hat\theta = \sum_j c_j \, \frac{\sum_{k} \sum_i y_{jki}}{\sum_k n_{jk}}

    One set with weight 1 is an accuracy; two with 1 and -1 a gap; B with 1/B each an average over benchmarks; one
    set of differences (1, 0, -1) two runs on the same problems. Groups are drawn with replacement, since answers
    to one problem told twice are not independent. A group that is in several sets (the same problem told in and
    out of the training domains) is drawn for all of them at once; sets that share none are drawn independently.

    Where nothing varies between groups the interval has no width: it says nothing there, and a caller must not
    show it (:func:`~igascale.evaluation.accuracy.group_interval` does have a width at 0% and 100%).

    Reference: Efron and Tibshirani (1993), chapters 13 and 14; Davison and Hinkley (1997), sections 3.8 (several
    samples: groups within strata) and 5.3 (BCa); Field and Welsh (2007) for resampling clusters.

    Args:
        sets: non-empty sets of non-empty groups; the same key in two sets is the same group.
        weights: one per set.
        method: ``percentile``, or ``bca``, which corrects for bias and skewness.
        resamples: R.
        confidence: coverage.
        seed: the same data and seed give the same interval.
    """
    strata = _strata(sets)
    c_J = np.asarray(weights, dtype=np.float64)
    theta = float(_statistic(*_totals(strata), c_J))
    rng = np.random.default_rng(seed)
    J = len(sets)
    sums_RJ, sizes_RJ = np.zeros((resamples, J)), np.zeros((resamples, J))
    for stratum in strata:
        K = int(stratum.counts.sum())
        drawn_RT = rng.multinomial(K, stratum.counts / K, size=resamples)
        sums_RJ += drawn_RT @ stratum.sums
        sizes_RJ += drawn_RT @ stratum.sizes
    # Equal statistics must be equal numbers, or BCa's count of those below the estimate is at the mercy of rounding.
    theta_R = np.round(_statistic(sums_RJ, sizes_RJ, c_J), 12)
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    if method == "bca":
        tails = _bca_tails(theta_R, round(theta, 12), _acceleration(strata, c_J), tails)
    low, high = np.quantile(theta_R, tails)
    return Interval(float(low), float(high), f"{confidence:.0%}, {method} bootstrap over groups")


def _strata(sets: Sequence[Outcomes]) -> list[_Stratum]:
    by_membership: dict[tuple[bool, ...], list[list[float]]] = {}
    for key in dict.fromkeys(key for groups in sets for key in groups):
        parts = [groups.get(key, ()) for groups in sets]
        row = [float(sum(part)) for part in parts] + [float(len(part)) for part in parts]
        by_membership.setdefault(tuple(bool(part) for part in parts), []).append(row)
    J = len(sets)
    strata = []
    for rows in by_membership.values():
        distinct, counts = np.unique(np.asarray(rows), axis=0, return_counts=True)
        strata.append(_Stratum(distinct[:, :J], distinct[:, J:], counts))
    return strata


def _totals(strata: Sequence[_Stratum]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    sums = sum(stratum.counts @ stratum.sums for stratum in strata)
    sizes = sum(stratum.counts @ stratum.sizes for stratum in strata)
    return np.asarray(sums), np.asarray(sizes)


def _statistic(sums: NDArray[np.float64], sizes: NDArray[np.float64], c_J: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((sums / sizes) @ c_J)


def _acceleration(strata: Sequence[_Stratum], c_J: NDArray[np.float64]) -> float:
    """From the jackknife over groups, each left out in turn; Davison and Hinkley (1997), equation 5.26 by strata."""
    sums_J, sizes_J = _totals(strata)
    cubes = squares = 0.0
    for stratum in strata:
        K = int(stratum.counts.sum())
        if K == 1:
            continue
        left_T = _statistic(sums_J - stratum.sums, sizes_J - stratum.sizes, c_J)
        influence_T = (K - 1) * (np.average(left_T, weights=stratum.counts) - left_T)
        cubes += float(stratum.counts @ influence_T**3) / K**3
        squares += float(stratum.counts @ influence_T**2) / K**2
    return cubes / (6 * squares**1.5) if squares > 1e-24 else 0.0


def _bca_tails(
    theta_R: NDArray[np.float64], theta: float, acceleration: float, tails: tuple[float, float]
) -> tuple[float, float]:
    """Which quantiles of the resamples BCa takes; the plain ones where all resamples lie on one side."""
    below = (float(np.mean(theta_R < theta)) + float(np.mean(theta_R <= theta))) / 2
    if not 0 < below < 1:
        return tails
    bias = _NORMAL.inv_cdf(below)
    low, high = (
        _NORMAL.cdf(bias + z / (1 - acceleration * z)) for z in (bias + _NORMAL.inv_cdf(tail) for tail in tails)
    )
    return low, high
