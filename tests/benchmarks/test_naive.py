"""The benchmarks' naive baseline computes what the hook computes; else their ratios would compare different things."""

import sys
from pathlib import Path

import torch

from igascale import hooks

sys.path.insert(0, str(Path(__file__).parents[2]))  # benchmarks are not part of the package

from benchmarks import naive
from igascale.hooks.base import AdapterFactors, DomainFactorGrads, HookContext

from dense_oracle import random_adapter


def test_naive_and_hook_agree():
    a, b, A, B = random_adapter(96, 80, 4, 4, seed=1)
    # The whole spectrum on both sides, so that only the mathematics can differ, not the randomized projection.
    hook = hooks.build("iga", {"oversampling": 80, "power_iters": 2})
    expected = hook.combine({"m": DomainFactorGrads(a, b)}, {"m": AdapterFactors(A, B, 2.0)}, HookContext())["m"]
    g_OI, mean_OI = naive.masked_mean(a, b, A, B, 0.5)
    U, S, Vh = naive.low_rank(g_OI, 8, oversampling=72)
    found = naive.anchored((U * S) @ Vh - mean_OI, a.mean(0), b.mean(0), A, B, 0.1)
    for x, y in zip(found, (expected.a, expected.b)):
        assert (x - y).norm() < 1e-4 * y.norm()


def test_domain_gradients_are_those_of_each_loss():
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    first, second = naive.domain_gradients([lambda: w[0] ** 2, lambda: 3 * w[1]], [w])
    assert first[0].tolist() == [2.0, 0.0]
    assert second[0].tolist() == [0.0, 3.0]
