"""Runs that lack something, are damaged or still going on: every section says what is missing, and nothing fails."""

import json
import os
import re
import shutil

import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.errors import UserError
from igascale.report.write import write_report

from report_cases import made_up_run

pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return made_up_run(tmp_path_factory.mktemp("whole") / "iga", steps=30, layers=2, groups=6)


@pytest.fixture
def run(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "iga")
    return tmp_path / "iga"


def report(*runs, formats=("html", "csv", "md", "tex")):
    out = runs[0].parent / "out"
    written = write_report(runs, out, formats, overwrite=out.exists())
    return written, (out / "report.html").read_text()


def heads(page):
    return page[page.index("<header") : page.index("<main")]


def test_a_whole_run_lacks_only_what_was_not_asked_for(run):
    written, page = report(run)
    assert written.missing == [
        f"No checkpoint was evaluated, so there is no accuracy over time. igascale eval {run} --watch",
        f"GIR on held-out groups was not measured of iga. igascale eval {run} --gir --overwrite",
    ]
    assert "<section" in page and written.files[-1] == "report.html"


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("evaluation", "iga was not evaluated. igascale eval"),
        ("metrics.jsonl", "iga has recorded no training step (there is no metrics.jsonl)"),
        ("adapter_metrics.jsonl", "iga has no figures per adapter (there is no adapter_metrics.jsonl)"),
        ("evaluation/samples.jsonl", "iga has no samples.jsonl. igascale eval"),
        ("environment.json", None),
        ("status.json", None),
        ("adapter", None),
    ],
)
def test_what_is_missing_is_said_with_its_remedy(run, gone, said):
    path = run / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    written, page = report(run)
    assert said is None or any(said in line for line in written.missing)
    assert page.count("<section") == 10


def test_without_an_evaluation_the_page_says_so_first(run):
    shutil.rmtree(run / "evaluation")
    assert "None of these runs was evaluated" in heads(report(run)[1])


def test_one_step_only(run):
    for name in ("metrics.jsonl", "adapter_metrics.jsonl"):
        path = run / name
        path.write_text(path.read_text().splitlines(keepends=True)[0])
    written, page = report(run)
    assert 'id="figure-atlas-iga"' in page and 'id="figure-losses-iga"' in page


def test_killed_in_mid_line(run):
    for name in ("metrics.jsonl", "adapter_metrics.jsonl"):
        path = run / name
        path.write_bytes(path.read_bytes()[:-100])
    page = heads(report(run)[1])
    assert "adapter_metrics.jsonl: 1 line cut off or damaged, left out" in page
    assert "iga: metrics.jsonl: 1 line cut off or damaged, left out" in page


def test_nothing_but_nulls(run):
    for name in ("metrics.jsonl", "adapter_metrics.jsonl"):
        path = run / name
        path.write_text(re.sub(r"(?<=: )-?\d+\.\d+(e-?\d+)?", "null", path.read_text()))
    written, page = report(run)
    assert 'id="figure-losses-iga"' not in page and page.count("<section") == 10


def test_damage_everywhere(run):
    (run / "environment.json").write_text("[]")
    (run / "status.json").write_text("{")
    (run / "evaluation" / "evaluation.json").write_text('{"suites": 3}')
    (run / "evaluation" / "samples.jsonl").write_bytes(b"\x00\xff\n{}\n[1]\n")
    (run / "metrics.jsonl").write_bytes(os.urandom(3000))
    (run / "adapter_metrics.jsonl").write_bytes(os.urandom(3000))
    page = heads(report(run)[1])
    assert "environment.json is damaged" in page and "is not an evaluation.json" in page


@pytest.mark.parametrize(
    "text",
    [
        "hook: [",
        "7",
        "hook: 3\nselection: 5\ndata: x\n",
        "\x00",
        "hook: {name: iga}\nselection: {by: 3, searched: 4}\n",
    ],
)
def test_a_damaged_configuration(run, text):
    (run / "config.yaml").write_text(text)
    assert report(run)[1].count("<section") == 10


def test_a_hook_without_masks_has_its_cosines(tmp_path):
    run = made_up_run(tmp_path / "mean", hook="mean", steps=20, layers=2, groups=4)
    written, page = report(run)
    assert "No mask to show of mean: the rule (mean) records none." in written.missing
    assert "This rule records neither GIR nor a mask per adapter" in page


def test_three_hundred_adapters(run):
    figures = {"cosines": [[1, 0.5], [0.5, 1]], "gir": 0.2, "mean_mask": 0.9}
    adapters = {
        f"model.layers.{i}.mlp.{p}": figures for i in range(75) for p in ("gate_proj", "up_proj", "down_proj")
    } | {f"odd_{i}.x": figures for i in range(75)}
    (run / "adapter_metrics.jsonl").write_text(
        "".join(json.dumps({"step": s, "adapters": adapters}) + "\n" for s in range(1, 71))
    )
    written, page = report(run)
    spec = figure_spec(page, "atlas-iga")
    assert len(spec["data"][0]["y"]) == 150 and len(spec["frames"]["labels"]) == 60
    assert len(page) < 9_000_000


def test_a_histogram_of_the_mask_is_used_where_there_is_one(run):
    path = run / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for r in records:
        if r["kind"] == "train":
            r["mask_histogram"] = [0.0] * 10 + [0.25, 0.75] + [0.0] * 8
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    page = report(run)[1]
    spec = figure_spec(page, "mask-iga")
    assert [row[0] for row in spec["data"][0]["customdata"]][10:12] == [0.25, 0.75]
    assert "recorded no histogram" not in page


def test_warnings_stand_first(tmp_path):
    run = made_up_run(tmp_path / "iga", steps=40, layers=2, groups=6)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for r in records:
        if r["kind"] == "train" and r["step"] > 20:
            r["loss"] = 9.0
        if r.get("step") == 7:
            r["skipped"] = "loss or gradient not finite"
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    result = json.loads((run / "evaluation" / "evaluation.json").read_text())
    result["suites"]["isomers"]["ood"] |= {"unfinished": 0.4}
    result["suites"]["isomers"]["id"]["consistency"]["collapsed"] = True
    (run / "evaluation" / "evaluation.json").write_text(json.dumps(result))
    page = heads(report(run)[1])
    for said in (
        "DIVERGED",
        "1 step skipped",
        "COLLAPSED: ID, layer 0",
        "40.0% of the answers ran into the limit of 512",
        "NO TUNED ERM beside iga",
        "NO MIXED CONTROL beside iga",
        "is not stated (selection in the configuration)",
    ):
        assert said in page


def test_different_data_is_marked_and_not_ranked(tmp_path):
    runs = [
        made_up_run(tmp_path / n, seed=i, steps=10, layers=2, groups=5 + i, train_sha256=n * 64)
        for i, n in enumerate("ab")
    ]
    written, page = report(*runs)
    assert "NOT COMPARABLE" in heads(page) and "not ranked" in heads(page)
    assert (
        'class="right best"' not in page[page.index('id="results"') : page.index('id="accuracy"')].split("matched")[0]
    )
    same = [made_up_run(tmp_path / f"same{n}", seed=3, steps=10, layers=2, groups=5) for n in "ab"]
    page = report(*same)[1]
    assert "NOT COMPARABLE" not in page and "is established, problem by problem" in heads(page)


def test_a_run_that_goes_on(run):
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"state": "running"}))
    assert "still running; the figures are of the steps so far" in heads(report(run)[1])


def test_output_is_not_overwritten_unasked(run, tmp_path):
    out = tmp_path / "out"
    write_report([run], out, ["md"])
    with pytest.raises(UserError, match="holds a report already"):
        write_report([run], out, ["md"])
    (out / "mine.txt").write_text("kept")
    write_report([run], out, ["csv"], overwrite=True)
    assert (out / "mine.txt").read_text() == "kept" and not list(out.rglob("*.md")) and list(out.rglob("*.csv"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="holds something that is no report"):
            write_report([run], other, ["md"], overwrite)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write_report([run], tmp_path / "file", ["md"])
    assert sorted(p.name for p in other.iterdir()) == ["thesis.tex"]


def test_a_list_of_files_cannot_name_others(run, tmp_path):
    out, precious = tmp_path / "out", tmp_path / "precious.csv"
    precious.write_text("mine")
    write_report([run], out, ["md"])
    (out / "report.json").write_text(
        json.dumps({"files": ["../precious.csv", str(precious), "data/../../precious.csv", "data/old.csv"]})
    )
    (out / "data").mkdir()
    (out / "data" / "old.csv").write_text("old")
    write_report([run], out, ["md"], overwrite=True)
    assert precious.exists() and not (out / "data" / "old.csv").exists()


def test_the_command(run, tmp_path):
    invoke = CliRunner().invoke
    result = invoke(main, ["report", str(run), "--formats", "html, CSV"])
    assert result.exit_code == 0, result.output
    assert (run / "report" / "report.html").is_file() and "beside it" in result.output
    for arguments, said in (
        (["report"], "Missing argument"),
        (["report", str(run), "--formats", "pdf"], "unknown format 'pdf'"),
        (["report", str(run), "--formats", ","], "names nothing to write"),
        (["report", str(run)], "holds a report already"),
        (["report", str(run) + "x"], "did you mean"),
    ):
        result = invoke(main, arguments)
        assert result.exit_code == 2 and said in result.output and "Traceback" not in result.output, result.output


def figure_spec(page, name):
    part = page[page.index(f'id="figure-{name}"') :]
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', part, re.S)[1])
