# ruff: noqa: E741 -- O and I are the shape letters of the project
"""Factor extraction against dense least squares and naive transcriptions."""

import pytest
import torch

from igascale.linalg import extraction
from igascale.linalg.contrasts import build_contrasts
from igascale.linalg.projection import LowRank, TilePasses, sketch_width, streaming_svd
from igascale.linalg.tile_masks import ExpMask
from igascale.linalg.tiles import MaskedMean

from dense_oracle import anchored as dense_anchored
from dense_oracle import mask, random_adapter, reconstruct, truncate


def prepare(adapter, rank=None, tau=0.5, norm="relative"):
    contrasts = build_contrasts(*(x[None] for x in adapter))
    source = MaskedMean(contrasts, ExpMask(contrasts, tau, norm), 4)
    if rank is None:
        return contrasts, extraction.change_products(source)
    _, O, I = source.shape
    width = sketch_width(rank, max(O, I), (O, I))  # as many columns as there are: the projection is exact
    projected = streaming_svd(TilePasses(source), rank, torch.randn(I, width, dtype=torch.float64), 0)
    return contrasts, extraction.low_rank_products(contrasts, projected)


def target(adapter, rank=None, tau=0.5):
    ghat = reconstruct(*adapter)
    g = ghat.mean(0) * mask(ghat, tau, "relative")
    if rank is None:
        return g
    U, S, Vh = truncate(g, rank)
    return (U * S) @ Vh


@pytest.mark.parametrize("rank", [None, 4, 6])
@pytest.mark.parametrize("b_size", [0.0, 1e-3, 1e-2, 1.0, 3.0])
@pytest.mark.parametrize("rank_a", [None, 1])
@pytest.mark.parametrize("rho", [0.1, 1e-3])
def test_anchored_solves_the_dense_least_squares_problem(rank, b_size, rank_a, rho):
    a, b, A, B = adapter = random_adapter(12, 9, 3, 4, b_size=b_size, rank_a=rank_a)
    contrasts, change = prepare(adapter, rank)
    got = extraction.anchored(contrasts, change, rho)
    expected = dense_anchored(A, B, a.mean(0), b.mean(0), target(adapter, rank), rho)
    size = (expected[0].square().sum() + expected[1].square().sum()).sqrt().item()
    torch.testing.assert_close(got.a[0], expected[0], rtol=0, atol=1e-10 * size)
    torch.testing.assert_close(got.b[0], expected[1], rtol=0, atol=1e-10 * size)


def test_pullback_is_the_chain_rule():
    _, _, A, B = adapter = random_adapter(12, 9, 3, 4)
    for rank in (None, 5):
        got = extraction.pullback(*prepare(adapter, rank))
        g = target(adapter, rank)
        torch.testing.assert_close(got.a[0], B.T @ g, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(got.b[0], g @ A.T, rtol=1e-10, atol=1e-12)


def test_paper_factors_multiply_to_the_best_approximation_and_share_its_energy():
    adapter = random_adapter(12, 9, 3, 4)
    contrasts = build_contrasts(*(x[None] for x in adapter))
    source = MaskedMean(contrasts, ExpMask(contrasts, 0.5, "relative"), 5)
    projected = streaming_svd(TilePasses(source), 3, torch.randn(9, 9, dtype=torch.float64), 0)
    got = extraction.paper(contrasts, projected)
    torch.testing.assert_close(got.b[0] @ got.a[0], target(adapter, 3), rtol=1e-10, atol=1e-12)
    S = truncate(target(adapter), 3)[1]
    torch.testing.assert_close(got.b[0].T @ got.b[0], S.diag(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(got.a[0] @ got.a[0].T, S.diag(), rtol=1e-10, atol=1e-12)
    top = got.b[0].abs().argmax(0)
    assert (got.b[0][top, torch.arange(3)] > 0).all()


def test_paper_pads_a_short_projection_and_refuses_a_long_one():
    contrasts = build_contrasts(*(x[None] for x in random_adapter(6, 5, 3, 2)))

    def low_rank(k):
        return LowRank(torch.eye(6, k).double()[None], torch.ones(1, k).double(), torch.eye(k, 5).double()[None])

    short = extraction.paper(contrasts, low_rank(2))
    assert short.a.shape == (1, 3, 5)
    assert short.a[:, 2].count_nonzero() == short.b[:, :, 2].count_nonzero() == 0
    with pytest.raises(ValueError, match=r"rank 3, but the projection kept rank 4"):
        extraction.paper(contrasts, low_rank(4))


def test_aligned_is_eq_10_turned_as_near_to_the_means_as_a_rotation_can():
    a, b, _, _ = adapter = random_adapter(12, 9, 3, 4)
    contrasts = build_contrasts(*(x[None] for x in adapter))
    source = MaskedMean(contrasts, ExpMask(contrasts, 0.5, "relative"), 5)
    projected = streaming_svd(TilePasses(source), 3, torch.randn(9, 9, dtype=torch.float64), 0)
    split, got = extraction.paper(contrasts, projected), extraction.aligned(contrasts, projected)
    torch.testing.assert_close(got.b[0] @ got.a[0], target(adapter, 3), rtol=1e-10, atol=1e-12)

    def distance(factors):
        return (factors.a[0] - a.mean(0)).square().sum() + (factors.b[0] - b.mean(0)).square().sum()

    assert distance(got) < distance(split)
    g = torch.Generator().manual_seed(0)
    for _ in range(300):  # no rotation or reflection comes nearer
        Q = torch.linalg.qr(torch.randn(3, 3, generator=g, dtype=torch.float64)).Q
        turned = extraction.Factors(Q.T @ split.a, split.b @ Q)
        assert distance(got) <= distance(turned) + 1e-12
    flipped = LowRank(-projected.U_NOK, projected.S_NK, -projected.Vh_NKI)
    torch.testing.assert_close(extraction.aligned(contrasts, flipped).a, got.a, rtol=1e-9, atol=1e-12)


def test_departure_measures_against_the_means():
    a, b, A, B = random_adapter(6, 5, 2, 3)
    contrasts = build_contrasts(*(x[None] for x in (a, b, A, B)))
    same = extraction.departure(contrasts, extraction.Factors(a.mean(0)[None], b.mean(0)[None]))
    torch.testing.assert_close([x.item() for x in same], [0.0, 0.0, 1.0], rtol=1e-14, atol=1e-14)
    opposite = extraction.departure(contrasts, extraction.Factors(-a.mean(0)[None], -b.mean(0)[None]))
    torch.testing.assert_close([x.item() for x in opposite], [2.0, 2.0, -1.0])


def test_departure_of_a_zero_mean_is_capped():
    a, b, A, B = random_adapter(6, 5, 2, 3, b_size=0.0)
    contrasts = build_contrasts(*(x[None] for x in (a, b, A, B)))
    moved = extraction.departure(contrasts, extraction.Factors(torch.ones_like(A)[None], b.mean(0)[None]))
    assert moved.alpha_ratio.item() == extraction.LARGEST_RATIO
    still = extraction.departure(contrasts, extraction.Factors(torch.zeros_like(A)[None], b.mean(0)[None]))
    assert still.alpha_ratio.item() == 0
