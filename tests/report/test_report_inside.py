"""What was measured inside of the model: GIR on held-out groups with its noise, and LCS with its standard errors."""

import math
from dataclasses import replace

import pytest

from igascale.evaluation.results import (
    EvaluationResult,
    HeldOutResidual,
    Residual,
    SuiteResult,
    read_result,
    write_result,
)
from igascale.report.collect import collect
from igascale.report.figures.consistency import by_layer
from igascale.report.figures.heldout import held_out, overall
from igascale.report.images import described
from igascale.report.samples import SampleChoice
from igascale.report.sections import sections
from igascale.tables import to_csv

from report_cases import made_up_run

ADAPTERS = [f"model.layers.{layer}.self_attn.{p}_proj" for layer in range(3) for p in "qk"]


def measured(folder, scale=1.0, noise=0.25):
    """An evaluation with GIR of every adapter, ``scale * (1 + its number)``, and standard errors of LCS."""
    result = read_result(folder / "evaluation" / "evaluation.json")

    def residual(gir):
        return Residual(gir, noise, gir / 2, noise / 2, {"law/science": 0.5, "law/medicine": 0.3})

    sides = {}
    for side, of in result.isomers.splits.items():
        adapters = {name: residual(scale * (1 + i)) for i, name in enumerate(ADAPTERS)}
        gir = HeldOutResidual(residual(scale), adapters, ["law", "science"], {"law": 1.0, "science": 3.0}, 16)
        layers = [replace(c, standard_error=c.lcs / 10) for c in of.layers]
        sides[side] = replace(of, gir=gir, layers=layers, consistency=layers[-1])
    write_result(
        EvaluationResult({"isomers": SuiteResult.of(sides["id"], sides["ood"])}, result.settings, []),
        folder / "evaluation",
    )
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    made = [made_up_run(base / n, steps=10, layers=3, groups=5, hook=n) for n in ("mean", "iga")]
    measured(made[0]), measured(made[1], scale=0.1, noise=1.4)
    return collect(made)


def test_gir_of_every_adapter_stands_at_its_place(runs):
    figure = held_out(runs[1], "iga", runs)
    id_, ood = figure.data
    assert id_["x"] == ["q_proj", "k_proj"] and id_["y"] == ["0", "1", "2"]
    for trace in (id_, ood):
        assert trace["customdata"] == [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
        assert trace["z"][2][1] == pytest.approx(math.log10(0.6), abs=1e-4) and trace["text"][0][0] == "140%"
    # One scale for both runs: from 0.1 in this to 6 in the other.
    ends = {(figure.layout[a]["cmin"], figure.layout[a]["cmax"]) for a in ("coloraxis", "coloraxis2")}
    ((low, high),) = ends
    assert (10**low, 10**high) == (pytest.approx(0.1), pytest.approx(6.0))
    rows = to_csv(figure.table).splitlines()
    assert len(rows) == 1 + 2 * len(ADAPTERS) and rows[1] == f"ID,{ADAPTERS[0]},0,q_proj,0.1,1.4,0.05,0.7"
    pytest.importorskip("plotly")
    from plotly.graph_objects import Figure

    Figure(described(figure))


def test_gir_that_is_noise_is_marked(runs):
    table = overall(runs)
    cells = {(row[0].text, row[1].text): row[2:] for row in table.grid()}
    assert cells["mean", "ID"][0].mark == "" and cells["iga", "ID"][0].mark == "?"
    assert [c.value for c in cells["iga", "OOD"]] == [pytest.approx(v) for v in (0.1, 140.0, 0.4, 2.0, 16)]


def test_the_section_shows_it_or_says_how(runs, tmp_path):
    (atlas,) = [s for s in sections(runs, SampleChoice(), True) if s.anchor == "atlas"]
    names = [f.name for content in atlas.content if isinstance(content, list) for f in content]
    assert names == ["atlas-mean", "atlas-iga", "gir-held-out-mean", "gir-held-out-iga"] and not atlas.missing
    without = collect([made_up_run(tmp_path / "run", steps=10, layers=2, groups=3)])
    (atlas,) = [s for s in sections(without, SampleChoice(), True) if s.anchor == "atlas"]
    assert "--gir" in atlas.missing[0].command


def test_lcs_has_bars_of_its_standard_error(runs):
    figure = by_layer(runs)
    layers = runs[0].evaluation.isomers.id.layers
    raw, relative = (t for t in figure.data if t["name"] == "mean, ID")
    for c, bar, of_relative in zip(layers, raw["error_y"]["array"], relative["error_y"]["array"]):
        assert bar == pytest.approx(1.96 * 10 * c.lcs, rel=1e-5)
        assert of_relative == pytest.approx(1.96 * c.standard_error / c.mean_squared_norm, rel=1e-5)
    assert raw["customdata"] == [c.layer for c in layers]
    assert "standard error" in to_csv(figure.table).splitlines()[0]


def test_what_the_evaluation_said_is_told_once(tmp_path):
    from igascale.report.reservations import reservations

    folder = made_up_run(tmp_path / "run", steps=10, layers=2, groups=3)
    result = read_result(folder / "evaluation" / "evaluation.json")
    why = "states hardly differ"
    lines = [
        f"ID: LCS means nothing at layer 1: {why} (collapse)",
        "ID: GIR 3 over 16 groups, 100% of it sampling noise; highest at q: 0.1 (100% noise)",
        "ID: GIR leaves out 2 groups that lack a domain",
        "the tokenizer has no chat template",
    ]
    id_, ood = result.isomers.id, result.isomers.ood
    id_ = replace(id_, layers=[replace(c, collapsed=c.layer == 1, alarm=why * (c.layer == 1)) for c in id_.layers])
    settings = result.settings | {"notes": "\n".join(lines)}
    write_result(EvaluationResult({"isomers": SuiteResult.of(id_, ood)}, settings, []), folder / "evaluation")
    told = [r.text for r in reservations(collect([folder]))]
    assert sum(why in text for text in told) == 1 and any("COLLAPSED: ID, layer 1" in text for text in told)
    assert "run: ID: GIR leaves out 2 groups that lack a domain" in told
    assert "run: the tokenizer has no chat template" in told and not any("sampling noise" in text for text in told)
