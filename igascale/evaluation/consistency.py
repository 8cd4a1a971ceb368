r"""Logical Consistency Score (LCS): how far apart the representations of one logic in several domains lie.

Shape legend: B rows, T tokens, H hidden size, N domain instances of a group, K groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from igascale.evaluation.generation import forward_options, pad
from igascale.evaluation.results import Consistency

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Between-group variance over mean squared norm below which the states of different problems count as one and
# the same: a relative spread of 0.1%. Prompts that share most of their tokens (a long template) come close, so it
# is no larger; partial collapse shows in the accuracy, not here.
COLLAPSE_THRESHOLD = 1e-6


class ConsistencyAccumulator:
    r"""LCS over groups that come one at a time; holds one hidden state, however many groups there are.

    .. math:: \mathrm{LCS} = \frac1K \sum_{k=1}^K
        \operatorname{Tr} \operatorname{Cov}(z_k^{(1)}, \dots, z_k^{(N)}),
        \quad \operatorname{Cov} \text{ with } \tfrac{1}{N-1}

    Reference: paper, Eq. 11, section 3.6.
    Differs from the paper: it prints LCS alone (times 100). LCS alone is smallest for a collapsed model, so
    the value relative to the mean squared norm and an alarm come with it, and the tables show accuracy beside
    it.
    """

    def __init__(self) -> None:
        self._groups = 0
        self._instances = 0
        self._traces = 0.0
        self._squared_norms = 0.0
        self._mean_H: Tensor | None = None
        self._deviation = 0.0

    def add(self, states_NH: Tensor) -> None:
        """Take the states of one group's N >= 2 instances."""
        states_NH = states_NH.double()
        if states_NH.shape[0] < 2:
            raise ValueError("the covariance of a group needs at least two instances")
        centre_H = states_NH.mean(0)
        self._traces += float((states_NH - centre_H).square().sum()) / (states_NH.shape[0] - 1)
        self._squared_norms += float(states_NH.square().sum())
        self._instances += states_NH.shape[0]
        # Welford's update of the mean and the summed squared deviation of the group centres.
        self._groups += 1
        before_H = torch.zeros_like(centre_H) if self._mean_H is None else self._mean_H
        self._mean_H = before_H + (centre_H - before_H) / self._groups
        self._deviation += float(((centre_H - before_H) * (centre_H - self._mean_H)).sum())

    def result(self, layer: int) -> Consistency:
        """The score of the groups so far; at least one."""
        lcs = self._traces / self._groups
        norm = self._squared_norms / self._instances
        if not math.isfinite(norm):
            return Consistency(None, None, None, None, True, layer, self._groups)
        # States of zero norm are as collapsed as can be: relative values are 0 by convention.
        safe_norm = norm if norm > 0 else 1.0
        between = self._deviation / (self._groups - 1) / safe_norm if self._groups > 1 else None
        collapsed = norm < 1e-12 or (between is not None and between < COLLAPSE_THRESHOLD)
        return Consistency(lcs, lcs / safe_norm, norm, between, collapsed, layer, self._groups)


def penultimate_layer(model: PreTrainedModel) -> int:
    """``L - 1`` of the L + 1 hidden states of a model with L layers: the paper's layer 31 of 32."""
    return int(model.config.get_text_config().num_hidden_layers) - 1


@torch.no_grad()
def consistency(
    model: PreTrainedModel,
    groups: Sequence[Sequence[list[int]]],
    *,
    layer: int | None = None,
    batch_size: int = 16,
    padding_side: str = "right",
    progress: Callable[[int, int], None] | None = None,
) -> Consistency:
    """LCS of ``model`` on tokenized groups.

    Which text is averaged is the caller's choice; :func:`igascale.evaluation.evaluate.evaluate_model` gives
    the prompt (the problem as the model sees it before it writes anything) unless told otherwise.

    Args:
        model: causal LM in evaluation mode.
        groups: K groups of N >= 2 token id lists.
        layer: index into ``hidden_states``; :func:`penultimate_layer` by default.
        batch_size: sequences per forward; does not change the result beyond rounding.
        padding_side: nor does this.
        progress: called with (sequences done, sequences in all).
    """
    layer = penultimate_layer(model) if layer is None else layer
    flat = [ids for group in groups for ids in group]
    accumulator = ConsistencyAccumulator()
    waiting: list[Tensor] = []
    upcoming = iter(groups)
    size = len(next(upcoming))
    for start in range(0, len(flat), batch_size):
        batch = flat[start : start + batch_size]
        waiting.extend(token_averages(model, batch, layer, padding_side).unbind(0))
        while size and len(waiting) >= size:
            accumulator.add(torch.stack(waiting[:size]))
            del waiting[:size]
            size = len(next(upcoming, ()))
        if progress is not None:
            progress(start + len(batch), len(flat))
    return accumulator.result(layer)


def token_averages(model: PreTrainedModel, sequences: Sequence[list[int]], layer: int, padding_side: str) -> Tensor:
    """``hidden_states[layer]`` averaged over each sequence's real tokens: ``[B, H]``, float64, on the CPU."""
    device = next(model.parameters()).device
    options = forward_options(model)
    ids_BT, mask_BT, positions_BT = pad(sequences, padding_side, device)
    extra: dict[str, object] = {"position_ids": positions_BT} if "position_ids" in options else {}
    if "logits_to_keep" in options:
        extra["logits_to_keep"] = 1
    out = model(input_ids=ids_BT, attention_mask=mask_BT, output_hidden_states=True, use_cache=False, **extra)
    states_BTH = out.hidden_states[layer].cpu().double()
    keep_BT1 = mask_BT.cpu().bool()[:, :, None]
    # masked_fill, not a product: what stands at padding may be NaN.
    return states_BTH.masked_fill(~keep_BT1, 0.0).sum(1) / keep_BT1.sum(1)
