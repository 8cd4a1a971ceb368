"""The losses of a loop that is not ours: kept apart by domain, and counted when they are back-propagated.

Shape legend: B rows of a micro-batch, T positions, V vocabulary, E entries of a loss, N supervised tokens, D domains.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from igascale.errors import UserError, did_you_mean
from igascale.loss import IGNORED, supervised_domains, supervised_logits


class LossRecord:
    """Sums of losses and weights per domain, over the micro-batches of one optimizer step.

    Args:
        num_domains: D.
        begin: called when the backward pass of a loss begins, with what the loop multiplied the loss by and ``[D]``, the
            weights behind it; returns what the backward pass starts with.

    Attributes:
        loss_D: ``[D]``, weighted sums of losses.
        weight_D: ``[D]``, sums of their weights.
        aux_D: ``[D]``, weighted sums of the hook's auxiliary statistic.
        passes: backward passes that counted.
    """

    def __init__(self, num_domains: int, begin: Callable[[float, Tensor], float]):
        self._num_domains, self._begin = num_domains, begin
        self.reset()

    def reset(self) -> None:
        """Start a new optimizer step."""
        self.loss_D, self.weight_D, self.aux_D = torch.zeros(3, self._num_domains, dtype=torch.float64)
        self.passes = 0

    def scalar(self, losses_D: Tensor, weight_D: Tensor) -> Tensor:
        """What the loop back-propagates; the sums count when it does.

        Args:
            losses_D: weighted sums of losses, with their graph.
            weight_D: sums of the weights.

        Returns:
            0-d: the mean over the domains present of ``losses_D / weight_D``. The gradient that ``losses_D`` gets is 1 for
            every domain, whatever the loop multiplies the result by: what sums are divided by is known at the step only.
        """
        if torch.is_grad_enabled() and not losses_D.requires_grad:
            raise UserError("the loss has no graph: it must come from the model's output, not detached")
        losses, weight = losses_D.detach().double(), weight_D.detach().double()
        present_D = weight > 0
        mean = torch.where(present_D, losses / weight, 0.0).sum() / present_D.sum().clamp(min=1)

        def counted(factor: Tensor) -> float:
            start = self._begin(float(factor), weight)
            self.loss_D += losses.cpu()
            self.weight_D += weight.cpu()
            self.passes += 1
            return start

        return _Scalar.apply(losses_D, mean.float(), counted)

    def auxiliary_scalar(self, values_D: Tensor) -> Tensor:
        """The same for a hook's auxiliary statistic, whose weights are those of the loss; igascale back-propagates it."""
        values = values_D.detach().double()

        def counted(factor: Tensor) -> float:
            self.aux_D += values.cpu()
            return 1.0

        return _Scalar.apply(values_D, values.sum().float(), counted)

    def missing(self, names: tuple[str, ...], sum_over_ranks: Callable[[Tensor], Tensor]) -> str:
        """Which domains had nothing to learn on any rank, in words; an empty string where each had."""
        weight_D = sum_over_ranks(self.weight_D)
        if not bool(weight_D.any()):
            return "no loss of surgery.loss(...) or loss_from(...) was back-propagated since the last step"
        absent = [name for name, weight in zip(names, weight_D.tolist()) if weight == 0]
        if not absent:
            return ""
        return (
            f"nothing of domain {', '.join(absent)} in this step: give every step rows of all domains (a balanced sampler, "
            "more accumulation), or let such steps go by attach(..., on_missing='skip')"
        )


class _Scalar(torch.autograd.Function):
    """Shows one value, and starts the backward pass of the sums behind it with another."""

    @staticmethod
    def forward(ctx: Any, sums_D: Tensor, shown: Tensor, counted: Callable[[Tensor], float]) -> Tensor:
        ctx.counted, ctx.like = counted, (sums_D.shape, sums_D.dtype, sums_D.device)
        return shown.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        shape, dtype, device = ctx.like
        return torch.full(shape, ctx.counted(grad), dtype=dtype, device=device), None, None


def by_domain(values_E: Tensor, domain_E: Tensor, num_domains: int) -> Tensor:
    """Sums of the entries of each domain, ``[D]``."""
    domains_D1 = torch.arange(num_domains, device=domain_E.device).unsqueeze(1)
    # where, not a product: a NaN stays in its own domain. Not index_add: its order varies on a GPU.
    return torch.where(domain_E == domains_D1, values_E, 0.0).sum(1)


def token_weights(labels_BT: Tensor, loss_reduction: str) -> Tensor:
    """What each label's loss counts, ``[B, T]``: 1 by ``token``, its share of the row by ``instance``, 0 for the first."""
    weights_BT = (labels_BT != IGNORED).float()
    weights_BT[:, 0] = 0.0  # nothing predicts it
    if loss_reduction == "instance":
        weights_BT /= weights_BT.sum(1, keepdim=True).clamp(min=1)
    return weights_BT


def auxiliary_sums(
    statistic: Callable[[Tensor, Tensor], Tensor],
    logits_BTV: Tensor,
    labels_BT: Tensor,
    weights_BT: Tensor,
    domain: Tensor,
    num_domains: int,
) -> Tensor:
    """Weighted sums per domain (of rows or tokens) of a hook's auxiliary statistic, ``[D]``, with their graph."""
    logits_NV, labels_N, _ = supervised_logits(logits_BTV, labels_BT)
    values_N = statistic(logits_NV.float(), labels_N) * weights_BT[:, 1:][labels_BT[:, 1:] != IGNORED]
    return by_domain(values_N, supervised_domains(domain, labels_BT), num_domains)


def entry_sums(losses: Tensor, weights: Tensor | None, domain_E: Tensor, num_domains: int) -> tuple[Tensor, Tensor]:
    """Sums per domain of ``[E, ...]`` losses times their weights, and of the weights."""
    if losses.ndim == 0 or len(losses) != len(domain_E):
        raise UserError(
            f"surgery.loss_from: losses {list(losses.shape)} must have {len(domain_E)} entries, one for each domain "
            "given; do not average over them"
        )
    weights = torch.ones_like(losses) if weights is None else weights.detach().to(losses.device)
    if weights.shape != losses.shape:
        raise UserError(f"surgery.loss_from: weights {list(weights.shape)}, but losses {list(losses.shape)}")
    domain_E = domain_E.to(losses.device)
    # A weight of 0 means that the loss is not there, also where it is not a number.
    products = torch.where(weights == 0, 0.0, losses.float() * weights)
    sums_E = (t.reshape(len(domain_E), -1).sum(1) for t in (products, weights.float()))
    losses_D, weight_D = (by_domain(t, domain_E, num_domains) for t in sums_E)
    return losses_D, weight_D


def domain_numbers(domain: Tensor | Sequence[int] | Sequence[str], names: tuple[str, ...]) -> Tensor:
    """``[E]``, int64 on the CPU, from numbers or names.

    Raises:
        UserError: one that is not known.
    """
    entries = domain.tolist() if isinstance(domain, Tensor) else list(domain)
    if isinstance(domain, str) or not isinstance(entries, list) or any(isinstance(e, (list, float)) for e in entries):
        raise UserError(f"domain must be one number or name per row, not {domain!r}")
    numbers = []
    for entry in entries:
        if isinstance(entry, str):
            if entry not in names:
                raise UserError(f"unknown domain '{entry}'{did_you_mean(entry, names)}; there are {', '.join(names)}")
            entry = names.index(entry)
        number = operator.index(entry)
        if not 0 <= number < len(names):
            raise UserError(f"domain {number} is not in 0 .. {len(names) - 1} ({', '.join(names)})")
        numbers.append(number)
    return torch.tensor(numbers, dtype=torch.long)
