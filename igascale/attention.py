"""Which attention runs, and what keeps instances packed into one row from seeing each other.

Without boundaries a packed row is one long text: training would go on, on other text than the data's, and nothing would
look wrong. So the boundaries are given in the most explicit form that each implementation takes, and :func:`check_packing`
compares packed instances with the same ones alone before the first step.

Shape legend: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from igascale.errors import UserError, did_you_mean
from igascale.isomers.batches import Batch, collate, pack
from igascale.isomers.encode import Example
from igascale.isomers.rows import extremes

IMPLEMENTATIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")
_PACKAGES = {"flash_attention_2": "flash-attn", "flash_attention_3": "flash-attn-3"}
#: What packed and separate logits of a token may differ by, relative to their norm: rounding, through all layers.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


def check_attention(name: str | None, dtype: str) -> None:
    """Refuse what ``model.attn_implementation`` cannot be here, before anything is loaded.

    Args:
        name: the key's value.
        dtype: ``model.dtype``.

    Raises:
        UserError: an unknown name, a package that is not installed, no GPU, or a dtype that it does not compute in.
    """
    if name is None:
        return
    key = f"model.attn_implementation: {name}"
    if name not in IMPLEMENTATIONS:
        raise UserError(
            f"{key} is unknown{did_you_mean(name, IMPLEMENTATIONS)}; use {', '.join(IMPLEMENTATIONS)} or null"
        )
    if name not in _PACKAGES:
        return
    if not torch.cuda.is_available():
        raise UserError(f"{key} needs a CUDA GPU, and there is none here; use sdpa")
    from transformers import utils

    # Asked for here because transformers would go and fetch a kernel from the Hub in place of a package that is missing.
    if not getattr(utils, f"is_flash_attn_{name[-1]}_available")():
        raise UserError(f"{key} needs the package {_PACKAGES[name]}, which is not installed; install it, or use sdpa")
    if dtype != "bfloat16":
        raise UserError(f"{key} computes in bfloat16 only; set model.dtype: bfloat16, or use sdpa")


def attention_of(model: nn.Module) -> str:
    """The implementation that a model runs."""
    return str(model.config._attn_implementation)  # type: ignore[union-attr]


def model_inputs(batch: Batch, model: nn.Module) -> dict[str, Any]:
    """What the model is called with: the ids and where attention may look.

    Of a packed row the positions start again with every instance, and there is a mask that is causal within each instance
    and shut between them: boolean for ``sdpa``, added to the scores for ``eager``. Flash attention takes the boundaries
    instead, and does not compute what the mask would hide.
    """
    if batch.lengths is None:
        return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    device, lengths = batch.input_ids.device, torch.tensor(batch.lengths)
    positions = torch.cat([torch.arange(length) for length in batch.lengths])
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "position_ids": positions[None].to(device)}
    if attention_of(model).startswith("flash_attention"):
        edges = torch.tensor([0, *accumulate(batch.lengths)], dtype=torch.int32, device=device)
        longest = max(batch.lengths)
        return inputs | {
            "cu_seq_lens_q": edges,
            "cu_seq_lens_k": edges,
            "max_length_q": longest,
            "max_length_k": longest,
        }
    instance_T = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(device)
    mask_TT = (instance_T[:, None] == instance_T).tril_()
    if attention_of(model) == "eager":
        dtype = _dtype(model)
        hidden = torch.finfo(dtype).min
        mask_TT = torch.zeros(mask_TT.shape, dtype=dtype, device=device).masked_fill_(~mask_TT, hidden)
    return inputs | {"attention_mask": mask_TT[None, None]}


def start_attention(model: nn.Module, groups: Sequence[Sequence[Example]], packing: bool) -> str:
    """What a run says of its attention at its start, after :func:`check_packing` where instances are packed."""
    if not packing:
        return f"attention: {attention_of(model)}"
    check_packing(model, extremes(groups))
    return f"attention: {attention_of(model)}, train.packing (compared: packed instances do not see each other)"


@torch.no_grad()
def check_packing(model: nn.Module, examples: Sequence[Example]) -> None:
    """Compare the logits of two packed instances with those of each alone.

    The longest instance comes first: what an architecture looks back on less than that (a sliding window) shows in it, and
    what leaks from it shows in the second.

    Args:
        model: the model as it will train.
        examples: the training data.

    Raises:
        UserError: the attention implementation is one that packing does not know, or the logits differ by more than rounding.
    """
    name = attention_of(model)
    device = next(model.parameters()).device
    remedy = "set train.packing: false, or another model.attn_implementation"
    if name not in IMPLEMENTATIONS:
        raise UserError(f"train.packing works with {', '.join(IMPLEMENTATIONS)}, but the model runs {name}; {remedy}")
    first = max((e.input_ids for e in examples), key=len)
    others = (e.input_ids for e in examples if e.input_ids != first)
    second = min(others, key=len, default=first)[: max(1, len(first) // 2)]
    training = model.training
    model.eval()
    try:
        packed_TV = _logits(model, pack([_example(first), _example(second)], "token").to(device))
        alone_TV = torch.cat(
            [_logits(model, collate([_example(ids)], 0, "token").to(device)) for ids in (first, second)]
        )
        # What a row without boundaries would show; as long as the longest instance, for which the model has positions.
        joined = _example((first + second)[-len(first) :])
        joined_TV = _logits(model, collate([joined], 0, "token").to(device))
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError) as error:  # an architecture of other conventions
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"train.packing: the model, with {name}, does not take packed rows: {reason}; {remedy}"
        ) from None
    finally:
        model.train(training)
    leak = _largest_difference(joined_TV[-len(second) :], alone_TV[-len(second) :])
    difference = _largest_difference(packed_TV, alone_TV)
    allowed = min(_TOLERANCE.get(_dtype(model), 1e-3), leak / 3)  # a model may hardly feel the text before
    if not difference <= allowed:
        raise UserError(
            f"train.packing: packed instances see each other under {name}, or are seen otherwise than alone: logits differ by "
            f"{difference:.2g} of their norm (at most {allowed:.2g} can be rounding); {remedy}"
        )


def _example(input_ids: list[int]) -> Example:
    return Example(input_ids, input_ids)


def _logits(model: nn.Module, batch: Batch) -> Tensor:
    """``[T, V]``, of a batch of one row; without their mean, which no probability depends on."""
    logits_TV = model(**model_inputs(batch, model)).logits[0].float()
    return logits_TV - logits_TV.mean(1, keepdim=True)


def _largest_difference(found_TV: Tensor, expected_TV: Tensor) -> float:
    return float(((found_TV - expected_TV).norm(dim=1) / expected_TV.norm(dim=1)).max())


def _dtype(model: nn.Module) -> torch.dtype:
    return next(p.dtype for p in model.parameters() if p.is_floating_point())
