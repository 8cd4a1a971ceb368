"""From an instance to token ids: one format, used in training and in evaluation.

prompt: the chat template's user turn, or BOS + problem + newline
completion: chain of thought, newline, "Answer: ...", EOS
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from igascale.errors import UserError
from igascale.evaluation.answers import ANSWER_PREFIX
from igascale.isomers.schema import Instance, IsomerGroup
from igascale.loss import IGNORED


@dataclass
class Example:
    """One tokenized instance.

    Attributes:
        input_ids: prompt, completion, EOS; cut on the right.
        labels: the same ids, -100 on the prompt.
        domain: index into the run's domains.
        group_id: the group it belongs to.
        instance_id: its own id.
        truncated: whether something was cut off.
    """

    input_ids: list[int]
    labels: list[int]
    domain: int = 0
    group_id: str = ""
    instance_id: str = ""
    truncated: bool = False

    @property
    def supervised(self) -> int:
        """How many tokens the loss sees. The first position has no prediction, so its label does not count."""
        return sum(label != IGNORED for label in self.labels[1:])


def completion_text(instance: Instance) -> str:
    """What the model is to write: the chain of thought, then the answer on a line of its own."""
    answer = f"{ANSWER_PREFIX} {instance.answer}"
    return f"{instance.cot}\n{answer}" if instance.cot else answer


def encode_prompt(tokenizer: Any, problem: str) -> list[int]:
    """Everything before the first token that the model writes.

    Args:
        tokenizer: a Hugging Face tokenizer. With a chat template the problem is the user's turn and the
            generation prompt follows; without one it is BOS (if the tokenizer has one), the problem and a
            newline.
        problem: the problem's text.

    Raises:
        UserError: the chat template cannot render a single user turn.
    """
    return _leading(tokenizer) + _ids(tokenizer, [_prompt_text(tokenizer, problem)])[0]


def encode_instances(tokenizer: Any, instances: Sequence[Instance]) -> list[tuple[list[int], list[int]]]:
    """Prompt and completion of each instance, EOS included, uncut; many at once are tokenized on all cores.

    Prompt and completion are tokenized apart, so that the prompt's ids are those that :func:`encode_prompt`
    gives the evaluation, whatever follows them.

    Args:
        tokenizer: a Hugging Face tokenizer with an EOS token; see :func:`encode_prompt`.
        instances: any number.
    """
    if not instances:
        return []
    texts = [_prompt_text(tokenizer, instance.problem) for instance in instances]
    ids = _ids(tokenizer, texts + [completion_text(instance) for instance in instances])
    bos = _leading(tokenizer)
    return [(bos + prompt, [*rest, tokenizer.eos_token_id]) for prompt, rest in zip(ids, ids[len(instances) :])]


def encode_example(tokenizer: Any, instance: Instance, max_length: int, domain: int = 0, group_id: str = "") -> Example:
    """Prompt, completion and EOS (:func:`encode_instances`); only the completion and EOS are supervised.

    Args:
        tokenizer: a Hugging Face tokenizer with an EOS token.
        instance: the instance.
        max_length: tokens kept; the rest is cut off on the right.
        domain: index into the run's domains.
        group_id: the group that the instance belongs to.
    """
    ((prompt, completion),) = encode_instances(tokenizer, [instance])
    ids = prompt + completion
    labels = [IGNORED] * len(prompt) + completion
    return Example(
        ids[:max_length], labels[:max_length], domain, group_id, instance.id, truncated=len(ids) > max_length
    )


def encode_groups(
    groups: Iterable[IsomerGroup], tokenizer: Any, domains: tuple[str, ...], max_length: int, source: str
) -> list[list[Example]]:
    """Tokenize whole groups.

    Args:
        groups: the groups.
        tokenizer: see :func:`encode_example`.
        domains: which instances of each group, and their order.
        max_length: see :func:`encode_example`.
        source: the file's name, for messages.

    Returns:
        Per group D examples, in the order of ``domains``.

    Raises:
        UserError: a group lacks a domain, or ``max_length`` leaves an instance no supervised token.
    """
    encoded = []
    for group in groups:
        instances = {instance.domain: instance for instance in group.instances}
        for domain in domains:
            if domain not in instances:
                raise UserError(f"{source}: group '{group.id}' has no instance of domain '{domain}'")
        encoded.append(
            [
                _encode_member(tokenizer, instances[domain], max_length, index, group.id, source)
                for index, domain in enumerate(domains)
            ]
        )
    return encoded


def mark_supervised(tokenizer: Any, example: Example) -> list[tuple[str, bool]]:
    """The example's text in runs of tokens that the loss does or does not see, special tokens shown."""
    flags = [position > 0 and label != IGNORED for position, label in enumerate(example.labels)]
    runs = groupby(zip(example.input_ids, flags), key=lambda pair: pair[1])
    return [(tokenizer.decode([i for i, _ in run], skip_special_tokens=False), flag) for flag, run in runs]


def _encode_member(
    tokenizer: Any, instance: Instance, max_length: int, domain: int, group_id: str, source: str
) -> Example:
    example = encode_example(tokenizer, instance, max_length, domain, group_id)
    if not example.instance_id:
        example = replace(example, instance_id=f"{group_id}/{instance.domain}")
    if example.supervised:
        return example
    prompt = len(encode_prompt(tokenizer, instance.problem))
    raise nothing_supervised(source, group_id, f"domain '{instance.domain}'", max_length, prompt)


def nothing_supervised(source: str, group_id: str, which: str, max_length: int, prompt: int) -> UserError:
    """The error of an instance that is cut before its completion.

    Args:
        source: the file's name.
        group_id: the instance's group.
        which: the instance.
        max_length: ``data.max_length``.
        prompt: tokens of its prompt.
    """
    return UserError(
        f"{source}: group '{group_id}', {which}: no supervised token is left after cutting to "
        f"data.max_length={max_length}, the prompt alone has {prompt}; raise data.max_length or shorten the problem"
    )


def _prompt_text(tokenizer: Any, problem: str) -> str:
    """The text before the completion; a template writes BOS itself where the model wants one."""
    if not tokenizer.chat_template:
        return problem + "\n"
    turns = [{"role": "user", "content": problem}]
    try:
        return str(tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
    except Exception as error:  # a template is a program of the model's author and may raise anything
        reason = " ".join(str(error).split())
        raise UserError(f"the tokenizer's chat template cannot render a user turn: {reason}") from None


def _leading(tokenizer: Any) -> list[int]:
    return [] if tokenizer.chat_template or tokenizer.bos_token_id is None else [tokenizer.bos_token_id]


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return [list(ids) for ids in encoded]
