"""On a CUDA device: the hooks and a short run agree with the CPU."""

from dataclasses import replace

import pytest
import torch

from igascale import hooks
from igascale.contract.cases import make_case
from igascale.hooks import AdapterFactors, DomainFactorGrads
from igascale.step import check_result

import runs

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


VARIANTS = [
    *((name, {}) for name in hooks.available()),
    *(("iga", options) for options in ({"tau": "auto"}, {"shuffled": True}, {"mask": "and"}, {"space": "factor"})),
    ("iga", {"preset": "paper-stable", "remove_noise": True}),
    ("gate", {"shuffled": True, "remove_noise": True, "space": "weight"}),
    ("sand_mask", {"variance_norm": "relative", "second_moment": "max"}),
]


@pytest.mark.parametrize("name, options", VARIANTS, ids=str)
def test_combine_equals_the_cpu(name, options):
    hook, other = hooks.build(name, options), hooks.build(name, options)
    case = make_case(hook, 4)
    expected = case.run(hook)

    def on_gpu(g):
        return DomainFactorGrads(g.a.cuda(), g.b.cuda(), g.noise)

    context = replace(case.context, aux={k: on_gpu(g) for k, g in case.context.aux.items()})
    factors = {k: AdapterFactors(v.A.cuda(), v.B.cuda(), v.scaling) for k, v in case.adapters.items()}
    found = other.combine({k: on_gpu(g) for k, g in case.grads.items()}, factors, context)
    check_result(found, {k: on_gpu(g) for k, g in case.grads.items()}, other)
    for k in case.grads:
        for got, want in ((found[k].a, expected[k].a), (found[k].b, expected[k].b)):
            assert got.is_cuda
            assert (got.cpu() - want).norm() <= 1e-3 * want.norm()


@pytest.mark.parametrize("hook", ["mean", "iga", "irm", "pcgrad"])
def test_a_short_run_equals_the_cpu(tmp_path, hook):
    path = runs.prepare(tmp_path)
    results = {}
    for device in ("cpu", "cuda"):
        config = runs.load(path, f"output_dir={tmp_path / device}", f"hook.name={hook}", "train.max_steps=5")
        results[device] = runs.run(config, torch.device(device))
    cpu, gpu = (torch.tensor(results[d].losses) for d in ("cpu", "cuda"))
    assert ((cpu - gpu).abs() / cpu).max() <= 1e-4
