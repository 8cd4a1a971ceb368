"""Whether two runs differ: on the same problems, group by group; several runs against one; and over seeds.

Shape legend: K groups.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from igascale.evaluation.bootstrap import RESAMPLES
from igascale.evaluation.intervals import Choice, interval_of


@dataclass(frozen=True)
class Paired:
    """Two runs on the same problems.

    Attributes:
        difference: accuracy of the first minus that of the second.
        low, high: its 95% interval.
        p: two-sided, of :func:`sign_flip_p`; without groups this is McNemar's exact test.
        first_only, second_only: problems that only one of them has right; together the discordant ones.
        both, neither: problems that both, or none, have right.
        groups: K.
        discordant_groups: groups in which the two have different numbers of right answers: all that ``p`` rests on.
        interval: how the interval was made.
    """

    difference: float
    low: float
    high: float
    p: float
    first_only: int
    second_only: int
    both: int
    neither: int
    groups: int
    discordant_groups: int
    interval: str

    @property
    def samples(self) -> int:
        """Problems in all."""
        return self.first_only + self.second_only + self.both + self.neither


def compare_paired(
    groups: Mapping[Hashable, Sequence[tuple[bool, bool]]],
    *,
    choice: Choice = "score",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Paired:
    """Difference of two runs, its interval and p.

    Args:
        groups: per group of problems, whether the first and the second run have each right.
        choice: of the interval, see :func:`~igascale.evaluation.intervals.interval_of`.
        resamples: of a bootstrap.
        seed: of a bootstrap.
    """
    pairs = [pair for group in groups.values() for pair in group]
    by_group = {key: [float(a) - float(b) for a, b in group] for key, group in groups.items()}
    flips = [int(sum(values)) for values in by_group.values()]
    interval = interval_of([by_group], paired=True, choice=choice, resamples=resamples, seed=seed)
    return Paired(
        difference=sum(flips) / len(pairs),
        low=interval.low,
        high=interval.high,
        p=sign_flip_p(flips),
        first_only=sum(a and not b for a, b in pairs),
        second_only=sum(b and not a for a, b in pairs),
        both=sum(a and b for a, b in pairs),
        neither=sum(not a and not b for a, b in pairs),
        groups=len(groups),
        discordant_groups=sum(flip != 0 for flip in flips),
        interval=interval.method,
    )


def sign_flip_p(differences: Sequence[int]) -> float:
    r"""Exact two-sided p of the sign-flip (paired randomisation) test.

    .. math:: p = P\Bigl(\bigl|\sum_k s_k D_k\bigr| \ge \bigl|\sum_k D_k\bigr|\Bigr),
        \qquad s_k = \pm 1 \text{ with equal probability}

    ``D_k`` is the number of right answers of the first run in group k minus that of the second. If the two runs
    answer alike, their names can be exchanged in any group, and every choice of signs is as likely as the one
    seen. All :math:`2^K` choices are counted, by convolution of two-point distributions of integers. With groups
    of one problem every ``D_k`` is 1, 0 or -1, and this is McNemar's exact test.

    Reference: Fisher (1935), section 21; Dror et al. (2018), "The hitchhiker's guide to testing statistical
    significance in NLP", for its use here; McNemar (1947).

    Args:
        differences: ``[K]``.
    """
    sizes = sorted(abs(difference) for difference in differences if difference)
    observed, total = abs(sum(differences)), sum(sizes)
    # chance_of[x]: that the flipped groups so far sum to x - their total size, in steps of 1.
    chance_of = np.ones(1)
    for size in sizes:
        wider = np.zeros(len(chance_of) + 2 * size)
        wider[: len(chance_of)] += chance_of / 2
        wider[2 * size :] += chance_of / 2
        chance_of = wider
    sums = np.arange(-total, total + 1)
    return min(1.0, float(chance_of[np.abs(sums) >= observed].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: reject where the result is at most alpha, and the chance of any false rejection is at most alpha.

    Reference: Holm (1979).

    Args:
        p_values: of all the comparisons that were looked at.

    Returns:
        the adjusted p, in the same order.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


@dataclass(frozen=True)
class OverSeeds:
    """A figure over runs that differ in their seed.

    Attributes:
        mean: of the runs.
        std: sample standard deviation of the runs (divided by n - 1); ``None`` for one run.
        n: how many.
    """

    mean: float
    std: float | None
    n: int


#: What the number behind ± is; a table that prints it prints this too.
STD_OF = (
    "± is the sample standard deviation over seeds (n - 1): how much one training differs from the next on the same "
    "problems. It is no standard error of the mean, and holds nothing of the choice of problems"
)


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Mean and spread of one figure over seeds (see :data:`STD_OF`).

    Args:
        values: one per run, at least one, all finite.
    """
    if not values or not all(math.isfinite(value) for value in values):
        raise ValueError("a mean over seeds needs at least one value, and finite ones")
    return OverSeeds(fmean(values), stdev(values) if len(values) > 1 else None, len(values))
