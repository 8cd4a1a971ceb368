"""Mean over domains: empirical risk minimisation (ERM), the baseline every other rule is compared with."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from igascale.hooks.base import AdapterFactors, DomainFactorGrads, FactorGrads, GradientHook, HookContext


class Mean(GradientHook):
    r"""Average of the domain gradients.

    .. math:: g = \frac1D \sum_n g_n

    Reference: `Invariant Gradient Alignment <https://arxiv.org/abs/2606.05025>`_, Eq. 1 (ERM-SFT).

    Example:
        >>> grads = {"q_proj": DomainFactorGrads(torch.tensor([[[1.0]], [[3.0]]]), torch.zeros(2, 1, 1))}
        >>> Mean().combine(grads, {}, HookContext())["q_proj"].a
        tensor([[2.]])
    """

    def combine(
        self,
        grads: Mapping[str, DomainFactorGrads],
        adapters: Mapping[str, AdapterFactors],
        ctx: HookContext,
    ) -> dict[str, FactorGrads]:
        """Average over domains; see the class. (A ``WeightedHook`` would compute a Gramian that it does not need.)"""
        combined = {}
        for fqn, g in grads.items():
            w_D = g.a.new_full((len(g.a),), 1 / len(g.a))
            combined[fqn] = FactorGrads(torch.tensordot(w_D, g.a, 1), torch.tensordot(w_D, g.b, 1))
        return combined
