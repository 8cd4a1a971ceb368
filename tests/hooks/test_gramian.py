"""PCGrad and MGDA against TorchJD, against the algorithms on whole vectors, by hand, and the classic mistakes."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torchjd.aggregation import MGDA
from torchjd.aggregation import PCGrad as TorchJDPCGrad

from igascale import hooks
from igascale.errors import UserError
from igascale.hooks import HookContext
from igascale.hooks.mean import Mean
from igascale.hooks.pareto import Pareto
from igascale.hooks.pcgrad import PCGrad

from jacobians import ADAPTERS, NAMES, as_grads, combine, distance, jacobians

EXAMPLE = [[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]  # of TorchJD's documentation
THREE = torch.tensor([[1.0, 0.0, 0.0], [-0.9, 0.5, 0.0], [-0.4, -0.9, 0.3]], dtype=torch.float64)  # all in conflict


def weights(hook, J, **context):
    context = {"domains": NAMES[: len(J)], "seed": 7, "step": 3} | context
    return hook.weights(J @ J.T, HookContext(**context))


# PCGrad


def surgery(J, orders):
    """Algorithm 1 of the paper, on vectors: the sum of the projected gradients."""
    total = torch.zeros_like(J[0])
    for i, order in enumerate(orders):
        v = J[i].clone()
        for j in order:
            if j != i and v @ J[j] < 0:
                v = v - (v @ J[j]) / (J[j] @ J[j]) * J[j]
        total = total + v
    return total


def every_surgery(J):
    """Its results over all orders."""
    D = len(J)
    others = [list(itertools.permutations([j for j in range(D) if j != i])) for i in range(D)]
    return [surgery(J, orders) for orders in itertools.product(*others)]


@pytest.mark.parametrize(
    ("J", "expected"),
    [
        ([[1, 0, 0], [0, 1, 0]], [1, 1, 0]),
        ([[1, 1, 0], [2, 0, 5]], [3, 1, 5]),  # no conflict: the sum
        (EXAMPLE, [100 / 171, 650 / 171, 650 / 171]),  # g1 + 22/38 g2, g2 + 22/18 g1
        ([[1, 0, 0], [-2, 0, 0]], [0, 0, 0]),
        ([[0, 0, 0], [1, 2, 3]], [1, 2, 3]),  # a zero gradient: no division by it
        ([[0, 0, 0], [0, 0, 0]], [0, 0, 0]),
    ],
)
def test_pcgrad_by_hand(J, expected):
    J, expected = torch.tensor(J, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(J.T @ weights(PCGrad(reduction="sum"), J), expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(J.T @ weights(PCGrad(), J), expected / 2, rtol=1e-14, atol=1e-14)


def test_pcgrad_where_a_squared_norm_underflows():
    """A float32 gradient of 1e-23 has a square of zero, but not a product of zero with others."""
    gram = torch.tensor([[1.0, -1e-23], [-1e-23, 0.0]], dtype=torch.float64)
    assert PCGrad().weights(gram, HookContext(domains=("law", "maths"))).tolist() == [0.5, 0.5]


@settings(max_examples=200, deadline=None)
@given(jacobians(most=2))
def test_pcgrad_of_two_is_torchjd(J):
    """With two domains there is one order only."""
    expected = TorchJDPCGrad()(J)
    assert distance(combine(PCGrad(reduction="sum"), J), expected, J) <= 1e-10
    assert distance(combine(PCGrad(), J), expected / 2, J) <= 1e-10


@settings(max_examples=200, deadline=None)
@given(jacobians(least=3), st.integers(0, 1000), st.permutations(NAMES))
def test_pcgrad_is_the_algorithm_on_vectors(J, step, names):
    """With the orders that the hook draws: domains by name, one permutation of all after the other."""
    D, names = len(J), tuple(names[: len(J)])
    generator = HookContext(seed=7, step=step).generator("pcgrad")
    by_name = sorted(range(D), key=lambda n: names[n])
    orders = {n: [by_name[k] for k in torch.randperm(D, generator=generator)] for n in by_name}
    expected = surgery(J, [orders[n] for n in range(D)])
    assert distance(combine(PCGrad(reduction="sum"), J, step=step, domains=names), expected, J) <= 1e-8


@settings(max_examples=200, deadline=None)
@given(jacobians(least=3, most=3), st.integers(0, 2**31))
def test_pcgrad_of_three_and_torchjd_are_among_the_results_of_all_orders(J, seed):
    results = torch.stack(every_surgery(J))
    torch.manual_seed(seed)
    theirs, ours = TorchJDPCGrad()(J), combine(PCGrad(reduction="sum"), J, seed=seed)
    for found in (theirs, ours):
        assert min(distance(found, r, J) for r in results) <= 1e-8


def test_pcgrad_draws_every_order_and_only_by_seed_and_step():
    """Eight orders of three domains, not all with a result of their own; the global generator plays no part."""
    distinct = {tuple((1e9 * r).round().tolist()) for r in every_surgery(THREE)}
    drawn = {
        tuple((1e9 * (THREE.T @ weights(PCGrad(reduction="sum"), THREE, step=s))).round().tolist()) for s in range(200)
    }
    assert drawn == distinct
    assert len(distinct) > 2
    before = torch.get_rng_state()
    first = weights(PCGrad(), THREE)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(123)
    assert torch.equal(weights(PCGrad(), THREE), first)


@settings(max_examples=200, deadline=None)
@given(jacobians(least=3), st.permutations(range(6)), st.integers(0, 100))
def test_pcgrad_moves_with_the_domains(J, order, step):
    order = [n for n in order if n < len(J)]
    names = tuple(NAMES[n] for n in order)
    assert distance(combine(PCGrad(), J[order], domains=names, step=step), combine(PCGrad(), J, step=step), J) <= 1e-8


def test_pcgrad_with_a_seed_per_rank_differs_between_ranks():
    """What a hook that drew from each rank's own generator would do."""
    apart = [weights(PCGrad(), THREE, seed=rank) for rank in range(8)]
    assert max(float((w - apart[0]).abs().max()) for w in apart) > 0.1
    assert all(torch.equal(weights(PCGrad(), THREE, seed=0), apart[0]) for _ in range(8))


def test_pcgrad_is_neither_per_tensor_nor_on_the_summed_gradient():
    """The mistakes in circulation: one backward of the summed loss, then "surgery" parameter by parameter."""
    g = torch.Generator().manual_seed(0)
    J = torch.randn(3, sum(torch.Size(s).numel() for pair in ADAPTERS.values() for s in pair), generator=g).double()
    right = combine(PCGrad(reduction="sum"), J)
    tensors = J.split([torch.Size(s).numel() for pair in ADAPTERS.values() for s in pair], dim=1)
    generator = HookContext(seed=7, step=3).generator("pcgrad")
    by_name = sorted(range(3), key=lambda n: NAMES[n])
    orders = {n: [by_name[k] for k in torch.randperm(3, generator=generator)] for n in by_name}
    per_tensor = torch.cat([surgery(t, [orders[n] for n in range(3)]) for t in tensors])
    summed = torch.cat([surgery(t.sum(0, keepdim=True), [[]]) for t in tensors])  # nothing left to be in conflict with
    assert distance(per_tensor, right, J) > 0.1
    assert distance(summed, right, J) > 0.1
    assert distance(summed, J.sum(0), J) == 0


@settings(max_examples=200, deadline=None)
@given(jacobians())
def test_without_a_conflict_pcgrad_and_mean_are_one(J):
    J = J.abs()
    assert distance(combine(PCGrad(), J), combine(Mean(), J), J) <= 1e-15
    assert torch.equal(weights(PCGrad(), J), torch.full((len(J),), 1 / len(J), dtype=torch.float64))


# MGDA


@pytest.mark.parametrize(
    ("J", "expected"),
    [
        ([[1, 0, 0], [0, 2, 0]], [0.8, 0.4, 0]),
        ([[1, 1, 0], [3, 1, 0]], [1, 1, 0]),  # the first is the nearest point itself, not .999 of it
        (EXAMPLE, [0, 1, 1]),
        ([[1, 0, 0], [-3, 0, 0]], [0, 0, 0]),
        ([[0, 0, 0], [1, 2, 3]], [0, 0, 0]),
        ([[2, 1, 0], [2, 1, 0]], [2, 1, 0]),
    ],
)
def test_pareto_by_hand(J, expected):
    J, expected = torch.tensor(J, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(J.T @ weights(Pareto(), J), expected, rtol=1e-14, atol=1e-14)


@settings(max_examples=200, deadline=None)
@given(jacobians(most=2))
def test_pareto_of_two_is_torchjd(J):
    """With two domains the first step of Frank-Wolfe is exact."""
    expected = MGDA(epsilon=1e-12, max_iters=1000)(J)
    assert distance(combine(Pareto(), J), expected, J) <= 1e-8


@settings(max_examples=200, deadline=None)
@given(jacobians(least=3))
def test_pareto_is_at_least_as_short_as_every_other_solver_finds(J):
    """The other solvers stop early, by more than 1e-8 in the weights; but ||u - v*||^2 <= ||u||^2 - ||v*||^2 holds for
    every u of the hull if and only if v* is its shortest vector."""
    J, v = J / J.norm(), combine(Pareto(), J) / J.norm()
    D, K = len(J), (J @ J.T).numpy()
    slsqp = minimize(
        lambda w: w @ K @ w,
        np.full(D, 1 / D),
        jac=lambda w: 2 * K @ w,
        bounds=[(0, 1)] * D,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(D)},
        method="SLSQP",
        options={"ftol": 1e-16, "maxiter": 500},
    )
    candidates = [J.T @ torch.from_numpy(slsqp.x / slsqp.x.sum()), MGDA(epsilon=1e-12, max_iters=300)(J), *J]
    for u in candidates:
        assert float((u - v) @ (u - v)) <= float(u @ u - v @ v) + 1e-14
    assert float(candidates[0] @ candidates[0] - v @ v) <= 1e-7  # and SLSQP is no further off than its own tolerance


def test_torchjd_mgda_at_its_default_epsilon_is_above_the_optimum():
    g = torch.Generator().manual_seed(3)
    J = torch.randn(4, 30, generator=g, dtype=torch.float64) + torch.randn(30, generator=g, dtype=torch.float64)
    default, tight, exact = MGDA()(J), MGDA(epsilon=1e-9, max_iters=100_000)(J), J.T @ weights(Pareto(), J)
    assert default.square().sum() > exact.square().sum() * (1 + 1e-5)
    assert float(exact.square().sum()) <= float(tight.square().sum()) <= float(exact.square().sum()) * (1 + 1e-8)


@settings(max_examples=200, deadline=None)
@given(jacobians())
def test_pareto_lowers_every_loss(J):
    v = combine(Pareto(), J)
    assert float((J @ v - v @ v).min()) >= -1e-12 * float(J.norm(dim=1).max()) ** 2


def shortest(J):
    """The point of the hull nearest to zero, by trying all faces."""
    best = None
    for size in range(1, len(J) + 1):
        for face in itertools.combinations(range(len(J)), size):
            rows = J[list(face)]
            w = torch.zeros(len(J), dtype=torch.float64)
            edges = rows[1:] - rows[0]
            rest = torch.linalg.lstsq(edges.T, -rows[0]).solution if size > 1 else torch.zeros(0)
            w[list(face)] = torch.cat([1 - rest.sum()[None], rest]).double()
            if (w >= -1e-12).all() and (best is None or (J.T @ w).norm() < (J.T @ best).norm()):
                best = w
    return best


@settings(max_examples=200, deadline=None)
@given(jacobians(most=4, full_rank=True), st.sampled_from(["none", "l2", "loss", "loss+"]), st.integers(0, 2**31))
def test_pareto_normalised_weighs_the_raw_gradients(J, normalize, seed):
    """As the authors' code: the weights are those of the normalised gradients' shortest vector, applied to the raw ones."""
    losses = torch.rand(len(J), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    norms = J.norm(dim=1)
    c = {"none": torch.ones(len(J)), "l2": norms, "loss": losses, "loss+": losses * norms}[normalize]
    expected = J.T @ shortest(J / c[:, None])
    assert distance(combine(Pareto(normalize=normalize), J, losses=losses), expected, J) <= 1e-8


def test_pareto_normalised_where_there_is_nothing_to_divide_by():
    J = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    for normalize in ("l2", "loss", "loss+"):
        w = weights(Pareto(normalize=normalize), J, losses=torch.tensor([0.0, 2.0]))
        assert torch.equal(w, torch.tensor([1.0, 0.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="needs the losses"):
        weights(Pareto(normalize="loss"), J)


# Both


@pytest.mark.parametrize("hook", [PCGrad(), PCGrad(reduction="sum"), Pareto(), Pareto(normalize="l2")])
@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_weights_do_not_depend_on_the_scale(hook, factor):
    torch.testing.assert_close(weights(hook, factor * THREE), weights(hook, THREE), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "option", "value", "allowed"),
    [("pcgrad", "reduction", "max", "mean"), ("pareto", "normalize", "L2", "none")],
)
def test_refused_options(name, option, value, allowed):
    with pytest.raises(UserError, match=rf"hook\.{option}.*{allowed}"):
        hooks.build(name, {option: value})
    with pytest.raises(ValueError, match=rf"{option}='{value}': must be one of"):
        hooks.find(name)(**{option: value})


def test_gradients_of_the_summed_adapters_are_what_counts():
    """The Gramian is over all adapters: conflict in one of them only is no conflict."""
    J = torch.zeros(2, sum(torch.Size(s).numel() for pair in ADAPTERS.values() for s in pair), dtype=torch.float64)
    J[0, 0], J[1, 0] = 1.0, -1.0  # opposed in q
    J[:, -1] = 2.0  # of one mind in k
    assert {k: bool(g.a.any()) for k, g in as_grads(J).items()} == {"q": True, "k": False}
    assert distance(combine(PCGrad(), J), J.mean(0), J) == 0
