# ruff: noqa: E741 -- O and I are the shape letters of the project
"""What iga makes of gradients that are missing, zero, broken, huge, tiny or of mixed precision."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale.hooks.base import AdapterFactors, DomainFactorGrads
from igascale.hooks.iga import InvariantGradientAlignment
from igascale.hooks.mean import Mean

from dense_oracle import anchored, mask, reconstruct, truncate
from iga_steps import assert_same, combine, context, step_inputs

WAYS = [
    {},
    {"projection": "none"},
    {"preset": "paper"},
    {"rank": "R"},
    {"warm_start": True},
    {"mask": "and"},
    {"mask": "sand"},
    {"shuffled": True},
]


@settings(max_examples=60, deadline=None)
@given(
    O=st.integers(1, 40),
    I=st.integers(1, 40),
    R=st.integers(1, 12),
    D=st.integers(2, 6),
    exponent=st.integers(-12, 12),
    rank=st.sampled_from(["R", "2R", 3]),
    seed=st.integers(0, 5),
)
def test_any_shape_and_scale_is_the_dense_result(O, I, R, D, exponent, rank, seed):
    """Dimensions below rank + oversampling among them; the sketch then spans the matrix, and the projection is exact."""
    grads, adapters = step_inputs(((O, I),), R=R, D=D, dtype=torch.float32, scale=10.0**exponent)
    out = InvariantGradientAlignment(rank=rank, oversampling=40).combine(grads, adapters, context(D))["m0"]
    g, f = grads["m0"], adapters["m0"]
    wide = [x.double() for x in (g.a, g.b, f.A, f.B)]
    ghat = reconstruct(*wide)
    U, S, Vh = truncate(ghat.mean(0) * mask(ghat, 0.5, "relative"), {"R": R, "2R": 2 * R, 3: 3}[rank])
    K = len(S)
    energy = (ghat.mean(0) * mask(ghat, 0.5, "relative")).square().sum()
    assert out.stats["tail_energy"].item() == pytest.approx(max(0.0, 1 - (S.square().sum() / energy).item()), abs=2e-5)
    if min(O, I) > K and torch.linalg.svdvals(ghat.mean(0) * mask(ghat, 0.5, "relative"))[K] > 0.9 * S[-1]:
        return  # no gap at the rank kept: the projection itself is not continuous there
    a, b = anchored(wide[2], wide[3], g.a.mean(0).double(), g.b.mean(0).double(), ((U * S) @ Vh).contiguous(), rho=0.1)
    whole = (a.norm() ** 2 + b.norm() ** 2).sqrt()
    assert (out.a.double() - a).norm() <= 1e-3 * whole
    assert (out.b.double() - b).norm() <= 1e-3 * whole


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("exponent", [-12, 12])
def test_extreme_scales_are_the_same_step_scaled(options, exponent):
    if options.get("preset") == "paper":
        pytest.skip("the raw variance is not free of scale")
    scale = 2.0 ** round(exponent * math.log2(10))
    grads, adapters = step_inputs(((30, 25), (16, 40)), dtype=torch.float32)
    scaled = {f: DomainFactorGrads(g.a * scale, g.b * scale) for f, g in grads.items()}
    found = combine(scaled, adapters, **options)
    back = {f: replace(g, a=g.a / scale, b=g.b / scale) for f, g in found.items()}
    assert_same(back, combine(grads, adapters, **options), 1e-4)


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", ["a", "b"])
def test_a_broken_number_in_one_domain_never_becomes_a_direction(options, value, part):
    grads, adapters = step_inputs(dtype=torch.float32)
    whole = combine(grads, adapters, **options)
    x = getattr(grads["m1"], part).clone()
    x[2, 1, 1] = value
    out = combine(grads | {"m1": replace(grads["m1"], **{part: x})}, adapters, **options)
    assert out["m1"].a.isnan().all()
    assert out["m1"].b.isnan().all()
    others = [f for f in grads if f != "m1"]
    assert_same({f: out[f] for f in others}, {f: whole[f] for f in others}, 1e-5)


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_an_adapter_without_a_gradient_gets_exact_zeros_and_disturbs_no_other(options):
    """A module that this step did not use, in a batch with others."""
    grads, adapters = step_inputs(((18, 14),) * 4, dtype=torch.float32)
    unused = grads | {"m2": DomainFactorGrads(grads["m2"].a * 0, grads["m2"].b * 0)}
    out, whole = combine(unused, adapters, **options), combine(grads, adapters, **options)
    assert out["m2"].a.count_nonzero() == out["m2"].b.count_nonzero() == 0
    unknown = {"noise_share", "subspace_overlap"}
    assert all(math.isfinite(v) for name, v in out["m2"].stats.items() if name not in unknown)
    others = ["m0", "m1", "m3"]
    assert_same({f: out[f] for f in others}, {f: whole[f] for f in others}, 1e-5)


@pytest.mark.parametrize("norm", ["none", "mean", "relative", "smoothed", "fraction"])
@pytest.mark.parametrize("silent", [[0], [1, 2], [0, 1, 2]])
def test_zero_gradients_of_some_domains_are_masked_as_any_others(norm, silent):
    grads, adapters = step_inputs(dtype=torch.float64)
    for g in grads.values():
        g.a[silent], g.b[silent] = 0, 0
    out = combine(grads, adapters, variance_norm=norm, projection="none")
    for fqn, g in grads.items():
        A, B = adapters[fqn].A, adapters[fqn].B
        ghat = reconstruct(g.a, g.b, A, B)
        a, b = anchored(A, B, g.a.mean(0), g.b.mean(0), ghat.mean(0) * mask(ghat, 0.5, norm), rho=0.1)
        torch.testing.assert_close(out[fqn].a, a, rtol=0, atol=1e-9 * a.norm().item())
        torch.testing.assert_close(out[fqn].b, b, rtol=0, atol=1e-9 * b.norm().item())


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_factors_of_lower_precision_are_widened_exactly(options):
    """bfloat16 A and B with float32 gradients: as if they were float32 numbers that bfloat16 happens to hold."""
    grads, adapters = step_inputs(((30, 25), (30, 25)), dtype=torch.float32)
    low = {f: AdapterFactors(x.A.bfloat16(), x.B.bfloat16()) for f, x in adapters.items()}
    same = {f: AdapterFactors(x.A.float(), x.B.float()) for f, x in low.items()}
    out, expected = combine(grads, low, **options), combine(grads, same, **options)
    for fqn in grads:
        assert out[fqn].a.dtype == out[fqn].b.dtype == torch.float32
        assert torch.equal(out[fqn].a, expected[fqn].a)
        assert torch.equal(out[fqn].b, expected[fqn].b)


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_gradients_of_lower_precision_are_summed_in_float32(options):
    grads, adapters = step_inputs(((30, 25),), dtype=torch.float32)
    low = {f: DomainFactorGrads(g.a.bfloat16(), g.b.bfloat16()) for f, g in grads.items()}
    same = {f: DomainFactorGrads(g.a.float(), g.b.float()) for f, g in low.items()}
    assert_same(combine(low, adapters, **options), combine(same, adapters, **options), 0)


def test_mixed_precision_is_the_widest_and_one_batch_holds_one_kind():
    grads, adapters = step_inputs(((30, 25),) * 3, dtype=torch.float64)
    mixed = {
        "m0": grads["m0"],
        "m1": DomainFactorGrads(grads["m1"].a.float(), grads["m1"].b),
        "m2": DomainFactorGrads(grads["m2"].a.float(), grads["m2"].b.float()),
    }
    out = combine(mixed, adapters)
    assert [out[f].a.dtype for f in mixed] == [torch.float64, torch.float64, torch.float32]
    assert_same(out, combine(grads, adapters), 1e-4)


def test_what_is_not_a_real_floating_point_number_is_refused():
    grads, adapters = step_inputs(((30, 25),), dtype=torch.float32)
    for kind in (torch.int32, torch.complex64):
        with pytest.raises(TypeError, match="must be of a real floating-point type"):
            combine({"m0": DomainFactorGrads(grads["m0"].a.to(kind), grads["m0"].b)}, adapters)
        with pytest.raises(TypeError, match="must be of a real floating-point type"):
            combine(grads, {"m0": AdapterFactors(adapters["m0"].A.to(kind), adapters["m0"].B)})


@pytest.mark.parametrize("options", [{}, {"projection": "none"}, {"rank": 8}, {"mask": "and", "threshold": 0.0}])
def test_without_a_mask_the_mean_comes_back_to_the_bit_and_no_matrix_is_formed(options, monkeypatch):
    grads, adapters = step_inputs(((64, 48), (20, 70)), R=4, dtype=torch.float32)
    if "mask" not in options:
        options = options | {"tau": 0.0}
    monkeypatch.setattr("igascale.linalg.tiles.MaskedMean._pass", None)
    out = combine(grads, adapters, **options)
    plain = Mean().combine(grads, adapters, context())
    for fqn, g in out.items():
        assert torch.equal(g.a, plain[fqn].a)
        assert torch.equal(g.b, plain[fqn].b)
        expected = {"mean_mask": 1, "relative_change": 0, "tail_energy": 0, "alpha_ratio": 0, "beta_ratio": 0}
        assert {name: g.stats[name].item() for name in expected} == expected
        assert g.stats["grad_cosine"].item() == pytest.approx(1, abs=1e-6)
        assert g.stats["gir"] > 0


def test_without_a_mask_a_rank_below_2r_still_cuts():
    grads, adapters = step_inputs(((64, 48),), R=4, dtype=torch.float32)
    assert combine(grads, adapters, tau=0.0, rank=7)["m0"].stats["tail_energy"] > 1e-4
