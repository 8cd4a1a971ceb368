"""The inputs of one step of the ``iga`` hook, and its result."""

from igascale.hooks.base import AdapterFactors, DomainFactorGrads, HookContext
from igascale.hooks.iga import InvariantGradientAlignment

from dense_oracle import random_adapter

SHAPES = [(18, 14), (14, 18), (8, 40), (18, 14)]


def step_inputs(shapes=tuple(SHAPES), R=4, D=4, **kwargs):
    made = {f"m{k}": random_adapter(*shape, R, D, seed=k, **kwargs) for k, shape in enumerate(shapes)}
    grads = {fqn: DomainFactorGrads(a, b) for fqn, (a, b, _, _) in made.items()}
    return grads, {fqn: AdapterFactors(A, B, 2.0) for fqn, (_, _, A, B) in made.items()}


def context(D=4, **kwargs):
    return HookContext(step=3, domains=tuple("abcdefgh"[:D]), seed=7, **kwargs)


def combine(grads, adapters, **options):
    return InvariantGradientAlignment(**options).combine(grads, adapters, context())


def assert_same(left, right, rtol):
    assert left.keys() == right.keys()
    for fqn in left:
        for name in ("a", "b"):
            x, y = getattr(left[fqn], name), getattr(right[fqn], name)
            assert (x - y).norm() <= rtol * y.norm(), (fqn, name, (x - y).norm() / y.norm())
