"""Which order of runs the report calls established: by the exact test on pairs, recomputed here from the samples; many runs, odd names."""

import json
import re
from itertools import product

import pytest

from igascale.report.collect import collect
from igascale.report.pairs import leaders, pairs_of
from igascale.report.reservations import comparable, what_differs
from igascale.report.tabulate import headline
from igascale.report.verdict import verdicts

from report_cases import made_up_run


def rewrite(run, right):
    """Let ``right(group number, domain)`` say which OOD answers are right; accuracies of the result follow."""
    from igascale.evaluation.accuracy import Sample, breakdown
    from igascale.evaluation.results import EvaluationResult, SplitResult, SuiteResult, read_result, write_result

    folder = run / "evaluation"
    result = read_result(folder / "evaluation.json")
    samples = [Sample(**json.loads(line)) for line in (folder / "samples.jsonl").open()]
    for i, sample in enumerate(samples):
        if sample.split == "ood":
            values = vars(sample) | {"correct": right(int(sample.group_id.rpartition("-")[2]), sample.domain)}
            samples[i] = Sample(**values)
    parts = breakdown([s for s in samples if s.split == "ood"])
    old = result.isomers
    ood = SplitResult(
        parts.overall, parts.per_domain, parts.per_kind, old.ood.consistency, 0.0, 1.0, old.ood.layers, old.ood.gir
    )
    write_result(EvaluationResult({"isomers": SuiteResult.of(old.id, ood)}, result.settings, samples), folder)
    return run


@pytest.fixture
def two(tmp_path):
    """IGA loses nothing and gains 8 of 40 groups in one domain: intervals overlap, the pairs do not doubt it."""
    runs = [made_up_run(tmp_path / n, seed=3, steps=10, layers=2, hook=n) for n in ("mean", "iga")]
    rewrite(runs[0], lambda g, domain: g % 2 == 0)
    rewrite(runs[1], lambda g, domain: g % 2 == 0 or (g < 16 and domain == "finance"))
    return runs


def test_a_lead_is_established_by_pairs_though_intervals_overlap(two):
    runs = collect(two)
    assert comparable(what_differs(runs))
    accuracies = [run.evaluation.isomers.ood.accuracy for run in runs]
    assert accuracies[0].high > accuracies[1].low  # they overlap
    pairs = pairs_of(runs)
    found = pairs.of["isomers", "ood"]["iga", "mean"]
    # Eight groups, each with one answer gained: of 2^8 choices of signs two are as extreme.
    flips = [sum(signs) for signs in product((1, -1), repeat=8)]
    assert found.paired.p == pytest.approx(sum(abs(f) >= 8 for f in flips) / len(flips))
    assert found.paired.difference == pytest.approx(8 / 80) and found.p_holm == pytest.approx(2 * found.paired.p)
    turned = pairs.of["isomers", "ood"]["mean", "iga"].paired
    assert (turned.difference, turned.low, turned.high) == (
        -found.paired.difference,
        -found.paired.high,
        -found.paired.low,
    )
    assert leaders(runs, pairs) == {("isomers", "ood"): "iga"}
    (told,) = verdicts(runs, True, pairs)
    assert "ahead of mean by **+10.0** points" in told and "p = 0.016" in told and "other seeds" in told
    table = headline(runs, leaders(runs, pairs))
    emphases = {c.name: [row[i].emphasis for row in table.grid()] for i, c in enumerate(table.columns)}
    assert emphases["OOD %"] == ["none", "best"] and emphases["ID %"] == ["none", "none"]


def test_without_samples_intervals_must_do(two):
    for run in two:
        (run / "evaluation" / "samples.jsonl").unlink()
    runs = collect(two)
    assert pairs_of(runs) is None and leaders(runs, None) == {}
    (told,) = verdicts(runs, True, None)
    assert "overlaps with it" in told and "no samples" in told


def test_three_runs_are_adjusted_for_all_pairs(two, tmp_path):
    third = rewrite(
        made_up_run(tmp_path / "irm", seed=3, steps=10, layers=2, hook="irm"),
        lambda g, domain: g % 2 == 0 or (g < 14 and domain == "finance"),
    )
    runs = collect([*two, third])
    pairs = pairs_of(runs)
    assert pairs.tests == 6  # three pairs on two sides
    assert leaders(runs, pairs) == {}
    (told,) = verdicts(runs, True, pairs)
    assert "No lead over irm" in told and "mean (" not in told


def test_more_than_eight_runs_are_told_apart(tmp_path):
    from igascale.report.figures.accuracy import overview
    from igascale.report.figures.training import mean_losses

    runs = collect([made_up_run(tmp_path / f"run{i}", seed=i, steps=10, layers=2, groups=4) for i in range(10)])
    dots = {(t["marker"]["color"], t["marker"]["symbol"]) for t in overview(runs).data if "error_x" in t}
    assert len(dots) == 10
    lines = {(t["line"]["color"], t["line"]["dash"]) for t in mean_losses(runs).data}
    assert len(lines) == 10
    assert pairs_of(runs).tests == 90


def test_a_name_that_reverses_the_reading_order_is_spelled_out_everywhere(tmp_path):
    from igascale.report.write import write_report

    pytest.importorskip("plotly")
    runs = [made_up_run(tmp_path / n, steps=10, layers=2, groups=4) for n in ("a\u202eb", "**bold** `x`")]
    out = tmp_path / "out"
    write_report(runs, out, ["html", "csv", "md", "tex"])
    for file in out.rglob("*.*"):
        text = file.read_text()
        body = re.sub(r"<script[^>]*>.*?</script>", "", text, flags=re.DOTALL)
        for figure in text.split('<script type="application/json">')[1:]:
            traces = json.loads(figure[: figure.index("</script>")])["data"]
            body += "".join(str(trace.get("name")) for trace in traces)
        assert "\u202e" not in body, file
    head = (out / "report.html").read_text().split("</header>")[0]
    assert "a&lt;U+202E&gt;b" in head and "**bold** `x`" in head and "<b>bold</b>" not in head


@pytest.mark.parametrize("damaged", ["config.yaml", "evaluation/samples.jsonl"])
def test_runs_of_which_too_little_is_known_are_not_ranked(two, damaged):
    (two[1] / damaged).write_text("{[")
    runs = collect(two)
    different = what_differs(runs)
    assert not comparable(different) and any(d.text.startswith("NOT KNOWN TO BE COMPARABLE") for d in different)
    (told,) = verdicts(runs, False)
    assert "not ranked" in told
