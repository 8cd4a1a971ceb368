# ruff: noqa: E741 -- O and I are the shape letters of the project
"""The fused kernel compiled for the GPU at hand, against float64 on the CPU. Its logic is tested in the interpreter."""

import warnings

import pytest
import torch

from igascale.linalg import fused
from igascale.linalg.contrasts import build_contrasts
from igascale.linalg.extraction import change_products
from igascale.linalg.fused import FusedMaskedMean
from igascale.linalg.projection import TilePasses
from igascale.linalg.tile_masks import ExpMask
from igascale.linalg.tiles import MaskedMean

from dense_oracle import random_adapter
from iga_steps import assert_same, combine, step_inputs

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

NORMS = ["none", "mean", "relative", "smoothed", "fraction"]
#: About three times the errors that benchmarks/precision.py finds by emulation; an H200 had 4e-3 with tf32.
TOLERANCE = {"tf32": 8e-3, "tf32x3": 3e-6, "ieee": 3e-6}


def contrasts_of(adapters, device, dtype):
    return build_contrasts(*(torch.stack(x).to(device, dtype) for x in zip(*adapters)))


def compare(adapters, norm, precision, P, tau=0.5):
    """The largest relative error of the products, the products of the change and the statistics."""
    exact = contrasts_of(adapters, "cpu", torch.float64)
    gpu = contrasts_of(adapters, "cuda", torch.float32)
    tiles = MaskedMean(exact, ExpMask(exact, tau, norm), 512)
    source = FusedMaskedMean(gpu, ExpMask(gpu, tau, norm), precision)
    N, O, I = source.shape
    X, Q = torch.randn(I, P), torch.randn(N, O, P)
    pairs = [
        (source.times(X.cuda()), TilePasses(tiles).times(X.double())),
        (source.transposed_times(Q.cuda()), TilePasses(tiles).transposed_times(Q.double())),
        *zip(source.change_products(), change_products(tiles)),
        *((getattr(source, f), getattr(tiles, f)) for f in ("mask_mean_N", "change_sq_N", "masked_sq_N")),
    ]
    return max(float((got.cpu().double() - want).norm() / want.norm()) for got, want in pairs)


def test_it_is_in_use():
    assert fused.fused_available(torch.device("cuda"), torch.float32, "exp") == ""


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_and_precision(norm, precision):
    adapters = [random_adapter(200, 333, 16, 4, seed=k) for k in range(3)]
    assert compare(adapters, norm, precision, 42) <= TOLERANCE[precision]


@pytest.mark.parametrize(
    "O, I, R, D, P",
    [
        (1, 1, 1, 2, 1),
        (33, 65, 2, 16, 5),
        (70, 1000, 64, 8, 138),
        (500, 129, 128, 3, 266),
        (300, 257, 256, 2, 522),
        (1024, 4096, 16, 4, 42),
    ],
)
def test_ragged_shapes_and_ranks(O, I, R, D, P):
    assert compare([random_adapter(O, I, R, D)], "relative", "tf32x3", P) <= 1e-5


@pytest.mark.parametrize(
    "options", [{}, {"projection": "none"}, {"preset": "paper-stable"}, {"variance_norm": "fraction"}]
)
def test_the_hook_gives_what_the_tiles_give(options):
    grads, adapters = step_inputs(((300, 200), (64, 100)), R=8, dtype=torch.float32)
    grads = {k: type(g)(g.a.cuda(), g.b.cuda(), g.noise) for k, g in grads.items()}
    adapters = {k: type(f)(f.A.cuda(), f.B.cuda(), f.scaling) for k, f in adapters.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="igascale")  # no fallback
        auto = combine(grads, adapters, **options)
    assert_same(auto, combine(grads, adapters, kernel="triton", **options), 0)
    assert_same(auto, combine(grads, adapters, kernel="torch", **options), 1e-4)


def test_no_mask_changes_nothing_to_the_last_bit():
    contrasts = contrasts_of([random_adapter(100, 200, 4, 3)], "cuda", torch.float32)
    source = FusedMaskedMean(contrasts, ExpMask(contrasts, 0.0, "relative"))
    assert all(x.count_nonzero() == 0 for x in source.change_products())
    assert source.mask_mean_N.item() == 1


def test_a_result_depends_on_nothing_else_in_the_batch():
    adapters = [random_adapter(260, 130, 8, 4, seed=k) for k in range(4)]
    X = torch.randn(130, 26, device="cuda")

    def run(chosen):
        contrasts = contrasts_of([adapters[n] for n in chosen], "cuda", torch.float32)
        return FusedMaskedMean(contrasts, ExpMask(contrasts, 0.5, "relative")).times(X)

    together = run(range(4))
    assert torch.equal(together, run(range(4)))
    assert all(torch.equal(run([n])[0], together[n]) for n in range(4))


@pytest.mark.slow
def test_offsets_beyond_two_to_the_31():
    N, D, O, I, R = 10, 16, 28672, 64, 256
    assert N * D * O * 2 * R > 2**31
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GB")
    g = torch.Generator("cuda").manual_seed(0)
    a, b, A, B = (
        torch.randn(shape, generator=g, device="cuda") for shape in ((N, D, R, I), (N, D, O, R), (N, R, I), (N, O, R))
    )
    X, Q = torch.randn(I, 32, device="cuda"), torch.randn(N, O, 32, device="cuda")

    def run(part):
        contrasts = build_contrasts(a[part], b[part], A[part], B[part])
        source = FusedMaskedMean(contrasts, ExpMask(contrasts, 0.5, "relative"))
        return source.times(X)[-1], source.transposed_times(Q[part])[-1]

    for whole, alone in zip(run(slice(None)), run(slice(N - 1, None))):
        assert torch.equal(whole, alone)
