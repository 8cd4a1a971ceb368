"""An ordering is reproduced, contradicted or open, and each for its reason; the tests behind it against other code."""

import itertools
import random
from pathlib import Path

import pytest
from scipy import stats

from igascale.studies.jobs import Job
from igascale.studies.matrix import Row
from igascale.studies.orderings import CONTRADICTED, MISSING, OPEN, REPRODUCED, orderings, problems_p, statements
from igascale.studies.paper import paper
from igascale.studies.results import Finding, RowFindings

from study_world import made_up

GROUPS, WIDTH = 60, 2


def answers(share, seed, groups=GROUPS):
    rng = random.Random(seed)
    return [[rng.random() < share for _ in range(WIDTH)] for _ in range(groups)]


def row(tmp_path, name, shares, lcs=None, stands_for=None, groups=GROUPS):
    """A row with an OOD accuracy per seed; ``None``: that seed is missing."""
    findings = RowFindings(Row(name, name, stands_for or name, {}, ()))
    for seed, share in enumerate(shares):
        job = Job(f"{name}, seed {seed}", tmp_path / f"{name}{seed}", Path("run.yaml"))
        if share is None:
            findings.missing[seed] = "not run"
            continue
        result = made_up(
            answers(0.9, 100 + seed, groups), answers(share, f"{name}{seed}", groups), (lcs or [0.05] * 9)[seed]
        )
        from igascale.evaluation.results import write_result

        write_result(result, job.result.parent)
        findings.found[seed] = Finding(job, result, {"hook": {"name": "mean"}})
    return findings


def judged(rows, tables=(1,), quantity="isomers OOD"):
    return {(o.better, o.worse): o for o in orderings(paper(), rows, tables, "iga") if o.quantity == quantity}


def test_reproduced_contradicted_and_open(tmp_path):
    rows = [
        row(tmp_path, "erm-sft", [0.50, 0.52, 0.51]),
        row(tmp_path, "iga", [0.90, 0.92, 0.91]),  # the paper has it first
        row(tmp_path, "pareto-gs", [0.10, 0.12, 0.11]),  # and this one above erm-sft
        row(tmp_path, "pcgrad", [0.50, 0.53, 0.50]),
    ]
    found = judged(rows)
    assert len(found) == 6
    assert found["iga", "erm-sft"].verdict == REPRODUCED
    assert found["pareto-gs", "erm-sft"].verdict == CONTRADICTED
    assert found["pcgrad", "erm-sft"].verdict == OPEN
    assert found["iga", "erm-sft"].paper == pytest.approx(76.975 - 63.75)
    (line,) = statements(list(found.values()))
    assert line.startswith(
        "Table 1, isomers OOD: of 6 orderings of the paper 3 reproduced, 2 contradicted, 1 cannot be told."
    )
    assert "Contradicted: erm-sft before pareto-gs by" in line


def test_reasons_why_it_cannot_be_told(tmp_path):
    one_seed = judged([row(tmp_path, "erm-sft", [0.2]), row(tmp_path, "iga", [0.9])])["iga", "erm-sft"]
    assert one_seed.verdict == OPEN and "one seed" in one_seed.why and one_seed.p < 1e-6
    noisy = judged([row(tmp_path, "irm", [0.3, 0.3]), row(tmp_path, "v-rex", [0.3, 0.9])])["v-rex", "irm"]
    assert noisy.verdict == OPEN and "the seeds do not tell" in noisy.why
    few = judged([row(tmp_path, "irm", [0.3, 0.3], groups=2), row(tmp_path, "v-rex", [0.9, 0.9], groups=2)])[
        "v-rex", "irm"
    ]
    assert few.verdict == OPEN and "the problems do not tell" in few.why
    other = judged([row(tmp_path, "irm", [0.3, 0.3]), row(tmp_path, "v-rex", [0.9, 0.9], groups=50)])["v-rex", "irm"]
    assert other.verdict == OPEN and "other problems" in other.why
    gone = judged([row(tmp_path, "irm", [0.3, None]), row(tmp_path, "v-rex", [None, 0.9])])["v-rex", "irm"]
    assert gone.verdict == MISSING and gone.why == "no seed that both have"
    empty = judged([row(tmp_path, "irm", [None]), row(tmp_path, "v-rex", [0.9])])["v-rex", "irm"]
    assert empty.verdict == MISSING and empty.why == "nothing of irm"


def test_lcs_that_means_nothing_decides_nothing(tmp_path):
    rows = [
        row(tmp_path, "erm-sft", [0.5] * 3, [0.15, 0.16, 0.15]),
        row(tmp_path, "iga", [0.5] * 3, [0.03, 0.031, 0.03]),
    ]
    assert judged(rows, quantity="LCS")["iga", "erm-sft"].verdict == REPRODUCED
    assert judged(rows, (5,), "LCS, layer 1") == {}  # the paper has no layer 1
    for finding in rows[0].found.values():
        object.__setattr__(finding, "result", made_up(answers(0.0, 1), answers(0.5, 1), 0.15))
    nothing = judged(rows, quantity="LCS")["iga", "erm-sft"]
    assert nothing.verdict == OPEN and "not above chance" in nothing.why


def test_table_2_compares_with_the_full_method_only(tmp_path):
    rows = [row(tmp_path, name, [0.5, 0.5]) for name in ("iga", "and-mask", "tau-0.1")]
    assert set(judged(rows, (2,))) == {("iga", "and-mask"), ("iga", "tau-0.1")}


def test_interval_and_p_against_other_code(tmp_path):
    shares = ([0.55, 0.70, 0.58, 0.62], [0.50, 0.51, 0.66, 0.50])
    better, worse = row(tmp_path, "iga", shares[0], groups=9), row(tmp_path, "erm-sft", shares[1], groups=9)
    found = judged([better, worse])["iga", "erm-sft"]
    pairs = [[100 * f.result.isomers.ood.accuracy.value for f in r.found.values()] for r in (better, worse)]
    expected = stats.ttest_rel(*pairs).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=5e-3)
    # Every way of exchanging the two names in groups of problems, one by one.
    sums = []
    for k in range(9):
        both = [
            [sum(f.outcomes["isomers", "ood"][f"ood{k}"].values()) for f in r.found.values()] for r in (better, worse)
        ]
        sums.append(sum(both[0]) - sum(both[1]))
    flipped = [
        abs(sum(s * d for s, d in zip(signs, sums))) >= abs(sum(sums)) for signs in itertools.product((1, -1), repeat=9)
    ]
    assert problems_p(better, worse, [0, 1, 2, 3], ("isomers", "ood")) == pytest.approx(sum(flipped) / len(flipped))
