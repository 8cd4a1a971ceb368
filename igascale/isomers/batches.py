"""From encoded groups to padded or packed micro-batches: which groups a step takes, which rank and micro-step gets which rows.

Shape legend: B rows, T positions, D domains.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from igascale.errors import UserError
from igascale.isomers.encode import Example
from igascale.loss import IGNORED

LossReduction = Literal["token", "instance"]


@dataclass(frozen=True)
class Batch:
    """One micro-batch: padded rows, or one row of packed instances.

    Attributes:
        input_ids: ``[B, T]``, int64.
        attention_mask: ``[B, T]``, int64, 0 on the padding.
        labels: ``[B, T]``, int64, -100 on prompt and padding.
        domain: int64, ``[B]``; of a packed row ``[1, T]``.
        weights: ``[B, T]``, float32: what the loss of the label at each position is multiplied by; 0 where
            it is -100.
        lengths: of the instances of a packed row, in order; ``None`` where every row is one instance.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    domain: Tensor
    weights: Tensor
    lengths: tuple[int, ...] | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items() if name != "lengths"})

    @property
    def domain_weights(self) -> Tensor:
        """The weights in the shape of ``domain``: of each row, or of each token."""
        return self.weights.sum(1) if self.domain.ndim == 1 else self.weights


def collate(examples: Sequence[Example], pad_token_id: int, loss_reduction: LossReduction) -> Batch:
    """Pad on the right and weight the tokens.

    Args:
        examples: at least one.
        pad_token_id: may be the EOS token: padding is told from text by its place, not by its id.
        loss_reduction: ``token``: every supervised token weighs 1; ``instance``: every instance weighs 1,
            shared equally by its supervised tokens. Divide by :func:`domain_denominators` of the whole step.
    """
    _check_reduction(loss_reduction)
    longest = max(len(e.input_ids) for e in examples)
    shape = (len(examples), longest)
    input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED, dtype=torch.long)
    weights = torch.zeros(shape, dtype=torch.float32)
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        input_ids[row, :length] = torch.tensor(example.input_ids)
        attention_mask[row, :length] = 1
        labels[row, 1:length] = torch.tensor(example.labels[1:], dtype=torch.long)  # nothing predicts the first
        weight = 1.0 if loss_reduction == "token" else 1.0 / max(example.supervised, 1)
        weights[row] = weight * (labels[row] != IGNORED)
    domain = torch.tensor([e.domain for e in examples], dtype=torch.long)
    return Batch(input_ids, attention_mask, labels, domain, weights)


def pack(examples: Sequence[Example], loss_reduction: LossReduction) -> Batch:
    """All instances in one row, one after the other, without padding; arguments as of :func:`collate`.

    The model must be told where each begins (:func:`igascale.attention.model_inputs`). No label is predicted across a
    boundary: the first of an instance is never supervised.
    """
    parts = [collate([example], 0, loss_reduction) for example in examples]
    input_ids, attention_mask, labels, weights = (
        torch.cat([getattr(part, name) for part in parts], 1)
        for name in ("input_ids", "attention_mask", "labels", "weights")
    )
    domain = torch.cat([part.domain[:, None].expand_as(part.labels) for part in parts], 1)
    return Batch(input_ids, attention_mask, labels, domain, weights, tuple(len(e.input_ids) for e in examples))


def domain_denominators(examples: Sequence[Example], num_domains: int, loss_reduction: LossReduction) -> Tensor:
    """What summed losses and gradients of each domain are divided by, after adding it up over ranks.

    Args:
        examples: those of one rank and step.
        num_domains: D.
        loss_reduction: ``token``: supervised tokens per domain; ``instance``: instances per domain.

    Returns:
        ``[D]``, float64.
    """
    _check_reduction(loss_reduction)
    count_D = torch.zeros(num_domains, dtype=torch.float64)
    for example in examples:
        count_D[example.domain] += example.supervised if loss_reduction == "token" else 1
    return count_D


class GroupSchedule:
    """Which groups each optimizer step takes: a new random order every epoch, whole steps only.

    It keeps no position: :meth:`groups_of_step` is a function of the step, so that a resumed run goes on
    where it was.

    Args:
        num_groups: groups in the data.
        groups_per_step: groups of one optimizer step, over all ranks and micro-steps.
        seed: of the order.

    Raises:
        UserError: there are not enough groups for one step.
    """

    def __init__(self, num_groups: int, groups_per_step: int, seed: int):
        if groups_per_step < 1 or num_groups < groups_per_step:
            raise UserError(
                f"{num_groups} groups of training data do not fill one optimizer step of {groups_per_step}; "
                "lower train.groups_per_batch or train.gradient_accumulation_steps, or bring more groups"
            )
        self.num_groups, self.groups_per_step, self.seed = num_groups, groups_per_step, seed
        self.steps_per_epoch = num_groups // groups_per_step  # the rest sits out; another rest each epoch
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def groups_of_step(self, step: int) -> list[int]:
        """Indices of the groups of a step, counted from 0 over all epochs."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            digest = hashlib.sha256(f"{self.seed}/{epoch}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            self._epoch, self._order = epoch, torch.randperm(self.num_groups, generator=generator)
        return self._order[place * self.groups_per_step : (place + 1) * self.groups_per_step].tolist()


def shard_groups(groups: Sequence[int], rank: int, world_size: int) -> list[int]:
    """A rank's contiguous share; shares differ by one group at most. A group is never split between ranks.

    Raises:
        UserError: there are more ranks than groups.
    """
    if world_size > len(groups):
        raise UserError(
            f"{world_size} processes but only {len(groups)} isomer groups per optimizer step; start fewer processes or "
            "raise train.groups_per_batch"
        )
    return list(groups[rank * len(groups) // world_size : (rank + 1) * len(groups) // world_size])


def micro_batches(examples: Sequence[Example], micro_batch_size: int) -> list[list[Example]]:
    """Cut a rank's rows into forward passes, in order; a group may span two of them.

    Within each the rows are sorted by domain (those of one domain stay in order), as capture is fastest with.
    """
    if micro_batch_size < 1:
        raise ValueError(f"micro_batch_size must be at least 1, not {micro_batch_size}")
    cuts = range(0, len(examples), micro_batch_size)
    return [sorted(examples[i : i + micro_batch_size], key=lambda example: example.domain) for i in cuts]


def _check_reduction(loss_reduction: str) -> None:
    if loss_reduction not in ("token", "instance"):
        raise ValueError(f"loss_reduction must be 'token' or 'instance', not '{loss_reduction}'")
