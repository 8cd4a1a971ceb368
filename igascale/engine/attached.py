"""Engines for a loop that is not ours: the user's own optimizer or DeepSpeed engine takes the step.

They differ from ``single`` and ``deepspeed`` in what they leave alone: learning rate, scheduler, gradient accumulation,
checkpoints. DeepSpeed reduces its ordinary gradients as it always does; at the boundary they are overwritten, all of them,
on every rank (:mod:`igascale.surgery` is the user's side of this).
"""

from __future__ import annotations

import math
import sys
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from igascale.adapters import find_adapters
from igascale.engine.adamw import REFERENCE, AdamW
from igascale.engine.attached_checks import check_torch
from igascale.engine.base import Engine, MasterState, factor_parameters, factor_tensors
from igascale.errors import UserError
from igascale.hooks.base import FactorGrads, GradientHook


def attached_engine(target: Any, optimizer: Any, hook: GradientHook, max_grad_norm: float | None) -> AttachedEngine:
    """The engine for what a user's loop has.

    Args:
        target: what ``deepspeed.initialize`` returned first, or a PEFT model.
        optimizer: the optimizer of a plain PyTorch loop.
        hook: the rule.
        max_grad_norm: the norm that igascale will clip to, or ``None``.

    Raises:
        UserError: something in it would silently give other gradients than the hook's.
    """
    deepspeed = sys.modules.get("deepspeed")
    if deepspeed is not None and isinstance(target, deepspeed.DeepSpeedEngine):
        if optimizer is not None and optimizer not in (target.optimizer, target.basic_optimizer):
            raise UserError("a DeepSpeed engine steps the optimizer it was built with: igascale.attach(engine, ...)")
        from igascale.engine.attached_deepspeed import AttachedDeepSpeed

        return AttachedDeepSpeed(target, hook, max_grad_norm)
    return AttachedTorch(target, optimizer, hook)


class AttachedEngine(Engine):
    """What both kinds of loop have in common.

    Attributes:
        parameters: every LoRA factor by name.
        optimizer: the optimizer that takes the step.
        open: whether something was captured that no step has used yet.
    """

    optimizer: torch.optim.Optimizer

    def __init__(self, model: nn.Module, hook: GradientHook):
        adapters = find_adapters(model)
        super().__init__(model, adapters, next(iter(adapters.values())).A.device)
        self.parameters = factor_parameters(adapters)
        self.uses_reference = hook.uses_reference
        self.open = False
        self._said: set[str] = set()

    @abstractmethod
    def at_boundary(self) -> bool:
        """Whether the next step is one of the optimizer, not only of a micro-batch."""

    @abstractmethod
    def pass_by(self) -> None:
        """Count a micro-batch, or a step that is not to be taken: parameters and moments stay as they are."""

    @property
    def divisor(self) -> int:
        """What the framework divides a loss by on its own account."""
        return 1

    def divides_later(self) -> bool:
        """Whether, in the backward pass that is running, it does so between the loss and the adapters."""
        return False

    def seed(self, factor: float) -> float:
        """What a backward pass must start with for gradients to arrive unscaled.

        Args:
            factor: what the loop, or the framework, has multiplied the loss by.

        Raises:
            UserError: the factor can only be a loss scaler's, or a mistake.
        """
        if math.isnan(factor):
            return factor  # the step will be skipped
        if not 0 < factor < 1.01:
            raise UserError(
                f"the loss was multiplied by {factor:g} before backward(); a loss scaler (float16) is not supported, use "
                "bfloat16; for weights of your own there is surgery.loss_from"
            )
        if not any(math.isclose(factor * divisor, 1.0, rel_tol=1e-2) for divisor in (1, self.divisor)):
            self.say(
                "factor",
                f"the loss was multiplied by {factor:g} before backward(); this has no effect: surgery.step() divides by "
                "what was captured since the last step",
            )
        return float(self.divisor) if self.divides_later() else 1.0

    def say(self, key: str, message: str) -> None:
        """A warning, once for each key, on the first rank."""
        if key not in self._said and self.comm.rank == 0:
            warnings.warn(f"igascale: {message}", stacklevel=4)
        self._said.add(key)

    def enter_rows(self) -> None:
        """A micro-batch begins."""
        self.open = True

    def leave(self) -> None:
        """Detach: put back what was changed outside of this object."""
        return

    def forward(self, **inputs: Tensor) -> Any:
        """See the base class."""
        return self.model(**inputs)

    def accumulate(self) -> AbstractContextManager[None]:
        """See the base class; here the loop accumulates."""
        return nullcontext()

    def get_state(self) -> MasterState:
        """Not here: the loop owns the optimizer, and saves it."""
        raise NotImplementedError

    def set_state(self, state: MasterState) -> None:
        """Not here: the loop owns the optimizer, and restores it."""
        raise NotImplementedError

    def _set_grads(self, grads: Mapping[str, FactorGrads]) -> None:
        for name, grad in factor_tensors(grads, self.parameters).items():
            p = self.parameters[name]
            p.grad = grad.to(p.dtype)

    def _set_references(self, grads: Mapping[str, FactorGrads]) -> None:
        for name, reference in factor_tensors(grads, self.parameters, reference=True).items():
            self.optimizer.state[self.parameters[name]][REFERENCE].copy_(reference)

    def _drop_grads(self) -> None:
        for p in self.parameters.values():
            p.grad = None


class AttachedTorch(AttachedEngine):
    """A PEFT model and any ``torch.optim`` optimizer; ranks, where there are several, are averaged by igascale.

    Args:
        model: the PEFT model, not wrapped.
        optimizer: holds every LoRA factor and nothing else that trains.
        hook: the rule.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, hook: GradientHook):
        check_torch(model, optimizer, hook)
        super().__init__(model, hook)
        self.optimizer = optimizer
        self._check_parameters()
        self._check_ranks()
        if isinstance(optimizer, AdamW):
            optimizer.allocate_states(optimizer.step)
        self._stepping = False
        self._guard = optimizer.register_step_pre_hook(self._before_step)

    def _check_parameters(self) -> None:
        held = {id(p) for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad}
        for name, p in self.parameters.items():
            if id(p) not in held:
                raise UserError(
                    f"the optimizer does not hold {name}; give it every LoRA factor (all that requires grad)"
                )
        if others := len(held) - len(self.parameters):
            raise UserError(
                f"the optimizer also trains {others} parameters that are no LoRA factors of this model, which have no "
                "gradient per domain; give them an optimizer of their own, stepped beside surgery.step()"
            )

    def _check_ranks(self) -> None:
        start = torch.stack([p.detach().double().sum().cpu() for p in self.parameters.values()]).tolist()
        if any(other != start for other in self.comm.gather_objects(start)):
            raise UserError("the ranks start from different LoRA factors: seed them alike before get_peft_model")

    def _before_step(self, *_: Any) -> None:
        if self.open and not self._stepping:
            raise UserError("optimizer.step() was called with gradients captured: call surgery.step() in its place")

    def at_boundary(self) -> bool:
        """See the base class."""
        return True

    def pass_by(self) -> None:
        """See the base class."""
        self._drop_grads()
        self.open = False

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """See the base class."""
        loss.backward(retain_graph=retain_graph)

    def apply(self, grads: Mapping[str, FactorGrads]) -> None:
        """See the base class."""
        self._set_grads(grads)
        if self.uses_reference:
            self._set_references(grads)

    def step(self, lr: float) -> None:
        """Take the optimizer step, at whatever learning rate the loop has set."""
        self._stepping = True
        try:
            self.optimizer.step()
        finally:
            self._stepping = False
        self.pass_by()

    def leave(self) -> None:
        """See the base class."""
        self._guard.remove()
