"""The model in this process as a generator of answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from igascale.errors import UserError
from igascale.evaluation.generation import by_length, check_room, decode_batch, end_tokens, max_positions
from igascale.evaluation.generator import DEFAULT_MAX_NEW_TOKENS, Answered
from igascale.isomers.encode import encode_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LocalGenerator:
    """Greedy decoding in batches of prompts of about the same length, padded on the left.

    Args:
        model: causal LM in evaluation mode, plain or PEFT.
        tokenizer: as in training.
        max_new_tokens: limit per answer, from :func:`token_limit`.
        batch_size: prompts at a time.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, max_new_tokens: int, batch_size: int = 16):
        if batch_size < 1:
            raise UserError(f"batch size is {batch_size}; it must be at least 1")
        self.model, self.tokenizer = model, tokenizer
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self._ends = end_tokens(model, tokenizer)
        self._encoded: dict[str, list[int]] = {}

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """See :class:`igascale.evaluation.generator.Generator`."""
        parameter = next(self.model.parameters())
        config = self.model.config.get_text_config()
        return {
            "generator": "local",
            "decoding": "greedy",
            "max_new_tokens": self.max_new_tokens,
            "batch_size": self.batch_size,
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "device": parameter.device.type,
            "attention": getattr(config, "_attn_implementation", None),
            "end_tokens": " ".join(str(token) for token in sorted(self._ends)),
            "template": "chat template"
            if self.tokenizer.chat_template
            else "none: BOS, problem and newline, as in training",
        }

    def encode(self, problem: str) -> list[int]:
        """The prompt's token ids, by the template of the training."""
        if problem not in self._encoded:
            self._encoded[problem] = encode_prompt(self.tokenizer, problem)
        return self._encoded[problem]

    def batches(self, problems: Sequence[str]) -> list[list[int]]:
        """Which problems are decoded together.

        Of whole batches in this order, put together again, come the same batches: the order is by length, then as given.
        """
        order = by_length([self.encode(problem) for problem in problems])
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def answer(self, problems: Sequence[str]) -> Iterator[tuple[int, Answered]]:
        """See :class:`igascale.evaluation.generator.Generator`.

        Raises:
            UserError: a problem leaves no room for an answer, or memory runs out.
        """
        prompts = [self.encode(problem) for problem in problems]
        check_room(self.model, prompts, self.max_new_tokens)
        for rows in self.batches(problems):
            found = decode_batch(self.model, [prompts[i] for i in rows], self._ends, self.max_new_tokens)
            for index, generation in zip(rows, found):
                text = self.tokenizer.decode(generation.tokens, skip_special_tokens=True)
                yield index, Answered(text, len(generation.tokens), generation.finished)


def token_limit(model: PreTrainedModel, tokenizer: Any, problems: Sequence[str], asked: int | None) -> int:
    """One limit for all problems of an evaluation, so that no answer depends on what it is batched with.

    Args:
        model: states how many positions it has.
        tokenizer: encodes the problems.
        problems: all of them.
        asked: ``None`` takes 512, or what the longest prompt leaves if that is less.

    Raises:
        UserError: a prompt leaves no room, or less than was asked for.
    """
    prompts = [encode_prompt(tokenizer, problem) for problem in problems]
    room, longest = max_positions(model), max(len(prompt) for prompt in prompts)
    limit = asked
    if limit is None:
        limit = DEFAULT_MAX_NEW_TOKENS if room is None else min(DEFAULT_MAX_NEW_TOKENS, room - longest)
        if limit < 1:
            raise UserError(f"the longest prompt has {longest} tokens, the model only {room} positions")
    check_room(model, prompts, limit)
    return limit
