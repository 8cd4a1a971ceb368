"""The files beside the page: PNG by a real browser, and what is said where there is none; a run that was really trained."""

import json

import pytest
import torch
from click.testing import CliRunner

from igascale.cli import main
from igascale.report import images
from igascale.report.collect import collect
from igascale.report.palette import DARK, LIGHT, resolve
from igascale.report.samples import SampleChoice
from igascale.report.sections import sections
from igascale.report.write import figures, write_report

from browser import needs_browser
from report_cases import made_up_run
from runs import load, prepare, train

pytest.importorskip("plotly")


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    return [made_up_run(base / h, hook=h, seed=i, steps=20, layers=2, groups=4) for i, h in enumerate(("mean", "iga"))]


@pytest.fixture(scope="module")
def drawn(made_up):
    return list(figures(sections(collect(made_up), SampleChoice(), True)))


def test_every_figure_is_one_that_plotly_knows(drawn):
    from plotly.graph_objects import Figure

    assert len(drawn) >= 12 and len({f.name for f in drawn}) == len(drawn)
    for figure in drawn:
        assert len(Figure(images.described(figure)).data) == len(
            figure.data
        )  # refuses keys and values that it does not know
        for theme in (LIGHT, DARK):
            assert '"@' not in json.dumps(resolve([figure.data, figure.layout, figure.narrow], theme))
        assert figure.table.rows and len(figure.alt) > 60


@needs_browser
def test_png_files_are_drawn(drawn, monkeypatch):
    pytest.importorskip("kaleido")
    monkeypatch.setattr(images, "_PATIENCE", 300)
    some = [f for f in drawn if f.name in ("accuracy", "atlas-iga")]
    files, problem = images.draw(some)
    assert problem == "" and files.keys() == {"accuracy", "atlas-iga"}
    for figure in some:
        png, layout = files[figure.name], images.described(figure)["layout"]
        assert png.startswith(b"\x89PNG")
        size = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
        assert size == (2 * layout["width"], 2 * layout["height"])


def test_without_a_browser_the_rest_is_written(made_up, tmp_path, monkeypatch):
    pytest.importorskip("kaleido")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "no-such-browser"))
    written = write_report(made_up, tmp_path / "out", ["html", "png", "csv"])
    assert len(written.notes) == 1 and "apt install chromium" in written.notes[0]
    assert not list((tmp_path / "out").rglob("*.png")) and (tmp_path / "out" / "report.html").is_file()


def test_without_plotly_one_line_says_what_to_install(made_up, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    result = CliRunner().invoke(main, ["report", str(made_up[0]), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and "pip install 'igascale[report]'" in result.output
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_really_trained(tmp_path):
    config = load(prepare(tmp_path, hook={"name": "iga"}, eval={"max_groups": 2, "every": 2}), "train.max_steps=2")
    train(config, torch.device("cpu"))
    written = write_report([tmp_path / "run"], tmp_path / "out", ["html", "csv", "md"])
    page = (tmp_path / "out" / "report.html").read_text()
    names = {name.removeprefix("data/").removesuffix(".csv") for name in written.files if name.startswith("data/")}
    assert names == {"losses-run", "gradients", "mask-run", "atlas-run", "cosines", "cosine-matrix-run"}
    assert "recorded no histogram" not in page
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    rows = (tmp_path / "out" / "data" / "gradients.csv").read_text()
    assert repr(record["grad_norm_after"]) in rows and repr(record["clip"]) in rows
    assert written.missing == [f"run was not evaluated. igascale eval {tmp_path / 'run'}", written.missing[1]]
