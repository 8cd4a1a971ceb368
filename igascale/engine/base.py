"""What every engine does: spread the adapters over the ranks, reduce, hand over, step.

The communication of one optimizer step, with W ranks and P LoRA parameters:

* one all-reduce of a few scalars per domain (losses, denominators), and one of ``D^2 + 2 D`` numbers per adapter (inner
  products between domains; squared norms where the hook asks for noise);
* W reductions, one per owner, of D x P numbers in all: each rank's adapters, flat in one buffer;
* what the hook asks for through ``sum_over_shards``, and one all-reduce of two scalars for the norms;
* W broadcasts of P numbers in all (2 P where the hook returns a reference gradient), and the statistics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from igascale.adapters import LoraAdapter
from igascale.engine.collectives import Collectives
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


def assign_owners(adapters: Mapping[str, LoraAdapter], world_size: int) -> dict[str, int]:
    """Spread adapters over ranks: the most expensive first, each to the rank with the least work so far.

    The cost of an adapter is that of its reconstruction, ``O * I``. Deterministic, so that every rank agrees without
    talking.
    """
    load = [0] * world_size
    owner = {}
    for fqn in sorted(adapters, key=lambda k: (-adapters[k].out_features * adapters[k].in_features, k)):
        owner[fqn] = min(range(world_size), key=lambda r: (load[r], r))
        load[owner[fqn]] += adapters[fqn].out_features * adapters[fqn].in_features
    return {fqn: owner[fqn] for fqn in adapters}


class Engine(ABC):
    """Trains the LoRA factors of a model with gradients that come from outside.

    Args:
        model: the PEFT model.
        adapters: its adapters, the same keys in the same order on every rank.
        device: where the model lives.
    """

    def __init__(self, model: nn.Module, adapters: Mapping[str, LoraAdapter], device: torch.device):
        self.model = model
        self.adapters = dict(adapters)
        self.device = device
        self.comm = Collectives(device)
        self.owners = assign_owners(self.adapters, self.comm.world_size)
        self.owned = [fqn for fqn, rank in self.owners.items() if rank == self.comm.rank]

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

    def reduce(self, sums: Mapping[str, DomainFactorGrads], denominator_D: Tensor) -> dict[str, DomainFactorGrads]:
        """Per-domain means over all ranks, of the adapters that this rank owns.

        Args:
            sums: each adapter's sums over this rank's rows, ``a [D, R, I]`` and ``b [D, O, R]``; consumed.
            denominator_D: ``[D]``, what the sums over all ranks are divided by.
        """
        owned: dict[str, DomainFactorGrads] = {}
        inverse_D11 = (1.0 / denominator_D).float().to(self.device)[:, None, None]
        for rank in range(self.comm.world_size):
            fqns = [fqn for fqn, owner in self.owners.items() if owner == rank]
            parts = [t for fqn in fqns for t in (sums[fqn].a, sums[fqn].b)]
            if not parts:
                continue
            if self.comm.world_size > 1:
                flat = self.comm.sum_to(torch.cat([t.flatten() for t in parts]), rank)
                if rank != self.comm.rank:
                    continue
                parts = [piece.view_as(t) for piece, t in zip(flat.split([t.numel() for t in parts]), parts)]
            for i, fqn in enumerate(fqns):
                owned[fqn] = DomainFactorGrads(parts[2 * i] * inverse_D11, parts[2 * i + 1] * inverse_D11)
        return owned

    def gather(
        self, owned: Mapping[str, FactorGrads], uses_reference: bool, statistics: tuple[str, ...]
    ) -> dict[str, FactorGrads]:
        """Every adapter's result on every rank, each sent once by its owner."""
        if self.comm.world_size == 1:
            return dict(owned)
        result: dict[str, FactorGrads] = {}
        copies = 2 if uses_reference else 1
        for rank in range(self.comm.world_size):
            fqns = [fqn for fqn, owner in self.owners.items() if owner == rank]
            shapes = [
                shape
                for fqn in fqns
                for shape in [self.adapters[fqn].A.shape, self.adapters[fqn].B.shape] * copies
                + [torch.Size([len(statistics)])]
            ]
            if not shapes:
                continue
            if rank == self.comm.rank:
                flat = torch.cat([t.flatten() for fqn in fqns for t in _parts(owned[fqn], copies, statistics)])
            else:
                flat = torch.empty(sum(s.numel() for s in shapes), device=self.device)
            self.comm.broadcast(flat, rank)
            pieces = [p.view(s) for p, s in zip(flat.split([s.numel() for s in shapes]), shapes)]
            each = 2 * copies + 1
            for i, fqn in enumerate(fqns):
                tensors, stats = pieces[i * each : (i + 1) * each - 1], pieces[(i + 1) * each - 1]
                references = tensors[2:] if uses_reference else [None, None]
                figures = dict(zip(statistics, stats.unbind()))
                result[fqn] = FactorGrads(tensors[0], tensors[1], references[0], references[1], figures)
        return {fqn: result[fqn] for fqn in self.adapters}


def _parts(grad: FactorGrads, copies: int, statistics: tuple[str, ...]) -> list[Tensor]:
    tensors = [grad.a, grad.b]
    if copies == 2:
        assert grad.reference_a is not None and grad.reference_b is not None
        tensors += [grad.reference_a, grad.reference_b]
    stats = [torch.as_tensor(grad.stats[name], dtype=torch.float32, device=grad.a.device) for name in statistics]
    return [*tensors, torch.stack(stats) if stats else grad.a.new_zeros(0)]


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
