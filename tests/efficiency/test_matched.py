"""Runs at one validation loss, against a slow statement of the same in fractions."""

import json
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale.errors import UserError
from igascale.evaluation.matched import AT_FIRST, Validation, first_crossing, loss_at, match, matched_loss, validations
from igascale.evaluation.matched_table import matched_table
from igascale.tables import to_csv, to_markdown

from finished_runs import evaluate, validation, write_run

losses = st.integers(1, 400).map(lambda n: n / 64)  # exact in binary


@st.composite
def curves(draw):
    steps = sorted(draw(st.sets(st.integers(1, 60), min_size=1, max_size=8)))
    return [Validation(step, draw(losses), draw(st.none() | losses)) for step in steps]


def at(curve, step, side):
    """The broken line through a curve, at any step, in fractions; no division by anything that a crossing divides by."""
    for before, after in pairwise(curve):
        if before.step <= step <= after.step:
            share = Fraction(step - before.step, after.step - before.step)
            ends = [getattr(v, side) for v in (before, after)]
            if None in ends:
                return {0: ends[0], 1: ends[1]}.get(share)
            return (1 - share) * Fraction(ends[0]) + share * Fraction(ends[1])
    return next((getattr(v, side) for v in curve if v.step == step), None)


def slow_crossing(curve, loss):
    """Among all places where the line is at the loss, and all validations below it, the earliest."""
    loss, places = Fraction(loss), [Fraction(v.step) for v in curve if Fraction(v.id) <= loss]
    for before, after in pairwise(curve):
        one, two = Fraction(before.id), Fraction(after.id)
        if min(one, two) <= loss <= max(one, two) and one != two:
            places.append(before.step + (after.step - before.step) * (loss - one) / (two - one))
    return min(places, default=None)


@settings(max_examples=200, deadline=None)
@given(curves(), losses)
def test_first_crossing(curve, loss):
    found, expected = first_crossing(curve, loss), slow_crossing(curve, loss)
    if expected is None:
        assert found is None
        return
    assert found.step == pytest.approx(float(expected), rel=1e-12)
    assert found.exact == (curve[0].id >= loss)
    ood = at(curve, expected, "ood")
    assert found.ood == (None if ood is None else pytest.approx(float(ood), rel=1e-9))
    if found.exact:
        assert at(curve, expected, "id") == Fraction(loss)


@settings(max_examples=100, deadline=None)
@given(st.lists(curves(), min_size=1, max_size=4))
def test_the_matched_loss_is_the_lowest_that_all_reach(several):
    loss = matched_loss(several)
    assert all(first_crossing(curve, loss) for curve in several)
    below = loss - 1e-9
    assert not all(first_crossing(curve, below) for curve in several)
    assert loss == matched_loss(several[::-1]) == matched_loss([*several, []])


@settings(max_examples=100, deadline=None)
@given(curves(), st.integers(0, 61))
def test_loss_at_a_step(curve, step):
    expected = at(curve, step, "id")
    assert loss_at(curve, step) == (None if expected is None else pytest.approx(float(expected), rel=1e-12))


def test_nothing_is_matched_without_validations(tmp_path):
    assert matched_loss([]) is None and matched_loss([[]]) is None and first_crossing([], 1.0) is None
    found = match([write_run(tmp_path / "a")])
    assert (found.loss, found.runs[0].crossing) == (None, None)
    assert "no validation is recorded" in found.runs[0].why_not
    assert "(none)" in matched_table(found).title


@pytest.fixture
def pair(tmp_path):
    """One that fits fast and loses out of distribution, and one that is slow: at one loss they are the same."""
    fast = [validation(10, 2.0, 2.0), validation(20, 1.0, 1.5), validation(30, 0.5, 2.5)]
    slow = [validation(10, 3.0, 3.0), validation(20, 2.0, 2.0), validation(30, 1.5, 1.75)]
    return [write_run(tmp_path / "fast", fast), write_run(tmp_path / "slow", slow)]


def test_a_slow_run_is_no_better_where_both_have_fitted_as_well(pair):
    found = match(pair, ["fast", "slow"])
    assert found.loss == 1.5
    assert [(run.crossing.step, run.crossing.ood) for run in found.runs] == [(15.0, 1.75), (30.0, 1.75)]
    assert [run.end.ood for run in found.runs] == [2.5, 1.75]
    table = matched_table(found)
    header, *rows = [line.split(",") for line in to_csv(table).splitlines()]
    assert [float(dict(zip(header, row))["OOD loss there"]) for row in rows] == [1.75, 1.75]
    assert [float(dict(zip(header, row))["OOD loss at the end"]) for row in rows] == [2.5, 1.75]


def test_a_loss_of_ones_own_choice(pair):
    found = match(pair, loss=0.75)
    assert found.runs[0].crossing.step == 25.0
    assert found.runs[1].crossing is None
    assert "never comes down to it: its lowest is 1.5000" in matched_table(found).notes[1]
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="give a positive number"):
            match(pair, loss=bad)


def test_a_run_that_begins_below_is_marked(pair, tmp_path):
    below = write_run(tmp_path / "below", [validation(10, 1.0, 9.0), validation(20, 1.2, 8.0)])
    found = match([*pair, below])
    run = found.runs[2]
    assert (run.crossing.step, run.crossing.ood, run.crossing.exact) == (10, 9.0, False)
    assert run.why_not == AT_FIRST
    assert "9.0000?" in to_markdown(matched_table(found))


def test_losses_that_were_not_finite_are_told_of(tmp_path):
    records = [validation(10, 2.0, 2.0), validation(20, None, 5.0), validation(30, 1.0, None)]
    run = write_run(tmp_path / "run", records)
    assert [v.step for v in validations(run)] == [10, 30]
    found = match([run]).runs[0]
    assert "not finite: 1" in found.why_not and "no out-of-distribution loss there" in found.why_not
    none = match([write_run(tmp_path / "none", [validation(10, None)])]).runs[0]
    assert none.why_not == "no validation loss was finite"


def test_means_over_other_domains_are_marked(pair, tmp_path):
    other = write_run(tmp_path / "other", [validation(10, 1.0, 1.0)])
    record = json.loads((other / "metrics.jsonl").read_text())
    (other / "metrics.jsonl").write_text(json.dumps(record | {"id": {"law": 1.0}}) + "\n")
    assert match([*pair, other]).runs[2].why_not.startswith("OTHER DOMAINS: its losses are over law, finance")
    assert not match(pair).runs[1].why_not


def test_accuracy_of_the_nearest_evaluated_checkpoint(pair):
    fast = pair[0]
    assert match(pair).runs[0].nearest is None
    evaluate(fast / "evaluation", {"id": 20, "ood": 5})  # of step 30, ID loss 0.5
    found = match(pair).runs[0].nearest
    assert (found.step, found.distance, found.accuracy.value) == (30, -1.0, 0.25)
    evaluate(fast / "evaluation" / "step-00000014", {"id": 20, "ood": 10})  # ID loss 1.6
    found = match(pair).runs[0].nearest
    assert (found.step, found.accuracy.value) == (14, 0.5)
    assert found.distance == pytest.approx(0.1)
    evaluate(fast / "evaluation" / "step-00000005", {"id": 20, "ood": 15})  # before the first validation: no loss known
    evaluate(fast / "evaluation" / "step-00000016", {"id": 20})  # no out-of-distribution side
    assert match(pair).runs[0].nearest.step == 14
    assert "+0.1000" in to_markdown(matched_table(match(pair)))
