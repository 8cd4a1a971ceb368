r"""How much of the difference between domains is sampling noise, estimated from the micro-batches of one step.

Domain n's gradient x_n is the weighted mean of its micro-batch gradients x_nm (weights w_nm: the tokens, or instances, that
micro-batch m holds of it; W_n their sum). With the errors of a micro-batch as variable as ``1 / w_nm``, as for sums of
independent terms, the covariance of two domains' errors is estimated without bias by

.. math::
    C_{nk} = \frac{1}{M - 1} \sum_m \frac{\sqrt{w_{nm} w_{km}}}{\sqrt{W_n W_k}} \langle x_{nm} - x_n, x_{km} - x_k \rangle
    \approx \frac{1}{M - 1} \Big( \frac{\sum_m \sqrt{w_{nm} w_{km}}\, \langle x_{nm}, x_{km} \rangle}{\sqrt{W_n W_k}}
    - \frac{\sum_m \sqrt{w_{nm} w_{km}}}{\sqrt{W_n W_k}} \langle x_n, x_k \rangle \Big)

(exactly equal where the domains' shares of every micro-batch are the same, and for n = k always). So only D x D inner
products must be kept of a micro-batch, and for the reconstruction ``b A + B a`` they come from R x R products. The noise in the
variance over domains is :math:`\operatorname{tr} C / D - \mathbf 1^\top C \mathbf 1 / D^2`.

The covariances between domains matter: the instances of an isomer group share their problem, so their errors are alike and
cancel in the variance. So what counts as one micro-batch here holds whole groups: where forward passes cut a group, the gradients
of the passes are added up until it is complete. Ranks count as micro-batches too.

Shape legend: D domains, R LoRA rank, I in-features, O out-features, N adapters.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from igascale.adapters import LoraAdapter
from igascale.linalg.gram import adapter_grams, reconstruction_grams


@dataclass
class MicroBatchGrams:
    r"""Sums over this rank's micro-batches of :math:`\sqrt{w_{nm} w_{km}}\, \langle x_{nm}, x_{km} \rangle`.

    Attributes:
        num_domains: D.
        grams: per adapter ``[2, D, D]``, float64; 0 of the reconstructions, 1 of ``(a, b)`` as one vector.
        overlap: ``[D, D]``, float64, sums of ``sqrt(w_nm w_km)``.
        counts: ``[D, D]``, float64, micro-batches that held something of both domains.
    """

    num_domains: int
    grams: dict[str, Tensor] = field(default_factory=dict)
    overlap: Tensor = field(init=False)
    counts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.overlap, self.counts = torch.zeros(2, self.num_domains, self.num_domains, dtype=torch.float64)
        self._weight_D = torch.zeros(self.num_domains, dtype=torch.float64)
        self._complete = True
        self._scales: dict[torch.device, Tensor] = {}
        self._waiting: dict[str, Tensor] = {}
        self._cut: dict[str, tuple[Tensor, Tensor]] = {}
        self._seen: set[str] = set()

    def begin(self, weight_D: Tensor, complete: bool = True) -> None:
        """A forward pass begins.

        Args:
            weight_D: what it holds of each domain.
            complete: whether it ends with a whole group; if not, the next one belongs to the same micro-batch.
        """
        before_D = torch.zeros_like(self._weight_D) if self._complete else self._weight_D
        self._weight_D, self._complete = before_D + weight_D.double().cpu(), complete
        self._waiting.clear()
        self._seen.clear()
        if not complete:
            return
        root_D = self._weight_D.sqrt()
        self.overlap += torch.outer(root_D, root_D)
        self.counts += torch.outer(root_D, root_D) > 0
        scale_D = torch.where(root_D > 0, 1 / torch.where(root_D > 0, root_D, 1.0), 0.0)
        self._scales = {torch.device("cpu"): torch.outer(scale_D, scale_D)}

    def add(self, fqn: str, factor: str, sum_DXX: Tensor, adapter: LoraAdapter) -> None:
        """Take in one factor's sums over the micro-batch; B's come before A's, as the backward pass runs."""
        if factor == "b" and adapter.A.requires_grad:
            self._waiting[fqn] = sum_DXX
            return
        b_DOR = sum_DXX if factor == "b" else self._waiting.pop(fqn)
        a_DRI = sum_DXX if factor == "a" else sum_DXX.new_zeros(self.num_domains, 1, 1)
        if fqn in self._seen:  # a module that ran twice: the parts of its gradient cannot be told from two passes
            a_DRI, b_DOR = a_DRI * torch.nan, b_DOR * torch.nan
        self._seen.add(fqn)
        if fqn in self._cut:
            a_DRI, b_DOR = (new + old for new, old in zip((a_DRI, b_DOR), self._cut.pop(fqn)))
        if not self._complete:
            self._cut[fqn] = a_DRI, b_DOR
            return
        gram = mean_grams(a_DRI, b_DOR, adapter) * self._scale_on(sum_DXX.device)
        self.grams[fqn] = self.grams[fqn] + gram if fqn in self.grams else gram

    def _scale_on(self, device: torch.device) -> Tensor:
        if device not in self._scales:
            self._scales[device] = self._scales[torch.device("cpu")].to(device)
        return self._scales[device]


def mean_grams(a_DRI: Tensor, b_DOR: Tensor, adapter: LoraAdapter) -> Tensor:
    """:func:`igascale.linalg.gram.reconstruction_grams` with an adapter's factors; ``a`` is not read where A is frozen."""
    if not adapter.A.requires_grad:  # the identity (lora.full_rank): both are the change of W itself
        return adapter_grams([(b_DOR,)], len(b_DOR)).expand(2, -1, -1).to(b_DOR.device)
    return reconstruction_grams(a_DRI, b_DOR, adapter.A.detach().float(), adapter.B.detach().float())


def sampling_noise(
    grams_N2DD: Tensor, overlap_DD: Tensor, counts_DD: Tensor, total_D: Tensor, mean_grams_N2DD: Tensor
) -> Tensor:
    """The estimated covariances of the domains' sampling errors; see the module.

    Args:
        grams_N2DD: sums of :class:`MicroBatchGrams` over ranks.
        overlap_DD: the same of its overlap.
        counts_DD: the same of its counts.
        total_D: W.
        mean_grams_N2DD: inner products of the domains' mean gradients.

    Returns:
        ``[N, 2, D, D]``, float64. NaN on the diagonal of a domain with fewer than two micro-batches; 0 between two domains
        that met in fewer than two.
    """
    root_DD = torch.outer(total_D, total_D).sqrt()
    free_DD = torch.where(counts_DD > 1, counts_DD - 1, torch.nan)
    covariance = (grams_N2DD - overlap_DD * mean_grams_N2DD) / root_DD / free_DD
    diagonal = torch.eye(len(total_D), dtype=torch.bool)
    return torch.where(diagonal, covariance.clamp_min(0), torch.where(counts_DD > 1, covariance, 0.0))
