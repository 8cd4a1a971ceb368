# ruff: noqa: E741 -- O and I are the shape letters of the project
"""Streaming randomized SVD against the exact SVD of the dense masked matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale.linalg.contrasts import build_contrasts
from igascale.linalg.projection import TilePasses, iterate_to_leading, orthonormal, sketch_width, streaming_svd
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


def error_over_optimal(adapter, rank, tau, norm, power_iters):
    source, low_rank = project([adapter], rank, tau=tau, norm=norm, rows=64, power_iters=power_iters)
    g = masked(tuple(x.double() for x in adapter), tau, norm)
    optimal = torch.linalg.svdvals(g)[rank:].norm()
    assert optimal > 0.02 * g.norm()  # else the comparison would be about rounding
    share = low_rank.tail_energy(source.masked_sq_N)[0] / (optimal / g.norm()) ** 2
    assert 0.99 <= share <= 1.03
    return (g - dense_of(source, low_rank)).norm() / optimal


@pytest.mark.parametrize("shape", [(128, 128), (512, 512), (344, 1024), (1376, 512)])
@pytest.mark.parametrize("domains", [2, 4, 16])
@pytest.mark.parametrize("tau", [0.5, 5.0])
def test_error_is_within_one_percent_of_the_optimal_tail(shape, domains, tau):
    """Spectra that decay slowly beyond rank R; the iterations are those of the hook's defaults for R and 2R."""
    adapter = random_adapter(*shape, 16, domains, seed=domains, dtype=torch.float32)
    assert error_over_optimal(adapter, 16, tau, "relative", 2) <= 1.001
    assert error_over_optimal(adapter, 32, tau, "relative", 1) <= 1.01


@pytest.mark.parametrize("norm", ["mean", "relative", "smoothed", "fraction"])
def test_error_is_within_one_percent_for_every_norm(norm):
    adapter = random_adapter(300, 400, 16, 4, dtype=torch.float32)
    assert error_over_optimal(adapter, 16, 2.0, norm, 2) <= 1.01


class Dense:
    """:class:`MatrixProducts` of dense matrices, which counts the products."""

    def __init__(self, g_NOI):
        self.g_NOI, self.shape, self.dtype, self.device = g_NOI, g_NOI.shape, g_NOI.dtype, g_NOI.device
        self.columns = []

    def times(self, x):
        self.columns.append(x.shape[-1])
        return self.g_NOI @ x

    def transposed_times(self, q):
        self.columns.append(q.shape[-1])
        return self.g_NOI.mT @ q


@pytest.mark.parametrize("rank", [8, 16, 64])
def test_pure_noise_is_within_one_percent_and_costs_two_passes_an_iteration(rank):
    g = torch.randn(2, 256, 256, generator=torch.Generator().manual_seed(1))
    products = Dense(g)
    sketch = torch.randn(256, rank + 10, generator=torch.Generator().manual_seed(2))
    low_rank = streaming_svd(products, rank, sketch, 2)
    assert products.columns == [rank + 10] * 6
    optimal = torch.linalg.svdvals(g.double())[:, rank:].norm(dim=1)
    error = (g.double() - (low_rank.U_NOK * low_rank.S_NK[:, None]).double() @ low_rank.Vh_NKI.double()).norm(
        dim=(1, 2)
    )
    assert (error / optimal).max() <= 1.01


def test_the_krylov_basis_beats_the_power_iteration_of_the_same_products():
    g = torch.randn(1, 200, 300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sketch = torch.randn(300, 26, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    Q = torch.linalg.qr(g @ torch.linalg.qr(g.mT @ torch.linalg.qr(g @ sketch).Q).Q).Q
    power = (torch.linalg.svdvals(Q.mT @ g)[:, :16]).square().sum()
    krylov = streaming_svd(Dense(g), 16, sketch, 1).S_NK.square().sum()
    assert krylov > 1.05 * power


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_orthonormal_columns_span_the_matrix(dtype, tolerance):
    Y = torch.randn(3, 60, 9, generator=torch.Generator().manual_seed(0), dtype=dtype)
    Y[1] *= 1e-20
    Y[2] *= 1e15
    basis = torch.linalg.qr(torch.randn(3, 60, 5, generator=torch.Generator().manual_seed(1), dtype=dtype)).Q
    for against, name in ((None, "alone"), (basis, "beside a basis")):
        Q = orthonormal(Y, against)
        assert Q.dtype == dtype, name
        both = Q if against is None else torch.cat([against, Q], 2)
        assert (both.mT @ both - torch.eye(both.shape[2], dtype=dtype)).abs().max() <= tolerance
        residual = Y - both @ (both.mT @ Y)
        assert (residual.norm(dim=(1, 2)) <= tolerance * Y.norm(dim=(1, 2))).all()


def test_orthonormal_of_dependent_columns_is_no_larger_than_a_projector():
    g = torch.Generator().manual_seed(0)
    for columns in (
        torch.zeros(1, 30, 6),
        torch.randn(1, 30, 1, generator=g).expand(-1, -1, 6),
        torch.randn(1, 30, 2, generator=g) @ torch.randn(1, 2, 6, generator=g),
        torch.nn.functional.one_hot(torch.tensor([[4]]), 30).mT.float().expand(-1, -1, 6),
    ):
        Q = orthonormal(columns)
        assert Q.isfinite().all()
        assert torch.linalg.matrix_norm(Q.double(), 2) <= 1 + 1e-6
        assert (columns - Q @ (Q.mT @ columns)).norm() <= 2e-6 * columns.norm()
    basis = torch.linalg.qr(torch.randn(1, 8, 8, generator=g)).Q  # nothing is left beside it
    assert orthonormal(torch.randn(1, 8, 3, generator=g), basis).norm() <= 1e-3


@pytest.mark.parametrize("decay", [0.0, 0.25, 1.0, 3.0])
@pytest.mark.parametrize("rank", [8, 32])
def test_iteration_keeps_as_much_energy_as_the_eigenvectors(decay, rank):
    """What CUDA does in place of ``eigh``, from noise to spectra that fall by five orders of magnitude."""
    g = torch.Generator().manual_seed(0)
    image = torch.randn(3, 84, 500, generator=g, dtype=torch.float64)
    U, _, Vh = torch.linalg.svd(image, full_matrices=False)
    values = torch.linalg.svdvals(image) if decay == 0 else torch.arange(1, 85).double().pow(-decay).expand(3, -1)
    image = (U * values[:, None]) @ Vh
    u = iterate_to_leading(image @ image.mT, rank)
    torch.testing.assert_close(u.mT @ u, torch.eye(rank, dtype=u.dtype).expand(3, -1, -1), rtol=0, atol=1e-9)
    kept = (u.mT @ image).norm(dim=2)
    assert (kept.diff(dim=1) <= 1e-9 * values[:, :1]).all()  # in descending order
    tail = values[:, rank:].square().sum(1)
    lost = values.square().sum(1) - kept.square().sum(1)
    assert ((lost / tail).sqrt() <= 1 + 2e-3).all()


@pytest.mark.parametrize("rows", [1024, 11008, 28672])
@pytest.mark.parametrize("columns", [10, 42])
def test_orthonormal_of_rows_that_are_equal_up_to_their_sign(rows, columns):
    """Every addition of the Gram rounds the same way, so that the error of its sums grows with the rows.

    How much is lost depends on the order in which a processor's routines add; at most half a unit in the last place a row.
    """
    g = torch.Generator().manual_seed(0)
    for sign in (torch.ones(rows, 1), torch.randn(rows, 1, generator=g).sign()):
        for _ in range(3):
            Y = (sign @ torch.randn(1, columns, generator=g))[None]
            Q = orthonormal(Y)
            assert Q.isfinite().all()
            assert torch.linalg.matrix_norm(Q.double(), 2) <= 1 + 1e-6
            assert (Y - Q @ (Q.mT @ Y)).norm() <= (5e-6 + 2.0**-24 * rows) * Y.norm()


def test_large_adapters_share_a_batch_of_low_tiles():
    """Several adapters, tiles lower than the matrices, with and without the cache: as one by one."""
    adapters = [random_adapter(50, 40, 4, 4, seed=k) for k in range(3)]
    for cached in (True, False):
        source, together = project(adapters, 6, rows=7, cached=cached)
        for n, adapter in enumerate(adapters):
            alone = dense_of(*project([adapter], 6, rows=50))
            torch.testing.assert_close(dense_of(source, together, n), alone, rtol=0, atol=1e-11 * alone.norm().item())
            assert source.masked_sq_N[n].item() == pytest.approx(
                (masked(adapter).norm() / source.contrasts.scale_N[n]).item() ** 2, rel=1e-9
            )


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
    assert errors[0] > errors[1] > errors[2] >= torch.linalg.svdvals(g)[8:].norm() * (1 - 1e-12)


def test_zero_matrix_projects_to_zero():
    a, b, A, B = random_adapter(30, 20, 4, 4, dtype=torch.float32)
    source, low_rank = project([(a * 0, b * 0, A, B)], 4)
    assert torch.equal(dense_of(source, low_rank), torch.zeros(30, 20))
    assert low_rank.tail_energy(source.masked_sq_N).item() == 0
