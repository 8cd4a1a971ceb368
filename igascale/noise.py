r"""How much of the difference between domains is sampling noise, estimated from the micro-batches of one step.

Domain n's gradient x is the weighted mean of its micro-batch gradients x_m (weights w_m: the tokens, or instances, that
micro-batch m holds of it; W their sum). If ``Var x_m = s^2 / w_m``, as for sums of independent terms, then

.. math::
    \hat s^2 = \frac{1}{M - 1} \sum_m w_m \|x_m - x\|^2, \qquad
    \operatorname{Var} x \approx \frac{\hat s^2}{W} = \frac{1}{M - 1} \Big( \frac1W \sum_m w_m \|x_m\|^2 - \|x\|^2 \Big)

so only squared norms must be kept of each micro-batch, and for the reconstruction ``b A + B a`` they are traces of R x R
Grams. The noise in the variance over domains is then :math:`\frac{D-1}{D} \cdot` the mean over domains.

It takes the domains' errors as independent. The instances of an isomer group share their problem, so their errors are
positively correlated and part of the noise cancels in the variance: the estimate errs on the high side. Ranks count as
micro-batches too.

Shape legend: D domains, R LoRA rank, I in-features, O out-features, N adapters.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from igascale.adapters import LoraAdapter


@dataclass
class MicroBatchSquares:
    r"""Sums over this rank's micro-batches of :math:`w_m \|x_m\|^2`.

    Attributes:
        num_domains: D.
        squares: per adapter ``[2, D]``, float64; row 0 of the reconstruction, row 1 of ``(a, b)`` as one vector.
        counts: ``[D]``, float64, micro-batches that held something of each domain.
    """

    num_domains: int
    squares: dict[str, Tensor] = field(default_factory=dict)
    counts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.counts = torch.zeros(self.num_domains, dtype=torch.float64)
        self._inverse_D = torch.zeros(self.num_domains, dtype=torch.float64)
        self._waiting: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        self._seen: set[str] = set()
        self._factor_grams: dict[str, tuple[Tensor, Tensor]] = {}

    def begin(self, weight_D: Tensor) -> None:
        """A micro-batch begins; ``weight_D`` is what it holds of each domain."""
        weight_D = weight_D.double().cpu()
        self.counts += weight_D > 0
        self._inverse_D = torch.where(weight_D > 0, 1 / torch.where(weight_D > 0, weight_D, 1.0), 0.0)
        self._waiting.clear()
        self._seen.clear()

    def add(self, fqn: str, factor: str, sum_DXX: Tensor, adapter: LoraAdapter) -> None:
        """Take in one factor's sums over the micro-batch; B's come before A's, as the backward pass runs."""
        if fqn not in self._factor_grams:  # the factors do not change within a step
            A, B = adapter.A.detach().float(), adapter.B.detach().float()
            self._factor_grams[fqn] = (A @ A.T, B.T @ B)
        AAt_RR, BtB_RR = self._factor_grams[fqn]
        if factor == "b":
            hat_D = (torch.matmul(sum_DXX.mT, sum_DXX) * AAt_RR).sum((1, 2))
            Btb_DRR = torch.matmul(adapter.B.detach().float().T, sum_DXX)
            self._waiting[fqn] = (hat_D, sum_DXX.square().sum((1, 2)), Btb_DRR)
            if adapter.A.requires_grad:
                return
            hat_D, plain_D, _ = self._waiting.pop(fqn)
        else:
            hat_b_D, plain_b_D, Btb_DRR = self._waiting.pop(fqn)
            aAt_DRR = torch.matmul(sum_DXX, adapter.A.detach().float().T)
            hat_a_D = (torch.matmul(sum_DXX, sum_DXX.mT) * BtB_RR).sum((1, 2))
            hat_D = hat_b_D + hat_a_D + 2 * (Btb_DRR * aAt_DRR).sum((1, 2))
            plain_D = plain_b_D + sum_DXX.square().sum((1, 2))
        both_2D = torch.stack([hat_D, plain_D]).double() * self._inverse_D.to(hat_D.device)
        if (
            fqn in self._seen
        ):  # a module that ran twice: the parts of its gradient cannot be told from two micro-batches
            both_2D = torch.full_like(both_2D, torch.nan)
        self._seen.add(fqn)
        self.squares[fqn] = self.squares[fqn] + both_2D if fqn in self.squares else both_2D


def sampling_noise(squares_N2D: Tensor, counts_D: Tensor, total_D: Tensor, mean_sq_N2D: Tensor) -> Tensor:
    """The estimated squared sampling error of each domain's gradient; see the module.

    Args:
        squares_N2D: sums of :class:`MicroBatchSquares` over ranks.
        counts_D: micro-batches over ranks.
        total_D: W.
        mean_sq_N2D: squared norms of the domains' mean gradients.

    Returns:
        ``[N, 2, D]``, float64; NaN where there are fewer than two micro-batches.
    """
    free_D = torch.where(counts_D > 1, counts_D - 1, torch.nan)
    return (squares_N2D / total_D - mean_sq_N2D).clamp_min(0) / free_D


def squared_norms(a_DRI: Tensor, b_DOR: Tensor, A_RI: Tensor, B_OR: Tensor) -> Tensor:
    """``||b_n A + B a_n||^2`` by R x R Grams (row 0) and ``||a_n||^2 + ||b_n||^2`` (row 1): ``[2, D]``, float64."""
    hat_D = (torch.matmul(b_DOR.mT, b_DOR) * (A_RI @ A_RI.T)).sum((1, 2))
    hat_D = hat_D + (torch.matmul(a_DRI, a_DRI.mT) * (B_OR.T @ B_OR)).sum((1, 2))
    hat_D = hat_D + 2 * (torch.matmul(B_OR.T, b_DOR) * torch.matmul(a_DRI, A_RI.T)).sum((1, 2))
    return torch.stack([hat_D, a_DRI.square().sum((1, 2)) + b_DOR.square().sum((1, 2))]).double()
