"""Where the domains lie among a micro-batch's tokens, and the products of each domain's tokens.

Read row by row, a micro-batch is a sequence of runs of tokens of one domain. Where rows are sorted by domain and each domain
has as many of them (the trainer sees to both), the D runs are of one length: a factor's D gradients are one batched matrix
product, of views, added to the accumulators by the product itself.

Shape legend: B rows of the micro-batch, T positions, L tokens of a run, K runs, D domains, F in-features, O out-features of
one linear layer.
"""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor

#: The domain of tokens that belong to none; they are left out.
NO_DOMAIN = -1


class DomainRuns:
    """The runs of one micro-batch.

    Args:
        domain: ``[B]``, the domain of each row; or ``[B, T]``, of each token, -1 for none. Integers. On a GPU this waits for
            it.
        num_domains: D.

    Attributes:
        shape: ``(B,)`` or ``(B, T)``.
        runs: per run its domain and its length, in rows or tokens.

    Raises:
        ValueError: not integers, neither a vector nor a matrix, or a domain outside ``0 .. D-1``.
    """

    def __init__(self, domain: Tensor, num_domains: int):
        if domain.ndim not in (1, 2) or domain.is_floating_point():
            raise ValueError(
                "domain must be a vector of integers, one for each row, or a matrix of them, one for each token, not "
                f"{list(domain.shape)} {domain.dtype}"
            )
        lowest = NO_DOMAIN if domain.ndim == 2 else 0
        self.shape = tuple(domain.shape)
        self._num_domains = num_domains
        self._domain = domain.detach().flatten().cpu()
        runs = [(d, len(list(members))) for d, members in groupby(self._domain.tolist())]
        for d, _ in runs:
            if not lowest <= d < num_domains:
                raise ValueError(f"domain {d} is not in 0 .. {num_domains - 1}")
        if len(self.shape) == 1 and len(runs) > num_domains and len({length for _, length in runs}) > 1:
            runs = [(d, 1) for d in self._domain.tolist()]  # not sorted: row by row, which are of one length at least
        self.runs = tuple(runs)
        self._equal = len({length for _, length in runs}) == 1 and all(d != NO_DOMAIN for d, _ in runs)
        self._in_order = [d for d, _ in runs] == list(range(num_domains))
        self._one_hots: dict[torch.device, Tensor] = {}

    def weigh(self, weight: Tensor | None) -> Tensor:
        """Sums of the rows' (or tokens') weights per domain, ``[D]``, float64 on the CPU; ``None`` weighs each 1."""
        weight = torch.ones(self.shape) if weight is None else weight.detach()
        if weight.shape != self.shape:
            raise ValueError(f"weight must have the shape of domain, {list(self.shape)}, not {list(weight.shape)}")
        member = self._domain != NO_DOMAIN
        weight_D = torch.zeros(self._num_domains, dtype=torch.float64)
        return weight_D.index_add_(0, self._domain[member].long(), weight.flatten().cpu().double()[member])

    def fits(self, shape: torch.Size) -> bool:
        """Whether a layer's input ``[B, T, F]`` has these rows (and tokens)."""
        return len(shape) == 3 and tuple(shape[: len(self.shape)]) == self.shape

    def add_products(self, sum_DOF: Tensor, grad_BTO: Tensor, x_BTF: Tensor) -> None:
        r"""Add :math:`\sum_{t \in n} g_t^\top x_t` over the tokens of each domain n, multiplied and added up in float32.

        Args:
            sum_DOF: float32, added to.
            grad_BTO: gradient of the layer's output.
            x_BTF: its input, in the same dtype.
        """
        if x_BTF.numel() == 0:
            return
        tokens = x_BTF.shape[0] * x_BTF.shape[1] // len(self._domain)  # of one row, or 1
        if self._equal:
            K, O, F = len(self.runs), grad_BTO.shape[-1], x_BTF.shape[-1]  # noqa: E741
            grad_KLO, x_KLF = grad_BTO.reshape(K, -1, O), x_BTF.reshape(K, -1, F)
            if self._in_order:
                _add_products(sum_DOF, grad_KLO, x_KLF)
            else:
                products_KP = _products(grad_KLO, x_KLF).flatten(1)
                sum_DOF.view(self._num_domains, -1).addmm_(self._one_hot(sum_DOF.device), products_KP)
            return
        grad_LO, x_LF, start = grad_BTO.flatten(0, 1), x_BTF.flatten(0, 1), 0
        for domain, length in self.runs:
            run = slice(start, start + length * tokens)
            start = run.stop
            if domain != NO_DOMAIN:
                _add_products(sum_DOF[domain : domain + 1], grad_LO[None, run], x_LF[None, run])

    def _one_hot(self, device: torch.device) -> Tensor:
        """``[D, K]``, float32, which domain each run is of."""
        if device not in self._one_hots:
            one_hot_DK = torch.zeros(self._num_domains, len(self.runs))
            one_hot_DK[[d for d, _ in self.runs], range(len(self.runs))] = 1.0
            self._one_hots[device] = one_hot_DK.to(device)
        return self._one_hots[device]


def _add_products(sum_KOF: Tensor, grad_KLO: Tensor, x_KLF: Tensor) -> None:
    if grad_KLO.dtype == sum_KOF.dtype:
        sum_KOF.baddbmm_(grad_KLO.transpose(1, 2), x_KLF)
    else:
        sum_KOF.add_(_products(grad_KLO, x_KLF))


def _products(grad_KLO: Tensor, x_KLF: Tensor) -> Tensor:
    """``grad^T x`` of every run, ``[K, O, F]``, float32.

    A GPU multiplies 16-bit numbers and adds the products up in float32. ``bmm`` is the one product with ``out_dtype`` that has
    the same signature in all supported versions of PyTorch; on the CPU there is none.
    """
    grad_KOL = grad_KLO.transpose(1, 2)
    if grad_KLO.is_cuda and grad_KLO.dtype in (torch.bfloat16, torch.float16):
        return torch.bmm(grad_KOL, x_KLF, out_dtype=torch.float32)
    if grad_KLO.dtype != torch.float64:
        grad_KOL, x_KLF = grad_KOL.float(), x_KLF.float()
    return torch.bmm(grad_KOL, x_KLF).float()
