r"""The gradient invariance residual (GIR) of an evaluated adapter: do the domains still pull it in different directions?

.. math:: \mathrm{GIR} = \sum V \Big/ \sum \bar g^2, \qquad V = \tfrac1D \sum_n (g_n - \bar g)^2

of the gradients that each domain's held-out groups would give, captured as in training but with no step taken. With few groups
most of V is sampling noise: the share that is, estimated from how much the groups differ among each other, stands beside it.

Shape legend: D domains, N adapters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from igascale.adapters import LoraAdapter, find_adapters, is_identity
from igascale.capture import GradientCapture
from igascale.errors import UserError
from igascale.evaluation.generation import max_positions
from igascale.evaluation.results import ISOMERS, EvaluationResult, HeldOutResidual, Residual
from igascale.hooks.base import DomainFactorGrads
from igascale.isomers.batches import collate, domain_denominators
from igascale.isomers.encode import Example, encode_example
from igascale.isomers.schema import IsomerGroup, domains_of
from igascale.linalg.gram import variance_over_domains
from igascale.loss import domain_token_losses
from igascale.memory import is_out_of_memory
from igascale.noise import mean_grams, sampling_noise

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEFAULT_GROUPS = 32
_MUCH_NOISE = 0.8


def check_adapter(model: nn.Module) -> None:
    """Refuse a model whose gradients would not be those of an adapter, or not be right.

    Raises:
        UserError: it is a plain model, its adapter is not plain LoRA, or it computes in float16.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        raise UserError(
            "--gir measures the gradients of an adapter, and this is a plain model; give a run or an adapter folder"
        )
    with _trainable(model):
        dtype = next(iter(find_adapters(model).values())).A.dtype
    if dtype == torch.float16:
        raise UserError("--gir: gradients in float16 vanish without loss scaling; take --dtype bfloat16 or float32")


def held_out_residual(
    model: PreTrainedModel,
    tokenizer: Any,
    groups: Sequence[IsomerGroup],
    *,
    most_groups: int = DEFAULT_GROUPS,
    progress: Callable[[int, int], None] | None = None,
) -> HeldOutResidual | None:
    """GIR of each adapter, and of all, from one forward and backward pass per group.

    Gradients are of the mean loss per supervised token of each domain, as in training by default, without dropout. A pass
    holds one group, whatever the batch size of the rest: the noise is estimated from how much groups differ. Weights, their
    ``.grad``, ``requires_grad`` and the model's mode are left as they were.

    Args:
        model: a PEFT model with one LoRA adapter.
        tokenizer: as in training.
        groups: held-out groups; those used are taken evenly from their order.
        most_groups: how many are used at most.
        progress: called with (groups done, groups in all).

    Returns:
        ``None`` for groups of fewer than two domains, or where none of those chosen can be used.

    Raises:
        UserError: see :func:`check_adapter`.
    """
    check_adapter(model)
    domains = domains_of(groups)
    if len(domains) < 2:
        return None
    chosen = (
        [groups[k * len(groups) // most_groups] for k in range(most_groups)] if len(groups) > most_groups else groups
    )
    encoded = [_encode(tokenizer, group, domains, max_positions(model)) for group in chosen]
    usable = [examples for examples in encoded if examples is not None]
    if not usable:
        return None
    with _trainable(model), _evaluating(model):
        adapters = find_adapters(model)
        with GradientCapture(adapters, len(domains), measure_noise=True, ordinary_gradients=False) as capture:
            loss_D = torch.zeros(len(domains), dtype=torch.float64)
            for done, examples in enumerate(usable, 1):
                with _enough_memory():
                    loss_D += _forward_backward(model, capture, examples, len(domains))
                if progress is not None:
                    progress(done, len(usable))
        total_D = domain_denominators([e for examples in usable for e in examples], len(domains), "token")
        sums, noise = capture.sums(), capture.noise
        assert noise is not None
        means_N2DD = torch.stack([_mean_grams(sums[fqn], total_D, adapter) for fqn, adapter in adapters.items()])
    grams_N2DD = torch.stack([noise.grams[fqn].cpu() for fqn in adapters])
    noise_N2DD = sampling_noise(grams_N2DD, noise.overlap, noise.counts, total_D, means_N2DD)
    return HeldOutResidual(
        overall=_residual(means_N2DD.sum(0), noise_N2DD.sum(0), domains),
        adapters={fqn: _residual(means_N2DD[n], noise_N2DD[n], domains) for n, fqn in enumerate(adapters)},
        domains=list(domains),
        losses=dict(zip(domains, map(_finite, (loss_D / total_D).tolist()))),
        groups=len(usable),
        skipped_groups=len(encoded) - len(usable),
        cut_texts=sum(example.truncated for examples in usable for example in examples),
    )


def _encode(tokenizer: Any, group: IsomerGroup, domains: Sequence[str], positions: int | None) -> list[Example] | None:
    """The group's instances in the order of the domains; ``None`` if one is missing, or has nothing to learn from."""
    instances = {instance.domain: instance for instance in group.instances}
    if any(domain not in instances for domain in domains):
        return None
    room = positions if positions is not None else 1 << 30
    examples = [encode_example(tokenizer, instances[d], room, n, group.id) for n, d in enumerate(domains)]
    return examples if all(example.supervised for example in examples) else None


def _forward_backward(
    model: PreTrainedModel, capture: GradientCapture, examples: Sequence[Example], num_domains: int
) -> Tensor:
    """The sums of losses of one group per domain, ``[D]``; its gradients go to the capture."""
    host = collate(examples, 0, "token")
    batch = host.to(next(model.parameters()).device)
    with torch.enable_grad(), capture.rows(host.domain, weight=host.domain_weights):
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        losses_D = domain_token_losses(logits, batch.labels, batch.weights, batch.domain, num_domains)
        losses_D.sum().backward()
    return losses_D.detach().double().cpu()


@contextmanager
def _enough_memory() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            "out of memory in the backward pass of one group, which --gir needs; leave it out, or take --dtype bfloat16"
        ) from None


def _residual(means_2DD: Tensor, noise_2DD: Tensor, domains: Sequence[str]) -> Residual:
    """From inner products of the domains' gradients, and of their errors; 0 of the reconstructions, 1 of the factors."""
    variance_2 = variance_over_domains(means_2DD).clamp_min(0)  # rounding of float32 products: domains may be alike
    mean_sq_2 = means_2DD.sum((1, 2)) / len(domains) ** 2
    noise_2 = variance_over_domains(noise_2DD).clamp_min(0)
    (weight_gir, gir), (weight_share, share) = (
        [_finite(float(x / y)) if y > 0 else None for x, y in zip(above, below)]
        for above, below in ((variance_2, mean_sq_2), (noise_2, variance_2))
    )
    norm_D = means_2DD[1].diagonal().clamp_min(0).sqrt()
    cosines = {
        f"{domains[m]}/{domains[n]}": _finite(float(means_2DD[1, m, n] / (norm_D[m] * norm_D[n])))
        for m, n in combinations(range(len(domains)), 2)
    }
    return Residual(gir, share, weight_gir, weight_share, cosines)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean_grams(sums: DomainFactorGrads, total_D: Tensor, adapter: LoraAdapter) -> Tensor:
    """Inner products of the domains' mean gradients, ``[2, D, D]``, float64 on the CPU."""
    a, b = (x / total_D.to(x.device, x.dtype)[:, None, None] for x in (sums.a, sums.b))
    return mean_grams(a, b, adapter).cpu()


@contextmanager
def _trainable(model: nn.Module) -> Iterator[None]:
    """Only the LoRA factors ask for gradients inside; afterwards everything is as it was."""
    from peft.tuners.lora import LoraLayer

    before = [(p, p.requires_grad) for p in model.parameters()]
    factors = {
        linear.weight
        for layer in model.modules()
        if isinstance(layer, LoraLayer)
        for linear in (*layer.lora_A.values(), *(() if not len(layer.lora_B) else layer.lora_B.values()))
        if not is_identity(linear.weight)  # A of lora.full_rank: it is no parameter
    }
    try:
        for parameter, _ in before:
            parameter.requires_grad_(parameter in factors)
        yield
    finally:
        for parameter, asked in before:
            parameter.requires_grad_(asked)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def gir_remarks(result: EvaluationResult) -> list[str]:
    """A line for each side whose GIR was asked for: the ratio beside its noise, the worst adapter, what was left out."""
    told = []
    for suite_name, suite in result.suites.items():
        for side, split in suite.splits.items():
            name = side.upper() if suite_name == ISOMERS else f"{suite_name} {side.upper()}"
            if split.gir is not None:
                told += _lines(split.gir, name)
            elif suite_name == ISOMERS and result.settings.get("gir_groups"):
                told.append(
                    f"{name}: no GIR: it compares domains, and no group here has two with an answer that fits the model"
                )
    return told


def _lines(found: HeldOutResidual, name: str) -> list[str]:
    overall = found.overall
    told = [
        f"{name}: GIR {_shown(overall.gir)} over {found.groups} groups, {_percent(overall.noise_share)} of it sampling noise"
    ]
    known = {fqn: each.gir for fqn, each in found.adapters.items() if each.gir is not None}
    if known:
        worst = max(known, key=lambda fqn: known[fqn])
        told[0] += (
            f"; highest at {worst}: {known[worst]:.3g} ({_percent(found.adapters[worst].noise_share)} of it noise)"
        )
    if overall.noise_share is not None and overall.noise_share > _MUCH_NOISE:
        told.append(f"{name}: GIR is mostly noise, not conflict; more groups (--gir-groups) lower it")
    if found.skipped_groups:
        told.append(
            f"{name}: GIR leaves out {found.skipped_groups} groups that lack a domain, or an answer within the positions"
        )
    if found.cut_texts:
        told.append(
            f"{name}: GIR reads the beginnings of {found.cut_texts} texts that are longer than the model has positions"
        )
    return told


def _shown(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3g}"


def _percent(share: float | None) -> str:
    if share is None:
        return "an unknown share"
    return f"{share:.0%}" if share < 1 else "all"  # the estimate may exceed the whole; the table shows by how much
