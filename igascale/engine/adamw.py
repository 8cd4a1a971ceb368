"""AdamW whose second moment may see a second gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

#: The per-parameter state that a checkpoint holds.
MOMENTS = ("exp_avg", "exp_avg_sq")
#: The state through which the second gradient arrives.
REFERENCE = "reference_grad"


class AdamW(torch.optim.Optimizer):
    r"""Decoupled weight decay Adam with an optional reference gradient for the second moment.

    .. math::

        m &\leftarrow \beta_1 m + (1-\beta_1) g \\
        v &\leftarrow \beta_2 v + (1-\beta_2) \max(|g|, |g^{ref}|)^2 \\
        p &\leftarrow (1 - \eta\lambda) p - \eta\, \hat m / (\sqrt{\hat v} + \epsilon)

    With no reference this is ``torch.optim.AdamW``, operation by operation. A rule that attenuates a coordinate
    persistently is undone by plain Adam, which divides by the root of the attenuated second moment; the reference
    (the unattenuated gradient) keeps the attenuation. The step stays bounded, since ``v >= g**2`` in every term.

    Reference: `Decoupled Weight Decay Regularization <https://arxiv.org/abs/1711.05101>`_, Algorithm 2; the maximum is
    igascale's own.

    The reference arrives as the optimizer state ``reference_grad`` because that is the one public door through which
    DeepSpeed lets a second tensor per parameter into a ZeRO partition (``safe_set_full_optimizer_state``). The door
    opens only after a first ``step()``, so :meth:`allocate_states` makes that first step one that changes nothing.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        betas: decay rates of the two moments.
        eps: added to the root of the second moment.
        weight_decay: decoupled decay per step, times ``lr``.
        use_reference: keep a ``reference_grad`` for every parameter.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        use_reference: bool = False,
    ):
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "steps": 0}
        super().__init__(params, defaults)
        self.use_reference = use_reference
        self._allocating = False

    @property
    def steps(self) -> int:
        """Steps taken. Kept in the groups: saved with them, and DeepSpeed steps one group at a time."""
        return int(self.param_groups[0]["steps"])

    @steps.setter
    def steps(self, value: int) -> None:
        for group in self.param_groups:
            group["steps"] = value

    def allocate_states(self, step: Callable[[], Any]) -> None:
        """Call ``step`` (the engine's) once, in a mode that only creates the states, all zero."""
        self._allocating = True
        try:
            step()
        finally:
            self._allocating = False

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        if self._allocating:
            self._create_states()
            return
        for group in self.param_groups:
            group["steps"] += 1
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)

    def _create_states(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                self._create_state(p)

    def _create_state(self, p: Tensor) -> None:
        for name in (*MOMENTS, REFERENCE) if self.use_reference else MOMENTS:
            if name not in self.state[p]:
                self.state[p][name] = torch.zeros_like(p, memory_format=torch.preserve_format)

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        self._create_state(p)
        (beta1, beta2), steps = group["betas"], group["steps"]
        state, grad = self.state[p], p.grad
        assert grad is not None
        largest = torch.maximum(grad.abs(), state[REFERENCE].abs()) if self.use_reference else grad
        p.mul_(1 - group["lr"] * group["weight_decay"])
        state["exp_avg"].lerp_(grad, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).addcmul_(largest, largest, value=1 - beta2)
        step_size = group["lr"] / (1 - beta1**steps)
        denominator = (state["exp_avg_sq"].sqrt() / (1 - beta2**steps) ** 0.5).add_(group["eps"])
        p.addcdiv_(state["exp_avg"], denominator, value=-step_size)
