"""`igascale compare` as a user runs it."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from igascale.cli import main

from evaluations import grouped, sample, write


def run(*arguments):
    result = CliRunner(env={"COLUMNS": "220"}).invoke(main, ["compare", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def three(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, share in (("mean", 0.5), ("iga", 0.75), ("irm", 0.5)):
        write(tmp_path / name / "evaluation", grouped(1 if name != "irm" else 2, share) + grouped(3, share, split="id"))
    return ["mean", "iga", "irm"]


def test_tables(three):
    out = run(*three).output
    assert "Compared with mean, problem by problem" in out
    assert "isomers OOD (120 problems in 40 groups, chance 20.0%)" in out
    assert "adjusted for the 4 comparisons above" in out
    assert "isomers ID − OOD" in out
    assert "Answers of iga against mean" in out and "Answers of irm against mean" in out


def test_the_reference_can_be_named(three):
    out = run(*three, "--reference", "irm/").output
    assert "Compared with irm" in out and "irm (reference)" in out
    assert "is none of the evaluations: mean, iga, irm" in run(*three, "--reference", "erm").output


def test_json_is_what_the_table_shows(three):
    found = json.loads(run(*three, "--json").output)
    assert found["reference"] == "mean" and [side["side"] for side in found["sides"]] == ["ood", "id"]
    entry = found["sides"][0]["entries"][1]
    assert entry["evaluation"] == "iga" and entry["paired"]["p"] <= entry["p_holm"] <= 1
    assert f"{100 * entry['accuracy']['value']:.1f} [" in run(*three).output


def test_examples_side_by_side(tmp_path):
    hostile = "\x1b]0;owned\x07[bold]Answer: 3[/bold]"
    first = [sample(1, True), sample(2, False, generated=hostile + "x" * 900 + "END"), sample(3, True)]
    second = [sample(1, True), sample(2, True), replace(sample(3, False), predicted=None, finished=False)]
    paths = [write(tmp_path / name, samples) for name, samples in (("a", first), ("b", second))]
    out = run(*paths, "--show", "5").output
    assert out.count("expected:") == 2
    assert out.index("g2/law") < out.index("g3/law")  # gained, then lost
    assert "wrong (no answer, cut off)" in out and "END" in out and "\x1b" not in out
    assert "[bold]" not in out.split("END")[0][-650:]  # only the end of a long text is shown
    assert run(*paths).output.count("expected:") == 0


def test_refusals_are_one_line(three, tmp_path):
    write(tmp_path / "part", grouped(1, 0.5)[:-1])
    for arguments, told in (
        (["mean"], "nothing to compare with"),
        (["mean", "gone"], "gone: is no folder"),
        (["mean", "part"], "--allow-different-data"),
        (["mean", "mean"], "are the same evaluation"),
        (["mean", "iga", "--lm-eval-samples", "x"], "goes with one EVAL, not 2"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        (line,) = result.output.strip().splitlines()
        assert line.startswith("error: ") and told in line


def test_different_data_is_marked(three, tmp_path):
    write(tmp_path / "part", grouped(1, 0.5)[:-1])
    out = run("mean", "part", "--allow-different-data").output
    assert "DIFFERENT DATA: Compared with mean" in out and "119 problems" in out
    found = json.loads(run("mean", "part", "--allow-different-data", "--json").output)
    assert found["different"]


@pytest.mark.parametrize("interval", ["bca", "percentile"])
def test_a_bootstrap_says_so_and_is_seeded(three, interval):
    first, again = (run(*three, "--interval", interval, "--resamples", "500", "--seed", "4").output for _ in range(2))
    assert first == again and f"95%, {interval} bootstrap over groups" in first
