"""The engine for a loop around ``deepspeed.initialize``: DeepSpeed accumulates, reduces, clips and steps as it always does.

At the boundary its reduced gradients are overwritten, all of them, on every rank; see :mod:`igascale.engine.attached`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from igascale.engine.adamw import REFERENCE, AdamW
from igascale.engine.attached import AttachedEngine
from igascale.engine.attached_checks import check_deepspeed
from igascale.engine.base import factor_tensors
from igascale.errors import UserError
from igascale.hooks.base import FactorGrads, GradientHook


class AttachedDeepSpeed(AttachedEngine):
    """What ``deepspeed.initialize`` returned: ZeRO 0, 1 or 2, any accumulation, its own scheduler and clipping.

    Args:
        engine: the DeepSpeed engine.
        hook: the rule.
        max_grad_norm: the norm that igascale will clip to, or ``None``.
    """

    def __init__(self, engine: Any, hook: GradientHook, max_grad_norm: float | None):
        check_deepspeed(engine, hook, max_grad_norm)
        super().__init__(engine.module, hook)
        self.engine = engine
        self.optimizer = engine.basic_optimizer
        self.partitioned = engine.zero_optimization_stage() > 0
        self._micro_steps = engine.micro_steps
        self._check_parameters()
        if hook.uses_reference and isinstance(self.optimizer, AdamW):
            self._allocate_states(self.optimizer)

    def _check_parameters(self) -> None:
        from deepspeed.utils import safe_get_full_fp32_param

        if not self.partitioned:
            held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        else:  # a parameter that DeepSpeed has not partitioned would be handed a gradient without an error, or effect
            held = {id(p) for p in self.parameters.values() if safe_get_full_fp32_param(p) is not None}
        for name, p in self.parameters.items():
            if id(p) not in held:
                raise UserError(f"DeepSpeed's optimizer does not hold {name}; give it every LoRA factor")

    def _allocate_states(self, optimizer: AdamW) -> None:
        """One step of DeepSpeed's optimizer that changes nothing, after which states can be written; not of the engine:
        its counters and the scheduler stay where they are."""
        if self.partitioned:
            with self.engine.coalesce_grad_reduction():
                self._drop_grads()
            # DeepSpeed steps group by group, and links the states of all after the first: they must be there by then.
            optimizer.allocate_states(optimizer.step)
        optimizer.allocate_states(self.engine.optimizer.step)

    def enter_rows(self) -> None:
        """See the base class."""
        self._micro_steps = self.engine.micro_steps
        super().enter_rows()

    def at_boundary(self) -> bool:
        """See the base class."""
        if self.open and self.engine.micro_steps != self._micro_steps:
            raise UserError(
                "engine.step() ran between the backward pass and surgery.step(): call surgery.step() in its place, and "
                "engine.backward(loss) rather than accelerator.backward(loss), which steps"
            )
        return bool(self.engine.is_gradient_accumulation_boundary())

    def pass_by(self) -> None:
        """See the base class."""
        if not self.at_boundary():
            self.engine.step()
            return
        # DeepSpeed counts the micro-batch, so that boundaries stay where they are, and takes no step of the optimizer.
        override = getattr(self.engine, "_is_gradient_accumulation_boundary", None)
        self.engine.set_gradient_accumulation_boundary(False)
        try:
            self.engine.step()
        finally:
            self.engine.set_gradient_accumulation_boundary(override)
        self.engine.optimizer.zero_grad()
        self.open = False

    @property
    def divisor(self) -> int:
        """See the base class."""
        return int(self.engine.gradient_accumulation_steps())

    def divides_later(self) -> bool:
        """See the base class."""
        # engine.backward(loss) has divided the loss itself; for loss.backward() DeepSpeed divides where the engine's output
        # is reached.
        return not getattr(self.engine, "_running_engine_backward", True)

    def backward(self, loss: Tensor, retain_graph: bool = False) -> None:
        """See the base class."""
        self.engine.backward(loss, retain_graph=retain_graph)

    def apply(self, grads: Mapping[str, FactorGrads]) -> None:
        """See the base class."""
        from deepspeed.utils import safe_set_full_grad, safe_set_full_optimizer_state

        if not self.partitioned:
            self._set_grads(grads)
            if self.uses_reference:
                self._set_references(grads)
            return
        self._drop_grads()  # while there is one, DeepSpeed would write there, and not into its partition
        for name, grad in factor_tensors(grads, self.parameters).items():
            safe_set_full_grad(self.parameters[name], grad)
        if not self.uses_reference:
            return
        for name, reference in factor_tensors(grads, self.parameters, reference=True).items():
            try:
                safe_set_full_optimizer_state(self.parameters[name], reference, REFERENCE)
            except TypeError:  # loading makes DeepSpeed forget where the states are
                raise UserError(
                    "engine.load_checkpoint() came after igascale.attach(); load first, then attach"
                ) from None

    def step(self, lr: float) -> None:
        """Take DeepSpeed's step, at whatever learning rate the loop or DeepSpeed's scheduler has set."""
        self.engine.step()
        self.open = False
        if not self.engine.was_step_applied():
            raise RuntimeError("DeepSpeed did not take the optimizer step it was asked for")
