"""Greedy decoding in batches, with the same result for every batch size.

Shape legend: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from igascale.errors import UserError
from igascale.memory import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Generation:
    """What the model wrote after one prompt: ids without the end token, and whether it ended by itself."""

    tokens: list[int]
    finished: bool


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    prompts: Sequence[list[int]],
    *,
    eos_ids: Collection[int],
    max_new_tokens: int,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> list[Generation]:
    """Continue each prompt with the most likely token until an end token or ``max_new_tokens``.

    Prompts are sorted by length, longest first (a batch that does not fit in memory fails at once), and
    padded on the LEFT. Nothing of the model's ``generation_config`` is used: a repetition penalty there would
    make the result something else than greedy. Batches of different sizes may round differently: in float32
    that is far below the gap between two logits, in bfloat16 it can decide between two nearly equal ones.

    Args:
        model: causal LM in evaluation mode, plain or PEFT.
        prompts: non-empty lists of token ids.
        eos_ids: ids that end a text.
        max_new_tokens: limit per prompt, the end token included.
        batch_size: prompts per batch.
        progress: called with (prompts done, prompts in all) after each batch.

    Returns:
        one :class:`Generation` per prompt, in the order of ``prompts``.

    Raises:
        UserError: prompt and continuation would not fit into the model's positions.
    """
    check_room(model, prompts, max_new_tokens)
    order = by_length(prompts)
    results: list[Generation | None] = [None] * len(prompts)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        for row, generation in zip(rows, decode_batch(model, [prompts[i] for i in rows], eos_ids, max_new_tokens)):
            results[row] = generation
        if progress is not None:
            progress(min(start + batch_size, len(order)), len(order))
    return [result for result in results if result is not None]


def by_length(prompts: Sequence[list[int]]) -> list[int]:
    """Indices, the longest prompt first; prompts of one length in their own order."""
    return sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))


def check_room(model: PreTrainedModel, prompts: Sequence[list[int]], max_new_tokens: int) -> None:
    """Refuse prompts that leave less than ``max_new_tokens`` positions.

    Raises:
        UserError: naming the largest possible ``max_new_tokens``.
    """
    limit, longest = max_positions(model), max((len(prompt) for prompt in prompts), default=0)
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    if limit is not None and longest + max_new_tokens > limit:
        raise UserError(
            f"the longest prompt has {longest} tokens and the model {limit} positions, which leaves "
            f"{max(0, limit - longest)} for the answer; --max-new-tokens {max_new_tokens} is too many"
        )


def max_positions(model: PreTrainedModel) -> int | None:
    """``max_position_embeddings`` of the model, or ``None`` where it states none."""
    limit: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return limit


def end_tokens(model: PreTrainedModel, tokenizer: Any) -> set[int]:
    """The tokenizer's end token and those of the model's generation config (chat models have several).

    Raises:
        UserError: there is none, so that no text would ever end.
    """
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids: set[Any] = set(configured) if isinstance(configured, (list, tuple)) else {configured}
    ids.add(tokenizer.eos_token_id)
    ids.discard(None)
    if not ids:
        raise UserError("the tokenizer has no end token (eos_token); set one and train again")
    return ids


def forward_options(model: PreTrainedModel) -> set[str]:
    """Names of the arguments that the forward of the (base) model takes."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return set(inspect.signature(base.forward).parameters)


def pad(sequences: Sequence[list[int]], side: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, attention mask and positions, each ``[B, T]``.

    The padding token is 0: masked, so which one it is does not matter, and every vocabulary has a 0.
    Positions count real tokens.
    """
    width = max(len(sequence) for sequence in sequences)
    ids_BT = torch.zeros(len(sequences), width, dtype=torch.long)
    mask_BT = torch.zeros_like(ids_BT)
    for row, sequence in enumerate(sequences):
        real = slice(width - len(sequence), width) if side == "left" else slice(0, len(sequence))
        ids_BT[row, real] = torch.tensor(sequence)
        mask_BT[row, real] = 1
    positions_BT = (mask_BT.cumsum(1) - 1).clamp(min=0)
    return ids_BT.to(device), mask_BT.to(device), positions_BT.to(device)


@contextmanager
def enough_memory(batch_size: int) -> Iterator[None]:
    """Turn running out of memory into advice.

    Raises:
        UserError: it did.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        less = (
            f"a smaller --batch-size (it is {batch_size})"
            if batch_size > 1
            else "fewer --max-new-tokens, or another device"
        )
        raise UserError(f"out of memory while the model answers; try {less}") from None


@torch.no_grad()
def decode_batch(
    model: PreTrainedModel, prompts: list[list[int]], eos_ids: Collection[int], max_new_tokens: int
) -> list[Generation]:
    """Continue prompts together; see :func:`generate`.

    Rows that are done stay in the batch until all are: without them the others would be multiplied in another shape, which may
    round otherwise.

    Raises:
        UserError: memory runs out.
    """
    with enough_memory(len(prompts)):
        return _decode(prompts, model, eos_ids, max_new_tokens)


def _decode(
    prompts: list[list[int]], model: PreTrainedModel, eos_ids: Collection[int], max_new_tokens: int
) -> list[Generation]:
    device = next(model.parameters()).device
    options = forward_options(model)
    ids_BT, mask_BT, positions_BT = pad(prompts, "left", device)
    end_E = torch.tensor(sorted(eos_ids), device=device)
    done_B = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    written: list[Tensor] = []
    cache = None
    for _ in range(max_new_tokens):
        extra: dict[str, Any] = {"position_ids": positions_BT} if "position_ids" in options else {}
        if "logits_to_keep" in options:
            extra["logits_to_keep"] = 1
        out = model(input_ids=ids_BT, attention_mask=mask_BT, past_key_values=cache, use_cache=True, **extra)
        cache = out.past_key_values
        next_B = out.logits[:, -1].argmax(-1)
        written.append(next_B)
        done_B = done_B | torch.isin(next_B, end_E)
        if done_B.all():
            break
        ids_BT, positions_BT = next_B[:, None], positions_BT[:, -1:] + 1
        mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(prompts), 1)], dim=1)
    return [_until_end(row, eos_ids) for row in torch.stack(written, dim=1).tolist()]


def _until_end(tokens: list[int], eos_ids: Collection[int]) -> Generation:
    """Cut at the first end token; what a finished row went on to write while others were busy is dropped."""
    for position, token in enumerate(tokens):
        if token in eos_ids:
            return Generation(tokens[:position], True)
    return Generation(tokens, False)
