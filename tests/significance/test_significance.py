"""Paired tests against scipy and against counting every choice of signs; Holm; figures over seeds."""

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale.evaluation.significance import STD_OF, compare_paired, holm, over_seeds, sign_flip_p


def by_counting(differences):
    """Every choice of signs."""
    observed = abs(sum(differences))
    flips = [abs(sum(s * d for s, d in zip(signs, differences))) for signs in product((1, -1), repeat=len(differences))]
    return sum(flip >= observed for flip in flips) / len(flips)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-4, 4), max_size=11))
def test_sign_flips_are_all_counted(differences):
    assert sign_flip_p(differences) == pytest.approx(by_counting(differences), abs=1e-12)


@pytest.mark.parametrize("b, c", [(3, 9), (0, 1), (5, 5), (0, 12), (200, 150), (1000, 900)])
def test_without_groups_it_is_mcnemars_exact_test(b, c):
    p = sign_flip_p([1] * b + [-1] * c + [0] * 50)
    assert p == pytest.approx(scipy.stats.binomtest(b, b + c, 0.5).pvalue, rel=1e-9)


def test_as_scipys_paired_permutations():
    rng = np.random.default_rng(0)
    differences = rng.integers(-3, 5, 40)
    theirs = scipy.stats.permutation_test(
        (differences, np.zeros(40)),
        lambda a, b, axis: (a - b).sum(axis),
        permutation_type="samples",
        n_resamples=40_000,
        vectorized=True,
        rng=rng,
    )
    assert sign_flip_p(differences.tolist()) == pytest.approx(theirs.pvalue, abs=0.01)


def test_nothing_discordant():
    assert sign_flip_p([]) == sign_flip_p([0, 0]) == 1.0
    found = compare_paired({k: [(True, True), (False, False)] for k in range(20)})
    assert found.difference == 0 and found.p == 1 and found.discordant_groups == 0
    assert found.low == pytest.approx(-found.high) and 0.1 < found.high < 0.2


def test_a_group_counts_once():
    """Five groups told in twenty domains and won throughout are five wins, p 1/16, and not a hundred."""
    groups = {k: [(True, False)] * 20 for k in range(5)}
    found = compare_paired(groups)
    assert found.first_only == 100 and found.difference == 1
    assert found.p == pytest.approx(2 / 2**5)


def test_counts_and_difference():
    groups = {"a": [(True, False), (True, True)], "b": [(False, True), (False, False), (True, False)]}
    found = compare_paired(groups)
    assert (found.first_only, found.second_only, found.both, found.neither) == (2, 1, 1, 1)
    assert found.samples == 5 and found.groups == 2 and found.discordant_groups == 1
    assert found.difference == pytest.approx(3 / 5 - 2 / 5)


def test_discordant_within_a_group_but_even():
    """One right each, in every group: nothing to tell the runs apart, yet they answer differently."""
    found = compare_paired({k: [(True, False), (False, True)] for k in range(30)})
    assert found.p == 1 and found.discordant_groups == 0 and found.first_only == found.second_only == 30
    assert found.low < 0 < found.high


@pytest.mark.parametrize("choice", ["score", "bca", "percentile"])
def test_symmetric_in_the_runs(choice):
    rng = np.random.default_rng(1)
    groups = {k: [(bool(a), bool(b)) for a, b in rng.random((3, 2)) < (0.7, 0.5)] for k in range(50)}
    swapped = {k: [(b, a) for a, b in group] for k, group in groups.items()}
    one, other = compare_paired(groups, choice=choice), compare_paired(swapped, choice=choice)
    assert one.difference == pytest.approx(-other.difference) and one.p == pytest.approx(other.p)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=0.02)


def test_level_of_the_test_under_clustering():
    """Runs that answer alike: p below 0.05 in at most 5% of comparisons. By instances it would be far more."""
    rng = np.random.default_rng(2)
    ours, naive, trials = 0, 0, 1000
    for _ in range(trials):
        shares = rng.dirichlet([0.3, 0.3, 0.4], size=25)
        groups = [rng.choice([1, -1, 0], 8, p=share) for share in shares]
        ours += sign_flip_p([int(group.sum()) for group in groups]) <= 0.05
        naive += sign_flip_p(np.concatenate(groups).tolist()) <= 0.05
    assert ours / trials <= 0.065
    assert naive / trials > 0.2


def test_holm():
    # Holm (1979) by hand: 0.01 * 4, 0.02 * 3, 0.03 * 2, 0.04 * 1, made monotone.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
    assert holm([0.5]) == [0.5]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0.001, 0.5))
def test_holm_rejects_as_the_procedure_does(p_values, alpha):
    rejected = set()
    for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if p_values[index] * (len(p_values) - step) > alpha:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(p_values)) if p <= alpha} == rejected


def test_over_seeds():
    found = over_seeds([0.5, 0.6, 0.7])
    assert (found.mean, found.std, found.n) == (pytest.approx(0.6), pytest.approx(np.std([0.5, 0.6, 0.7], ddof=1)), 3)
    assert over_seeds([0.5]).std is None
    assert "n - 1" in STD_OF
    for bad in ([], [0.5, float("nan")]):
        with pytest.raises(ValueError):
            over_seeds(bad)
