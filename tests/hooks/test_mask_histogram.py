# ruff: noqa: E741 -- O and I are the shape letters of the project
"""Histograms of the mask against dense masks, in every way a mask is formed; nothing else of a step may change."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from igascale.cli import main
from igascale.config import load_config
from igascale.hooks.and_mask import AndMask
from igascale.hooks.base import DomainFactorGrads, FactorGrads, HookContext
from igascale.hooks.gate import Gate
from igascale.hooks.iga import InvariantGradientAlignment
from igascale.hooks.mean import Mean
from igascale.hooks.sand_mask import SandMask
from igascale.linalg import tiles
from igascale.linalg.contrasts import build_contrasts
from igascale.linalg.histogram import BINS, WIDTH, of_constant, sample, sample_starts
from igascale.linalg.masks import and_mask, exp_mask, sand_mask
from igascale.linalg.tile_masks import ExpMask
from igascale.metrics import RunLog
from igascale.step import StepReport, _figures, _tell

import runs
from dense_oracle import mask, random_adapter, reconstruct, sign_mask
from iga_steps import context, step_inputs

ASKED = {"wants_histogram": True}


def counts(values):
    """Numpy's own: equal bins on [0, 1], the last with its upper edge."""
    return np.histogram(values.double().numpy(), BINS, (0.0, 1.0))[0].tolist()


def ghats(grads, adapters):
    return {fqn: reconstruct(g.a, g.b, adapters[fqn].A, adapters[fqn].B) for fqn, g in grads.items()}


@pytest.mark.parametrize("elements", [1 << 18, 60])  # of a tile: some adapters in one, a few rows of one
@pytest.mark.parametrize("projection", ["svd", "none"])  # tiles of g, and of its change alone
@pytest.mark.parametrize("norm", ["none", "mean", "relative", "smoothed", "fraction"])
def test_iga_counts_every_entry_of_its_tiles(monkeypatch, norm, projection, elements):
    monkeypatch.setattr(tiles, "_TILE_ELEMENTS_CPU", elements)
    grads, adapters = step_inputs(dtype=torch.float64)
    hook = InvariantGradientAlignment(variance_norm=norm, projection=projection, tau=0.7)
    combined = hook.combine(grads, adapters, context(**ASKED))
    for fqn, ghat in ghats(grads, adapters).items():
        found = combined[fqn].mask_histogram
        assert found.dtype == torch.float64
        assert found[:BINS].tolist() == counts(mask(ghat, 0.7, norm))
        assert found[BINS].item() == ghat[0].numel()


@pytest.mark.parametrize("kind", ["and", "sand"])
def test_iga_with_masks_of_signs(kind):
    grads, adapters = step_inputs(dtype=torch.float64)
    hook = InvariantGradientAlignment(mask=kind, **({"variance_norm": "relative"} if kind == "sand" else {}))
    combined = hook.combine(grads, adapters, context(**ASKED))
    threshold = {"and": 1.0, "sand": 0.5}[kind]
    for fqn, ghat in ghats(grads, adapters).items():
        expected = counts(sign_mask(ghat, kind, threshold, 1.0, "relative"))
        assert combined[fqn].mask_histogram[:BINS].tolist() == expected
        if kind == "and":
            assert sum(expected[1:-1]) == 0


def test_a_shuffled_mask_has_the_same_values():
    grads, adapters = step_inputs(dtype=torch.float64)
    plain, shuffled = (
        InvariantGradientAlignment(shuffled=s).combine(grads, adapters, context(**ASKED)) for s in (False, True)
    )
    for fqn in grads:
        assert torch.equal(plain[fqn].mask_histogram, shuffled[fqn].mask_histogram)


def test_what_is_not_masked_is_one():
    grads, adapters = step_inputs()
    combined = InvariantGradientAlignment(tau=0.0).combine(grads, adapters, context(**ASKED))
    for fqn, found in combined.items():
        entries = grads[fqn].a.shape[2] * grads[fqn].b.shape[1]
        assert found.mask_histogram.tolist() == [0.0] * (BINS - 1) + [entries, entries]


def test_factor_masks_count_what_is_live():
    grads, adapters = step_inputs(dtype=torch.float64)
    first = next(iter(grads))
    grads[first] = DomainFactorGrads(torch.zeros_like(grads[first].a), grads[first].b)  # as at B = 0
    masks = {
        AndMask(threshold=0.5): lambda x: and_mask(x, 0.5),
        SandMask(threshold=0.2, variance_norm="relative"): lambda x: sand_mask(x, 0.2, 10.0, "relative"),
        InvariantGradientAlignment(space="factor", tau=1.0): lambda x: exp_mask(x, 1.0, "relative"),
    }
    for hook, dense in masks.items():
        combined = hook.combine(grads, adapters, context(**ASKED))
        for fqn, g in grads.items():
            values = [dense(x).flatten() for x in (g.a, g.b)]
            expected = counts(torch.cat(values[1:] if fqn == first else values))
            assert combined[fqn].mask_histogram[:BINS].tolist() == expected, type(hook)
            assert combined[fqn].mask_histogram[BINS].item() == sum(expected)


def test_the_gate_is_one_value():
    grads, adapters = step_inputs()
    for fqn, found in Gate(tau=2.0).combine(grads, adapters, context(**ASKED)).items():
        entries = grads[fqn].a[0].numel() + grads[fqn].b[0].numel()
        place = int(found.stats["mean_mask"] * BINS)
        assert found.mask_histogram.nonzero().flatten().tolist() == [place, BINS]
        assert found.mask_histogram[place].item() == entries
    edges = of_constant(torch.tensor([0.0, 0.05, 0.999, 1.0, torch.nan]), 3)
    assert edges[:, :BINS].argmax(1).tolist() == [0, 1, 19, 19, 0]


@pytest.mark.parametrize("O", [5, 64, 65, 1000])
def test_a_sample_is_even_deterministic_and_scaled_to_the_whole(O):
    made = [random_adapter(O, 30, 3, 3, seed=k) for k in range(2)]
    contrasts = build_contrasts(*(torch.stack(x) for x in zip(*made)))
    found = sample(contrasts, ExpMask(contrasts, 0.5, "relative"))
    assert torch.equal(found, sample(contrasts, ExpMask(contrasts, 0.5, "relative")))
    rows = sorted({r for start in sample_starts(O) for r in range(start, min(start + 4, O))})
    assert len(rows) == min(O, 64)
    assert (rows[0], rows[-1]) == (0, O - 1)
    for n, adapter in enumerate(made):
        dense = mask(reconstruct(*adapter), 0.5, "relative")
        scale = O / len(rows)
        assert found[n, :BINS].tolist() == pytest.approx([scale * c for c in counts(dense[rows])], rel=1e-12)
        assert found[n, BINS].item() == len(rows) * 30
        assert found[n, :BINS].sum().item() == pytest.approx(O * 30)
        if O == 1000:  # near the whole
            share = found[n, :BINS].numpy() / (O * 30)
            assert np.abs(share - np.array(counts(dense)) / (O * 30)).max() < 0.03


@pytest.mark.parametrize(
    "options", [{}, {"tau": "auto"}, {"warm_start": True}, {"projection": "none"}, {"preset": "paper"}]
)
def test_the_result_is_the_same_to_the_bit(options):
    grads, adapters = step_inputs(dtype=torch.float32)
    plain, counted = InvariantGradientAlignment(**options), InvariantGradientAlignment(**options)
    for step in range(3):
        first = plain.combine(grads, adapters, HookContext(step, tuple("abcd"), seed=7))
        second = counted.combine(grads, adapters, HookContext(step, tuple("abcd"), seed=7, wants_histogram=step != 1))
        for fqn in grads:
            assert torch.equal(first[fqn].a, second[fqn].a)
            assert torch.equal(first[fqn].b, second[fqn].b)
            for name, value in first[fqn].stats.items():
                assert torch.equal(value.nan_to_num(-1.0), second[fqn].stats[name].nan_to_num(-1.0)), name
            assert first[fqn].mask_histogram is None
            assert (second[fqn].mask_histogram is None) == (step == 1)


def test_all_adapters_together_weigh_by_their_entries():
    hook = Gate()
    small, large = of_constant(torch.tensor([0.12]), 10)[0], of_constant(torch.tensor([0.92]), 30)[0]
    large[BINS] = 15  # of a sample
    grads = {name: DomainFactorGrads(torch.ones(2, 1, 3), torch.ones(2, 2, 1)) for name in "xyz"}
    stats = {name: torch.tensor(1.0) for name in hook.statistics}
    plain = {
        name: FactorGrads(g.a[0], g.b[0], g.a[0], g.b[0], stats, histogram)
        for (name, g), histogram in zip(grads.items(), (small, large, None))
    }
    asked = context(2, **ASKED)
    figures_NK = _figures(grads, plain, hook, asked)
    assert figures_NK.shape == (3, 4 + 3 + len(stats) + WIDTH)
    assert _figures({}, {}, hook, asked).shape == (0, figures_NK.shape[1])
    assert _figures(grads, plain, hook, context(2)).shape[1] == figures_NK.shape[1] - WIDTH
    report = StepReport(losses=[1.0, 1.0])
    assert _tell(report, list("xyz"), figures_NK, hook)
    assert list(report.mask_histograms) == ["x", "y"]  # a mask that is not known is left out
    assert report.mask_histogram[2] == pytest.approx(0.25)
    assert report.mask_histogram[18] == pytest.approx(0.75)
    assert report.mask_counted == pytest.approx(25 / 40)
    report = StepReport(losses=[1.0, 1.0])
    assert _tell(report, list("xyz"), _figures(grads, plain, hook, context(2)), hook)
    assert (report.mask_histograms, report.mask_histogram) == ({}, [])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return runs.prepare(tmp_path_factory.mktemp("histograms"))


def test_a_run_records_it_where_its_figures_are_recorded(base, tmp_path):
    config = load_config(base, ["hook.name=iga", "logging.every=2", f"output_dir={tmp_path / 'run'}"])
    runs.train(config, torch.device("cpu"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == [2, 4]
    for line in steps:
        assert len(line["mask_histogram"]) == BINS
        assert sum(line["mask_histogram"]) == pytest.approx(1, abs=1e-3)
        assert line["mask_counted"] == 1.0
        middle = np.dot(line["mask_histogram"], (np.arange(BINS) + 0.5) / BINS)
        assert middle == pytest.approx(line["hook"]["mean_mask"], abs=0.06)  # all adapters weigh nearly alike here
    for line in (tmp_path / "run" / "adapter_metrics.jsonl").read_text().splitlines():
        for figures in json.loads(line)["adapters"].values():
            assert sum(figures["mask_histogram"]) == pytest.approx(1, abs=1e-3)
    told = CliRunner().invoke(main, ["runs", "tail", "--once", str(tmp_path / "run")])
    assert told.exit_code == 0, told.output
    assert "[" not in told.output.split("step 4")[-1].split("\n")[0].replace("[", "", 1)


def test_a_resumed_run_records_the_same(base, tmp_path):
    lines = []
    for name, stop in (("whole", None), ("cut", 2)):
        config = load_config(base, ["hook.name=gate", f"output_dir={tmp_path / name}"])
        masters = runs.train(config, torch.device("cpu"), stop_after=stop)
        if stop:
            masters = runs.train(config, torch.device("cpu"), resume="auto")
        text = (tmp_path / name / "adapter_metrics.jsonl").read_text()
        lines.append((text, {k: v.tolist() for k, v in masters.tensors.items()}))
    assert lines[0] == lines[1]
    assert lines[0][0].count("mask_histogram") == 4 * 8


def test_a_rule_without_a_mask_has_none(base, tmp_path):
    assert not Mean().draws_mask
    config = load_config(base, ["hook.name=mean", "train.max_steps=1", f"output_dir={tmp_path / 'run'}"])
    runs.train(config, torch.device("cpu"))
    for name in ("metrics.jsonl", "adapter_metrics.jsonl"):
        assert "mask" not in (tmp_path / "run" / name).read_text()


def test_boards_get_scalars_only(base, tmp_path):
    config = load_config(base, [f"output_dir={tmp_path}"])
    log, got = RunLog(tmp_path, config, None), []
    log._boards = [
        type("Board", (), {"add": lambda self, scalars, step: got.append(scalars), "close": lambda self: None})()
    ]
    report = StepReport([1.0, 1.0], mask_histograms={"x": [1.0]}, mask_histogram=[1.0], mask_counted=1.0)
    report.adapter_cosines = {"x": [[1.0]]}
    log.train(1, report, ("law", "code"))
    log.close()
    assert all(isinstance(value, float) for scalars in got for value in scalars.values())
    assert json.loads((tmp_path / "adapter_metrics.jsonl").read_text())["adapters"]["x"]["mask_histogram"] == [1.0]
