# ruff: noqa: E741 -- O and I are the shape letters of the project
"""On a CUDA device: mask histograms, LCS and GIR agree with the CPU."""

import copy

import pytest
import torch

from igascale import hooks
from igascale.evaluation.consistency import GroupTexts, consistency
from igascale.evaluation.residual import held_out_residual
from igascale.hooks.base import AdapterFactors, DomainFactorGrads
from igascale.isomers.schema import Instance, IsomerGroup
from igascale.linalg.histogram import BINS, sample_starts

import tiny
from dense_oracle import mask, random_adapter, reconstruct
from iga_steps import context

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize(
    "options", [{}, {"kernel": "torch"}, {"mask": "and"}, {"shuffled": True}, {"projection": "none"}], ids=str
)
def test_histograms_equal_dense_masks(options):
    """Of a sample of rows beside the fused kernel, of all entries from tiles; the result is the same to the bit with and without."""
    O, I = 300, 200
    made = {f"m{k}": random_adapter(O, I, 8, 4, seed=k, dtype=torch.float32) for k in range(3)}
    grads = {k: DomainFactorGrads(a.cuda(), b.cuda()) for k, (a, b, _, _) in made.items()}
    factors = {k: AdapterFactors(A.cuda(), B.cuda(), 2.0) for k, (_, _, A, B) in made.items()}
    with torch.random.fork_rng(devices=["cuda"]):
        torch.use_deterministic_algorithms(True, warn_only=False)
        try:
            counted = hooks.build("iga", options).combine(grads, factors, context(wants_histogram=True))
        finally:
            torch.use_deterministic_algorithms(False)
    plain = hooks.build("iga", options).combine(grads, factors, context())
    fused = not options or options == {"projection": "none"}
    rows = sorted({r for start in sample_starts(O) for r in range(start, start + 4)}) if fused else list(range(O))
    for k, adapter in made.items():
        assert torch.equal(counted[k].a, plain[k].a)
        assert torch.equal(counted[k].b, plain[k].b)
        found = counted[k].mask_histogram.cpu()
        assert found[BINS].item() == len(rows) * I
        assert found[:BINS].sum().item() == pytest.approx(O * I)
        ghat = reconstruct(*(x.double() for x in adapter))[:, rows]
        if options == {"mask": "and"}:
            kept = ((ghat.sign().mean(0).abs() > 0.999).sum().item(), 19)
            assert found[kept[1]].item() == pytest.approx(kept[0], abs=3)
            continue
        values = mask(reconstruct(*(x.double() for x in adapter)), 0.5, "relative")[rows]
        expected = torch.histogram(values, BINS, range=(0.0, 1.0)).hist * (O / len(rows))
        assert (found[:BINS] - expected).abs().sum() <= 1e-3 * O * I


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lcs_equals_the_cpu(dtype):
    generator = torch.Generator().manual_seed(0)
    groups = [
        GroupTexts(torch.randint(6, 128, (3, 10 + k), generator=generator).tolist(), tuple("abc")) for k in range(6)
    ]
    model = tiny.tiny_llama(dtype).eval()
    on_cpu = consistency(model, groups, layers=[0, 1, 2], batch_size=4).results()
    on_gpu = consistency(
        copy.deepcopy(model).cuda(), groups, layers=[0, 1, 2], batch_size=4, padding_side="left"
    ).results()
    for one, other in zip(on_gpu, on_cpu, strict=True):
        assert one.lcs == pytest.approx(other.lcs, rel=1e-4 if dtype == torch.float32 else 0.1)
        assert one.pairs == pytest.approx(other.pairs, rel=1e-4 if dtype == torch.float32 else 0.2)


def test_gir_equals_the_cpu():
    groups = [
        IsomerGroup(
            f"g{k}",
            f"s{k}",
            tuple(Instance(d, f"{d} rule {k}: Who?", "So Ann.", "Ann") for d in ("law", "drug", "code")),
        )
        for k in range(4)
    ]
    model, tokenizer = tiny.tiny_peft(), tiny.tiny_tokenizer()
    on_cpu = held_out_residual(model, tokenizer, groups)
    on_gpu = held_out_residual(copy.deepcopy(model).cuda(), tokenizer, groups)
    assert on_gpu.overall.gir == pytest.approx(on_cpu.overall.gir, rel=1e-3)
    for fqn, each in on_cpu.adapters.items():
        assert on_gpu.adapters[fqn].gir == pytest.approx(each.gir, rel=1e-2)
        assert on_gpu.adapters[fqn].weight_gir == pytest.approx(each.weight_gir, rel=1e-2)
