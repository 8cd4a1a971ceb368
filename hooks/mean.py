"""Mean over domains: empirical risk minimisation (ERM), the baseline every other rule is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from igascale.hooks.base import HookContext, WeightedHook


class Mean(WeightedHook):
    r"""Average of the domain gradients.

    .. math:: w_n = 1 / D

    Reference: `Invariant Gradient Alignment <https://arxiv.org/abs/2606.05025>`_, Eq. 1 (ERM-SFT).

    Example:
        >>> Mean().weights(torch.eye(2), HookContext())
        tensor([0.5000, 0.5000])
    """

    def weights(self, gram: Tensor, ctx: HookContext) -> Tensor:
        """See the class."""
        return torch.full_like(gram[0], 1 / gram.shape[0])
