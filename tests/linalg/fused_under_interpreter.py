# ruff: noqa: E741 -- O and I are the shape letters of the project
"""The fused kernel in Triton's interpreter, against dense float64 algebra and against the tiles.

``test_fused.py`` runs this file in a process of its own, as TRITON_INTERPRET=1 changes what importing Triton does. By hand:

    TRITON_INTERPRET=1 python -m pytest tests/linalg/fused_under_interpreter.py
"""

import warnings
from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl

from igascale.hooks.iga import InvariantGradientAlignment
from igascale.linalg import fused, fused_kernels
from igascale.linalg.contrasts import build_contrasts
from igascale.linalg.extraction import change_products
from igascale.linalg.fused import Blocks, FusedMaskedMean, KernelFailure
from igascale.linalg.histogram import BINS, sample_starts
from igascale.linalg.projection import TilePasses
from igascale.linalg.tile_masks import ExpMask
from igascale.linalg.tiles import MaskedMean

from dense_oracle import anchored, mask, random_adapter, reconstruct
from iga_steps import assert_same, combine, context, step_inputs

NORMS = ["none", "mean", "relative", "smoothed", "fraction"]
SMALL = Blocks(16, 16, 16, 16, warps=4, stages=1)
FIGURES = ("mask_mean_N", "change_sq_N", "masked_sq_N")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """No test sees that a kernel was checked, or failed, in another."""
    monkeypatch.setattr(fused, "_failure", "")
    monkeypatch.setattr(fused, "_checked", set())


def adapters_of(N, O, I, R, D, **kwargs):
    return [random_adapter(O, I, R, D, seed=k, dtype=torch.float32, **kwargs) for k in range(N)]


def contrasts_of(adapters):
    return build_contrasts(*(torch.stack(x) for x in zip(*adapters)))


def dense(adapter, tau, norm, keep=1.0):
    """The mean and the mask, float64."""
    ghat = reconstruct(*(x.double() for x in adapter))
    quiet = ghat.mean(0) + keep**0.5 * (ghat - ghat.mean(0))
    return ghat.mean(0), (torch.ones_like(ghat[0]) if len(ghat) == 1 else mask(quiet, tau, norm))


def close(found, expected, rtol):
    assert found.shape == expected.shape
    assert (found.double() - expected).norm() <= rtol * expected.norm(), (found.double() - expected).norm()


@pytest.mark.parametrize(
    "norm, D, shape, R, P, blocks",
    [
        ("relative", 4, (33, 20), 3, 5, SMALL),
        ("relative", 2, (16, 47), 9, 17, SMALL),  # two blocks of K and of P
        ("none", 3, (20, 33), 1, 1, SMALL),
        ("mean", 8, (17, 17), 4, 16, SMALL),
        ("smoothed", 16, (31, 18), 2, 3, SMALL),
        ("smoothed", 16, (18, 31), 12, 33, replace(SMALL, BK=32, BP=64, BI=32)),  # the loop over contrasts not unrolled
        ("fraction", 4, (40, 5), 5, 7, replace(SMALL, BO=32)),
        ("fraction", 2, (1, 1), 1, 1, SMALL),
        ("relative", 1, (19, 18), 2, 4, SMALL),
        ("relative", 4, (150, 70), 16, 42, None),  # the blocks that a GPU would get
        ("none", 3, (70, 40), 33, 130, None),
    ],
)
def test_products_and_statistics_match_dense_float64(norm, D, shape, R, P, blocks):
    adapters, tau = adapters_of(2, *shape, R, D), 0.7
    contrasts = contrasts_of(adapters)
    source = FusedMaskedMean(contrasts, ExpMask(contrasts, tau, norm), blocks=blocks)
    g = torch.Generator().manual_seed(5)
    X, Q = torch.randn(shape[1], P, generator=g), torch.randn(2, shape[0], P, generator=g)
    Y, Z, change = source.times(X), source.transposed_times(Q), source.change_products()
    for n, adapter in enumerate(adapters):
        mean, M = dense(adapter, tau, norm)
        unit = float(contrasts.scale_N[n])
        size = unit / mean.norm()
        assert (unit * Y[n].double() - (mean * M) @ X.double()).norm() * size <= 1e-6 * X.norm() * unit
        assert (unit * Z[n].double() - (mean * M).T @ Q[n].double()).norm() * size <= 1e-6 * Q[n].norm() * unit
        E, (A, B) = mean * (M - 1), (x.double() for x in adapter[2:])
        assert (change.XAt_NOR[n].double() - E @ A.T).norm() <= 2e-6 * E.norm() * A.norm()
        assert (change.BtX_NRI[n].double() - B.T @ E).norm() <= 2e-6 * E.norm() * B.norm()
        assert source.mask_mean_N[n].item() == pytest.approx(M.mean().item(), rel=1e-6)
        assert unit**2 * source.change_sq_N[n].item() == pytest.approx(E.square().sum().item(), rel=1e-5)
        assert unit**2 * source.masked_sq_N[n].item() == pytest.approx((mean * M).square().sum().item(), rel=1e-5)


@pytest.mark.parametrize("O", [40, 150])
def test_a_sample_of_the_masks_values_is_counted_beside_the_kernel(O):
    adapters = adapters_of(2, O, 33, 3, 4)
    contrasts = contrasts_of(adapters)
    source, plain = (FusedMaskedMean(contrasts, ExpMask(contrasts, 0.7, "relative"), blocks=SMALL) for _ in range(2))
    source.wants_histogram = True
    assert torch.equal(source.times(torch.eye(33)), plain.times(torch.eye(33)))
    assert plain.histogram_NK is None
    rows = sorted({r for start in sample_starts(O) for r in range(start, min(start + 4, O))})
    for n, adapter in enumerate(adapters):
        values = dense(adapter, 0.7, "relative")[1][rows]
        expected = torch.histogram(values, BINS, range=(0.0, 1.0)).hist * (O / len(rows))
        assert (source.histogram_NK[n, :BINS] - expected).abs().sum() <= 2.5 * O / len(
            rows
        )  # a value at an edge may round
        assert source.histogram_NK[n, BINS].item() == min(O, 64) * 33


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e12])
@pytest.mark.parametrize("norm", ["none", "relative"])
def test_equals_the_tiles_at_any_scale(norm, scale):
    contrasts = contrasts_of(adapters_of(1, 20, 33, 3, 3, scale=scale))
    mask = ExpMask(contrasts, 0.5 if norm == "relative" else 0.5 / scale**2, norm)
    source, tiles = FusedMaskedMean(contrasts, mask, blocks=SMALL), MaskedMean(contrasts, mask, 8)
    X, Q = torch.randn(1, 33, 6), torch.randn(1, 20, 6)
    close(source.times(X), TilePasses(tiles).times(X).double(), 1e-6)
    close(source.transposed_times(Q), TilePasses(tiles).transposed_times(Q).double(), 1e-6)
    for got, want in zip(source.change_products(), change_products(tiles)):
        close(got, want.double(), 2e-6)
    for name in FIGURES:
        torch.testing.assert_close(getattr(source, name), getattr(tiles, name), rtol=1e-6, atol=0)
    assert float(source.change_sq_N) > 1e-3 * float(source.masked_sq_N)  # else nothing was masked


@pytest.mark.parametrize("tau, D, keep", [(0.0, 3, None), (0.5, 1, None), (0.5, 3, 0.0)])
def test_no_mask_changes_nothing_to_the_last_bit(tau, D, keep):
    contrasts = contrasts_of(adapters_of(1, 20, 17, 3, D))
    keep_N = None if keep is None else torch.tensor([keep])
    source = FusedMaskedMean(contrasts, ExpMask(contrasts, tau, "relative", keep_N), blocks=SMALL)
    assert all(x.count_nonzero() == 0 for x in source.change_products())
    assert source.mask_mean_N.item() == 1
    assert source.change_sq_N.item() == 0
    c0 = contrasts.left_NDOQ[:, 0] @ contrasts.right_NDQI[:, 0]
    close(source.times(torch.eye(17)), c0.double(), 1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_share_of_noise_is_taken_out(norm):
    adapters, keep = adapters_of(2, 20, 18, 2, 3), [0.25, 0.6]
    contrasts = contrasts_of(adapters)
    source = FusedMaskedMean(contrasts, ExpMask(contrasts, 0.5, norm, torch.tensor(keep)), blocks=SMALL)
    source.times(torch.randn(18, 2))
    for n, adapter in enumerate(adapters):
        _, M = dense(adapter, 0.5, norm, 1.0 if norm == "mean" else keep[n])
        assert source.mask_mean_N[n].item() == pytest.approx(M.mean().item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of the infinity
def test_no_signal_and_no_mean_is_no_nan():
    """Two domains that cancel exactly, whose variance is said to be noise: 0 times infinity in the exponent."""
    a, b, A, B = random_adapter(18, 17, 2, 1, dtype=torch.float32)
    a, b = 100 * torch.cat([a, -a]), 100 * torch.cat([b, -b])
    contrasts = contrasts_of([(a, b, A, B)])
    mask = ExpMask(contrasts, 0.5, "fraction", torch.tensor([0.0]))
    source = FusedMaskedMean(contrasts, mask, blocks=SMALL)
    assert source.times(torch.randn(17, 3)).count_nonzero() == 0
    assert source.mask_mean_N.item() == 1


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_zero_gradients_give_zeros(norm, tau):
    a, b, A, B = random_adapter(18, 17, 2, 3, dtype=torch.float32)
    contrasts = contrasts_of([(0 * a, 0 * b, A, B)])
    source = FusedMaskedMean(contrasts, ExpMask(contrasts, tau, norm), blocks=SMALL)
    assert source.times(torch.randn(17, 3)).count_nonzero() == 0
    assert [getattr(source, name).item() for name in FIGURES] == [1, 0, 0]


def test_a_result_depends_on_nothing_else_in_the_batch():
    adapters = adapters_of(3, 20, 18, 2, 3)
    X = torch.randn(3, 18, 4)

    def run(chosen):
        contrasts = contrasts_of([adapters[n] for n in chosen])
        source = FusedMaskedMean(contrasts, ExpMask(contrasts, 0.5, "relative"), blocks=SMALL)
        return source.times(X[chosen]), source.change_sq_N

    together, again = run([0, 1, 2]), run([0, 1, 2])
    assert torch.equal(together[0], again[0])
    for n in range(3):
        alone = run([n])
        assert torch.equal(alone[0][0], together[0][n])
        assert torch.equal(alone[1][0], together[1][n])


def test_operands_may_be_views():
    contrasts = contrasts_of(adapters_of(2, 20, 18, 2, 3))
    source = FusedMaskedMean(contrasts, ExpMask(contrasts, 0.5, "relative"), blocks=SMALL)
    X = torch.randn(2, 9, 18).mT[:, :, 2:7]
    assert torch.equal(source.times(X), source.times(X.contiguous()))
    common = torch.randn(5, 18).T
    assert torch.equal(source.times(common), source.times(common.expand(2, -1, -1).contiguous()))


@triton.jit
def _tabulate(x, y, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, fused_kernels._expm1(tl.load(x + at)))


def test_expm1_is_accurate_where_exp_minus_one_is_not():
    x = -torch.cat([torch.logspace(-37, 4, 4000), torch.linspace(0.4, 0.6, 95), torch.tensor([0.0])])
    y = torch.empty_like(x)
    _tabulate[(1,)](x, y, len(x))
    exact = torch.expm1(x.double())
    assert y[-1] == 0
    assert ((y - exact).abs() <= 3e-7 * exact.abs()).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"projection": "none"},
        {"preset": "paper"},
        {"preset": "paper-stable", "power_iters": 0, "remove_noise": True},
        {"variance_norm": "smoothed", "extraction": "aligned", "rank": "R"},
        {"variance_norm": "fraction", "extraction": "pullback", "tau": 2.0},
        {"tau": 0.0, "projection": "none"},
    ],
    ids=str,
)
def test_the_hook_gives_what_the_tiles_give(options):
    grads, adapters = step_inputs(dtype=torch.float32)
    torch_path = combine(grads, adapters, kernel="torch", **options)
    found = combine(grads, adapters, kernel="triton", **options)
    assert_same(found, torch_path, 0 if options.get("tau") == 0 else 1e-5)
    for fqn, out in found.items():
        assert out.stats.keys() == torch_path[fqn].stats.keys()
        for name, value in out.stats.items():
            torch.testing.assert_close(value, torch_path[fqn].stats[name], rtol=1e-4, atol=1e-6, equal_nan=True)


def test_the_hook_matches_dense_least_squares_in_float64():
    grads, adapters = step_inputs(dtype=torch.float32)
    combined = combine(grads, adapters, kernel="triton", projection="none")
    for fqn, grad in grads.items():
        a, b, A, B = (x.double() for x in (grad.a, grad.b, adapters[fqn].A, adapters[fqn].B))
        ghat = reconstruct(a, b, A, B)
        a, b = anchored(A, B, a.mean(0), b.mean(0), ghat.mean(0) * mask(ghat, 0.5, "relative"), rho=0.1)
        close(combined[fqn].a, a, 2e-6)
        close(combined[fqn].b, b, 2e-6)


def test_a_nan_of_one_adapter_stays_its_own():
    grads, adapters = step_inputs(dtype=torch.float32)
    grads["m0"].a[1, 0, 0] = torch.nan
    found = combine(grads, adapters, kernel="triton", projection="none")
    assert found["m0"].a.isnan().all()
    assert_same({k: v for k, v in found.items() if k != "m0"}, combine({k: v for k, v in grads.items() if k != "m0"},
                adapters, kernel="torch", projection="none"), 1e-5)  # fmt: skip


class Failing:
    """In the kernel's place: works for ``good`` launches, then fails as told."""

    def __init__(self, how, good=0):
        self.how, self.good, self.launches, self.real = how, good, [], fused_kernels.masked_product

    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            self.launches.append(kwargs)
            if len(self.launches) > self.good and isinstance(self.how, Exception):
                raise self.how
            self.real[grid](*args, **kwargs)
            if len(self.launches) > self.good:
                self.how(args[4])  # Y

        return launch


def with_auto_on_cpu(monkeypatch, kernel):
    monkeypatch.setattr(fused_kernels, "masked_product", kernel)
    monkeypatch.setattr(
        InvariantGradientAlignment,
        "_why_tiles",
        lambda hook, kernel, dtype, device: (
            "asked" if kernel == "torch" else fused.fused_available(device, dtype, "exp")
        ),
    )


def negate(Y):
    Y.mul_(-1)


def spoil(Y):
    Y.fill_(torch.nan)


# Of 6 launches, 2 for each of 3 shapes (whose sketch is exact), each the first of its kind.
@pytest.mark.parametrize(
    "how, good, told",
    [
        (RuntimeError("Triton Error [CUDA]:\n out of luck"), 0, "RuntimeError: Triton Error [CUDA]: out of luck"),
        (RuntimeError("Triton Error [CUDA]:\n out of luck"), 5, "RuntimeError: Triton Error [CUDA]: out of luck"),
        (negate, 0, "differs from PyTorch's"),
        (negate, 4, "differs from PyTorch's"),
        (spoil, 1, "differs from PyTorch's"),
    ],
    ids=str,
)
def test_where_the_kernel_fails_the_step_is_done_again_by_torch(monkeypatch, how, good, told):
    grads, adapters = step_inputs(dtype=torch.float32)
    expected = combine(grads, adapters, kernel="torch")
    kernel = Failing(how, good)
    with_auto_on_cpu(monkeypatch, kernel)
    hook = InvariantGradientAlignment()
    with pytest.warns(UserWarning) as caught:
        assert_same(hook.combine(grads, adapters, context()), expected, 0)
    (message,) = (str(w.message) for w in caught)
    assert told in message
    assert "\n" not in message
    launches = len(kernel.launches)
    assert launches > good
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(hook.combine(grads, adapters, context()), expected, 0)
    assert len(kernel.launches) == launches  # it is not tried again
    assert told in fused.fused_available(torch.device("cpu"), torch.float32, "exp")


def test_a_kernel_that_was_asked_for_and_fails_is_an_error(monkeypatch):
    monkeypatch.setattr(fused_kernels, "masked_product", Failing(RuntimeError("no compiler")))
    grads, adapters = step_inputs(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"kernel='triton': the fused kernel failed .*no compiler.*use kernel='auto'"):
        combine(grads, adapters, kernel="triton")


def test_smaller_blocks_where_the_first_do_not_fit(monkeypatch):
    class Small(Failing):
        def __getitem__(self, grid):
            inner = super().__getitem__(grid)

            def launch(*args, **kwargs):
                if (kwargs["BO"], kwargs["num_stages"]) != (64, 1):
                    raise triton.OutOfResources(300_000, 232_448, "shared memory")
                inner(*args, **kwargs)

            return launch

    kernel = Small(lambda Y: None)
    monkeypatch.setattr(fused_kernels, "masked_product", kernel)
    contrasts = contrasts_of(adapters_of(1, 70, 40, 2, 3))
    source = FusedMaskedMean(contrasts, ExpMask(contrasts, 0.5, "relative"))
    close(source.times(torch.eye(40)), dense_of(contrasts, 0.5), 1e-6)
    assert [(k["BO"], k["num_warps"]) for k in kernel.launches] == [(64, 4)]
    tight = FusedMaskedMean(contrasts, ExpMask(contrasts, 0.5, "relative"), blocks=replace(SMALL, BI=32))
    with pytest.raises(KernelFailure, match="does not fit this GPU"):
        tight.times(torch.eye(40))


def dense_of(contrasts, tau):
    c = contrasts.left_NDOQ.double() @ contrasts.right_NDQI.double()
    V = c[:, 1:].square().sum(1)
    return c[:, 0] * torch.exp(-tau * V / (c[:, 0].square() + 1e-12 * V.mean()))


def test_what_the_kernel_would_misread_is_refused():
    adapters = adapters_of(2, 20, 18, 2, 3)
    contrasts = contrasts_of(adapters)
    source = FusedMaskedMean(contrasts, ExpMask(contrasts, 0.5, "relative"), blocks=SMALL)
    for X in (torch.randn(18, 3).double(), torch.randn(17, 3), torch.randn(3, 18, 3)):
        with pytest.raises(ValueError, match=r"cannot multiply 2 20x18 matrices of torch.float32 by"):
            source.times(X)
    exact = contrasts_of([tuple(x.double() for x in adapter) for adapter in adapters])
    with pytest.raises(ValueError, match="takes float32"):
        FusedMaskedMean(exact, ExpMask(exact, 0.5, "relative"))


def test_the_interpreter_counts_as_a_device():
    assert fused.fused_available(torch.device("cpu"), torch.float32, "exp") == ""
    hook = InvariantGradientAlignment(kernel="triton")
    (line,) = hook.describe({"a": (64, 64, 4), "b": (64, 64, 4)}, 4, torch.device("cpu"))
    assert line.startswith("projection: 64x64 x2, 2 at a time, by the fused Triton kernel (tf32x3), no matrix formed, ")
