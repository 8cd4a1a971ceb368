"""The hook against a naive dense transcription of the paper, and the promises of its options."""

import inspect
import math
import typing

import pytest
import torch

from igascale.hooks._iga_choices import PRESETS
from igascale.hooks.base import AdapterFactors, DomainFactorGrads, HookContext
from igascale.hooks.iga import InvariantGradientAlignment
from igascale.hooks.mean import Mean

from dense_oracle import anchored, mask, reconstruct, truncate
from iga_steps import assert_same, combine, context, step_inputs


@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_paper_preset_to_the_letter(scale):
    """Equations 4 to 10, dense, in PEFT's notation; the sign that the SVD leaves free chosen alike."""
    grads, adapters = step_inputs(dtype=torch.float64, scale=scale)  # min(O, I) <= R + 10: an exact sketch
    combined = combine(grads, adapters, preset="paper")
    for fqn, g in grads.items():
        A, B = adapters[fqn].A, adapters[fqn].B
        ghat = torch.stack([b_n @ A + B @ a_n for a_n, b_n in zip(g.a, g.b)])
        mean = sum(ghat) / len(ghat)
        V = sum((x - mean) ** 2 for x in ghat) / len(ghat)
        U, S, Vh = torch.linalg.svd(mean * torch.exp(-0.5 * V), full_matrices=False)
        U, S, Vh = U[:, :4], S[:4], Vh[:4]
        sign = U.gather(0, U.abs().argmax(0)[None]).sign()[0]
        out = combined[fqn]
        torch.testing.assert_close(out.b, U * sign * S.sqrt(), rtol=1e-8, atol=1e-10 * S[0].sqrt().item())
        torch.testing.assert_close(out.a, (sign * S.sqrt())[:, None] * Vh, rtol=1e-8, atol=1e-10 * S[0].sqrt().item())
        assert out.reference_a is None
        assert out.reference_b is None


@pytest.mark.parametrize("norm", ["none", "mean", "relative", "smoothed", "fraction"])
@pytest.mark.parametrize("projection, rank", [("none", None), ("svd", "R"), ("svd", "2R"), ("svd", 5)])
def test_every_mask_and_projection_matches_dense_least_squares(norm, projection, rank):
    grads, adapters = step_inputs(dtype=torch.float64)
    options = {"variance_norm": norm, "projection": projection, "rank": rank, "tau": 0.7, "rho": 0.2}
    combined = combine(grads, adapters, **options)
    for fqn, grad in grads.items():
        A, B = adapters[fqn].A, adapters[fqn].B
        ghat = reconstruct(grad.a, grad.b, A, B)
        g = ghat.mean(0) * mask(ghat, 0.7, norm)
        if projection == "svd":
            U, S, Vh = truncate(g, {"R": 4, "2R": 8, 5: 5}[rank])
            g = (U * S) @ Vh
        a, b = anchored(A, B, grad.a.mean(0), grad.b.mean(0), g, rho=0.2)
        torch.testing.assert_close(combined[fqn].a, a, rtol=0, atol=1e-9 * a.norm().item())
        torch.testing.assert_close(combined[fqn].b, b, rtol=0, atol=1e-9 * b.norm().item())


def test_statistics_match_their_definitions():
    grads, adapters = step_inputs(dtype=torch.float64)
    hook = InvariantGradientAlignment(rank="R")
    for fqn, out in hook.combine(grads, adapters, context()).items():
        g, f = grads[fqn], adapters[fqn]
        ghat = reconstruct(g.a, g.b, f.A, f.B)
        mean, M = ghat.mean(0), mask(ghat, 0.5, "relative")
        S = torch.linalg.svdvals(mean * M)
        plain = torch.cat([g.a.mean(0).flatten(), g.b.mean(0).flatten()])
        got = torch.cat([out.a.flatten(), out.b.flatten()])
        expected = {
            "mean_mask": M.mean(),
            "relative_change": (mean * M - mean).norm() / mean.norm(),
            "gir": ghat.var(0, correction=0).sum() / mean.square().sum(),
            "tail_energy": S[4:].square().sum() / S.square().sum(),
            "noise_share": torch.tensor(math.nan),  # no micro-batches here; see test_noise.py
            "alpha_ratio": (out.a - g.a.mean(0)).norm() / g.a.mean(0).norm(),
            "beta_ratio": (out.b - g.b.mean(0)).norm() / g.b.mean(0).norm(),
            "grad_cosine": torch.cosine_similarity(got, plain, dim=0),
        }
        assert set(out.stats) == set(hook.statistics) == set(expected)
        for name, value in expected.items():
            assert out.stats[name].shape == ()
            torch.testing.assert_close(out.stats[name].item(), value.item(), rtol=1e-5, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("D", [1, 3, 4])
@pytest.mark.parametrize("b_size", [0.0, 1e-3, 1.0])
def test_no_mask_without_projection_is_the_mean_hook_bit_for_bit(D, b_size):
    grads, adapters = step_inputs(D=D, dtype=torch.float32, b_size=b_size)
    hook = InvariantGradientAlignment(tau=0.0, projection="none")
    combined, plain = (h.combine(grads, adapters, context(D)) for h in (hook, Mean()))
    for fqn, out in combined.items():
        assert torch.equal(out.a, plain[fqn].a)
        assert torch.equal(out.b, plain[fqn].b)
        assert out.stats["alpha_ratio"] == out.stats["beta_ratio"] == 0


@pytest.mark.parametrize("b_size", [0.0, 1e-3, 1e-2, 0.1, 1.0, 3.0])
def test_no_mask_at_rank_2r_is_the_mean(b_size):
    grads, adapters = step_inputs(((128, 128), (64, 256), (300, 200)), R=8, dtype=torch.float32, b_size=b_size)
    assert_same(combine(grads, adapters, tau=0.0), Mean().combine(grads, adapters, context()), 1e-5)


@pytest.mark.parametrize("options", [{}, {"projection": "none"}, {"preset": "paper-stable"}])
def test_identical_domains_and_a_single_domain_give_the_mean(options):
    grads, adapters = step_inputs(D=1, dtype=torch.float32)
    repeated = {f: DomainFactorGrads(g.a.expand(3, -1, -1), g.b.expand(3, -1, -1)) for f, g in grads.items()}
    plain = Mean().combine(grads, adapters, context(1))
    assert_same(combine(grads, adapters, **options), plain, 1e-5)
    assert_same(combine(repeated, adapters, **options), plain, 1e-5)


@pytest.mark.parametrize("options", [{}, {"projection": "none"}, {"preset": "paper"}, {"variance_norm": "mean"}])
def test_domain_order_does_not_matter(options):
    grads, adapters = step_inputs(((60, 50), (50, 60)), dtype=torch.float64)
    shuffled = {f: DomainFactorGrads(g.a[[2, 0, 3, 1]], g.b[[2, 0, 3, 1]]) for f, g in grads.items()}
    assert_same(combine(shuffled, adapters, **options), combine(grads, adapters, **options), 1e-8)


@pytest.mark.parametrize("options", [{}, {"projection": "none"}, {"preset": "paper"}])
def test_scale_of_the_gradient_does_not_matter_unless_the_mask_is_raw(options):
    grads, adapters = step_inputs(dtype=torch.float32)
    small = {f: DomainFactorGrads(g.a * 2.0**-40, g.b * 2.0**-40) for f, g in grads.items()}
    if options.get("preset") == "paper":
        assert all(x.stats["relative_change"] < 1e-12 for x in combine(small, adapters, **options).values())
        return
    scaled = combine(small, adapters, **options)
    for fqn, out in combine(grads, adapters, **options).items():
        torch.testing.assert_close(scaled[fqn].a * 2.0**40, out.a, rtol=1e-6, atol=0)
        torch.testing.assert_close(scaled[fqn].b * 2.0**40, out.b, rtol=1e-6, atol=0)


@pytest.mark.parametrize("options", [{}, {"preset": "paper"}, {"projection": "none"}])
def test_shards_give_what_the_whole_gives(options):
    grads, adapters = step_inputs(((40, 60), (60, 40), (40, 60), (40, 60)), dtype=torch.float64)
    whole = combine(grads, adapters, **options)
    for part in (["m0", "m1"], ["m3", "m2"]):
        shard = combine({f: grads[f] for f in part}, {f: adapters[f] for f in part}, **options)
        assert list(shard) == part
        assert_same(shard, {f: whole[f] for f in part}, 1e-10)
    assert combine({}, {}, **options) == {}


def test_budget_changes_only_the_way():
    grads, adapters = step_inputs(((200, 300), (300, 200)), dtype=torch.float64)
    assert_same(combine(grads, adapters, memory_mb=1.1), combine(grads, adapters, memory_mb=64), 1e-9)
    with pytest.raises(ValueError, match=r"memory_mb=0\.001 is too small"):
        combine(grads, adapters, memory_mb=0.001)


@pytest.mark.parametrize(
    "preset, projection",
    [("default", "svd"), ("default", "none"), ("paper-stable", "svd"), ("paper-stable", "none"), ("paper", "svd")],
)
def test_zero_gradients_give_zeros(preset, projection):
    grads, adapters = step_inputs(dtype=torch.float32)
    zeros = {f: DomainFactorGrads(g.a * 0, g.b * 0) for f, g in grads.items()}
    for out in combine(zeros, adapters, preset=preset, projection=projection).values():
        assert out.a.count_nonzero() == out.b.count_nonzero() == 0
        assert all(math.isfinite(x) for name, x in out.stats.items() if name != "noise_share")
    dead = {f: AdapterFactors(x.A * 0, x.B * 0) for f, x in adapters.items()}
    for out in combine(zeros, dead, preset=preset, projection=projection).values():
        assert out.a.count_nonzero() == out.b.count_nonzero() == 0


@pytest.mark.parametrize("preset", list(PRESETS))
def test_nan_reaches_the_result_of_its_adapter_only(preset):
    grads, adapters = step_inputs(dtype=torch.float32)
    whole = combine(grads, adapters, preset=preset)
    grads["m3"].b[2, 1, 1] = float("nan")
    out = combine(grads, adapters, preset=preset)
    assert out["m3"].a.isnan().all()
    assert out["m3"].b.isnan().all()
    assert_same({f: out[f] for f in ("m0", "m1", "m2")}, {f: whole[f] for f in ("m0", "m1", "m2")}, 1e-5)


@pytest.mark.parametrize("options", [{}, {"preset": "paper"}, {"projection": "none"}, {"extraction": "pullback"}])
def test_inputs_are_left_alone_and_results_own_their_memory(options):
    grads, adapters = step_inputs(((18, 14), (30, 12)), dtype=torch.float32)
    tensors = [x for g in grads.values() for x in (g.a, g.b)] + [x for f in adapters.values() for x in (f.A, f.B)]
    before = [x.clone() for x in tensors]
    for out in combine(grads, adapters, **options).values():
        assert out.a.dtype == out.b.dtype == torch.float32
        out.a.zero_(), out.b.zero_()
    assert all(torch.equal(x, y) for x, y in zip(tensors, before))


@pytest.mark.parametrize("second_moment", ["adam", "max"])
def test_reference_is_the_mean_with_max_only(second_moment):
    grads, adapters = step_inputs(dtype=torch.float32)
    hook = InvariantGradientAlignment(second_moment=second_moment)
    assert hook.uses_reference == (second_moment == "max")
    plain = Mean().combine(grads, adapters, context())
    for fqn, out in hook.combine(grads, adapters, context()).items():
        assert (out.reference_a is not None) == (out.reference_b is not None) == hook.uses_reference
        if hook.uses_reference:
            assert torch.equal(out.reference_a, plain[fqn].a)
            assert torch.equal(out.reference_b, plain[fqn].b)


def test_same_step_same_bits_other_step_other_sketch():
    grads, adapters = step_inputs(((60, 50),), dtype=torch.float32)
    hook = InvariantGradientAlignment()
    first, again = (hook.combine(grads, adapters, context())["m0"].a for _ in range(2))
    other = hook.combine(grads, adapters, HookContext(step=4, seed=7))["m0"].a
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"preset": "papr"}, "preset='papr': must be one of 'default', 'paper', 'paper-stable'"),
        (
            {"variance_norm": "max"},
            "variance_norm='max': must be one of 'none', 'mean', 'relative', 'smoothed', 'fraction'",
        ),
        ({"tau": -0.1}, "tau=-0.1: must be a finite number >= 0"),
        ({"tau": float("nan")}, "tau=nan: must be a finite number"),
        ({"tau": "0.5"}, "tau='0.5': must be a finite number"),
        ({"projection": True}, "projection=True: must be one of 'none', 'svd'"),
        ({"rank": 0}, "rank=0: must be a whole number >= 1, 'R' or '2R'"),
        ({"rank": "3R"}, "rank='3R': must be a whole number >= 1, 'R' or '2R'"),
        ({"rank": True}, "rank=True: must be"),
        ({"oversampling": -1}, "oversampling=-1: must be a whole number >= 0"),
        ({"power_iters": 1.5}, "power_iters=1.5: must be a whole number >= 0"),
        ({"extraction": "eq10"}, "extraction='eq10': must be one of 'paper', 'aligned', 'pullback', 'anchored'"),
        ({"rho": 0}, "rho=0: must be a finite number > 0"),
        ({"second_moment": "erm"}, "second_moment='erm': must be one of 'adam', 'max'"),
        ({"memory_mb": 0}, "memory_mb=0: must be a finite number > 0"),
        ({"space": "both"}, "space='both': must be one of 'weight', 'factor'"),
        ({"mask": "or"}, "mask='or': must be one of 'exp', 'and', 'sand'"),
        ({"threshold": 1.5}, "threshold=1.5: must be a finite number >= 0 and <= 1"),
        ({"target_change": 1.0}, "target_change=1.0: must be a finite number > 0 and <= 0.95"),
        ({"shuffled": 1}, "shuffled=1: must be true or false"),
        ({"mask": "and", "tau": 2.0}, "tau=2.0 belongs to mask='exp' and would be ignored"),
        ({"mask": "and", "variance_norm": "none"}, "variance_norm='none' has no part in mask='and'"),
        ({"threshold": 0.5}, "threshold=0.5 belongs to mask='and' or 'sand'"),
        ({"target_change": 0.5}, "target_change=0.5 belongs to tau='auto'"),
        ({"projection": "none", "rank": "R"}, "rank='R' belongs to projection='svd'"),
        ({"extraction": "pullback", "rho": 0.2}, "rho=0.2 belongs to extraction='anchored'"),
        ({"space": "factor", "projection": "none"}, "projection='none' belongs to space='weight'"),
        ({"mask": "sand", "variance_norm": "mean"}, "variance_norm='mean': mask='sand' takes"),
        ({"remove_noise": True, "variance_norm": "mean"}, "remove_noise has no effect with variance_norm='mean'"),
        ({"remove_noise": True, "space": "factor"}, "remove_noise=True belongs to space='weight'"),
        ({"extraction": "paper"}, "extraction='paper' fills factors of rank R"),
        ({"preset": "paper", "projection": "none"}, "extraction='paper' splits singular values"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError) as error:
        InvariantGradientAlignment(**options)
    assert str(error.value).startswith(message)


def test_presets_and_overrides():
    paper = InvariantGradientAlignment(preset="paper", tau=2)
    assert paper.chosen == {
        "space": "weight",
        "mask": "exp",
        "variance_norm": "none",
        "tau": 2.0,
        "target_change": 0.3,
        "threshold": 1.0,
        "sharpness": 10.0,
        "remove_noise": False,
        "projection": "svd",
        "rank": "R",
        "oversampling": 10,
        "power_iters": 2,
        "warm_start": False,
        "extraction": "paper",
        "rho": 0.1,
        "second_moment": "adam",
        "shuffled": False,
    }
    default = InvariantGradientAlignment().chosen
    assert (default["variance_norm"], default["rank"], default["extraction"]) == ("relative", "2R", "anchored")
    stable = InvariantGradientAlignment(preset="paper-stable").chosen
    assert (stable["variance_norm"], stable["extraction"], stable["second_moment"]) == ("none", "anchored", "adam")


def test_every_option_is_keyword_only_annotated_and_documented():
    hints = typing.get_type_hints(InvariantGradientAlignment.__init__)
    for name, parameter in list(inspect.signature(InvariantGradientAlignment.__init__).parameters.items())[1:]:
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert name in hints
        assert f"        {name}: " in InvariantGradientAlignment.__doc__


def test_warnings_name_each_doubtful_choice():
    assert InvariantGradientAlignment().warnings() == []
    told = InvariantGradientAlignment(preset="paper").warnings()
    starts = ["variance_norm='none'", "extraction='paper'", "rank='R'", "second_moment='adam'"]
    assert [w.split(":")[0] for w in told] == starts
    (pullback,) = InvariantGradientAlignment(extraction="pullback", projection="none").warnings()
    assert "pullback" in pullback
    (mean,) = InvariantGradientAlignment(variance_norm="mean").warnings()
    assert "V/mean(V)" in mean
    (aligned,) = InvariantGradientAlignment(extraction="aligned", rank=2).warnings()[:1]
    assert "slowly" in aligned
    (dead,) = InvariantGradientAlignment(mask="sand", threshold=1.0).warnings()
    assert "zero everywhere" in dead


@pytest.mark.parametrize(
    "stats, word",
    [
        ({"relative_change": 0.001}, "inactive"),
        ({"relative_change": 0.97}, "starves"),
        ({"mean_mask": 0.05}, "starves"),
        ({"tail_energy": 0.4}, "projection drops 40%"),
        ({"alpha_ratio": 1.5}, "moves a factor's gradient"),
        ({"beta_ratio": 1.5}, "moves a factor's gradient"),
        ({"noise_share": 0.9}, "90% of the variance"),
        ({"grad_cosine": torch.tensor(-0.1)}, "not a descent direction"),
    ],
)
def test_alarms(stats, word):
    hook = InvariantGradientAlignment()
    healthy = {"mean_mask": 0.7, "relative_change": 0.2, "gir": 1.0, "tail_energy": 0.1}
    healthy |= {"alpha_ratio": 0.3, "beta_ratio": 0.3, "grad_cosine": 0.95}
    assert hook.alarms(healthy) == {}
    (alarm,) = hook.alarms(healthy | stats).values()
    assert word in alarm


def test_no_alarm_about_a_mask_that_was_switched_off():
    assert InvariantGradientAlignment(tau=0.0).alarms({"relative_change": 0.0}) == {}
