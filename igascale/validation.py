"""Losses on held-out groups, per domain."""

from __future__ import annotations

from collections.abc import Callable

import torch

from igascale.assemble import Split
from igascale.engine import Engine
from igascale.isomers.batches import collate, domain_denominators, micro_batches
from igascale.loss import domain_token_losses


@torch.no_grad()
def validation_losses(
    engine: Engine,
    split: Split,
    *,
    max_groups: int,
    micro_batch_size: int,
    pad_token_id: int,
    pulse: Callable[[str], object],
) -> dict[str, float]:
    """Mean loss per supervised token, per domain, over the first ``max_groups`` groups.

    The groups are divided over the ranks; the result is the same on each. Nothing random is drawn.

    Returns:
        domain -> nats per token.
    """
    places = range(len(split.groups))[:max_groups][engine.comm.rank :: engine.comm.world_size]
    examples = [e for place in places for e in split.groups[place]]
    num_domains = len(split.domains)
    sums_D = torch.zeros(num_domains, dtype=torch.float64)
    training = engine.model.training
    engine.model.eval()
    try:
        for rows in micro_batches(examples, micro_batch_size):
            pulse("validating")
            batch = collate(rows, pad_token_id, "token").to(engine.device)
            logits = engine.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            losses_D = domain_token_losses(logits, batch.labels, batch.weights, batch.domain, num_domains)
            sums_D += losses_D.double().cpu()
    finally:
        engine.model.train(training)
    counts_D = domain_denominators(examples, num_domains, "token").double()
    sums_D, counts_D = engine.comm.sum(torch.stack([sums_D, counts_D]))
    return dict(zip(split.domains, (sums_D / counts_D).tolist()))
