"""Bootstrap over groups against scipy's bootstrap, against slow resampling by hand, and the coverage of what is shown."""

import math

import numpy as np
import pytest
import scipy.stats

from igascale.evaluation.bootstrap import bootstrap_interval, estimate, outcomes
from igascale.evaluation.intervals import CHOICES, interval_of, paired_interval


def singles(values):
    return {k: [float(value)] for k, value in enumerate(values)}


def drawn(rng, K, m, p, rho):
    """Groups of m answers that tend to be right together (beta-binomial)."""
    q = rng.beta(p * (1 - rho) / rho, (1 - p) * (1 - rho) / rho, size=K)
    return {k: (rng.random(m) < q[k]).astype(float).tolist() for k in range(K)}


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize("right, n", [(60, 80), (9, 60), (35, 40)])
def test_accuracy_without_groups_as_scipy(method, right, n):
    values = np.r_[np.ones(right), np.zeros(n - right)]
    ours = bootstrap_interval([singles(values)], method=method, resamples=40_000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method=method.replace("bca", "BCa"), n_resamples=40_000, rng=np.random.default_rng(3)
    )
    # The statistic has steps of 1/n: two Monte Carlo quantiles may lie one step apart.
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=1.01 / n)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=1.01 / n)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_unequal_groups_as_scipy(method):
    rng = np.random.default_rng(4)
    groups = {k: (rng.random(size) < 0.7).astype(float).tolist() for k, size in enumerate(rng.integers(1, 9, 60))}
    sums = np.array([sum(group) for group in groups.values()])
    sizes = np.array([float(len(group)) for group in groups.values()])

    def ratio(sums, sizes, axis=-1):
        return sums.sum(axis) / sizes.sum(axis)

    theirs = scipy.stats.bootstrap(
        (sums, sizes), ratio, paired=True, method=method.replace("bca", "BCa"), n_resamples=20_000, rng=rng
    )
    ours = bootstrap_interval([groups], method=method, resamples=20_000)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.004)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.004)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_gap_of_independent_sets_as_scipy(method):
    rng = np.random.default_rng(5)
    first, second = (rng.random(150) < 0.8).astype(float), (rng.random(220) < 0.6).astype(float)
    # Shifted keys: no group is in both sets.
    sets = [singles(first), {f"ood {k}": [value] for k, value in enumerate(second)}]

    def gap(a, b, axis=-1):
        return a.mean(axis) - b.mean(axis)

    theirs = scipy.stats.bootstrap(
        (first, second), gap, method=method.replace("bca", "BCa"), n_resamples=20_000, rng=rng
    )
    ours = bootstrap_interval(sets, (1, -1), method=method, resamples=20_000)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.004)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.004)


def test_shared_groups_are_drawn_together():
    """The same problems in and out of distribution, told alike: the gap is known exactly, whatever is drawn."""
    rng = np.random.default_rng(6)
    told = {k: (rng.random(4) < 0.6).astype(float).tolist() for k in range(30)}
    together = bootstrap_interval([told, told], (1, -1))
    assert together.low == together.high == 0
    apart = bootstrap_interval([told, {("ood", k): group for k, group in told.items()}], (1, -1))
    assert apart.high - apart.low > 0.1
    # And partly shared: against resampling by hand, stratum by stratum.
    other = {k: (rng.random(3) < 0.5).astype(float).tolist() for k in [*range(15), *range(100, 120)]}
    strata = [range(15, 30), range(15), range(100, 120)]
    found = []
    for _ in range(4000):
        drawn = [k for keys in strata for k in rng.choice(list(keys), len(keys))]
        first = [v for k in drawn if k in told for v in told[k]]
        second = [v for k in drawn if k in other for v in other[k]]
        found.append(np.mean(first) - np.mean(second))
    ours = bootstrap_interval([told, other], (1, -1), method="percentile", resamples=20_000)
    assert [ours.low, ours.high] == pytest.approx(np.quantile(found, [0.025, 0.975]), abs=0.015)


def test_average_over_benchmarks_by_hand():
    rng = np.random.default_rng(7)
    sets = [drawn(rng, K, 3, p, 0.2) for K, p in ((20, 0.5), (40, 0.8), (30, 0.3))]
    sets = [{(j, k): group for k, group in groups.items()} for j, groups in enumerate(sets)]
    weights = [1 / 3] * 3
    found = []
    for _ in range(4000):
        means = []
        for groups in sets:
            values = list(groups.values())
            picked = [values[k] for k in rng.integers(len(values), size=len(values))]
            means.append(np.mean([v for group in picked for v in group]))
        found.append(np.mean(means))
    ours = bootstrap_interval(sets, weights, method="percentile", resamples=20_000)
    assert [ours.low, ours.high] == pytest.approx(np.quantile(found, [0.025, 0.975]), abs=0.008)
    assert estimate(sets, weights) == pytest.approx(
        np.mean([np.mean([v for group in g.values() for v in group]) for g in sets])
    )
    # Score intervals of the parts, put together, say about the same where the bootstrap is sound.
    score = interval_of(sets, weights)
    assert [score.low, score.high] == pytest.approx([ours.low, ours.high], abs=0.02)


@pytest.mark.parametrize("choice", CHOICES)
def test_the_same_seed_gives_the_same_interval(choice):
    groups = drawn(np.random.default_rng(8), 25, 4, 0.7, 0.3)
    first, again = (interval_of([groups], choice=choice, seed=11) for _ in range(2))
    assert first == again
    assert 0 < first.low < estimate([groups], (1,)) < first.high < 1


@pytest.mark.parametrize("choice", ["bca", "percentile"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_bootstrap_without_width_gives_way(choice, value):
    groups = {k: [value] * 3 for k in range(12)}
    assert bootstrap_interval([groups], method=choice).low == value
    shown = interval_of([groups], choice=choice)
    assert shown.high - shown.low > 0.2 and "score" in shown.method


def test_groups_not_instances_count():
    """Twelve problems, told in eight domains with one outcome each, are twelve problems."""
    rng = np.random.default_rng(9)
    answers = (rng.random(12) < 0.5).astype(float)
    told_once, told_often = singles(answers), {k: [value] * 8 for k, value in enumerate(answers)}
    once, often = (bootstrap_interval([groups], method="percentile") for groups in (told_once, told_often))
    assert once == often


def tango_by_grid(b, c, n):
    """All differences that the score test does not reject, found by trying them."""
    kept = []
    for delta in np.linspace(-1, 1, 20_001):
        A, B, C = 2 * n, -b - c + (2 * n - b + c) * delta, -c * delta * (1 - delta)
        q = (math.sqrt(max(0, B * B - 4 * A * C)) - B) / (2 * A)
        variance = n * (2 * q + delta * (1 - delta))
        if (b - c - n * delta) ** 2 <= scipy.stats.norm.ppf(0.975) ** 2 * variance + 1e-12:
            kept.append(delta)
    return min(kept), max(kept)


@pytest.mark.parametrize("b, c, n", [(9, 3, 44), (0, 0, 30), (5, 0, 20), (0, 20, 20), (21, 12, 100), (1, 1, 2)])
def test_paired_score_interval_is_tangos(b, c, n):
    values = [[1.0]] * b + [[-1.0]] * c + [[0.0]] * (n - b - c)
    assert paired_interval(values) == pytest.approx(tango_by_grid(b, c, n), abs=2e-4)


@pytest.mark.parametrize("K, m, p, rho", [(20, 4, 0.6, 0.3), (30, 1, 0.97, 0.001), (60, 3, 0.9, 0.4)])
def test_coverage_of_what_is_shown(K, m, p, rho):
    rng = np.random.default_rng(10)
    hits = 0
    for _ in range(400):
        interval = interval_of([drawn(rng, K, m, p, rho)])
        hits += interval.low <= p <= interval.high
    assert hits / 400 >= 0.92


@pytest.mark.parametrize("choice", ["percentile", "bca"])
def test_coverage_of_the_bootstrap_where_it_is_sound(choice):
    rng = np.random.default_rng(11)
    hits = 0
    for _ in range(300):
        interval = interval_of([drawn(rng, 80, 3, 0.6, 0.3)], choice=choice, resamples=799)
        hits += interval.low <= 0.6 <= interval.high
    assert 0.91 <= hits / 300 <= 0.99


@pytest.mark.parametrize("K, m", [(15, 1), (40, 4)])
def test_coverage_of_a_paired_difference(K, m):
    """Truth: 0.3 - 0.1; in groups of four, outcomes lean together."""
    rng = np.random.default_rng(12)
    hits = 0
    for _ in range(400):
        shares = rng.dirichlet(np.array([0.3, 0.1, 0.6]) * (2.3 if m > 1 else 1e6), size=K)
        groups = {k: rng.choice([1.0, -1.0, 0.0], m, p=shares[k]).tolist() for k in range(K)}
        interval = interval_of([groups], paired=True)
        hits += interval.low <= 0.2 <= interval.high
    assert hits / 400 >= 0.92


def test_outcomes_by_group():
    assert outcomes([("a", True), ("b", False), ("a", False)]) == {"a": [1.0, 0.0], "b": [0.0]}
