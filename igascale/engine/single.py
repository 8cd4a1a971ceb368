"""One process, float32 master weights, no DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from igascale.adapters import LoraAdapter
from igascale.engine.adamw import MOMENTS, REFERENCE, AdamW
from igascale.engine.base import Engine, MasterState, factor_parameters, factor_tensors
from igascale.hooks.base import FactorGrads


class SingleEngine(Engine):
    """Trains in one process.

    Args:
        model: the PEFT model, already on ``device``.
        adapters: its adapters.
        make_optimizer: builds the optimizer over the float32 masters.
        device: where the model lives.
    """

    def __init__(
        self,
        model: nn.Module,
        adapters: Mapping[str, LoraAdapter],
        make_optimizer: Callable[[list[nn.Parameter]], AdamW],
        device: torch.device,
    ):
        super().__init__(model, adapters, device)
        self.parameters = factor_parameters(adapters)
        # A float32 parameter is its own master; a bfloat16 one would lose the small updates.
        self.masters = {
            name: p if p.dtype == torch.float32 else nn.Parameter(p.detach().float())
            for name, p in self.parameters.items()
        }
        self.optimizer = make_optimizer(list(self.masters.values()))
        self.optimizer.allocate_states(self.optimizer.step)

    def forward(self, **inputs: Tensor) -> Any:
        """See the base class."""
        return self.model(**inputs)

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """See the base class."""
        try:
            yield
        finally:
            for p in self.parameters.values():
                p.grad = None

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """See the base class."""
        loss.backward(retain_graph=retain_graph)

    def apply(self, grads: Mapping[str, FactorGrads]) -> None:
        """See the base class."""
        for name, grad in factor_tensors(grads, self.parameters).items():
            self.masters[name].grad = grad
        if self.optimizer.use_reference:
            for name, reference in factor_tensors(grads, self.parameters, reference=True).items():
                self.optimizer.state[self.masters[name]][REFERENCE].copy_(reference)

    def step(self, lr: float) -> None:
        """See the base class."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._publish()

    @torch.no_grad()
    def _publish(self) -> None:
        for name, p in self.parameters.items():
            if self.masters[name] is not p:
                p.copy_(self.masters[name])

    def get_state(self) -> MasterState:
        """See the base class."""
        tensors = {}
        for name, master in self.masters.items():
            tensors[f"{name}.master"] = master.detach().cpu().clone()
            for moment in MOMENTS:
                tensors[f"{name}.{moment}"] = self.optimizer.state[master][moment].cpu().clone()
        return MasterState(self.optimizer.steps, tensors)

    @torch.no_grad()
    def set_state(self, state: MasterState) -> None:
        """See the base class."""
        self.optimizer.steps = state.steps
        for name, master in self.masters.items():
            master.copy_(state.tensors[f"{name}.master"])
            for moment in MOMENTS:
                self.optimizer.state[master][moment].copy_(state.tensors[f"{name}.{moment}"])
        self._publish()
