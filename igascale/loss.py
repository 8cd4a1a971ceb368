"""The training loss, kept apart by domain.

Shape legend: B rows, T positions, V vocabulary, N supervised tokens of the batch, D domains.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORED = -100


def supervised_logits(logits_BTV: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The logits that predict a supervised token.

    The logits at position t predict the label at t+1; the first label of a row has no logits and is never
    supervised.

    Args:
        logits_BTV: the model's output.
        labels_BT: token ids, -100 where there is nothing to learn.

    Returns:
        ``logits [N, V]`` in the dtype given, ``labels [N]``, ``row [N]`` (which row each came from), in
        reading order.
    """
    labels_BS = labels_BT[:, 1:]
    row_N, position_N = (labels_BS != IGNORED).nonzero(as_tuple=True)
    return logits_BTV[row_N, position_N], labels_BS[row_N, position_N], row_N


def supervised_domains(domain: Tensor, labels_BT: Tensor) -> Tensor:
    """``[N]``, the domain of each supervised token.

    Args:
        domain: ``[B]``, of each row, or ``[B, T]``, of each token.
        labels_BT: token ids, -100 where there is nothing to learn.
    """
    domain_BT = domain[:, None].expand_as(labels_BT) if domain.ndim == 1 else domain
    return domain_BT[:, 1:][labels_BT[:, 1:] != IGNORED]


def domain_token_losses(
    logits_BTV: Tensor, labels_BT: Tensor, weights_BT: Tensor, domain: Tensor, num_domains: int
) -> Tensor:
    r"""Weighted sum of next-token cross-entropies, per domain.

    .. math:: \ell_n = \sum_{b \in n} \sum_t w_{bt} \, (-\log p(y_{bt} \mid y_{b,<t}))

    A sum, not a mean: what is divided by is known only for the whole optimizer step
    (:func:`igascale.isomers.batches.domain_denominators`).

    Args:
        logits_BTV: the model's output, any floating dtype.
        labels_BT: token ids, -100 where there is nothing to learn.
        weights_BT: the weight of the label at each position (:class:`igascale.isomers.batches.Batch`).
        domain: ``[B]``, of each row, or ``[B, T]``, of each token; tokens of no domain (-1) count in none.
        num_domains: D.

    Returns:
        ``[D]``, float32, differentiable; its ``sum()`` is what is backpropagated.
    """
    logits_NV, labels_N, _ = supervised_logits(logits_BTV, labels_BT)
    domain_N = supervised_domains(domain, labels_BT)
    weights_N = weights_BT[:, 1:][labels_BT[:, 1:] != IGNORED]
    loss_N = F.cross_entropy(logits_NV.float(), labels_N, reduction="none") * weights_N.float()
    domains_D1 = torch.arange(num_domains, device=domain_N.device).unsqueeze(1)
    # where, not a product: a NaN stays in its own domain. Not index_add: its order varies on a GPU.
    return torch.where(domain_N == domains_D1, loss_N, 0.0).sum(1)
