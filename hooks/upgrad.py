"""Unconflicting projection of gradients, by TorchJD."""

from __future__ import annotations

from igascale.hooks._options import number
from igascale.hooks._torchjd import TorchJDHook, Weighting


class UPGrad(TorchJDHook):
    r"""UPGrad: each domain's gradient is projected onto the cone of directions that no domain is hurt by; their mean.

    .. math::
        g = \frac1D \sum_n \pi(g_n), \qquad
        \pi(x) = \arg\min_y \|y - x\|^2 \ \text{ subject to }\ y \cdot g_m \ge 0 \ \text{ for all } m

    Without a conflict it is the mean. Computed by ``torchjd.aggregation.UPGradWeighting`` of TorchJD 0.18 (MIT) from
    the Gramian over all adapters: an exact solution of D quadratic programs in D variables.

    Reference: `Jacobian Descent for Multi-Objective Optimization <https://arxiv.org/abs/2406.16232>`_, Eq. 3 and
    Proposition 1.

    Differs from the paper: ``reg_eps`` on the Gramian's diagonal, as in TorchJD, which solves the programs for the
    Gramian divided by its trace. TorchJD alone would return the mean, conflict or not, for gradients of a total norm
    below .01 (its ``norm_eps``); this divides by the trace before, so that the rule is the same at every scale and
    ``norm_eps`` has nothing left to decide.

    Args:
        reg_eps: share of the summed squared norms added to each squared norm, > 0. 1e-4 as in TorchJD. A domain whose
            gradient's norm is below 1% of the total is hardly protected; a smaller value protects it at the risk that
            the solver refuses linearly dependent gradients.

    Raises:
        ValueError: for a value that is not allowed, naming the option; TorchJD is missing.

    Example:
        >>> import torch
        >>> from igascale.hooks.base import HookContext
        >>> gram = torch.tensor([[18.0, -22.0], [-22.0, 38.0]]).double()  # of (-4, 1, 1) and (6, 1, 1)
        >>> UPGrad().weights(gram, HookContext())
        tensor([1.1109, 0.7894], dtype=torch.float64)
    """

    def __init__(self, *, reg_eps: float = 1e-4) -> None:
        reg_eps = number("reg_eps", reg_eps, positive=True)

        def build() -> Weighting:
            from torchjd.aggregation import UPGradWeighting
            from torchjd.linalg import QuadprogProjector

            return UPGradWeighting(projector=QuadprogProjector(reg_eps=reg_eps))

        super().__init__(build)
