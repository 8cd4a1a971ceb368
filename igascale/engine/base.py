"""What every engine does: spread the adapters over the ranks, reduce, hand over, step.

What one optimizer step communicates, with W ranks, N adapters, P LoRA parameters, D domains and a hook of S statistics:

* ``D P`` float32 numbers reduced, each to the rank that owns its adapter, in a number of buckets that is fixed
  (``engine.reduce_bucket_mb``; :mod:`igascale.engine.buckets`); as much again for a hook with an auxiliary statistic. They are
  sent beside the backward pass of the last micro-batch (``engine.overlap_reduce``), in one order on all ranks.
* one all-reduce of ``2 D`` float64 numbers (losses, denominators; ``3 D`` with an auxiliary statistic), of the counts that
  the caller adds (the trainer: tokens, whether to stop, to save, whether a save failed, and each rank's memory), and, for a hook that asks for noise, of ``2 D^2 (N + 1)`` more;
* one all-reduce of one number: whether every gradient is finite;
* what the hook asks for through ``sum_over_shards``;
* one all-gather, of every owner's share: ``P`` float32 numbers (``2 P`` with a reference gradient) and ``D^2 + 3 + S``
  float64 figures per adapter (inner products between domains, squared norms, statistics; where a step is recorded and the hook masks, 21 more for the
  histogram). It is padded to the longest share.

What DeepSpeed adds is its own all-gather of the updated parameters and an all-reduce of one number (whether to step); it reduces
no gradient, since there is none left at the end of :meth:`Engine.accumulate`. In one process nothing is communicated and nothing is copied. ``tests/distributed/test_communication.py``
counts all of this, operation by operation.

Sums and gathers are here, for every engine; how parameters lie in memory, and who steps them, is the engine's own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from igascale.adapters import LoraAdapter
from igascale.engine.buckets import Bucket, FactorShapes, GradientBuckets, plan_buckets
from igascale.engine.collectives import Collectives
from igascale.engine.owners import assign_owners, load_shares
from igascale.engine.results import pack, share_lengths, unpack
from igascale.errors import UserError
from igascale.hooks.base import AdapterFactors, DomainFactorGrads, FactorGrads


@dataclass
class MasterState:
    """The optimizer's whole state, independent of engine and number of ranks.

    Attributes:
        steps: optimizer steps taken.
        tensors: ``{adapter}.{lora_A|lora_B}.{master|exp_avg|exp_avg_sq}`` -> float32 tensor with the shape of the factor.
    """

    steps: int
    tensors: dict[str, Tensor]


class Engine(ABC):
    """Trains the LoRA factors of a model with gradients that come from outside.

    Args:
        model: the PEFT model.
        adapters: its adapters, the same keys in the same order on every rank.
        device: where the model lives.

    Attributes:
        comm: the collective operations, and the count of what they communicated.
        owners: adapter -> the rank that combines it.
        owned: the adapters of this rank.
        load_share: each rank's predicted work in the hook, relative to the mean.
    """

    def __init__(self, model: nn.Module, adapters: Mapping[str, LoraAdapter], device: torch.device):
        self.model = model
        self.adapters = dict(adapters)
        self.device = device
        self.comm = Collectives(device)
        self.shapes: dict[str, FactorShapes] = {fqn: (a.A.shape, a.B.shape) for fqn, a in self.adapters.items()}
        self._plans: dict[tuple[int, float], list[Bucket]] = {}
        self.distribute({fqn: float(a.out_features * a.in_features) for fqn, a in self.adapters.items()})

    # What the engines do differently.

    @abstractmethod
    def forward(self, **inputs: Tensor) -> Any:
        """The model's output for one micro-batch."""

    @abstractmethod
    def accumulate(self) -> AbstractContextManager[None]:
        """The block that holds every forward and backward pass of one optimizer step."""

    @abstractmethod
    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """Back-propagate, unscaled; the ordinary gradients are dropped at the end of :meth:`accumulate`."""

    @abstractmethod
    def apply(self, grads: Mapping[str, FactorGrads]) -> None:
        """Hand the gradients of all adapters (and the references, where the optimizer keeps them) to the optimizer."""

    @abstractmethod
    def step(self, lr: float) -> None:
        """Take the optimizer step with what :meth:`apply` handed over."""

    @abstractmethod
    def get_state(self) -> MasterState:
        """The optimizer's whole state, on the CPU. Collective: call it on every rank."""

    @abstractmethod
    def set_state(self, state: MasterState) -> None:
        """Restore :meth:`get_state`'s result on every rank, also from another engine or number of ranks."""

    def close(self) -> None:
        """End cleanly after success. After a failure leave it: waiting for ranks that are gone can hang."""
        return

    # What they do alike.

    def factors(self, fqns: list[str]) -> dict[str, AdapterFactors]:
        """The factors as the forward pass uses them, float32 copies."""
        return {
            fqn: AdapterFactors(
                self.adapters[fqn].A.detach().float(),
                self.adapters[fqn].B.detach().float(),
                self.adapters[fqn].scaling,
            )
            for fqn in fqns
        }

    def distribute(self, costs: Mapping[str, float]) -> None:
        """Decide which rank combines which adapters; before the first step, and alike on every rank.

        Args:
            costs: adapter -> relative work of combining it.
        """
        costs = {fqn: costs[fqn] for fqn in self.adapters}
        for fqn, cost in costs.items():
            if not 0 < cost < math.inf:
                raise UserError(f"the hook's cost of {fqn} must be a number > 0, not {cost!r}")
        self.owners = assign_owners(costs, self.comm.world_size)
        self.owned = [fqn for fqn, rank in self.owners.items() if rank == self.comm.rank]
        self.load_share = load_shares(costs, self.owners, self.comm.world_size)
        self._plans.clear()

    def plan(self, num_domains: int, bucket_mb: float = 32) -> list[Bucket]:
        """The buckets of a step; see :func:`igascale.engine.buckets.plan_buckets`."""
        key = num_domains, bucket_mb
        if key not in self._plans:
            self._plans[key] = plan_buckets(self.shapes, self.owners, num_domains, bucket_mb)
        return self._plans[key]

    def new_sums(self, num_domains: int, bucket_mb: float = 32) -> GradientBuckets:
        """Accumulators for one set of per-domain gradients of one step, for :meth:`GradientCapture.reset`."""
        return GradientBuckets(self.plan(num_domains, bucket_mb), self.shapes, num_domains, self.comm)

    def describe(self, num_domains: int, bucket_mb: float, uses_reference: bool) -> str:
        """The distribution in one line: adapters, balance, bytes per step."""
        ranks = self.comm.world_size
        held = sorted(list(self.owners.values()).count(rank) for rank in range(ranks))
        each = f"{held[0]} each" if held[0] == held[-1] else f"{held[0]} to {held[-1]} each"
        plan = self.plan(num_domains, bucket_mb)
        reduced, copies = 4 * sum(bucket.numel for bucket in plan), 2 if uses_reference else 1
        return (
            f"{len(self.adapters)} adapters over {ranks} ranks: {each}, heaviest rank {max(self.load_share):.2f}x the mean; "
            f"a step reduces {_size(reduced)} in {len(plan)} buckets and gathers {_size(reduced / num_domains * copies)}"
        )

    def reduce(self, sums: Mapping[str, DomainFactorGrads], denominator_D: Tensor) -> dict[str, DomainFactorGrads]:
        """Per-domain means over all ranks, of the adapters that this rank owns.

        Args:
            sums: this rank's sums over its rows, from :meth:`new_sums` (in one process any mapping will do); consumed.
            denominator_D: ``[D]``, what the sums over all ranks are divided by.
        """
        if isinstance(sums, GradientBuckets):
            owned = sums.receive()
        elif self.comm.world_size == 1:
            owned = dict(sums)
        else:
            raise TypeError("with several ranks gradients must be captured in engine.new_sums(num_domains)")
        inverse_D11 = (1.0 / denominator_D).float().to(self.device)[:, None, None]
        for grad in owned.values():
            grad.a.mul_(inverse_D11)
            grad.b.mul_(inverse_D11)
        return owned

    def gather(
        self, owned: Mapping[str, FactorGrads], figures_NK: Tensor, uses_reference: bool
    ) -> tuple[dict[str, FactorGrads], Tensor]:
        """Every adapter's result on every rank, each sent once by its owner.

        Args:
            owned: the results for the adapters that this rank owns.
            figures_NK: ``[N, K]``, float64: figures of those adapters.
            uses_reference: whether references go along.

        Returns:
            The results of all adapters (views of one tensor; without ``stats``), and the figures of all, on the CPU.
        """
        if self.comm.world_size == 1:
            return dict(owned), figures_NK.cpu()
        K, copies = figures_NK.shape[1], 2 if uses_reference else 1
        length = max(share_lengths(self.shapes, self.owners, self.comm.world_size, K, copies))
        shares_WL = self.comm.gather(pack(owned, figures_NK, length, copies, self.device))
        return unpack(shares_WL, self.shapes, self.owners, K, copies)


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:.0f} MB" if num_bytes >= 10e6 else f"{num_bytes / 1e6:.2g} MB"


def factor_parameters(adapters: Mapping[str, LoraAdapter]) -> dict[str, nn.Parameter]:
    """Every trained parameter by ``{adapter}.lora_A`` or ``.lora_B``, in a fixed order; a frozen factor is not there."""
    return {
        name: p
        for fqn, adapter in adapters.items()
        for name, p in ((f"{fqn}.lora_A", adapter.A), (f"{fqn}.lora_B", adapter.B))
        if p.requires_grad
    }


def factor_tensors(
    grads: Mapping[str, FactorGrads], parameters: Mapping[str, nn.Parameter], reference: bool = False
) -> dict[str, Tensor]:
    """The gradients (or the references) under the names of :func:`factor_parameters`.

    Raises:
        UserError: there is a gradient for a factor that is frozen, which would be dropped in silence.
    """
    out: dict[str, Tensor] = {}
    for fqn, grad in grads.items():
        a, b = (grad.reference_a, grad.reference_b) if reference else (grad.a, grad.b)
        if a is None or b is None:
            raise ValueError(f"the hook returned no reference gradient for {fqn}, though it says uses_reference")
        for name, tensor in ((f"{fqn}.lora_A", a), (f"{fqn}.lora_B", b)):
            if name in parameters:
                out[name] = tensor
            elif bool(tensor.any()):
                raise UserError(
                    f"the hook returned a gradient for {name}, which is frozen; with lora.full_rank use a rule that treats "
                    "A and B apart (for iga: hook.space=factor)"
                )
    return out
