"""Random Jacobians for the tests of rules that look at whole gradients, and their way in and out of a hook."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from igascale.hooks import DomainFactorGrads, GradientHook, HookContext

#: Adapter -> shapes of a and b without the domain dimension.
ADAPTERS = {"q": ((2, 3), (4, 2)), "k": ((1, 5), (3, 1))}
WIDTH = sum(a[0] * a[1] + b[0] * b[1] for a, b in ADAPTERS.values())
NAMES = ("medicine", "law", "science", "art", "maths", "trade", "sports", "music")


@st.composite
def jacobians(draw: st.DrawFn, least: int = 2, most: int = 6, scales: bool = True, full_rank: bool = False) -> Tensor:
    """``[D, WIDTH]`` float64: agreeing or not, dependent or not, rows of one length or not, at scales 1e-12 to 1e12.

    Args:
        draw: Hypothesis's.
        least: fewest domains.
        most: most domains.
        scales: draw the scale; else the Frobenius norm is 1.
        full_rank: independent rows, of much the same length.
    """
    D, kind = draw(st.integers(least, most)), draw(st.sampled_from(["plain", "agree", "oppose", "lengths", "low rank"]))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    J = normal(D, WIDTH)
    if kind == "agree":
        J += normal(WIDTH)
    if kind == "oppose":
        J -= 0.9 * J.mean(0)
    if kind == "lengths" and not full_rank:
        J *= 10 ** normal(D, 1)
    if kind == "low rank" and not full_rank:
        rank = draw(st.integers(1, 3))
        J = normal(D, rank) @ normal(rank, WIDTH)
    J /= J.norm()
    return J * 10.0 ** draw(st.integers(-12, 12)) if scales else J


def as_grads(J: Tensor) -> dict[str, DomainFactorGrads]:
    """Rows of a Jacobian as the domains' gradients of the adapters."""
    parts = iter(J.split([r * c for pair in ADAPTERS.values() for r, c in pair], dim=1))
    return {
        fqn: DomainFactorGrads(next(parts).reshape(len(J), *a), next(parts).reshape(len(J), *b))
        for fqn, (a, b) in ADAPTERS.items()
    }


def combine(hook: GradientHook, J: Tensor, **context: object) -> Tensor:
    """What a hook makes of a Jacobian, ``[WIDTH]``; a ``domains`` of the right length unless given."""
    context = {"domains": NAMES[: len(J)], "seed": 7, "step": 3} | context
    result = hook.combine(as_grads(J), {}, HookContext(**context))
    return torch.cat([t.flatten() for g in result.values() for t in (g.a, g.b)])


def distance(found: Tensor, expected: Tensor, J: Tensor) -> float:
    """Between two combinations, in units of the longest gradient."""
    return float((found - expected).norm() / J.norm(dim=1).max())
