# ruff: noqa: E741 -- O and I are the shape letters of the project
"""``warm_start``: the projection starts from the last step's singular vectors."""

import math

import pytest
import torch

from igascale.hooks.base import AdapterFactors, DomainFactorGrads, HookContext
from igascale.hooks.iga import InvariantGradientAlignment

from dense_oracle import mask, reconstruct
from iga_steps import step_inputs

DOMAINS = tuple("abcd")


def at(step):
    return HookContext(step=step, domains=DOMAINS, seed=7)


def drifting(O, I, R, steps, drift):
    """Factors and gradients that turn by about ``drift`` from step to step."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    A, B, G = normal(R, I) / I**0.5, normal(O, R) / O**0.5, normal(O, I) + 0.7 * normal(4, O, I)
    for _ in range(steps):
        yield (
            {"m": DomainFactorGrads((2 * B.T @ G).float(), (2 * G @ A.T).float())},
            {"m": AdapterFactors(A.float(), B.float())},
        )
        A, B = A + drift * normal(R, I) / I**0.5, B + drift * normal(O, R) / O**0.5
        G = (1 - drift**2) ** 0.5 * G + drift * (normal(O, I) + 0.7 * normal(4, O, I))


def errors(options, drift, rank="R", steps=8):
    """Mean error over that of the best projection from the fifth step on, and the overlaps from the second."""
    hook, found, overlaps = InvariantGradientAlignment(rank=rank, **options), [], []
    for step, (grads, adapters) in enumerate(drifting(256, 200, 16, steps, drift)):
        stats = hook.combine(grads, adapters, at(step))["m"].stats
        tensors = (*vars(grads["m"]).values(), *vars(adapters["m"]).values())
        ghat = reconstruct(*(x.double() for x in tensors if isinstance(x, torch.Tensor)))
        S = torch.linalg.svdvals(ghat.mean(0) * mask(ghat, 0.5, "relative"))
        K = {"R": 16, "2R": 32}[rank]
        found.append((stats["tail_energy"].item() * S.square().sum() / S[K:].square().sum()).sqrt().item())
        overlaps.append(stats.get("subspace_overlap", torch.tensor(math.nan)).item())
    return sum(found[4:]) / len(found[4:]), overlaps[1:]


@pytest.mark.parametrize("rank", ["R", "2R"])
def test_no_iteration_from_the_last_subspace_is_as_good_as_one_from_a_random_start(rank):
    cold, _ = errors({"power_iters": 0}, 0.02, rank)
    one, _ = errors({"power_iters": 1}, 0.02, rank)
    warm, overlaps = errors({"power_iters": 0, "warm_start": True}, 0.02, rank)
    assert warm <= one + 5e-4
    assert warm <= 1.002
    assert cold >= 1.1  # so that the comparison is about something
    assert min(overlaps) > 0.95


def test_the_overlap_tells_how_fast_the_subspace_turns():
    averages = [sum(o) / len(o) for o in (errors({"warm_start": True}, drift)[1] for drift in (0.02, 0.3, 0.9))]
    assert averages[0] > averages[1] > averages[2]
    assert averages[2] < 0.9 < 0.95 < averages[0]
    hook = InvariantGradientAlignment(warm_start=True)
    assert "power_iters" in hook.alarms({"subspace_overlap": averages[2]})["warm start"]
    assert hook.alarms({"subspace_overlap": averages[0]}) == hook.alarms({"subspace_overlap": math.nan}) == {}


def test_overlap_is_unknown_at_first_and_one_for_a_repeated_gradient():
    grads, adapters = step_inputs(((60, 50), (60, 50), (40, 70)), dtype=torch.float32)
    hook = InvariantGradientAlignment(warm_start=True)
    assert "subspace_overlap" in hook.statistics
    first, second = (hook.combine(grads, adapters, at(step)) for step in range(2))
    for fqn in grads:
        assert first[fqn].stats["subspace_overlap"].isnan()
        assert second[fqn].stats["subspace_overlap"].item() == pytest.approx(1, abs=1e-3)
        torch.testing.assert_close(second[fqn].a, first[fqn].a, rtol=0, atol=2e-3 * first[fqn].a.norm().item())


def test_a_resumed_run_takes_the_same_step_to_the_bit_also_where_adapters_have_other_owners():
    steps = [step_inputs(((60, 50), (60, 50), (40, 70)), dtype=torch.float32, scale=1.0 + k) for k in range(3)]
    straight = InvariantGradientAlignment(warm_start=True, power_iters=0)
    for k in range(2):
        straight.combine(*steps[k], at(k))
    saved = straight.state_dict()
    assert saved["adapters"].keys() == {"m0", "m1", "m2"}
    expected = straight.combine(*steps[2], at(2))
    resumed = InvariantGradientAlignment(warm_start=True, power_iters=0)
    resumed.load_state_dict(saved)
    again = resumed.combine(*steps[2], at(2))
    for fqn, out in expected.items():
        assert torch.equal(again[fqn].a, out.a)
        assert torch.equal(again[fqn].b, out.b)
        assert torch.equal(again[fqn].stats["subspace_overlap"], out.stats["subspace_overlap"])
    # A rank that owns one adapter now gets the state of all, and keeps that of its own.
    part = InvariantGradientAlignment(warm_start=True, power_iters=0)
    part.load_state_dict(saved)
    alone = part.combine({"m2": steps[2][0]["m2"]}, {"m2": steps[2][1]["m2"]}, at(2))
    assert torch.equal(alone["m2"].a, expected["m2"].a)
    assert part.state_dict()["adapters"].keys() == {"m2"}
    # Without the state the step is another one.
    cold = InvariantGradientAlignment(warm_start=True, power_iters=0).combine(*steps[2], at(2))
    assert not torch.equal(cold["m2"].a, expected["m2"].a)


def test_state_holds_the_search_for_tau_beside_the_subspaces():
    grads, adapters = step_inputs(dtype=torch.float32)
    hook = InvariantGradientAlignment(warm_start=True, tau="auto")
    hook.combine(grads, adapters, at(0))
    other = InvariantGradientAlignment(warm_start=True, tau="auto")
    other.load_state_dict(hook.state_dict())
    assert other.tau == hook.tau != 0.5
    assert other.state_dict()["adapters"].keys() == grads.keys()
    # A rank that owns nothing still has the key that a checkpoint looks for.
    assert InvariantGradientAlignment(warm_start=True).state_dict() == {"adapters": {}}
    with pytest.raises(ValueError, match="keeps no state"):
        InvariantGradientAlignment().load_state_dict({"adapters": hook.state_dict()["adapters"]})


@pytest.mark.parametrize("spoilt", [0.0, math.nan])
def test_a_step_without_a_gradient_leaves_the_subspace_alone(spoilt):
    grads, adapters = step_inputs(((60, 50), (60, 50)), dtype=torch.float32)
    hook = InvariantGradientAlignment(warm_start=True)
    hook.combine(grads, adapters, at(0))
    before = hook.state_dict()["adapters"]["m0"]["right"].clone()
    broken = grads | {"m0": DomainFactorGrads(grads["m0"].a * spoilt, grads["m0"].b * spoilt)}
    out = hook.combine(broken, adapters, at(1))
    assert out["m0"].stats["subspace_overlap"].isnan()
    assert torch.equal(hook.state_dict()["adapters"]["m0"]["right"], before)
    assert hook.combine(grads, adapters, at(2))["m0"].stats["subspace_overlap"] > 0.99


def test_a_matrix_of_smaller_rank_does_not_blind_the_next_step():
    """Vectors of zero singular values start nothing; random columns take their places."""
    grads, adapters = step_inputs(((80, 70),), R=4, dtype=torch.float32)
    empty = {"m0": DomainFactorGrads(grads["m0"].a * 0, grads["m0"].b * 0)}
    hook = InvariantGradientAlignment(warm_start=True, power_iters=0, oversampling=0)
    hook.combine(empty, adapters, at(0))
    first = hook.combine(grads, adapters, at(1))["m0"].stats["tail_energy"]
    cold = InvariantGradientAlignment(power_iters=0, oversampling=0).combine(grads, adapters, at(1))["m0"]
    assert first == cold.stats["tail_energy"] < 0.9


@pytest.mark.parametrize(
    "options, message",
    [
        ({"projection": "none"}, "warm_start=True belongs to projection='svd' and would be ignored"),
        ({"space": "factor"}, "warm_start=True belongs to space='weight' and would be ignored"),
    ],
)
def test_refused_where_it_would_be_ignored(options, message):
    with pytest.raises(ValueError, match=message):
        InvariantGradientAlignment(warm_start=True, **options)


def test_refuses_what_is_not_a_flag():
    with pytest.raises(ValueError, match="warm_start=1: must be true or false"):
        InvariantGradientAlignment(warm_start=1)
