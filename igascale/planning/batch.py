"""How many instances of how many tokens a rank sees in one optimizer step, from the configuration and, where it is there, the data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from igascale.assemble import micro_batch_size
from igascale.config import RunConfig
from igascale.errors import UserError
from igascale.hooks.base import GradientHook
from igascale.isomers.batches import GroupSchedule, shard_groups
from igascale.isomers.encode import Example, encode_groups
from igascale.isomers.schema import iter_groups
from igascale.loading import check_domains, look_over, training_domains
from igascale.model import load_tokenizer

#: Groups whose texts are tokenized to learn their lengths.
SAMPLE = 1000


@dataclass(frozen=True)
class Batch:
    """One optimizer step of the rank that has most to do.

    Attributes:
        domains: D.
        instances: of this rank.
        micro_batch: instances of a forward pass.
        micro_steps: forward passes.
        tokens: of an instance with its padding, on average; for time.
        longest: tokens of the longest instance; for memory.
        supervised: most tokens of an instance that the loss sees; for memory.
        groups: in the training file, or ``None`` without one.
        steps: optimizer steps of the run, or ``None``.
        steps_per_epoch: the same of an epoch.
        assumption: where the lengths come from.
    """

    domains: int
    instances: int
    micro_batch: int
    micro_steps: int
    tokens: float
    longest: int
    supervised: int
    groups: int | None
    steps: int | None
    steps_per_epoch: int | None
    assumption: str


def plan_batch(
    config: RunConfig, hook: GradientHook, ranks: int, tokens: int | None, max_positions: int | None
) -> Batch:
    """Work out a :class:`Batch`.

    Args:
        config: the run's.
        hook: its rule, which may need a number of domains.
        ranks: W.
        tokens: of an instance; ``None``: from the data file and the model's tokenizer, or else ``data.max_length``.
        max_positions: the longest text the model takes, or ``None``.

    Raises:
        UserError: more ranks than groups, too few domains, no way to know the number of domains, too long texts.
    """
    section = config.data
    held = look_over(section.train) if Path(section.train).is_file() else None
    groups = held.groups if held else None
    names = training_domains(section, held.domains) if held else _domains_without_data(config)
    check_domains(config, hook, names)
    width = len(names) if section.pool == "groups" else len(section.domains or (held.domains if held else names))
    share = max(len(shard_groups(range(config.groups_per_step), rank, ranks)) for rank in range(ranks))
    instances, micro_batch = share * width, min(micro_batch_size(config, share, width), share * width)
    padded, longest, supervised, assumption = _lengths(config, groups, names, tokens, micro_batch)
    if max_positions is not None and longest > max_positions:
        raise UserError(
            f"texts of {longest} tokens, but the model has {max_positions} positions; lower data.max_length or --tokens"
        )
    per_epoch = GroupSchedule(groups, config.groups_per_step, 0).steps_per_epoch if groups else None
    steps = config.train.max_steps or (max(1, math.floor(config.train.epochs * per_epoch)) if per_epoch else None)
    return Batch(
        domains=len(names) if section.pool == "groups" else 1,
        instances=instances,
        micro_batch=micro_batch,
        micro_steps=math.ceil(instances / micro_batch),
        tokens=padded,
        longest=longest,
        supervised=supervised,
        groups=groups,
        steps=steps,
        steps_per_epoch=per_epoch,
        assumption=assumption,
    )


def _domains_without_data(config: RunConfig) -> Sequence[str]:
    section = config.data
    if section.domains is not None:
        return section.domains[: section.num_domains]
    if section.num_domains is not None:
        return [f"domain {n}" for n in range(section.num_domains)]
    raise UserError(
        f"{section.train}: no such file, so the number of domains is not known; set data.domains or data.num_domains"
    )


def _lengths(
    config: RunConfig,
    groups: int | None,
    domains: Sequence[str],
    tokens: int | None,
    micro_batch: int,
) -> tuple[float, int, int, str]:
    """Padded mean, longest, most supervised tokens of an instance, and where they come from."""
    if tokens is not None:
        return tokens, tokens, tokens - 1, f"every instance has {tokens} tokens (--tokens), all of them supervised"
    length = config.data.max_length
    if groups is None:
        why = f"{config.data.train} is not there"
    elif not any(Path(config.model.path).glob("tokenizer*")):
        why = f"{config.model.path} holds no tokenizer"
    else:
        step = math.ceil(groups / SAMPLE)
        tokenizer = load_tokenizer(config.model.path)
        sample = (group for _, group in islice(iter_groups(config.data.train), None, None, step))
        rows = encode_groups(sample, tokenizer, tuple(domains), length, config.data.train)
        examples = [example for row in rows for example in row]
        sizes = [len(e.input_ids) for e in examples]
        supervised = max(e.supervised for e in examples)
        of = f"{len(rows)} of {groups} groups" if step > 1 else "all groups"
        text = f"lengths measured on {of}: longest {max(sizes)} tokens (for memory), {supervised} of one supervised"
        return _padded_mean(examples, micro_batch), max(sizes), supervised, text
    text = f"every instance has data.max_length = {length} tokens, all of them supervised: {why}. Give --tokens if you know better"
    return length, length, length - 1, text


def _padded_mean(examples: Sequence[Example], micro_batch: int) -> float:
    """Tokens of an instance when each micro-batch is padded to its longest."""
    sizes = [len(e.input_ids) for e in examples]
    batches = [sizes[i : i + micro_batch] for i in range(0, len(sizes), micro_batch)]
    return sum(max(batch) * len(batch) for batch in batches) / len(sizes)
