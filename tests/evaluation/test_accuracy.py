"""Accuracy, chance and intervals; coverage of the intervals by independent simulation."""

import math

import numpy as np
import pytest
import scipy.stats

from igascale.evaluation.accuracy import (
    Accuracy,
    _t_quantile,
    accuracy_of,
    breakdown,
    difference_interval,
    group_interval,
    score,
)
from igascale.isomers.schema import Instance, IsomerGroup


def groups_of(table, kinds=None):
    """Groups from rows of expected answers, one per domain."""
    return [
        IsomerGroup(
            id=f"g{k}",
            seed_id=f"s{k}",
            kind=kinds[k] if kinds else None,
            instances=tuple(Instance(f"d{n}", f"problem {k} {n}", "", answer) for n, answer in enumerate(row)),
        )
        for k, row in enumerate(table)
    ]


def test_counts_by_hand():
    groups = groups_of([["yes", "Yes"], ["no", "yes"], ["blue", "red"]], kinds=["order", "order", "count"])
    texts = ["Answer: yes", "Answer: no", "dunno", "Answer: YES.", "Answer: blue", "Answer: red"]
    samples = score(groups, texts, [1, 2, 3, 4, 5, 6], [True] * 5 + [False], "id")
    parts = breakdown(samples)
    assert parts.overall.value == pytest.approx(4 / 6)
    assert parts.overall.chance == pytest.approx(3 / 6)  # "yes", whatever its case
    assert parts.overall.parse_failures == pytest.approx(1 / 6)
    assert (parts.overall.samples, parts.overall.groups) == (6, 3)
    assert [parts.per_domain[d].value for d in ("d0", "d1")] == pytest.approx([2 / 3, 2 / 3])
    assert [parts.per_kind[k].value for k in ("order", "count")] == pytest.approx([2 / 4, 1.0])
    assert parts.per_kind["count"].chance == pytest.approx(1 / 2)
    assert samples[2].to_dict() | {"predicted": None, "correct": False, "instance_id": "g1/d0"} == samples[2].to_dict()
    assert samples[5].finished is False


def wilson(successes, n):
    result = scipy.stats.binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return result.low, result.high


def test_groups_of_one_give_plain_wilson():
    outcomes = [[True]] * 30 + [[False]] * 20
    assert group_interval(outcomes) == pytest.approx(wilson(30, 50), rel=5e-3)  # K/(K-1)


def test_groups_of_copies_are_worth_one_each():
    """Four equal outcomes per group: as wide as 50 samples, not 200 (up to K/(K-1) and t quantiles)."""
    low, high = group_interval([[True] * 4] * 30 + [[False] * 4] * 20)
    expected = wilson(30, 50)
    assert high - low == pytest.approx(expected[1] - expected[0], rel=0.04)
    assert high - low > 1.7 * np.subtract(*wilson(120, 200)[::-1])


@pytest.mark.parametrize(("outcome", "at"), [(True, 1), (False, 0)])
def test_all_right_or_all_wrong_still_has_a_width(outcome, at):
    interval = group_interval([[outcome] * 4] * 12)
    assert interval[at] == float(outcome)
    assert interval == pytest.approx(wilson(12 * outcome, 12), rel=1e-6, abs=1e-12)


def test_one_group_says_next_to_nothing():
    low, high = group_interval([[True, False, True, True]])
    assert high - low > 0.8


@pytest.mark.parametrize(("p", "rho"), [(0.5, 0.0), (0.3, 0.5), (0.85, 0.9), (0.9, 0.3)])
def test_coverage(p, rho):
    """Beta-binomial groups with intra-group correlation rho: the interval covers p about 95% of the time."""
    rng = np.random.default_rng(1)
    hits, runs, widths = 0, 1500, []
    for _ in range(runs):
        spread = (1 - rho) / rho if rho else 1e9
        rates = rng.beta(p * spread, (1 - p) * spread, size=60)
        low, high = group_interval((rng.random((60, 4)) < rates[:, None]).tolist())
        hits += low <= p <= high
        widths.append(high - low)
    assert 0.93 <= hits / runs <= 0.985
    # Nor is it wasteful: the ideal width is that of the true variance.
    ideal = 2 * 1.96 * math.sqrt(p * (1 - p) / 240 * (1 + 3 * rho))
    assert np.mean(widths) == pytest.approx(ideal, rel=0.12)


def test_naive_interval_would_not_cover():
    """The same simulation, ignoring groups: it must fail, or the test above shows nothing."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(500):
        rates = rng.beta(0.3 * 0.1 / 0.9, 0.7 * 0.1 / 0.9, size=60)
        low, high = wilson(int((rng.random((60, 4)) < rates[:, None]).sum()), 240)
        hits += low <= 0.3 <= high
    assert hits / 500 < 0.85


def test_difference_covers():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(1000):
        pair = []
        for p in (0.9, 0.6):
            outcomes = (rng.random((40, 2)) < p).tolist()
            value = float(np.mean(outcomes))
            pair.append(Accuracy(value, *group_interval(outcomes), 0.5, 0.0, 80, 40))
        low, high = difference_interval(*pair)
        hits += low <= 0.3 <= high
    assert 0.93 <= hits / 1000 <= 0.98


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 10, 30, 200])
def test_t_quantile(degrees):
    assert _t_quantile(degrees, 0.95) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), rel=3e-3)


def test_order_of_samples_does_not_matter():
    groups = groups_of([["yes", "no"], ["no", "yes"], ["blue", "red"]])
    samples = score(groups, ["Answer: yes"] * 6, [1] * 6, [True] * 6, "id")
    assert accuracy_of(samples) == accuracy_of(reversed(samples))
