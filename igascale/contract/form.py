"""Clauses about the form of what a hook declares, takes and returns."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from igascale.contract import cases
from igascale.contract.bench import Bench, Broken, NotApplicable, Rules, refuse_infinite
from igascale.docstring import option_texts
from igascale.hooks import options
from igascale.hooks.base import DomainFactorGrads, GradientHook

RULES = Rules()
_RESULT = ("made", "result")


@RULES.add("made", "it is made from its options, and what it declares is well formed", ())
def _made(bench: Bench) -> None:
    hook = bench.make()
    if not isinstance(hook, GradientHook):
        raise Broken(f"{type(hook).__name__} is not a GradientHook")
    bench.hook = hook
    names = hook.statistics
    if not isinstance(names, tuple) or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise Broken(f"statistics = {names!r} must be a tuple of different names, such as ('mean_mask',)")
    if not isinstance(hook.min_domains, int) or hook.min_domains < 1:
        raise Broken(f"min_domains = {hook.min_domains!r} must be a whole number >= 1")
    for name in ("symmetric", "uses_noise", "uses_reference", "draws_mask"):
        if not isinstance(getattr(hook, name), bool):
            raise Broken(f"{name} = {getattr(hook, name)!r} must be True or False")
    if hook.auxiliary is not None and not callable(hook.auxiliary):
        raise Broken(f"auxiliary = {hook.auxiliary!r} must be None or a function of (logits, labels)")


@RULES.add(
    "result", "exactly the adapters given, shapes of the factors, float32, declared statistics, finite", ("made",)
)
def _result(bench: Bench) -> None:
    for domains in (2, 3, 4):
        case = bench.case(domains)
        steps = {"": case}
        if case.grads["layers.0.q_proj"].noise is not None:
            steps[" where the noise is not known (NaN)"] = case.changed(_with_noise(math.nan), aux=False)
            steps[" without noise (None)"] = case.changed(lambda _, g: replace(g, noise=None), aux=False)
        for told, step in steps.items():
            refuse_infinite(bench.run(step), f"for ordinary gradients{told}")


def _with_noise(value: float) -> Callable[[str, DomainFactorGrads], DomainFactorGrads]:
    return lambda _, g: replace(g, noise=None if g.noise is None else torch.full_like(g.noise, value))


@RULES.add("inputs", "gradients, factors and context are left as they were", _RESULT)
def _inputs(bench: Bench) -> None:
    case = bench.case()
    before = copy.deepcopy((case.grads, case.adapters, case.context.aux, case.context.losses, case.context.aux_values))
    grads, adapters = dict(case.grads), dict(case.adapters)
    bench.make().combine(grads, adapters, case.context)
    if grads.keys() != before[0].keys() or adapters.keys() != before[1].keys():
        raise Broken("combine adds or removes adapters in the mappings it is given: work on a copy")
    after = (grads, adapters, case.context.aux, case.context.losses, case.context.aux_values)
    for (name, old), (_, new) in zip(_tensors(before), _tensors(after)):
        if new.grad is not None or new.requires_grad:
            raise Broken(f"{name} takes part in autograd after combine: work on {name}.clone()")
        if not torch.equal(new, old):
            raise Broken(f"{name} was changed in place: write x = x * m, not x *= m, or clone() it first")


def _tensors(value: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """Every tensor in the inputs, with a name."""
    if isinstance(value, Tensor):
        return [(name or "a tensor of ctx", value)]
    if isinstance(value, dict):
        return [t for key, item in value.items() for t in _tensors(item, f"{name}{key}")]
    if isinstance(value, tuple):
        return [t for item in value for t in _tensors(item, name)]
    fields = vars(value) if hasattr(value, "__dataclass_fields__") else {}
    return [t for key, item in fields.items() for t in _tensors(item, f"{name}.{key}")]


@RULES.add("detached", "the result carries no autograd graph", _RESULT)
def _detached(bench: Bench) -> None:
    for fqn, grad in bench.run(bench.case()).items():
        for name, tensor in cases.parts(grad).items():
            if tensor.requires_grad:
                raise Broken(f"{fqn}.{name} requires grad, its graph would grow with the steps: return {name}.detach()")


@RULES.add(
    "auxiliary", "auxiliary(logits [T, V], labels [T]) -> [T], a finite, differentiable figure of each token", ("made",)
)
def _auxiliary(bench: Bench) -> None:
    assert bench.hook is not None
    statistic = bench.hook.auxiliary
    if statistic is None:
        raise NotApplicable("the hook has none")
    generator = torch.Generator().manual_seed(3)
    for size in (1.0, 1e4):
        logits_TV = size * torch.randn(7, 11, generator=generator)
        labels_T = torch.randint(11, (7,), generator=generator)
        logits_TV.requires_grad_()
        values_T = statistic(logits_TV, labels_T)
        if not isinstance(values_T, Tensor) or values_T.shape != (7,):
            found = list(values_T.shape) if isinstance(values_T, Tensor) else type(values_T).__name__
            raise Broken(f"for 7 tokens it returns {found}, not [7]: one figure per token, no mean")
        if not values_T.requires_grad:
            raise Broken("it cannot be differentiated in the logits: no detach(), no argmax")
        (slope_TV,) = torch.autograd.grad(values_T.sum(), logits_TV)
        if not bool(values_T.isfinite().all()) or not bool(slope_TV.isfinite().all()):
            raise Broken(f"it or its derivative is not finite for logits of the size {size:g}")
        some_T = statistic(logits_TV.detach()[:3], labels_T[:3])
        if not torch.allclose(some_T, values_T.detach()[:3], rtol=cases.TOLERANCE):
            raise Broken(
                "a token's figure depends on the other tokens of the batch: micro-batches would change the result"
            )


@RULES.add("messages", "warnings() and alarms(stats) return text, also where every figure is NaN", _RESULT)
def _messages(bench: Bench) -> None:
    hook = bench.make()
    told = hook.warnings()
    if not isinstance(told, list) or not all(isinstance(text, str) for text in told):
        raise Broken(f"warnings() must return a list of strings, not {told!r}")
    result = bench.run(bench.case())
    mean = {n: sum(float(g.stats[n]) for g in result.values()) / len(result) for n in hook.statistics}
    for stats in (mean, dict.fromkeys(mean, math.nan)):
        alarms = hook.alarms(stats)
        if not isinstance(alarms, dict) or not all(isinstance(t, str) for pair in alarms.items() for t in pair):
            raise Broken(f"alarms(stats) must return a dict of name -> message, not {alarms!r}")


@RULES.add("documented", "the class has a docstring, whose Args section explains every option", ("made",), advice=True)
def _documented(bench: Bench) -> None:
    assert bench.hook is not None
    cls = type(bench.hook)
    if not (cls.__doc__ or "").strip():
        raise Broken(f"{cls.__name__} has no docstring; its first line is what `igascale hooks` shows")
    texts = option_texts(cls)
    if untold := [key for key in options(cls) if not texts.get(key)]:
        raise Broken(
            f"'{untold[0]}' is not explained: add '{untold[0]}: what it does.' under 'Args:' of {cls.__name__}"
        )
