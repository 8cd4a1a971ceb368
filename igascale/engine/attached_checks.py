"""Refuse, when igascale is attached to a user's loop, what would silently change the gradients that arrive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from igascale.engine.adamw import AdamW
from igascale.engine.ds_config import _ZERO_REFUSED
from igascale.errors import UserError
from igascale.hooks.base import GradientHook


def check_torch(model: Any, optimizer: Any, hook: GradientHook) -> None:
    """For a plain PyTorch loop.

    Raises:
        UserError: a wrapped or sharded model, no optimizer, or one that cannot take the hook's result.
    """
    kind = type(model).__name__
    if isinstance(model, nn.Module) and kind in ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel"):
        remedy = "pass model.module, and call that in the loop: igascale averages over the ranks itself"
        if kind == "FullyShardedDataParallel":
            remedy = "use DeepSpeed ZeRO-2, or no wrapper"
        raise UserError(f"the model is wrapped in {kind}; {remedy}")
    if kind == "OptimizedModule":
        raise UserError("the model is compiled; attach to the PEFT model itself, without torch.compile")
    if not isinstance(model, nn.Module):
        raise UserError(f"igascale.attach needs a DeepSpeed engine or a PEFT model, not {kind}")
    if any(hasattr(p, "full_tensor") for p in model.parameters()):
        raise UserError("the model's parameters are sharded (DTensor); use DeepSpeed ZeRO-2, or no sharding")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError("pass the optimizer as well: igascale.attach(model, optimizer, ...)")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UserError(
            "LBFGS evaluates the loss several times a step, which cannot be captured; use a first-order one"
        )
    _check_reference(optimizer, hook)


def check_deepspeed(engine: Any, hook: GradientHook, max_grad_norm: float | None) -> None:
    """For what ``deepspeed.initialize`` returned.

    Raises:
        UserError: a setting with which replaced gradients would be wrong, unclear or clipped twice; it names the setting
            and the remedy.
    """
    if problem := next(_deepspeed_problems(engine), None):
        raise UserError(f"DeepSpeed: {problem}")
    clipping = engine.gradient_clipping()
    if clipping > 0 and (hook.uses_reference or max_grad_norm is not None):
        why = (
            "the gradient and its reference must be clipped together"
            if hook.uses_reference
            else "this would clip twice"
        )
        raise UserError(
            f'DeepSpeed: gradient_clipping is {clipping} (1.0 where it is left out): {why}; set "gradient_clipping": 0.0 '
            "and clip by igascale.attach(..., max_grad_norm=...)"
        )
    _check_reference(engine.basic_optimizer, hook)


def _deepspeed_problems(engine: Any) -> Iterator[str]:
    """Why this engine is refused, the most basic reason first."""
    stage = engine.zero_optimization_stage()
    if stage > 2:
        yield "ZeRO-3 is not supported yet: set zero_optimization.stage to 2"
    if engine.pipeline_parallelism or engine.dp_world_size != dist.get_world_size():
        yield "pipeline, tensor and sequence parallelism split rows between ranks; use data parallelism only"
    if engine.fp16_enabled() or (engine.torch_autocast_enabled() and engine.torch_autocast_dtype() == torch.float16):
        yield "float16 scales the loss, and captured gradients would carry the scale; use bf16"
    if not engine.managed_gradient_accumulation():
        yield "'managed_gradient_accumulation' must stay true: gradients are replaced at the boundary that it marks"
    if engine.zero_round_robin_gradients():
        yield f"'zero_optimization.round_robin_gradients' is not supported: {_ZERO_REFUSED['round_robin_gradients']}"
    if engine.zero_use_cpu_optimizer():
        yield f"'zero_optimization.offload_optimizer' is not supported: {_ZERO_REFUSED['offload_optimizer']}"
    if engine.is_deepcompile_enabled():
        yield "'compile.deepcompile' is not supported: it rewrites the backward pass that is captured"
    if engine.basic_optimizer is None:
        yield "the engine has no optimizer; give one to deepspeed.initialize"
    kind = type(engine.basic_optimizer).__name__
    if kind.startswith(("Muon", "OneBit", "Onebit", "ZeroOne")):
        yield f"{kind} transforms gradients before they are replaced, or reduces them itself; use another optimizer"
    wrapper = type(engine.optimizer).__name__
    if wrapper == "BF16_Optimizer":
        yield (
            "ZeRO-1 with bf16 and data_types.grad_accum_dtype fp32 cannot be handed gradients; set stage 2, or "
            "grad_accum_dtype bf16"
        )
    if stage == 0 and engine.optimizer is not engine.basic_optimizer:
        yield "ZeRO stage 0 works in float32 only; set zero_optimization.stage to 1 or 2"
    if stage > 0 and wrapper != "DeepSpeedZeroOptimizer":
        yield f"gradients cannot be handed to {wrapper}; use plain ZeRO-1 or ZeRO-2"


def _check_reference(optimizer: torch.optim.Optimizer, hook: GradientHook) -> None:
    if hook.uses_reference and not (isinstance(optimizer, AdamW) and optimizer.use_reference):
        kind = f"{type(optimizer).__module__.split('.')[0]}'s {type(optimizer).__name__}"
        if isinstance(optimizer, AdamW):
            kind = "igascale.AdamW without use_reference"
        raise UserError(
            f"{type(hook).__name__} returns a second gradient for Adam's second moment (second_moment: max), which {kind} "
            "does not take; use igascale.AdamW(..., use_reference=True), or attach(..., second_moment='adam')"
        )
