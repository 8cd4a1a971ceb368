# ruff: noqa: E741 -- O and I are the shape letters of the project
"""Streaming randomized SVD against the exact SVD of the dense masked matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale.linalg.contrasts import build_contrasts
from igascale.linalg.projection import TilePasses, sketch_width, streaming_svd
from igascale.linalg.tile_masks import ExpMask
from igascale.linalg.tiles import MaskedMean

from dense_oracle import mask, random_adapter, reconstruct, truncate


def project(adapters, rank, *, tau=0.5, norm="relative", rows=16, power_iters=1, cached=False, oversampling=10):
    contrasts = build_contrasts(*(torch.stack(x) for x in zip(*adapters)))
    source = MaskedMean(contrasts, ExpMask(contrasts, tau, norm), rows)
    _, O, I = source.shape
    g = torch.Generator().manual_seed(0)
    sketch = torch.randn(I, sketch_width(rank, oversampling, (O, I)), generator=g, dtype=torch.float64)
    cache = torch.empty(source.shape, dtype=source.dtype) if cached else None
    return source, streaming_svd(TilePasses(source, cache), rank, sketch, power_iters)


def dense_of(source, low_rank, n=0):
    return source.contrasts.scale_N[n] * (low_rank.U_NOK[n] * low_rank.S_NK[n]) @ low_rank.Vh_NKI[n]


def masked(adapter, tau=0.5, norm="relative"):
    ghat = reconstruct(*adapter)
    return ghat.mean(0) * mask(ghat, tau, norm)


@settings(max_examples=30, deadline=None)
@given(
    O=st.integers(1, 24),
    I=st.integers(1, 24),
    rank=st.integers(1, 14),
    cached=st.booleans(),
    power_iters=st.integers(0, 2),
)
def test_equals_exact_svd_when_the_sketch_spans_the_matrix(O, I, rank, cached, power_iters):
    oversampling = max(10, min(O, I) - rank)
    adapter = random_adapter(O, I, 2, 3)
    source, low_rank = project(
        [adapter], rank, rows=5, cached=cached, power_iters=power_iters, oversampling=oversampling
    )
    g = masked(adapter)
    U, S, Vh = truncate(g, rank)
    kept = min(rank, O, I)
    assert low_rank.U_NOK.shape == (1, O, kept)
    assert low_rank.Vh_NKI.shape == (1, kept, I)
    torch.testing.assert_close(low_rank.S_NK[0] * source.contrasts.scale_N[0], S, rtol=0, atol=1e-12 * S[0])
    torch.testing.assert_close(dense_of(source, low_rank), (U * S) @ Vh, rtol=0, atol=1e-8 * S[0])
    error = (g - dense_of(source, low_rank)).norm()
    assert error <= (g - (U * S) @ Vh).norm() * (1 + 1e-9) + 1e-12 * S[0]


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 3e-6)])
@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (200, 200)])
def test_equals_exact_svd_of_a_low_rank_matrix(shape, dtype, tolerance):
    """Without a mask the mean has rank 2R = 8 < rank + oversampling."""
    adapter = random_adapter(*shape, 4, 3, dtype=dtype)
    source, low_rank = project([adapter], 8, tau=0.0, rows=50)
    g = reconstruct(*(x.double() for x in adapter)).mean(0)
    assert (g - dense_of(source, low_rank)).norm() <= tolerance * g.norm()
    S = torch.linalg.svdvals(g)[:8]
    torch.testing.assert_close(
        (low_rank.S_NK[0] * source.contrasts.scale_N[0]).double(), S, rtol=0, atol=tolerance * S[0].item()
    )


@pytest.mark.parametrize("shape", [(200, 500), (500, 200), (300, 300), (64, 256)])
@pytest.mark.parametrize("norm", ["mean", "relative"])
@pytest.mark.parametrize("rank", [8, 16])
def test_error_is_within_five_percent_of_the_optimal_tail(shape, norm, rank):
    adapter = random_adapter(*shape, 8, 4, dtype=torch.float32)
    source, low_rank = project([adapter], rank, norm=norm, rows=64)
    g = masked(tuple(x.double() for x in adapter), norm=norm)
    optimal = torch.linalg.svdvals(g)[rank:].norm()
    assert optimal > 0.02 * g.norm()  # else the comparison would be about rounding
    assert (g - dense_of(source, low_rank)).norm() <= 1.05 * optimal
    tail = low_rank.tail_energy(source.masked_sq_N)[0]
    assert 0.9 * (optimal / g.norm()) ** 2 <= tail <= 1.11 * (optimal / g.norm()) ** 2


@pytest.mark.parametrize("shape", [(60, 90), (90, 60)])
def test_cache_changes_nothing(shape):
    adapters = [random_adapter(*shape, 4, 4, seed=k) for k in range(3)]
    source, kept = project(adapters, 6, rows=17, cached=True, power_iters=2)
    _, regenerated = project(adapters, 6, rows=17, cached=False, power_iters=2)
    for n in range(3):
        expected = dense_of(source, regenerated, n)
        torch.testing.assert_close(dense_of(source, kept, n), expected, rtol=0, atol=1e-12 * expected.norm().item())


def test_batch_equals_one_by_one():
    adapters = [random_adapter(40, 50, 4, 4, seed=k, scale=10.0**k) for k in range(3)]
    source, together = project(adapters, 6)
    for n, adapter in enumerate(adapters):
        alone = dense_of(*project([adapter], 6))
        torch.testing.assert_close(dense_of(source, together, n), alone, rtol=0, atol=1e-12 * alone.norm().item())


def test_power_iterations_bring_it_closer():
    adapter = random_adapter(150, 150, 8, 4)
    g = masked(adapter)
    errors = [(g - dense_of(*project([adapter], 8, power_iters=k, oversampling=2))).norm() for k in range(3)]
    assert errors[0] > errors[1] > errors[2] >= torch.linalg.svdvals(g)[8:].norm()


def test_zero_matrix_projects_to_zero():
    a, b, A, B = random_adapter(30, 20, 4, 4, dtype=torch.float32)
    source, low_rank = project([(a * 0, b * 0, A, B)], 4)
    assert torch.equal(dense_of(source, low_rank), torch.zeros(30, 20))
    assert low_rank.tail_energy(source.masked_sq_N).item() == 0
