"""What is joined, counted and refused; figures against counting by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from igascale.comparing.compare import compare
from igascale.comparing.reading import read_evaluations
from igascale.comparing.same_data import what_differs
from igascale.errors import UserError
from igascale.evaluation.accuracy import group_interval
from igascale.evaluation.significance import holm

from evaluations import grouped, sample, write


def read(tmp_path, **by_name):
    return read_evaluations([write(tmp_path / name, samples) for name, samples in by_name.items()])


def test_a_benchmark_by_hand(tmp_path):
    rng = np.random.default_rng(0)
    a, b = rng.random(60) < 0.5, rng.random(60) < 0.7
    one, other = (
        [sample(k, bool(right), suite="math", group=f"test/{k}") for k, right in enumerate(answers)]
        for answers in (a, b)
    )
    found = compare(read(tmp_path, a=one, b=list(reversed(other))))  # the order of the file does not matter
    (side,) = found.sides
    reference, entry = side.entries
    assert (reference.accuracy.value, entry.accuracy.value) == pytest.approx((a.mean(), b.mean()))
    assert (reference.accuracy.low, reference.accuracy.high) == pytest.approx(group_interval([[bool(x)] for x in a]))
    assert entry.paired.difference == pytest.approx(b.mean() - a.mean())
    gained, lost = int((b & ~a).sum()), int((a & ~b).sum())
    assert (entry.paired.first_only, entry.paired.second_only) == (gained, lost)
    assert (entry.paired.both, entry.paired.neither) == (int((a & b).sum()), int((~a & ~b).sum()))
    assert entry.paired.p == pytest.approx(scipy.stats.binomtest(gained, gained + lost, 0.5).pvalue)
    assert entry.p_holm == entry.paired.p and found.tests == 1
    assert side.chance == pytest.approx(0.2) and side.samples == side.groups == 60


def test_isomers_are_joined_by_group(tmp_path):
    """One group flipped in all of its domains is one discordant group."""
    base = grouped(1, 0.6)
    changed = [replace(s, correct=not s.correct, predicted="x") if s.group_id == "g3" else s for s in base]
    (side,) = compare(read(tmp_path, a=base, b=changed)).sides
    paired = side.entries[1].paired
    assert paired.discordant_groups == 1 and side.groups == 40 and side.samples == 120
    assert paired.p == 1  # one group can go either way


def test_several_against_one(tmp_path):
    samples = {
        name: grouped(seed, share) + grouped(seed, share, split="id")
        for name, seed, share in (("r", 1, 0.5), ("a", 1, 0.8), ("b", 5, 0.5))
    }
    found = compare(read(tmp_path, **samples))
    p_values = [entry.paired.p for side in found.sides for entry in side.entries[1:]]
    assert found.tests == len(p_values) == 4
    assert [entry.p_holm for side in found.sides for entry in side.entries[1:]] == pytest.approx(holm(p_values))
    gaps = {figure.evaluation.rsplit("/", 1)[-1]: figure for figure in found.derived}
    accuracy = {
        name: {side: np.mean([s.correct for s in own if s.split == side]) for side in ("id", "ood")}
        for name, own in samples.items()
    }
    for name in samples:
        assert gaps[name].value.value == pytest.approx(accuracy[name]["id"] - accuracy[name]["ood"])
    assert gaps["r"].difference is None
    assert gaps["a"].difference.value == pytest.approx(gaps["a"].value.value - gaps["r"].value.value)
    assert gaps["a"].difference.low <= gaps["a"].difference.value <= gaps["a"].difference.high
    json.dumps(found.to_dict(), allow_nan=False)


def test_averages_over_benchmarks_count_benchmarks_alike(tmp_path):
    def of(shift):
        return [
            sample(k, (k + shift) % 4 != 0, suite=suite, split="id", group=f"{suite}{k}")
            for suite, n in (("math", 40), ("reclor", 200))
            for k in range(n)
        ]

    (first, second) = compare(read(tmp_path, a=of(0), b=of(1))).derived
    assert "average of 2 benchmarks" in first.name
    assert first.value.value == pytest.approx(0.75) and second.difference.value == pytest.approx(0)


@pytest.mark.parametrize(
    "spoil, told",
    [
        (lambda s: s[:-1], "1 problem only in"),
        (lambda s: [replace(s[0], problem="other"), *s[1:]], "1 problem has another text (first: g0/law)"),
        (
            lambda s: [replace(s[0], expected="7"), replace(s[1], expected="7"), *s[2:]],
            "2 problems have another expected answer",
        ),
        (lambda s: [replace(s[0], group_id="h"), *s[1:]], "another group"),
        (lambda s: [*s, sample(1, suite="math", group="test/1")], "math OOD: 1 problem only in"),
    ],
)
def test_other_data_is_refused_or_marked(tmp_path, spoil, told):
    samples = grouped(1, 0.6)
    both = read(tmp_path, a=samples, b=spoil(samples))
    with pytest.raises(UserError, match="--allow-different-data") as refused:
        compare(both)
    assert told in str(refused.value) and "\n" not in str(refused.value)
    found = compare(both, allow_different_data=True)
    assert any(told in line for line in found.different)
    (side,) = found.sides
    assert side.samples < len(samples) or "math" in told
    assert side.entries[0].accuracy.value == side.entries[1].accuracy.value


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"max_new_tokens": 256}, "max_new_tokens is 512 in"),
        ({"decoding": "sampled"}, "decoding is greedy in"),
        ({"math.task_version": 2}, "math.task_version is not stated in"),
    ],
)
def test_other_settings_are_refused(tmp_path, settings, told):
    samples = [sample(k, suite="math", group=f"t/{k}") for k in range(5)]
    both = read_evaluations([write(tmp_path / "a", samples), write(tmp_path / "b", samples, **settings)])
    with pytest.raises(UserError) as refused:
        compare(both)
    assert told in str(refused.value)


def test_settings_that_are_only_said(tmp_path):
    samples = grouped(1, 0.6)
    both = read_evaluations([write(tmp_path / "a", samples), write(tmp_path / "b", samples, dtype="bfloat16")])
    assert what_differs(*both) == []
    assert any("dtype: float32 in" in note for note in compare(both).notes)


def test_nothing_in_common(tmp_path):
    both = read(tmp_path, a=grouped(1, 0.5), b=grouped(1, 0.5, domains=("war",)))
    with pytest.raises(UserError, match="no problem in common"):
        compare(both, allow_different_data=True)


def test_chance_is_not_told_of_a_part(tmp_path):
    samples = grouped(1, 0.6)
    found = compare(read(tmp_path, a=samples, b=samples[:-3]), allow_different_data=True)
    assert found.sides[0].chance is None and found.sides[0].samples == len(samples) - 3


@pytest.mark.parametrize(
    "line, told",
    [
        ("{", "no JSON"),
        ("[]", "a sample is an object, not list"),
        ('{"split": "ood"}', "no field 'group_id'"),
    ],
)
def test_damaged_samples(tmp_path, line, told):
    path = write(tmp_path / "a", grouped(1, 0.5))
    file = tmp_path / "a" / "samples.jsonl"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(UserError) as refused:
        read_evaluations([path])
    assert told in str(refused.value) and "samples.jsonl:121" in str(refused.value)


def test_a_field_of_another_type(tmp_path):
    path = write(tmp_path / "a", [sample(1)])
    file = tmp_path / "a" / "samples.jsonl"
    file.write_text(file.read_text().replace('"correct": true', '"correct": "yes"'))
    with pytest.raises(UserError, match=r"samples.jsonl:1: 'correct' must be bool, not 'yes'"):
        read_evaluations([path])


def test_files_that_do_not_belong_together(tmp_path):
    path = write(tmp_path / "a", grouped(1, 0.5))
    lines = (tmp_path / "a" / "samples.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a" / "samples.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=r"holds 119 samples of isomers OOD, evaluation\.json counts 120"):
        read_evaluations([path])
    (tmp_path / "a" / "samples.jsonl").write_text("".join([*lines, lines[0]]))
    with pytest.raises(UserError, match=r"samples.jsonl:121: 'g0/law' stands twice"):
        read_evaluations([path])


def test_where_there_is_no_evaluation(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        read_evaluations([str(tmp_path / "none")])
    with pytest.raises(UserError, match="holds no evaluation"):
        read_evaluations([str(tmp_path)])
    path = write(tmp_path / "run" / "evaluation", grouped(1, 0.5))
    assert read_evaluations([str(tmp_path / "run")])[0].folder == tmp_path / "run" / "evaluation"
    assert read_evaluations([f"{path}/samples.jsonl"])[0].folder == tmp_path / "run" / "evaluation"
    (tmp_path / "run" / "evaluation" / "evaluation.json").unlink()
    with pytest.raises(UserError, match=r"holds no evaluation\.json, so its evaluation is not complete"):
        read_evaluations([str(tmp_path / "run")])


def test_the_same_twice(tmp_path):
    path = write(tmp_path / "run" / "evaluation", grouped(1, 0.5))
    with pytest.raises(UserError, match="are the same evaluation"):
        read_evaluations([path, str(tmp_path / "run")])
