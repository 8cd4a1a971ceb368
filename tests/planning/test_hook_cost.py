# ruff: noqa: E741 -- O and I are the shape letters of the project
"""Predicted work and memory of the rule against what it really multiplies and allocates."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from igascale import hooks
from igascale.hooks.base import AdapterFactors, DomainFactorGrads, HookContext
from igascale.planning.hook_cost import hook_work, working_bytes

from live_bytes import peak_bytes

O, I, R = 768, 1024, 8


def inputs(domains, seed=0):
    g = torch.Generator().manual_seed(seed)
    factors = {"x": AdapterFactors(torch.randn(R, I, generator=g), 0.01 * torch.randn(O, R, generator=g))}
    grads = {"x": DomainFactorGrads(torch.randn(domains, R, I, generator=g), torch.randn(domains, O, R, generator=g))}
    return grads, factors, HookContext(domains=tuple("abcdefgh"[:domains]))


def added_products(sum_shape, left_shape, right_shape, out_shape=None, **options):
    """PyTorch's counter knows ``baddbmm``, but not the form in place."""
    return 2 * left_shape[0] * left_shape[1] * left_shape[2] * right_shape[2]


@pytest.mark.parametrize("domains", [2, 4])
@pytest.mark.parametrize("options", [{}, {"power_iters": 0}, {"projection": "none"}, {"mask": "sand"}], ids=str)
def test_flops_of_the_alignment(options, domains):
    hook = hooks.build("iga", options)
    arguments = inputs(domains)
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: added_products}) as counter:
        hook.combine(*arguments)
    assert hook_work(hook, (O, I, R), domains).flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_the_budget_decides_whether_the_matrix_is_kept():
    generous, tight = (hooks.build("iga", {"memory_mb": mb}) for mb in (256.0, 24.0))
    shape = (4096, 4096, 16)
    assert hook_work(generous, shape, 4).flops < hook_work(tight, shape, 4).flops
    assert working_bytes(tight, [shape], 4) < working_bytes(generous, [shape], 4)


@pytest.mark.parametrize("options", [{}, {"projection": "none"}])
def test_working_memory_bounds_what_the_rule_allocates(options):
    hook = hooks.build("iga", {"memory_mb": 8.0, **options})
    arguments = inputs(4)
    hook.combine(*arguments)
    results_of = []
    peak = peak_bytes(lambda: results_of.append(hook.combine(*arguments)))
    (result,) = results_of
    results = sum(t.nbytes for g in result.values() for t in (g.a, g.b, g.reference_a, g.reference_b))
    bound = working_bytes(hook, [(O, I, R)], 4)
    assert bound <= 8 * 2**20
    assert 0.3 * bound < peak - results < 8 * 2**20  # the plan is a GPU's, whose tiles have other sizes


def test_a_rule_in_factor_space_multiplies_no_large_matrix():
    for name in ("mean", "gate"):
        work = hook_work(hooks.build(name, {}), (O, I, R), 4)
        assert work.flops == 0
        assert 0 < work.memory_traffic < hook_work(hooks.build("iga", {}), (O, I, R), 4).memory_traffic / 10
