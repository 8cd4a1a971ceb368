"""Runs side by side, whole: selection, averages, refusals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igascale.errors import UserError
from igascale.evaluation.accuracy import Accuracy, difference_interval
from igascale.evaluation.averages import average, average_gap, mean_of
from igascale.evaluation.compare_runs import compare_runs
from igascale.evaluation.results import EvaluationResult, SplitResult, SuiteResult
from igascale.evaluation.selection_marks import legend, run_selection, selection_mark
from igascale.tables import to_csv, to_html, to_json, to_latex, to_markdown

from finished_runs import evaluate, facts, step, validation, write_run

shares = st.floats(0, 1, allow_nan=False)


@given(
    st.lists(
        st.tuples(shares, shares, shares).map(lambda t: (sorted(t)[1], sorted(t)[0], sorted(t)[2])),
        min_size=1,
        max_size=6,
    )
)
def test_the_interval_of_a_mean(parts):
    value, low, high = mean_of(parts)
    n = len(parts)
    assert value == pytest.approx(sum(v for v, _, _ in parts) / n)
    assert value - low == pytest.approx(math.sqrt(sum((v - lo) ** 2 for v, lo, _ in parts)) / n)
    assert high - value == pytest.approx(math.sqrt(sum((h - v) ** 2 for v, _, h in parts)) / n)
    # Never wider than the mean of the ends, never narrower than the widest part's share.
    assert low >= sum(lo for _, lo, _ in parts) / n - 1e-9
    assert high - value >= max(h - v for v, _, h in parts) / n - 1e-9


def test_the_interval_of_a_mean_is_newcombes_for_two():
    one, two = Accuracy(0.6, 0.5, 0.7, 0.2, 0, 100, 100), Accuracy(0.3, 0.22, 0.4, 0.2, 0, 100, 100)
    _, low, high = mean_of([(one.value, one.low, one.high), (-two.value, -two.high, -two.low)])
    assert (2 * low, 2 * high) == pytest.approx(difference_interval(one, two))


def test_the_interval_of_a_mean_covers():
    """Simulated: in 95% of samples, to what a thousand of them can tell."""
    import random

    from igascale.evaluation.accuracy import group_interval

    rng, truths, covered = random.Random(0), (0.2, 0.5, 0.8), 0
    for _ in range(600):
        parts = []
        for truth in truths:
            outcomes = [[rng.random() < truth] for _ in range(60)]
            parts.append((sum(o[0] for o in outcomes) / 60, *group_interval(outcomes)))
        _, low, high = mean_of(parts)
        covered += low <= 0.5 <= high
    assert 0.92 < covered / 600 < 0.98


def suite(id_=None, ood=None):
    def side(value):
        if value is None:
            return None
        return SplitResult(Accuracy(value, value - 0.1, value + 0.1, 0.25, 0.0, 100, 100), {}, {}, None, 0.0, 1.0)

    return SuiteResult.of(side(id_), side(ood))


def test_averages_are_over_benchmarks_alone():
    result = EvaluationResult({"isomers": suite(0.9, 0.9), "math": suite(0.4, 0.2), "arb": suite(None, 0.6)}, {})
    assert average(result, "ood").value == pytest.approx(0.4)
    assert average(result, "ood").over == ("math", "arb")
    assert average(result, "id") is None  # one benchmark has an ID side: no average
    assert average_gap(result) is None
    whole = EvaluationResult({"math": suite(0.4, 0.2), "arb": suite(0.5, 0.6)}, {})
    assert average_gap(whole).value == pytest.approx((0.2 - 0.1) / 2)


@pytest.mark.parametrize(
    ("selection", "mark", "text"),
    [
        (None, "?", "not stated"),
        ({}, "?", "not stated"),
        ({"by": "fixed"}, "F", "fixed settings"),
        (
            {"by": "leave_one_domain_out", "trials": 12, "searched": {"optimizer.lr": [1, 2], "train.max_steps": [3]}},
            "L",
            "lr, max_steps by leave-one-domain-out, 12 trials",
        ),
        ({"by": "in_domain"}, "I", "in-domain validation, 1 trial"),
        (
            {"by": "ood_oracle", "trials": 3, "searched": {"a.x": [1], "b.x": [2]}},
            "O!",
            "a.x, b.x by the out-of-distribution data, 3 trials",
        ),
    ],
)
def test_selection(tmp_path, selection, mark, text):
    found = selection_mark({} if selection is None else {"selection": selection})
    assert (found.mark, found.text) == (mark, text)
    train = {"groups_per_batch": 4, "gradient_accumulation_steps": 2, "max_steps": 3}  # as it was chosen
    run = write_run(tmp_path / "run", config={"train": train, **({"selection": selection} if selection else {})})
    assert run_selection(run) == found
    assert legend([found, found]) == f"selected by {mark}: {text}"


def records(ood):
    return [*(step(n) for n in range(1, 9)), validation(4, 2.0, 2.0), validation(8, 1.0, ood)]


@pytest.fixture
def runs(tmp_path):
    selection = {"by": "leave_one_domain_out", "trials": 4, "searched": {"optimizer.lr": [0.1, 0.2]}}
    made = []
    for name, ood, right in (("mean", 1.5, 8), ("iga", 1.25, 12)):
        run = write_run(tmp_path / name, records(ood), config={"hook": {"name": name}, "selection": selection})
        evaluate(run / "evaluation", {"id": 15, "ood": right})
        made.append(run)
    return made


def test_everything_stands_side_by_side(runs):
    found = compare_runs(runs)
    titles = [table.title.split(" (")[0] for table in found.tables]
    assert titles == ["What the runs reached", "What the runs cost", "At matched in-distribution validation loss"]
    reached = to_markdown(found.tables[0])
    assert "60.0" in reached and "| L |" in reached
    assert "selected by L: lr by leave-one-domain-out, 4 trials" in found.tables[0].notes
    assert any("NO MIXED CONTROL" in warning for warning in found.warnings)
    assert not any("NO TUNED ERM" in warning for warning in found.warnings)
    for table in found.tables:
        for write in (to_csv, to_html, to_json, to_latex, to_markdown):
            assert write(table)


def test_other_data_is_refused_or_marked(runs, tmp_path):
    other = write_run(tmp_path / "other", records(2.0), environment=facts(files={"train": "e" * 64}))
    with pytest.raises(UserError, match=r"cannot be compared: the training data of .*--allow-different-data") as caught:
        compare_runs([runs[0], other])
    assert "\n" not in str(caught.value)
    found = compare_runs([runs[0], other], allow_different_data=True)
    assert all(table.title.startswith("DIFFERENT DATA: ") for table in found.tables)
    assert found.warnings[0].startswith("NOT COMPARABLE: the training data")
    assert f"not evaluated: {other} (igascale eval {other})" in found.warnings


def test_one_run_alone(runs):
    assert [table.title for table in compare_runs(runs[:1]).tables] == ["What the runs reached", "What the runs cost"]


def test_a_run_named_twice(runs, tmp_path):
    (tmp_path / "link").symlink_to(runs[0])
    with pytest.raises(UserError, match="link is named twice"):
        compare_runs([runs[0], tmp_path / "link"])


def test_the_command_shows_the_runs_below_their_answers(runs, tmp_path):
    from click.testing import CliRunner

    from igascale.cli import main

    paths = [str(run) for run in runs]
    outcome = CliRunner().invoke(main, ["compare", *paths], catch_exceptions=False, env={"COLUMNS": "200"})
    assert outcome.exit_code == 0
    for wanted in ("problem by problem", "What the runs cost", "At matched", "NO MIXED CONTROL"):
        assert wanted in outcome.output
    # Evaluations that are no runs have no cost.
    outcome = CliRunner().invoke(main, ["compare", *(f"{path}/evaluation" for path in paths)], catch_exceptions=False)
    assert outcome.exit_code == 0 and "What the runs cost" not in outcome.output
