"""Invariant Gradient Alignment's other choices: sign masks, factor space, noise, controls, the search for tau."""

import dataclasses
import math

import pytest
import torch

from igascale.hooks._auto_tau import AutoTau
from igascale.hooks.base import DomainFactorGrads, HookContext
from igascale.hooks.iga import InvariantGradientAlignment
from igascale.hooks.mean import Mean

from dense_oracle import anchored, mask, reconstruct, sign_mask
from iga_steps import assert_same, combine, context, step_inputs

PLAIN = {"projection": "none", "second_moment": "adam"}


@pytest.mark.parametrize("kind, threshold", [("and", 1.0), ("and", 0.5), ("sand", 0.5), ("sand", 0.25)])
@pytest.mark.parametrize("norm", ["none", "relative"])
def test_sign_masks_in_weight_space_match_dense_least_squares(kind, threshold, norm):
    grads, adapters = step_inputs(dtype=torch.float64)
    options = {"mask": kind, "threshold": threshold, "rho": 0.2} | ({} if kind == "and" else {"variance_norm": norm})
    combined = combine(grads, adapters, **options, **PLAIN)
    for fqn, grad in grads.items():
        A, B = adapters[fqn].A, adapters[fqn].B
        ghat = reconstruct(grad.a, grad.b, A, B)
        g = ghat.mean(0) * sign_mask(ghat, kind, threshold, 10.0 if norm == "none" else 1.0, norm)
        a, b = anchored(A, B, grad.a.mean(0), grad.b.mean(0), g, rho=0.2)
        torch.testing.assert_close(combined[fqn].a, a, rtol=0, atol=1e-8 * a.norm().item())
        torch.testing.assert_close(combined[fqn].b, b, rtol=0, atol=1e-8 * b.norm().item())


@pytest.mark.parametrize("norm", ["none", "relative", "fraction"])
def test_factor_space_masks_each_factor_by_itself(norm):
    grads, adapters = step_inputs(dtype=torch.float64)
    combined = combine(grads, adapters, space="factor", variance_norm=norm, tau=0.7)
    for fqn, grad in grads.items():
        for x, got in ((grad.a, combined[fqn].a), (grad.b, combined[fqn].b)):
            torch.testing.assert_close(got, x.mean(0) * mask(x, 0.7, norm), rtol=1e-9, atol=1e-12)
    weight = combine(grads, adapters, variance_norm=norm, tau=0.7)
    assert (weight["m0"].a - combined["m0"].a).norm() > 0.01 * combined["m0"].a.norm()


@pytest.mark.parametrize("options", [{}, {"mask": "and", "threshold": 0.0}])
def test_factor_space_without_a_mask_is_the_mean_bit_for_bit(options):
    grads, adapters = step_inputs(dtype=torch.float32)
    tau = {} if options else {"tau": 0.0}
    plain = Mean().combine(grads, adapters, context())
    for fqn, out in combine(grads, adapters, space="factor", **options, **tau).items():
        assert torch.equal(out.a, plain[fqn].a)
        assert torch.equal(out.b, plain[fqn].b)
        assert torch.equal(out.reference_a, plain[fqn].a)


def with_noise(grads, share):
    """The same gradients, told that ``share`` of the variance of each reconstruction is noise."""
    out = {}
    for k, (fqn, g) in enumerate(grads.items()):
        A, B = step_inputs(dtype=torch.float64)[1][fqn].A, step_inputs(dtype=torch.float64)[1][fqn].B
        ghat = reconstruct(g.a, g.b, A, B)
        D = len(g.a)
        total = ghat.var(0, correction=0).sum() * D / (D - 1)
        noise = torch.stack([torch.eye(D) * float(total) * share[k] + 3.0, torch.full((D, D), math.nan)])
        out[fqn] = DomainFactorGrads(g.a, g.b, noise.double())
    return out


def test_noise_share_is_reported_and_can_be_removed():
    grads, adapters = step_inputs(dtype=torch.float64)
    share = [0.5, 0.2, 1.3, 0.0]
    noisy = with_noise(grads, share)
    combined = combine(noisy, adapters, remove_noise=True, **PLAIN)
    for k, (fqn, grad) in enumerate(grads.items()):
        A, B = adapters[fqn].A, adapters[fqn].B
        assert combined[fqn].stats["noise_share"].item() == pytest.approx(share[k], rel=1e-5, abs=1e-9)
        ghat = reconstruct(grad.a, grad.b, A, B)
        mean, V = ghat.mean(0), ghat.var(0, correction=0) * max(0.0, 1 - share[k])
        g = mean * torch.exp(-0.5 * V / (mean**2 + 1e-12 * ghat.var(0, correction=0).mean()))
        a, b = anchored(A, B, grad.a.mean(0), grad.b.mean(0), g, rho=0.1)
        torch.testing.assert_close(combined[fqn].a, a, rtol=0, atol=1e-8 * a.norm().item())
    # Noise that is not known, or not to be removed, leaves the mask alone.
    left = combine(noisy, adapters, **PLAIN)
    assert_same(left, combine(grads, adapters, remove_noise=True, **PLAIN), 1e-12)


@pytest.mark.parametrize("space", ["weight", "factor"])
def test_shuffled_is_a_control(space):
    """As strong a mask, elsewhere; the same at a repeated step, on any shard, and other at the next step."""
    grads, adapters = step_inputs(((40, 30), (30, 40), (40, 30)), dtype=torch.float64)
    options = {"space": space, "second_moment": "adam"} | ({"projection": "none"} if space == "weight" else {})
    plain, shuffled = combine(grads, adapters, **options), combine(grads, adapters, shuffled=True, **options)
    for fqn in grads:
        torch.testing.assert_close(shuffled[fqn].stats["mean_mask"], plain[fqn].stats["mean_mask"], rtol=1e-6, atol=0)
        assert (shuffled[fqn].a - plain[fqn].a).norm() > 0.02 * plain[fqn].a.norm()
    assert_same(combine(grads, adapters, shuffled=True, **options), shuffled, 0)
    part = combine({"m2": grads["m2"]}, {"m2": adapters["m2"]}, shuffled=True, **options)
    assert_same(part, {"m2": shuffled["m2"]}, 1e-12)
    twin = combine(
        {"x": grads["m0"], "y": grads["m0"]}, {"x": adapters["m0"], "y": adapters["m0"]}, shuffled=True, **options
    )
    assert not torch.equal(twin["x"].a, twin["y"].a)  # each adapter has an order of its own
    later = HookContext(step=4, domains=tuple("abcd"), seed=7)
    other = InvariantGradientAlignment(shuffled=True, **options).combine(grads, adapters, later)
    assert not torch.equal(other["m0"].a, shuffled["m0"].a)


def test_mask_bound_holds():
    """Proposition 2 of the paper: every element of the raw mask is at least exp(-tau G^2)."""
    grads, adapters = step_inputs(dtype=torch.float64, scale=0.03)
    for fqn, out in combine(grads, adapters, preset="paper-stable").items():
        ghat = reconstruct(grads[fqn].a, grads[fqn].b, adapters[fqn].A, adapters[fqn].B)
        smallest = mask(ghat, 0.5, "none").min().item()
        largest = math.exp(-0.5 * ghat.square().max().item())
        assert 0 < out.stats["mask_bound"].item() <= largest <= smallest
    assert "mask_bound" not in combine(grads, adapters)["m0"].stats


def test_aligned_extraction_is_nearer_to_the_mean_than_eq_10():
    grads, adapters = step_inputs(dtype=torch.float64)
    eq10 = combine(grads, adapters, rank="R", extraction="paper")
    turned = combine(grads, adapters, rank="R", extraction="aligned")
    for fqn in grads:
        torch.testing.assert_close(turned[fqn].b @ turned[fqn].a, eq10[fqn].b @ eq10[fqn].a, rtol=1e-6, atol=1e-9)
        assert turned[fqn].stats["grad_cosine"] > eq10[fqn].stats["grad_cosine"]
        assert turned[fqn].stats["grad_cosine"] > 0


@pytest.mark.parametrize("norm, scale", [("relative", 1.0), ("none", 1e-4), ("fraction", 1e3)])
@pytest.mark.parametrize("target", [0.1, 0.3])
def test_auto_tau_reaches_its_target_and_holds(norm, scale, target):
    """From .5, whatever the scale: with the raw variance at 1e-4 the right tau is about 1e8."""
    hook = InvariantGradientAlignment(tau="auto", variance_norm=norm, target_change=target)
    seen = []
    for step in range(60):
        grads, adapters = step_inputs(dtype=torch.float64, scale=scale)
        out = hook.combine(grads, adapters, HookContext(step=step, domains=tuple("abcd")))
        seen.append(sum(float(g.stats["relative_change"]) for g in out.values()) / len(out))
        assert all(g.stats["tau"].item() == pytest.approx(out["m0"].stats["tau"].item()) for g in out.values())
        if hook.auto.held:
            break
    assert hook.auto.held
    assert seen[-1] == pytest.approx(target, rel=0.1)
    (found,) = [text for name, text in hook.alarms({}).items() if name == "tau found"]
    assert f"{hook.tau:.4g}" in found
    held = hook.tau
    grads, adapters = step_inputs(dtype=torch.float64, scale=10 * scale)
    hook.combine(grads, adapters, context())
    assert hook.tau == held


def test_auto_tau_averages_over_batches_that_differ():
    """A change that jumps by 40% from step to step: held within 10% of where its average is right."""
    g = torch.Generator().manual_seed(0)
    search = AutoTau(0.3, 0.5)
    for _ in range(500):
        search.observe(min(0.99, 0.02 * search.tau * math.exp(0.4 * torch.randn((), generator=g).item())))
        if search.held:
            break
    assert search.held
    assert 0.02 * search.tau == pytest.approx(0.3, rel=0.35)


def test_auto_tau_learns_nothing_from_nothing():
    search = AutoTau(0.3, 0.5)
    for change in (math.nan, math.inf):
        search.observe(change)
    search.observe(0.0, conflict=False)
    assert search.tau == 0.5


@pytest.mark.parametrize("space, scale", [("weight", 1e-12), ("factor", 1e-5), ("factor", 1e-12)])
def test_auto_tau_climbs_out_of_a_mask_that_is_rounded_to_one(space, scale):
    """float32 gradients of a large model, raw variance: at .5 nothing changes at all, and that is no reason to stop."""
    hook = InvariantGradientAlignment(tau="auto", variance_norm="none", space=space)
    for step in range(150):
        grads, adapters = step_inputs(dtype=torch.float32, scale=scale)
        out = hook.combine(grads, adapters, HookContext(step=step, domains=tuple("abcd")))
        if step == 0:
            assert sum(float(g.stats["relative_change"]) for g in out.values()) < 1e-6
            assert hook.alarms(out["m0"].stats).keys() <= {"extraction far from the mean"}
        if hook.auto.held:
            break
    assert hook.auto.held
    change = sum(float(g.stats["relative_change"]) for g in out.values()) / len(out)
    assert change == pytest.approx(0.3, rel=0.1)


def test_auto_tau_does_not_climb_where_all_the_variance_is_noise():
    grads, adapters = step_inputs(dtype=torch.float64)
    hook = InvariantGradientAlignment(tau="auto", remove_noise=True)
    for step in range(3):
        hook.combine(with_noise(grads, [1.5] * 4), adapters, HookContext(step=step, domains=tuple("abcd")))
    assert hook.tau == 0.5


def test_auto_tau_resumes_and_is_alike_on_all_ranks():
    grads, adapters = step_inputs(dtype=torch.float64)
    straight = InvariantGradientAlignment(tau="auto")
    for step in range(6):
        straight.combine(grads, adapters, HookContext(step=step, domains=tuple("abcd")))
    first, second = InvariantGradientAlignment(tau="auto"), InvariantGradientAlignment(tau="auto")
    for step in range(3):
        first.combine(grads, adapters, HookContext(step=step, domains=tuple("abcd")))
    second.load_state_dict(first.state_dict())
    for step in range(3, 6):
        second.combine(grads, adapters, HookContext(step=step, domains=tuple("abcd")))
    assert second.state_dict() == straight.state_dict()
    with pytest.raises(ValueError, match="keeps no state"):
        InvariantGradientAlignment().load_state_dict(first.state_dict())

    # A rank that owns one of four adapters, or none, still learns the mean over all.
    whole = InvariantGradientAlignment(tau="auto")
    result = whole.combine(grads, adapters, context())
    changes = [float(g.stats["relative_change"]) for g in result.values()]
    for names in (["m1"], []):
        part = InvariantGradientAlignment(tau="auto")
        own = [c for c, fqn in zip(changes, grads) if fqn in names]
        rest = torch.tensor([sum(changes) - sum(own), *[4.0 - len(own)] * 2]).double()
        ctx = dataclasses.replace(context(), sum_over_shards=lambda t, rest=rest: t + rest)
        part.combine({f: grads[f] for f in names}, {f: adapters[f] for f in names}, ctx)
        assert part.tau == pytest.approx(whole.tau, rel=1e-5)


def test_noise_that_cannot_be_removed_is_said():
    hook = InvariantGradientAlignment(remove_noise=True)
    assert "one micro-batch" in hook.alarms({"noise_share": math.nan})["noise unknown"]
    assert "noise unknown" not in hook.alarms({"noise_share": 0.4})
