r"""Logical Consistency Score (LCS): how far apart the representations of one logic in several domains lie.

Shape legend: B rows, H hidden size, N domain instances of a group, K groups, S layers, P pairs of instances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from igascale.errors import UserError
from igascale.evaluation.generation import forward_options, pad
from igascale.evaluation.layers import LayerStates, penultimate_layer
from igascale.evaluation.results import ISOMERS, Consistency, EvaluationResult
from igascale.isomers.encode import encode_instances, encode_prompt
from igascale.isomers.schema import IsomerGroup

if TYPE_CHECKING:
    from transformers import PreTrainedModel

#: Whose tokens are averaged: the problem, as the model sees it before it writes anything, or problem and reference solution.
LCS_TEXTS = ("prompt", "full")
# Between-group variance over mean squared norm below which the states of different problems count as one and
# the same: a relative spread of 0.1%. Prompts that share most of their tokens (a long template) come close, so it
# is no larger; partial collapse shows in the accuracy, not here.
COLLAPSE_THRESHOLD = 1e-6
# Mean square of a coordinate below which there is no state left; embeddings begin at some 1e-4.
ZERO_THRESHOLD = 1e-12
NOT_FINITE, ZERO, ALIKE = "the states are not finite", "the states are zero", "different problems have the same states"


@dataclass(frozen=True)
class GroupTexts:
    """The texts of one isomer group.

    Attributes:
        ids: token ids of each instance.
        domains: of the instances; empty where nobody asks for pairs of them.
        cut: how many of the texts were cut to the model's positions.
    """

    ids: list[list[int]]
    domains: tuple[str, ...] = ()
    cut: int = 0


def group_texts(tokenizer: Any, groups: Sequence[IsomerGroup], text: str, positions: int | None) -> list[GroupTexts]:
    """What LCS reads of each group.

    Args:
        tokenizer: as in training.
        groups: of any number of domains.
        text: one of :data:`LCS_TEXTS`.
        positions: tokens that the model has room for; what is longer is cut on the right, and counted.

    Raises:
        UserError: an unknown ``text``, or a problem without a token.
    """
    if text not in LCS_TEXTS:
        raise UserError(f"lcs_text is '{text}'; known: {', '.join(LCS_TEXTS)}")
    return [_texts_of(tokenizer, group, text, positions) for group in groups]


def _texts_of(tokenizer: Any, group: IsomerGroup, text: str, positions: int | None) -> GroupTexts:
    if text == "prompt":
        whole = [encode_prompt(tokenizer, instance.problem) for instance in group.instances]
    else:
        whole = [prompt + rest for prompt, rest in encode_instances(tokenizer, group.instances)]
    if not all(whole):
        raise UserError(f"group '{group.id}' has a problem without a single token: LCS has nothing to average")
    cut = sum(positions is not None and len(ids) > positions for ids in whole)
    return GroupTexts([ids[:positions] for ids in whole], tuple(i.domain for i in group.instances), cut)


@dataclass
class ConsistencyAccumulator:
    r"""LCS at several layers over groups that come one at a time; holds one state per layer, however many groups there are.

    .. math:: \mathrm{LCS} = \frac1K \sum_{k=1}^K
        \operatorname{Tr} \operatorname{Cov}(z_k^{(1)}, \dots, z_k^{(N)}),
        \quad \operatorname{Cov} \text{ with } \tfrac{1}{N-1}

    Reference: paper, Eq. 11, section 3.6. Means and variances by Welford's updates, and those of two accumulators merged by
    Chan, Golub and LeVeque's formulas (1979): all exact, and none subtracts large sums.
    Differs from the paper: it prints LCS alone (times 100). LCS alone is smallest for a collapsed model, so
    the value relative to the mean squared norm and an alarm come with it, and the tables show accuracy beside
    it.

    Args:
        layers: what the states are of, in order.
        text: whose tokens they average; said in the result.

    Attributes:
        groups: K so far.
        skipped: groups without a pair of instances, which have no covariance.
        cut: texts that were cut to the model's positions.
    """

    layers: Sequence[int]
    text: str = "prompt"
    groups: int = 0
    instances: int = 0
    skipped: int = 0
    cut: int = 0
    # [S] each: mean and summed squared deviation of the groups' traces; sum of squared norms; deviation of the group centres.
    _trace: Tensor = field(init=False)
    _trace_dev: Tensor = field(init=False)
    _squares: Tensor = field(init=False)
    _centre_dev: Tensor = field(init=False)
    _centre: Tensor | None = None  # [S, H], mean of the group centres
    _pairs: dict[str, tuple[int, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        zeros = torch.zeros(4, len(self.layers), dtype=torch.float64)
        self._trace, self._trace_dev, self._squares, self._centre_dev = zeros

    def add(self, states_SNH: Tensor, domains: Sequence[str] = ()) -> None:
        """Take the states of one group's N >= 2 instances; ``domains`` names them, for the pairs."""
        states_SNH = states_SNH.double().cpu()
        N = states_SNH.shape[1]
        if N < 2:
            raise ValueError("the covariance of a group needs at least two instances")
        centre_SH = states_SNH.mean(1)
        one = ConsistencyAccumulator(self.layers, self.text, groups=1, instances=N)
        one._trace = (states_SNH - centre_SH[:, None]).square().sum((1, 2)) / (N - 1)
        one._squares = states_SNH.square().sum((1, 2))
        one._centre = centre_SH
        if domains:
            first, second = torch.triu_indices(N, N, offset=1)
            half_SP = (states_SNH[:, first] - states_SNH[:, second]).square().sum(2) / 2
            for (m, n), half_S in zip(combinations(range(N), 2), half_SP.unbind(1)):
                one._add_pair("/".join(sorted((domains[m], domains[n]))), 1, half_S)
        self.merge(one)

    def merge(self, other: ConsistencyAccumulator) -> None:
        """Take what another has seen of other groups, on another rank say."""
        if tuple(other.layers) != tuple(self.layers) or other.text != self.text:
            raise ValueError(
                f"layers {other.layers} of the {other.text} cannot be merged into {self.layers} of the {self.text}"
            )
        self.skipped += other.skipped
        self.cut += other.cut
        for pair, (count, sum_S) in other._pairs.items():
            self._add_pair(pair, count, sum_S)
        if other._centre is None:
            return
        K = self.groups + other.groups
        before_SH = torch.zeros_like(other._centre) if self._centre is None else self._centre
        delta_S, delta_SH = other._trace - self._trace, other._centre - before_SH
        both = self.groups * other.groups / K
        self._trace_dev = self._trace_dev + other._trace_dev + delta_S.square() * both
        self._centre_dev = self._centre_dev + other._centre_dev + delta_SH.square().sum(1) * both
        self._trace = self._trace + delta_S * (other.groups / K)
        self._centre = before_SH + delta_SH * (other.groups / K)
        self._squares = self._squares + other._squares
        self.groups, self.instances = K, self.instances + other.instances

    def _add_pair(self, pair: str, count: int, sum_S: Tensor) -> None:
        had, before_S = self._pairs.get(pair, (0, torch.zeros_like(sum_S)))
        self._pairs[pair] = had + count, before_S + sum_S

    def state(self) -> dict[str, Any]:
        """Everything, as numbers, strings and lists, for another process or a file; :meth:`from_state` reads it."""
        return {
            "layers": list(self.layers),
            **{name: getattr(self, name) for name in ("text", "groups", "instances", "skipped", "cut")},
            **{name: getattr(self, f"_{name}").tolist() for name in ("trace", "trace_dev", "squares", "centre_dev")},
            "centre": None if self._centre is None else self._centre.tolist(),
            "pairs": {pair: [count, sum_S.tolist()] for pair, (count, sum_S) in self._pairs.items()},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ConsistencyAccumulator:
        """The accumulator that said :meth:`state`, to the bit."""
        names = ("text", "groups", "instances", "skipped", "cut")
        new = cls(list(state["layers"]), **{name: state[name] for name in names})
        for name in ("trace", "trace_dev", "squares", "centre_dev"):
            setattr(new, f"_{name}", torch.tensor(state[name], dtype=torch.float64))
        if state["centre"] is not None:
            new._centre = torch.tensor(state["centre"], dtype=torch.float64)
        new._pairs = {p: (n, torch.tensor(s, dtype=torch.float64)) for p, (n, s) in state["pairs"].items()}
        return new

    def results(self) -> list[Consistency]:
        """The score of the groups so far at each layer, in order; empty where no group had a pair of instances."""
        return [self._result(s) for s in range(len(self.layers))] if self.groups else []

    def _result(self, s: int) -> Consistency:
        assert self._centre is not None
        lcs, norm = float(self._trace[s]), float(self._squares[s]) / self.instances
        known: dict[str, Any] = {"text": self.text, "skipped_groups": self.skipped, "cut_texts": self.cut}
        layer, K = self.layers[s], self.groups
        if not (math.isfinite(norm) and math.isfinite(lcs)):
            return Consistency(None, None, None, None, True, layer, K, alarm=NOT_FINITE, **known)
        # States of zero norm are as collapsed as can be: relative values are 0 by convention.
        safe_norm = norm if norm > 0 else 1.0
        between = float(self._centre_dev[s]) / (K - 1) / safe_norm if K > 1 else None
        alarm = ""
        if norm < ZERO_THRESHOLD * self._centre.shape[1]:
            alarm = ZERO
        elif between is not None and between < COLLAPSE_THRESHOLD:
            alarm = ALIKE
        error = math.sqrt(float(self._trace_dev[s]) / (K - 1) / K) if K > 1 else None
        pairs = {pair: float(sum_S[s]) / count for pair, (count, sum_S) in sorted(self._pairs.items())}
        return Consistency(
            lcs,
            lcs / safe_norm,
            norm,
            between,
            bool(alarm),
            layer,
            K,
            pairs=pairs,
            standard_error=error,
            alarm=alarm,
            **known,
        )


@torch.no_grad()
def consistency(
    model: PreTrainedModel,
    groups: Sequence[GroupTexts],
    *,
    layers: Sequence[int] | None = None,
    text: str = "prompt",
    batch_size: int = 16,
    padding_side: str = "right",
    progress: Callable[[int, int], None] | None = None,
) -> ConsistencyAccumulator:
    """LCS of ``model``, or of its share of the groups: accumulators of several shares are merged.

    One forward pass per batch serves all layers. The longest groups come first: a batch that does not fit in memory
    fails at once. A group of one instance has no covariance and is counted in ``skipped``.

    Args:
        model: causal LM in evaluation mode, plain or PEFT.
        groups: token ids of each group.
        layers: indices into ``hidden_states``; :func:`igascale.evaluation.layers.penultimate_layer` by default.
        text: what the ids are of, for the result.
        batch_size: sequences per forward; does not change the result beyond rounding.
        padding_side: nor does this.
        progress: called with (sequences done, sequences in all).

    Raises:
        UserError: the model's layers cannot be found, or it has not these.
    """
    layers = (penultimate_layer(model),) if layers is None else layers
    found = ConsistencyAccumulator(tuple(layers), text)
    found.skipped = sum(len(group.ids) < 2 for group in groups)
    usable = sorted((g for g in groups if len(g.ids) > 1), key=lambda g: -max(map(len, g.ids)))
    found.cut = sum(group.cut for group in usable)
    flat = [ids for group in usable for ids in group.ids]
    upcoming = iter(usable)
    group = next(upcoming, None)
    waiting_SBH: Tensor | None = None
    with LayerStates(model, found.layers) as states:
        for start in range(0, len(flat), batch_size):
            batch = flat[start : start + batch_size]
            new_SBH = _averages(states, model, batch, padding_side)
            waiting_SBH = new_SBH if waiting_SBH is None else torch.cat([waiting_SBH, new_SBH], 1)
            while group is not None and waiting_SBH.shape[1] >= len(group.ids):
                found.add(waiting_SBH[:, : len(group.ids)], group.domains)
                waiting_SBH = waiting_SBH[:, len(group.ids) :]
                group = next(upcoming, None)
            if progress is not None:
                progress(start + len(batch), len(flat))
    return found


def _averages(states: LayerStates, model: PreTrainedModel, sequences: Sequence[list[int]], padding_side: str) -> Tensor:
    """``[S, B, H]``: the states averaged over each sequence's real tokens."""
    options = forward_options(model)
    ids_BT, mask_BT, positions_BT = pad(sequences, padding_side, next(model.parameters()).device)
    inputs: dict[str, Any] = {"input_ids": ids_BT, "attention_mask": mask_BT, "use_cache": False}
    if "position_ids" in options:
        inputs["position_ids"] = positions_BT
    if "logits_to_keep" in options:
        inputs["logits_to_keep"] = 1
    return states.averages(inputs, mask_BT)


def lcs_remarks(result: EvaluationResult) -> list[str]:
    """What has to be said of all scores of an evaluation; see :func:`remarks`."""
    return [
        line
        for suite_name, suite in result.suites.items()
        for side, split in suite.splits.items()
        for line in remarks(split.layers, side.upper() if suite_name == ISOMERS else f"{suite_name} {side.upper()}")
    ]


def remarks(results: Sequence[Consistency], name: str) -> list[str]:
    """What has to be said of a set's scores: what was left out, and at which layers they mean nothing.

    Args:
        results: of one set, at any number of layers.
        name: of the set.
    """
    if not results:
        return []
    told, first = [], results[0]
    if first.skipped_groups:
        told.append(
            f"{name}: LCS leaves out {first.skipped_groups} groups of one instance, {first.groups} are measured"
        )
    if first.cut_texts:
        told.append(
            f"{name}: {first.cut_texts} texts are longer than the model has positions; LCS averages their beginnings"
        )
    for alarm in dict.fromkeys(r.alarm for r in results if r.alarm):
        layers = ", ".join(str(r.layer) for r in results if r.alarm == alarm)
        told.append(f"{name}: LCS means nothing at layer {layers}: {alarm} (collapse)")
    return told
