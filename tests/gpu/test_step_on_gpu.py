"""On a CUDA device: the hooks and a short run agree with the CPU."""

import pytest
import torch

from igascale import hooks
from igascale.hooks import AdapterFactors, DomainFactorGrads, HookContext

import runs

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("name", hooks.available())
def test_combine_equals_the_cpu(name):
    g = torch.Generator().manual_seed(0)
    grads, factors = {}, {}
    for i, (out, into) in enumerate([(256, 256), (64, 256), (256, 64)]):
        a, b = torch.randn(4, 8, into, generator=g), torch.randn(4, out, 8, generator=g)
        grads[f"l{i}"] = DomainFactorGrads(a, b)
        factors[f"l{i}"] = AdapterFactors(torch.randn(8, into, generator=g), 0.1 * torch.randn(out, 8, generator=g))
    context = HookContext(step=3, domains=tuple("wxyz"), losses=torch.ones(4, dtype=torch.float64), seed=1)
    hook = hooks.build(name, {})
    expected = hook.combine(grads, factors, context)
    found = hook.combine(
        {k: DomainFactorGrads(v.a.cuda(), v.b.cuda()) for k, v in grads.items()},
        {k: AdapterFactors(v.A.cuda(), v.B.cuda(), v.scaling) for k, v in factors.items()},
        context,
    )
    for k in grads:
        for got, want in ((found[k].a, expected[k].a), (found[k].b, expected[k].b)):
            assert got.is_cuda
            assert (got.cpu() - want).norm() <= 1e-3 * want.norm()


@pytest.mark.parametrize("hook", ["mean", "iga"])
def test_a_short_run_equals_the_cpu(tmp_path, hook):
    path = runs.prepare(tmp_path)
    results = {}
    for device in ("cpu", "cuda"):
        config = runs.load(path, f"output_dir={tmp_path / device}", f"hook.name={hook}", "train.max_steps=5")
        results[device] = runs.run(config, torch.device(device))
    cpu, gpu = (torch.tensor(results[d].losses) for d in ("cpu", "cuda"))
    assert ((cpu - gpu).abs() / cpu).max() <= 1e-4
