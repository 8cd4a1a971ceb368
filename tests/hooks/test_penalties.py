"""V-REx and IRMv1 against autograd of their objectives, by hand, and the classic mistakes."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from igascale import hooks
from igascale.errors import UserError
from igascale.hooks import DomainFactorGrads, HookContext
from igascale.hooks.irm import InvariantRiskMinimization, dummy_scale_derivative
from igascale.hooks.mean import Mean
from igascale.hooks.vrex import VRex

from jacobians import ADAPTERS, NAMES, WIDTH, as_grads, combine, distance, jacobians

STATE_OF_IRM = st.sampled_from([(0.0, True), (0.3, True), (10.0, True), (10.0, False), (1e4, True)])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# V-REx


def rex(losses, penalty):
    """Mean plus penalty times population variance."""
    return losses.mean() + penalty * ((losses - losses.mean()) ** 2).mean()


@pytest.mark.parametrize(
    ("J", "losses", "options", "step", "expected"),
    [
        # mean 2, weights (1 + 2 * .5 * -1) / 2 = 0 and (1 + 1) / 2 = 1
        ([[1, 2, 3], [4, 5, 6]], [1, 3], {"penalty": 0.5}, 0, [4, 5, 6]),
        # weights (1 - 4) / 2 and (1 + 4) / 2, and half of that
        ([[1, 0, 0], [0, 1, 0]], [1, 3], {"penalty": 2.0, "rescale": False}, 0, [-1.5, 2.5, 0]),
        ([[1, 0, 0], [0, 1, 0]], [1, 3], {"penalty": 2.0}, 0, [-0.75, 1.25, 0]),
        # until step 5 lambda is 1, and nothing is divided
        ([[1, 0, 0], [0, 1, 0]], [1, 3], {"penalty": 2.0, "anneal_steps": 5}, 4, [-0.5, 1.5, 0]),
        ([[1, 0, 0], [0, 1, 0]], [1, 3], {"penalty": 2.0, "anneal_steps": 5}, 5, [-0.75, 1.25, 0]),
        ([[1, 0, 0], [0, 1, 0]], [1, 3], {"penalty": 0.1, "anneal_steps": 5}, 4, [0.4, 0.6, 0]),  # never above lambda
        ([[1, 2, 3], [3, 4, 5]], [7, 7], {"penalty": 1e3, "rescale": False}, 0, [2, 3, 4]),  # equal losses: the mean
        ([[1, 2, 3], [3, 4, 5]], [1, 9], {"penalty": 0.0}, 0, [2, 3, 4]),
    ],
)
def test_vrex_by_hand(J, losses, options, step, expected):
    J, losses = torch.tensor(J, dtype=torch.float64), torch.tensor(losses, dtype=torch.float64)
    w = VRex(**options).weights(J @ J.T, HookContext(step=step, domains=NAMES[: len(J)], losses=losses))
    torch.testing.assert_close(J.T @ w, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=1e-14)


@settings(max_examples=200, deadline=None)
@given(jacobians(), st.integers(0, 2**31), st.sampled_from([0.0, 0.3, 10.0, 1e4]), st.booleans())
def test_vrex_is_the_gradient_of_its_objective(J, seed, penalty, rescale):
    """Losses that are curved functions of the parameters with these gradients at the origin."""
    start = 5 * torch.rand(len(J), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    theta = torch.zeros(WIDTH, dtype=torch.float64, requires_grad=True)
    losses = start + J @ theta + (J @ theta).sin() * theta.square().sum()
    objective = rex(losses, penalty) / (max(penalty, 1.0) if rescale else 1.0)
    (expected,) = torch.autograd.grad(objective, theta)
    found = combine(VRex(penalty=penalty, rescale=rescale), J, losses=losses.detach())
    assert distance(found, expected, J) <= 1e-8


def test_vrex_is_neither_with_the_unbiased_variance_nor_per_rank():
    J, losses = normal(3, WIDTH), torch.tensor([1.0, 1.5, 2.3], dtype=torch.float64)
    right = combine(VRex(penalty=1.0), J, losses=losses)
    deviation = losses - losses.mean()
    unbiased = J.T @ (1 / 3 + 2 * deviation / 2)
    ranks = [losses + shift * torch.tensor([1.0, -2.0, 0.5]).double() for shift in (-0.3, 0.3)]  # their mean: losses
    rank_gradients = [J + shift * normal(3, WIDTH, seed=1) for shift in (-0.3, 0.3)]
    per_rank = sum(combine(VRex(penalty=1.0), G, losses=own) for G, own in zip(rank_gradients, ranks)) / 2
    assert distance(right, J.T @ (1 / 3 + 2 * deviation / 3), J) < 1e-14
    assert distance(unbiased, right, J) > 0.05
    assert distance(per_rank, right, J) > 0.05


# A linear-softmax model in factor form, with one adapter: logits = x (W0 + s B A)^T.


class Model:
    """D domains of T tokens each; V classes, I features, rank R."""

    def __init__(self, D=3, T=11, V=5, I=4, R=2, seed=0, size=1.0):  # noqa: E741
        self.x, self.y = (
            [size * normal(T, I, seed=seed + n) for n in range(D)],
            [torch.arange(T).mul(n + 2) % V for n in range(D)],
        )
        self.W0, self.scaling = normal(V, I, seed=seed + 50), 2.0
        self.A = normal(R, I, seed=seed + 51).requires_grad_()
        self.B = (0.5 * normal(V, R, seed=seed + 52)).requires_grad_()

    def logits(self, n, rows=slice(None)):
        return self.x[n][rows] @ (self.W0 + self.scaling * self.B @ self.A).T

    def domain_grads(self, values):
        grads = [torch.autograd.grad(value, (self.A, self.B), retain_graph=True) for value in values]
        return {"q": DomainFactorGrads(torch.stack([a for a, _ in grads]), torch.stack([b for _, b in grads]))}

    def losses(self, rows=slice(None)):
        return torch.stack([F.cross_entropy(self.logits(n, rows), y[rows]) for n, y in enumerate(self.y)])

    def statistics(self, rows=slice(None)):
        return torch.stack([dummy_scale_derivative(self.logits(n, rows), y[rows]).mean() for n, y in enumerate(self.y)])

    def context(self, rows=slice(None), **changes):
        statistics = self.statistics(rows)
        context = HookContext(
            domains=NAMES[: len(self.x)],
            losses=self.losses(rows).detach(),
            aux=self.domain_grads(statistics),
            aux_values=statistics.detach(),
        )
        return replace(context, **changes)

    def irm_objective(self, penalty, rows=slice(None)):
        """With an explicit dummy scale and a second derivative, as the authors' code."""
        total = 0.0
        for n, y in enumerate(self.y):
            w = torch.ones((), dtype=torch.float64, requires_grad=True)
            loss = F.cross_entropy(w * self.logits(n, rows), y[rows])
            (derivative,) = torch.autograd.grad(loss, w, create_graph=True)
            total = total + loss + penalty * derivative**2
        return total / len(self.x)


def close(found, expected, tolerance=1e-10):
    difference = torch.cat([(found.a - expected[0]).flatten(), (found.b - expected[1]).flatten()]).norm()
    return float(difference) <= tolerance * float(torch.cat([e.flatten() for e in expected]).norm())


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.floats(0.01, 3.0), st.sampled_from([0.0, 0.3, 10.0]))
def test_vrex_of_a_model_is_autograd_of_the_objective(seed, D, size, penalty):
    model = Model(D=D, seed=seed, size=size)
    found = VRex(penalty=penalty, rescale=False).combine(model.domain_grads(model.losses()), {}, model.context())["q"]
    assert close(found, torch.autograd.grad(rex(model.losses(), penalty), (model.A, model.B)))


# IRM


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 50.0), st.floats(-1e6, 1e6))
def test_the_statistic_is_the_derivative_in_a_dummy_scale(seed, size, offset):
    """Of each token's cross-entropy; a constant on all logits drops out of both."""
    logits, labels = size * normal(7, 9, seed=seed), torch.arange(7)
    w = torch.ones(7, 1, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(w * logits, labels, reduction="sum").backward()
    torch.testing.assert_close(dummy_scale_derivative(logits, labels), w.grad[:, 0], rtol=1e-10, atol=1e-12)
    shifted = dummy_scale_derivative(logits + offset, labels)
    torch.testing.assert_close(shifted, w.grad[:, 0], rtol=1e-7, atol=1e-8)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.floats(0.01, 3.0), st.sampled_from([0.0, 0.3, 10.0, 1e4]))
def test_irm_of_a_model_is_autograd_with_a_second_derivative(seed, D, size, penalty):
    model = Model(D=D, seed=seed, size=size)
    hook = InvariantRiskMinimization(penalty=penalty, anneal_steps=0, rescale=False)
    found = hook.combine(model.domain_grads(model.losses()), {}, model.context())["q"]
    assert close(found, torch.autograd.grad(model.irm_objective(penalty), (model.A, model.B)))


@settings(max_examples=200, deadline=None)
@given(jacobians(least=1), jacobians(least=6, most=6), st.integers(0, 2**31), STATE_OF_IRM)
def test_irm_is_the_gradient_of_its_objective(J, JD, seed, options):
    """Losses and statistics that are curved functions of the parameters, of scales of their own."""
    penalty, rescale = options
    JD = JD[: len(J)] / JD[: len(J)].norm() * J.norm()
    L0, D0 = normal(2, len(J), seed=seed)
    theta = torch.zeros(WIDTH, dtype=torch.float64, requires_grad=True)
    curved = theta.square().sum()
    losses, statistics = L0 + J @ theta + curved, D0 + JD @ theta - 3 * curved
    objective = (losses + penalty * statistics**2).mean() / (max(penalty, 1.0) if rescale else 1.0)
    (expected,) = torch.autograd.grad(objective, theta)
    hook = InvariantRiskMinimization(penalty=penalty, anneal_steps=0, rescale=rescale)
    found = combine(hook, J, aux=as_grads(JD), aux_values=statistics.detach())
    assert float((found - expected).norm()) <= 1e-8 * float(J.norm() * (1 + (0 if rescale else penalty)))


def test_irm_accumulation_changes_nothing_but_squaring_per_micro_batch_does():
    model = Model(D=2, T=12)
    hook = InvariantRiskMinimization(penalty=10.0, anneal_steps=0)
    whole = hook.combine(model.domain_grads(model.losses()), {}, model.context())["q"]
    cuts = [slice(i, i + 3) for i in range(0, 12, 3)]

    def mean(grads):
        return {"q": DomainFactorGrads(*(torch.stack([getattr(g["q"], k) for g in grads]).mean(0) for k in "ab"))}

    contexts = [model.context(rows) for rows in cuts]
    accumulated = replace(
        contexts[0],
        aux=mean([c.aux for c in contexts]),
        aux_values=torch.stack([c.aux_values for c in contexts]).mean(0),
    )
    losses = [model.domain_grads(model.losses(rows)) for rows in cuts]
    found = hook.combine(mean(losses), {}, accumulated)["q"]
    assert close(found, (whole.a, whole.b))
    assert close(whole, torch.autograd.grad(model.irm_objective(10.0) / 10.0, (model.A, model.B)))

    each = [hook.combine(g, {}, c)["q"] for g, c in zip(losses, contexts)]
    wrong = DomainFactorGrads(*(torch.stack([getattr(g, k) for g in each]).mean(0) for k in "ab"))
    assert not close(wrong, (whole.a, whole.b), tolerance=0.05)
    # It is the gradient of another objective: the mean of the micro-batches' own.
    others = sum(model.irm_objective(10.0, rows) / 10.0 for rows in cuts) / len(cuts)
    assert close(wrong, torch.autograd.grad(others, (model.A, model.B)))


def test_irm_of_one_domain_of_no_adapter_and_of_a_share_of_them():
    J, JD, hook = (
        normal(3, WIDTH),
        normal(3, WIDTH, seed=1),
        InvariantRiskMinimization(penalty=2.0, anneal_steps=0, rescale=False),
    )
    values = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    assert hook.combine({}, {}, HookContext(domains=NAMES[:3], aux={}, aux_values=values)) == {}
    context = HookContext(domains=NAMES[:3], aux=as_grads(JD), aux_values=values)
    whole = hook.combine(as_grads(J), {}, context)
    for fqn in ADAPTERS:
        share = hook.combine({fqn: as_grads(J)[fqn]}, {}, replace(context, aux={fqn: as_grads(JD)[fqn]}))
        assert torch.equal(share[fqn].a, whole[fqn].a)
        assert torch.equal(share[fqn].b, whole[fqn].b)
    single = combine(hook, J[:1], aux=as_grads(JD[:1]), aux_values=values[:1])
    torch.testing.assert_close(single, J[0] + 2 * 2.0 * 0.5 * JD[0])


def test_irm_without_its_statistic_says_so():
    J = normal(2, WIDTH)
    for context in ({}, {"aux": as_grads(J)}, {"aux_values": torch.ones(2)}, {"aux": {}, "aux_values": torch.ones(2)}):
        with pytest.raises(ValueError, match="irm needs the gradients of its auxiliary statistic"):
            combine(InvariantRiskMinimization(), J, **context)
    with pytest.raises(ValueError, match="vrex needs the domain losses"):
        combine(VRex(), J)


def test_irm_anneals_and_rescales_as_vrex_does():
    J, JD, values = normal(2, WIDTH), normal(2, WIDTH, seed=1), torch.tensor([0.5, -2.0], dtype=torch.float64)
    mean, pull = J.mean(0), (values[:, None] * JD).mean(0)
    for (penalty, steps, rescale), step, weight, divisor in [
        ((100.0, 0, True), 0, 100, 100),
        ((100.0, 0, False), 0, 100, 1),
        ((100.0, 7, True), 6, 1, 1),
        ((100.0, 7, True), 7, 100, 100),
        ((0.2, 7, True), 6, 0.2, 1),
        ((0.2, 0, True), 0, 0.2, 1),
    ]:
        hook = InvariantRiskMinimization(penalty=penalty, anneal_steps=steps, rescale=rescale)
        found = combine(hook, J, step=step, aux=as_grads(JD), aux_values=values)
        torch.testing.assert_close(found, (mean + 2 * weight * pull) / divisor, rtol=1e-12, atol=1e-14)


# Both


@pytest.mark.parametrize("cls", [VRex, InvariantRiskMinimization])
def test_without_a_penalty_the_mean(cls):
    J = normal(3, WIDTH)
    context = {"losses": normal(3), "aux": as_grads(normal(3, WIDTH, seed=1)), "aux_values": normal(3)}
    torch.testing.assert_close(combine(cls(penalty=0.0), J, **context), combine(Mean(), J), rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", ["vrex", "irm"])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("penalty", -1.0, "penalty=-1.0: must be a finite number >= 0"),
        ("penalty", float("inf"), "penalty=inf"),
        ("anneal_steps", -1, "anneal_steps=-1: must be a whole number >= 0"),
        ("rescale", 1, "'hook.rescale': expected bool"),
    ],
)
def test_refused_options(name, option, value, message):
    with pytest.raises(UserError) as error:
        hooks.build(name, {option: value})
    assert message in str(error.value)


def figures(hook, J, **context):
    results = hook.combine(as_grads(J), {}, HookContext(domains=NAMES[: len(J)], **context))
    return [{k: float(v) for k, v in g.stats.items()} for g in results.values()]


def test_vrex_tells_of_ascent_and_of_a_domain_in_charge():
    hook, J = VRex(penalty=1.0), normal(2, WIDTH)
    for fig in figures(hook, J, losses=torch.tensor([1.0, 1.6])):
        assert fig == pytest.approx({"smallest_weight": 0.4, "largest_weight": 1.6, "loss_gap": 0.6}, rel=1e-6)
        assert hook.alarms(fig) == {}
    (fig, _) = figures(hook, J, losses=torch.tensor([1.0, 3.0]))
    assert set(hook.alarms(fig)) == {"ascent"}
    assert "2 nats apart" in hook.alarms(fig)["ascent"]
    assert "-1 times" in hook.alarms(fig)["ascent"]
    (fig, _) = figures(hook, J, losses=torch.tensor([1.0, 21.0]))
    assert set(hook.alarms(fig)) == {"ascent", "dominating domain"}
    assert all("Lower penalty" in text for text in hook.alarms(fig).values())
    assert hook.alarms({}) == {}


def test_irm_tells_of_a_penalty_that_leaves_nothing_of_the_loss():
    hook, J = InvariantRiskMinimization(penalty=50.0, anneal_steps=0), torch.ones(2, WIDTH, dtype=torch.float64)
    aux = as_grads(J)
    for D, expected in ((0.05, 5.0), (2.0, 200.0), (0.0, 0.0)):
        for fig in figures(hook, J, aux=aux, aux_values=torch.tensor([D, D])):
            assert fig == pytest.approx({"penalty_ratio": expected})
            assert bool(hook.alarms(fig)) == (expected > 10)
    assert "200 times" in hook.alarms({"penalty_ratio": 200.0})["penalty dominates"]
    assert hook.alarms({}) == {}
