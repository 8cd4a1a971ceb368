"""Conflict-averse gradient descent, by TorchJD."""

from __future__ import annotations

from igascale.hooks._options import number
from igascale.hooks._torchjd import TorchJDHook, Weighting


class CAGrad(TorchJDHook):
    r"""CAGrad: near the mean gradient, the direction that serves the worst-served domain best.

    .. math::
        g = \arg\max_d \min_n\, g_n \cdot d \quad \text{subject to} \quad \|d - \bar g\| \le c\, \|\bar g\|

    Computed by ``torchjd.aggregation.CAGradWeighting`` of TorchJD 0.18 (MIT) from the Gramian over all adapters; its
    solver (Clarabel) stops at a relative duality gap of about 1e-8, and takes about 5 ms a step.

    Reference: `Conflict-Averse Gradient Descent for Multi-task Learning <https://arxiv.org/abs/2110.14048>`_,
    Algorithm 1.

    Differs from the paper: in nothing; its authors' code divides the result by 1 + c^2, this does not. TorchJD alone would
    return zero, so that nothing is learnt, for gradients of a total norm below .01 (its ``norm_eps``); here the Gramian
    is divided by its trace before, so that the rule is the same at every scale.

    Args:
        c: radius of the ball in units of the mean gradient's norm, >= 0: 0 is the mean; from 1 on the mean
            loss need no longer fall. .5 as in the authors' code.
        norm_eps: where the shortest combination of gradients found is below this share of their total norm, the point
            counts as Pareto-stationary and the update is zero, >= 0. 1e-4 as in TorchJD.

    Raises:
        ValueError: for a value that is not allowed, naming the option; TorchJD is missing.

    Example:
        >>> import torch
        >>> from igascale.hooks.base import HookContext
        >>> gram = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).double()  # no conflict, but room in the ball
        >>> CAGrad(c=0.5).weights(gram, HookContext())
        tensor([0.7500, 0.7500], dtype=torch.float64)
    """

    def __init__(self, *, c: float = 0.5, norm_eps: float = 1e-4) -> None:
        c, norm_eps = number("c", c), number("norm_eps", norm_eps)

        def build() -> Weighting:
            from torchjd.aggregation import CAGradWeighting

            return CAGradWeighting(c=c, norm_eps=norm_eps)

        super().__init__(build)
