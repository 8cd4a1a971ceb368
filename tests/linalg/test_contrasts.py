# ruff: noqa: E741 -- O and I are the shape letters of the project
"""Contrasts and their closed-form sums against direct means and variances of dense reconstructions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale.linalg.contrasts import build_contrasts

from dense_oracle import random_adapter, reconstruct


def batch_of(*adapters):
    return build_contrasts(*(torch.stack(x) for x in zip(*adapters)))


@settings(max_examples=25, deadline=None)
@given(
    O=st.integers(1, 20),
    I=st.integers(1, 20),
    R=st.integers(1, 5),
    D=st.integers(1, 7),
    scale=st.sampled_from([1e-6, 1.0, 300.0]),
    seed=st.integers(0, 99),
)
def test_contrasts_give_mean_variance_and_their_sums(O, I, R, D, scale, seed):
    adapters = [random_adapter(O, I, R, D, seed=seed + k, scale=scale) for k in range(2)]
    c = batch_of(*adapters)
    for n, adapter in enumerate(adapters):
        ghat = reconstruct(*adapter)
        V = ghat.var(0, correction=0)
        size = ghat.abs().max()
        dense = c.scale_N[n] * (c.left_NDOQ[n] @ c.right_NDQI[n])
        torch.testing.assert_close(dense[0], ghat.mean(0), rtol=0, atol=1e-13 * size)
        torch.testing.assert_close(dense[1:].square().sum(0), V, rtol=0, atol=1e-13 * size**2)
        unit = c.scale_N[n] ** 2
        tiny = 1e-12 * ghat.square().sum()
        torch.testing.assert_close(c.mean_sq_N[n] * unit, ghat.mean(0).square().sum(), rtol=0, atol=tiny)
        torch.testing.assert_close(c.variance_sum_N[n] * unit, V.sum(), rtol=0, atol=tiny)
        torch.testing.assert_close(c.variance_mean_N[n] * unit, V.mean(), rtol=0, atol=tiny)


def test_residual_is_the_ratio_of_the_sums():
    adapter = random_adapter(9, 7, 2, 4)
    ghat = reconstruct(*adapter)
    expected = ghat.var(0, correction=0).sum() / ghat.mean(0).square().sum()
    torch.testing.assert_close(batch_of(adapter).residual_N[0], expected)


def test_float32_keeps_the_variance_of_nearly_equal_domains():
    a, b, A, B = random_adapter(40, 30, 4, 3)
    a, b = (x[:1] + 1e-4 * (x - x.mean(0)) for x in (a, b))
    # the float32 inputs are the truth here, so that only the algorithm's rounding counts
    a, b, A, B = (x.float() for x in (a, b, A, B))
    V = reconstruct(*(x.double() for x in (a, b, A, B))).var(0, correction=0).sum()
    c = batch_of((a, b, A, B))
    torch.testing.assert_close(c.variance_sum_N[0] * c.scale_N[0].double() ** 2, V, rtol=1e-4, atol=0)


@pytest.mark.parametrize("D", [2, 3, 5, 7])
def test_identical_domains_have_no_variance_at_all(D):
    a, b, A, B = random_adapter(10, 8, 3, 1, dtype=torch.float32)
    c = batch_of((a.expand(D, -1, -1), b.expand(D, -1, -1), A, B))
    assert c.variance_sum_N.item() == 0


def test_scale_is_a_power_of_two_and_keeps_tiny_gradients_in_range():
    a, b, A, B = random_adapter(12, 9, 2, 4, dtype=torch.float32, scale=1e-16)
    c = batch_of((a, b, A, B))
    assert torch.frexp(c.scale_N).mantissa.item() == 0.5
    assert 0.1 < (c.mean_sq_N + c.variance_sum_N).item() / (12 * 9) < 10


def test_factors_are_views_of_the_inputs_values():
    _, _, A, B = adapter = random_adapter(5, 6, 2, 3)
    c = batch_of(adapter)
    assert torch.equal(c.A_NRI[0], A)
    assert torch.equal(c.B_NOR[0], B)


def test_nan_is_flagged_for_its_adapter_only():
    good, bad = random_adapter(5, 6, 2, 3), random_adapter(5, 6, 2, 3, seed=1)
    bad[0][1, 0, 0] = float("nan")
    c = batch_of(good, bad)
    assert c.finite_N.tolist() == [True, False]
    assert torch.equal(c.left_NDOQ[0], batch_of(good).left_NDOQ[0])
    assert c.right_NDQI[1].count_nonzero() == 0


@pytest.mark.parametrize("D", [1, 2, 5])
def test_the_largest_element_is_bounded(D):
    a, b, A, B = random_adapter(9, 7, 2, D, scale=0.3)
    c = build_contrasts(*(x[None] for x in (a, b, A, B)))
    bound = c.largest_sq_N[0] * c.scale_N[0] ** 2
    ghat = reconstruct(a, b, A, B)
    assert bound >= ghat.square().max()
    assert bound <= 100 * D * ghat.square().max()  # it says something
