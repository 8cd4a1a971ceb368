"""Evaluate one model: accuracy in and out of distribution, their gap, and LCS, always side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from igascale.errors import UserError
from igascale.evaluation.accuracy import Sample, breakdown, score
from igascale.evaluation.consistency import LCS_TEXTS, measure
from igascale.evaluation.generation import check_room, end_tokens, generate, max_positions
from igascale.evaluation.layer_names import parse_layers, shown_layer
from igascale.evaluation.layers import depth_of, penultimate_layer
from igascale.evaluation.loading import load_for_evaluation
from igascale.evaluation.results import ISOMERS, Consistency, EvaluationResult, SplitResult, SuiteResult
from igascale.isomers.encode import encode_prompt
from igascale.isomers.schema import IsomerGroup

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["DEFAULT_MAX_NEW_TOKENS", "evaluate_model", "load_for_evaluation"]

DEFAULT_MAX_NEW_TOKENS = 512

Progress = Callable[[str, int, int], None]


def evaluate_model(
    model: PreTrainedModel,
    tokenizer: Any,
    id_groups: Sequence[IsomerGroup],
    ood_groups: Sequence[IsomerGroup] | None = None,
    *,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    lcs_text: str = "prompt",
    lcs_layers: str = "penultimate",
    progress: Progress | None = None,
) -> EvaluationResult:
    """Greedy chain-of-thought accuracy and LCS on held-out groups.

    Args:
        model: causal LM, plain or PEFT; put in evaluation mode here, and its mode restored.
        tokenizer: as in training.
        id_groups: held-out groups of the training domains.
        ood_groups: groups of unseen domains.
        batch_size: sequences per forward.
        max_new_tokens: limit per answer; by default 512, or what the model's positions leave beside the
            longest prompt of both sets, if that is less.
        lcs_text: what the token average of LCS is over: ``prompt`` (the problem, before the model wrote
            anything), or ``full`` (problem and reference solution).
        lcs_layers: where LCS is measured (:func:`igascale.evaluation.layers.parse_layers`). The tables show the penultimate
            layer if it is among them, else the deepest.
        progress: called with (stage, done, in all).

    Raises:
        UserError: a set is empty, or a prompt leaves no room for an answer.
    """
    if lcs_text not in LCS_TEXTS:
        raise UserError(f"lcs_text is '{lcs_text}'; known: {', '.join(LCS_TEXTS)}")
    if batch_size < 1:
        raise UserError(f"batch size is {batch_size}; it must be at least 1")
    splits = {"id": list(id_groups)} | ({} if ood_groups is None else {"ood": list(ood_groups)})
    for name, groups in splits.items():
        if not groups:
            raise UserError(f"the {name.upper()} set has no groups; nothing can be evaluated")
    prompts = {
        name: [encode_prompt(tokenizer, instance.problem) for group in groups for instance in group.instances]
        for name, groups in splits.items()
    }
    limit = _token_limit(model, [ids for split in prompts.values() for ids in split], max_new_tokens)
    layers = parse_layers(lcs_layers, depth_of(model))
    how = _How(model, tokenizer, limit, layers, lcs_text, batch_size, progress)

    was_training = model.training
    model.eval()
    try:
        found = {name: _evaluate_split(how, name, groups, prompts[name]) for name, groups in splits.items()}
    finally:
        model.train(was_training)

    return EvaluationResult(
        suites={ISOMERS: SuiteResult.of(*(found[name][0] if name in found else None for name in ("id", "ood")))},
        settings=_settings(how),
        samples=[sample for _, samples in found.values() for sample in samples],
    )


@dataclass(frozen=True)
class _How:
    """What stays the same for both sets."""

    model: PreTrainedModel
    tokenizer: Any
    limit: int
    layers: tuple[int, ...]
    lcs_text: str
    batch_size: int
    progress: Progress | None

    def stage(self, name: str) -> Callable[[int, int], None] | None:
        """The progress callback of one stage."""
        report = self.progress
        return None if report is None else lambda done, total: report(name, done, total)


def _evaluate_split(
    how: _How, name: str, groups: Sequence[IsomerGroup], prompts: Sequence[list[int]]
) -> tuple[SplitResult, list[Sample]]:
    started = time.perf_counter()
    generations = generate(
        how.model,
        prompts,
        eos_ids=end_tokens(how.model, how.tokenizer),
        max_new_tokens=how.limit,
        batch_size=how.batch_size,
        progress=how.stage(f"{name.upper()} answers"),
    )
    seconds = time.perf_counter() - started
    samples = score(
        groups,
        [how.tokenizer.decode(generation.tokens, skip_special_tokens=True) for generation in generations],
        [len(generation.tokens) for generation in generations],
        [generation.finished for generation in generations],
        split=name,
    )
    parts = breakdown(samples)
    layers = _consistency(how, name, groups)
    shown = shown_layer(how.layers, penultimate_layer(how.model))
    result = SplitResult(
        accuracy=parts.overall,
        per_domain=parts.per_domain,
        per_kind=parts.per_kind,
        consistency=next((found for found in layers if found.layer == shown), None),
        unfinished=sum(not sample.finished for sample in samples) / len(samples),
        seconds=seconds,
        layers=layers,
    )
    return result, samples


def _consistency(how: _How, name: str, groups: Sequence[IsomerGroup]) -> list[Consistency]:
    """LCS at every layer that was asked for; none where no group has two instances."""
    found = measure(
        how.model,
        how.tokenizer,
        groups,
        layers=how.layers,
        text=how.lcs_text,
        batch_size=how.batch_size,
        progress=how.stage(f"{name.upper()} consistency"),
    )
    return found.results()


def _settings(how: _How) -> dict[str, str | int | float | bool | None]:
    parameter = next(how.model.parameters())
    return {
        "decoding": "greedy",
        "max_new_tokens": how.limit,
        "batch_size": how.batch_size,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "device": parameter.device.type,
        "lcs_text": how.lcs_text,
        "lcs_layer": shown_layer(how.layers, penultimate_layer(how.model)),
        "lcs_layers": ",".join(map(str, how.layers)),
        "interval": "95%, Wilson with the effective sample size of clustering by group",
    }


def _token_limit(model: PreTrainedModel, prompts: Sequence[list[int]], asked: int | None) -> int:
    """One limit for all prompts of both sets, so that no answer depends on what it is batched with."""
    room = max_positions(model)
    longest = max(len(prompt) for prompt in prompts)
    limit = asked
    if limit is None:
        limit = DEFAULT_MAX_NEW_TOKENS if room is None else min(DEFAULT_MAX_NEW_TOKENS, room - longest)
        if limit < 1:
            raise UserError(f"the longest prompt has {longest} tokens, the model only {room} positions")
    check_room(model, prompts, limit)
    return limit
