"""Multiple-gradient descent: the common descent direction that is the shortest vector of the gradients' convex hull.

Shape legend: D domains.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from igascale.hooks._options import one_of
from igascale.hooks.base import HookContext, WeightedHook
from igascale.linalg.min_norm import min_norm_weights

Normalize = Literal["none", "l2", "loss", "loss+"]


class Pareto(WeightedHook):
    r"""MGDA: the point of smallest norm in the convex hull of the domain gradients ("Pareto-GS").

    .. math:: g = \sum_n w_n g_n, \qquad w = \arg\min_{w \in \Delta} \Bigl\|\sum_n w_n g_n / c_n\Bigr\|^2

    with c = 1 unless normalised. Then ``g . g_n >= |g|^2`` for every domain: no loss rises to first order, and g = 0 only
    where no direction lowers all of them. Solved exactly, from the Gramian over all adapters
    (:mod:`igascale.linalg.min_norm`).

    References: `Multi-Task Learning as Multi-Objective Optimization <https://arxiv.org/abs/1810.04650>`_, Eq. 4 (its
    Algorithm 2 is a Frank-Wolfe solver for this); Desideri, "Multiple-gradient descent algorithm (MGDA) for
    multiobjective optimization", 2012.

    Differs from the paper: no Frank-Wolfe, which stops short of the minimum; with two domains the weights are not kept
    within .001 and .999 as in the authors' code; all trained parameters count as shared (no "upper bound" on a
    representation). ``normalize`` is in the authors' code only. As there, what is normalised chooses the weights, and the
    weights apply to the gradients as they are: g is then not the shortest vector, and may raise a loss.

    Args:
        normalize: what each gradient is divided by while the weights are chosen: ``none``; ``l2``, its norm; ``loss``, its
            domain's loss in this step; ``loss+``, both. Where that is 0 the gradient is left as it is.

    Raises:
        ValueError: for a value that is not allowed, naming the option.

    Example:
        >>> gram = torch.tensor([[1.0, 0.0], [0.0, 3.0]]).double()  # orthogonal, squared norms 1 and 3
        >>> Pareto().weights(gram, HookContext())
        tensor([0.7500, 0.2500], dtype=torch.float64)
    """

    min_domains: int = 2

    def __init__(self, *, normalize: Normalize = "none") -> None:
        self.normalize: Normalize = one_of("normalize", normalize, Normalize)

    def weights(self, gram: Tensor, ctx: HookContext) -> Tensor:
        """See the class."""
        c_D = self._divisors(gram, ctx)
        return min_norm_weights(gram / c_D / c_D[:, None])

    def _divisors(self, gram_DD: Tensor, ctx: HookContext) -> Tensor:
        c_D = torch.ones(len(gram_DD), dtype=torch.float64)
        if self.normalize in ("l2", "loss+"):
            c_D = c_D * gram_DD.diagonal().clamp_min(0.0).sqrt()
        if self.normalize in ("loss", "loss+"):
            if ctx.losses is None:
                raise ValueError(f"pareto with normalize={self.normalize!r} needs the losses: HookContext(losses=...)")
            c_D = c_D * ctx.losses.double()
        return torch.where(c_D > 0, c_D, 1.0)
