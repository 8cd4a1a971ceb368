"""Out of memory, told so that one knows what to change."""

from __future__ import annotations

import os
import socket

import torch

from igascale.config import RunConfig
from igascale.errors import UserError
from igascale.hooks.base import GradientHook


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: on the GPU, in PyTorch's CPU allocator (a plain ``RuntimeError``), or in Python."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def explain(
    error: BaseException, place: str, batch: str, config: RunConfig, hook: GradientHook, size: int
) -> UserError:
    """The one line for an allocation that failed.

    Args:
        error: for which :func:`is_out_of_memory` holds.
        place: step and phase.
        batch: what is in the forward pass.
        config: the run's configuration.
        hook: its rule.
        size: instances per forward pass in effect.
    """
    passes = [f"lower train.micro_batch_size (now {size})"] if size > 1 else []
    if not config.train.packing:
        passes.append("set train.packing=true (no padding)")
    if config.model.activation_checkpointing == "none":
        passes.append("set model.activation_checkpointing=non-reentrant")
    passes.append(f"lower data.max_length (now {config.data.max_length})")
    memory_mb = getattr(hook, "memory_mb", None)
    in_hook = [f"lower hook.memory_mb (now {memory_mb:g})"] if isinstance(memory_mb, (int, float)) else []
    remedies = in_hook + passes if "hook" in place else passes + in_hook
    reason = " ".join(str(error).split()).split(" If reserved but unallocated")[0][:300]
    held = ""
    if torch.cuda.is_available():
        held = f"; PyTorch holds {torch.cuda.memory_reserved() / 2**30:.2f} GiB, {torch.cuda.memory_allocated() / 2**30:.2f} in use"
    within = f" of {batch}" if "forward" in place else ""
    who = f"rank {os.environ.get('RANK', '0')} ({socket.gethostname()})"
    return UserError(
        f"{who} ran out of memory at {place}{within}: {reason or type(error).__name__}{held}. To need less, in this order: "
        f"{'; '.join(remedies)}. `igascale plan` tells the memory of a configuration"
    )
