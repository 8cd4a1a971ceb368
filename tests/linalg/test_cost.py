# ruff: noqa: E741 -- O and I are the shape letters of the project
"""The counted work of an alignment against PyTorch's own count on a real run."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from igascale.hooks.iga import InvariantGradientAlignment
from igascale.linalg.cost import alignment_cost

from iga_steps import context, step_inputs

OPTIONS = [
    {},
    {"preset": "paper"},
    {"power_iters": 3, "rank": 5},
    {"rank": "R", "extraction": "aligned"},
    {"extraction": "pullback"},
    {"projection": "none"},
    {"tau": 0.0},
    {"mask": "and", "second_moment": "adam"},
    {"mask": "sand"},
]


def in_place_flops(_, left, right, out_shape, **kwargs):
    return 2 * math.prod(out_shape) * left[-1]


def count(shape, R, D, options, memory_mb):
    grads, adapters = step_inputs((shape,), R=R, D=D, dtype=torch.float32)
    hook = InvariantGradientAlignment(memory_mb=memory_mb, **options)
    in_place = {torch.ops.aten.baddbmm_: in_place_flops}  # else it is not counted
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        hook.combine(grads, adapters, context(D))
    cached = hook.plan(1, (*shape, R), D, torch.float32, torch.device("cpu")).cached
    return counter.get_total_flops(), alignment_cost(*shape, R, D, hook.choices, cached=cached)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape, R, D", [((300, 500), 8, 4), ((500, 260), 4, 7), ((40, 60), 4, 2)])
def test_flops_of_matrix_products_are_those_of_a_run(options, shape, R, D):
    counted, cost = count(shape, R, D, options, 64)
    assert cost.total_flops == pytest.approx(counted, rel=1e-3)
    assert cost.bytes > 0


def test_a_tight_budget_generates_the_matrix_in_every_pass():
    shape, R, D = (900, 400), 4, 4
    counted, cost = count(shape, R, D, {}, 2.2)
    _, kept = count(shape, R, D, {}, 64)
    assert cost.total_flops == pytest.approx(counted, rel=1e-3)
    assert cost.flops["generate"] == 4 * kept.flops["generate"]
    assert cost.elementwise == 4 * kept.elementwise


def test_work_grows_linearly_with_the_area_and_at_most_so_with_domains_and_rank():
    choices = InvariantGradientAlignment().choices

    def work(O=4096, I=4096, R=16, D=4):
        return alignment_cost(O, I, R, D, choices).work

    assert 1.9 < work(O=8192) / work() < 2.1
    assert 1.2 < work(D=8) / work() < 2
    assert 1.1 < work(R=32) / work() < 2


def test_cost_of_the_hook_orders_adapters():
    hook = InvariantGradientAlignment()
    assert hook.cost(11008, 4096, 16, 4) > 2 * hook.cost(4096, 4096, 16, 4)
    assert hook.cost(64, 64, 16, 4) < hook.cost(512, 512, 16, 4)
    factor = InvariantGradientAlignment(space="factor")
    assert factor.cost(300, 100, 8, 4) == 8 * 400 * 4
