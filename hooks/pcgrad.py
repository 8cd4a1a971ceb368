"""Gradient surgery: what one domain's gradient takes from another's progress is projected out, pair by pair.

Shape legend: D domains.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from igascale.hooks._options import one_of
from igascale.hooks.base import HookContext, WeightedHook

Reduction = Literal["mean", "sum"]


class PCGrad(WeightedHook):
    r"""PCGrad: each domain's gradient is projected onto the normal plane of every gradient it conflicts with.

    .. math::
        v_n := g_n; \quad \text{for } m \ne n \text{ in random order} \quad
        v_n := v_n - \min(0,\, v_n \cdot g_m) \frac{g_m}{\|g_m\|^2}; \qquad
        g = \frac1D \sum_n v_n

    g_m is always the original gradient. The projections act on coefficients (``v_n = sum_k c_k g_k``), so that the
    Gramian over all adapters is all they need: conflict is judged on the whole gradient, never tensor by tensor.

    Reference: `Gradient Surgery for Multi-Task Learning <https://arxiv.org/abs/2001.06782>`_, Algorithm 1.

    Differs from the paper: the mean of the v_n rather than their sum, unless ``reduction: sum``. The order is drawn
    per domain, as in Algorithm 1, from the run's seed, the step and the domains' names: the same on every rank, and the
    result does not depend on the order in which the domains are listed. (The authors' code shuffles in vain and keeps one
    order.) The comparison in Invariant Gradient Alignment (arXiv 2606.05025) describes PCGrad as projecting "onto the
    normal plane of the average gradient"; the method projects pairwise, and so does this.

    Args:
        reduction: ``sum``, as in the paper, the authors' TensorFlow code, LibMTL and TorchJD: without a conflict D times the
            mean gradient. ``mean``, as in a widely used port to PyTorch: without a conflict exactly the ``mean`` hook, so
            that its learning rate and clipping carry over.

    Raises:
        ValueError: for a value that is not allowed, naming the option.

    Example:
        >>> gram = torch.tensor([[1.0, -1.0], [-1.0, 2.0]]).double()  # of (1, 0) and (-1, 1)
        >>> PCGrad(reduction="sum").weights(gram, HookContext(domains=("law", "maths")))
        tensor([2.0000, 1.5000], dtype=torch.float64)
    """

    min_domains: int = 2

    def __init__(self, *, reduction: Reduction = "mean") -> None:
        self.reduction: Reduction = one_of("reduction", reduction, Reduction)

    def weights(self, gram: Tensor, ctx: HookContext) -> Tensor:
        """See the class."""
        D = len(gram)
        c_DD = torch.eye(D, dtype=torch.float64)
        by_name = sorted(range(D), key=lambda n: ctx.domains[n])
        generator = ctx.generator("pcgrad")
        for n in by_name:
            for m in (by_name[k] for k in torch.randperm(D, generator=generator).tolist()):
                conflict = gram[m] @ c_DD[n]
                if m != n and conflict < 0 < gram[m, m]:
                    c_DD[n, m] -= conflict / gram[m, m]
        return c_DD.sum(0) / (D if self.reduction == "mean" else 1)
