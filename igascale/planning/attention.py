"""Attention on the meta device: what a fused kernel allocates and keeps, without computing anything.

On the meta device ``scaled_dot_product_attention`` decomposes into a product that keeps the ``[T, T]`` scores; on a GPU a fused
kernel runs, which keeps its inputs, its output and one number per row and head. ``eager`` needs no stand-in.

Shape legend: B rows, H heads, T positions, E size of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# transformers takes any name with "flash" in it for a kernel to be fetched from the Hub.
_SDPA, _FLASH = "igascale_plan_sdpa", "igascale_plan_unmasked"


def planned_attention(model_config: Any, asked: str | None) -> str:
    """The implementation to build the model with, in place of the one that the run would use.

    Args:
        model_config: of transformers.
        asked: ``model.attn_implementation``; ``None`` is transformers' choice, ``sdpa`` where the model has it.
    """
    from transformers import AttentionInterface, AutoModelForCausalLM

    if asked is None:
        cls = AutoModelForCausalLM._model_mapping.get(type(model_config), None)
        asked = "sdpa" if getattr(cls, "_supports_sdpa", False) else "eager"
    if asked == "eager":
        return asked
    AttentionInterface.register(_SDPA, _sdpa)
    AttentionInterface.register(_FLASH, _flash)
    return _SDPA if asked == "sdpa" else _FLASH


def _sdpa(
    module: nn.Module, query_BHTE: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """With a mask (rows of different lengths) transformers repeats keys and values, and PyTorch makes it an additive one."""
    groups = query_BHTE.shape[1] // key.shape[1]
    if attention_mask is not None:
        if groups > 1:
            key, value = (_repeat(x, groups) for x in (key, value))
        attention_mask = torch.empty(attention_mask.shape, dtype=query_BHTE.dtype, device=query_BHTE.device)
    return _FusedAttention.apply(query_BHTE, key, value, attention_mask).transpose(1, 2).contiguous(), None


def _flash(
    module: nn.Module, query_BHTE: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    return _FusedAttention.apply(query_BHTE, key, value, None).transpose(1, 2).contiguous(), None


def _repeat(x_BGTE: Tensor, times: int) -> Tensor:
    B, G, T, E = x_BGTE.shape
    return x_BGTE[:, :, None].expand(B, G, times, T, E).reshape(B, G * times, T, E)


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        B, H, T, E = query.shape
        out_BHTE = query.new_empty(B, T, H, E).transpose(1, 2)
        ctx.save_for_backward(query, key, value, mask, out_BHTE, query.new_empty(B, H, T, dtype=torch.float32))
        return out_BHTE

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None
