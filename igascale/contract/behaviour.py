"""Clauses about the numbers a hook returns, on one rank."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from igascale.contract.bench import SOUND, Bench, Broken, NotApplicable, Rules, refuse_infinite
from igascale.contract.cases import SHAPES, Case, difference, flatten, global_randomness
from igascale.hooks.base import DomainFactorGrads, GradientHook

RULES = Rules()


@RULES.add("repeatable", "the same state and input give the same result to the bit", ("made", "result", "inputs"))
def _repeatable(bench: Bench) -> None:
    case, other = bench.case(), bench.case(seed=1)
    hook = bench.make()

    def run(on: GradientHook, step: Case) -> dict[str, Tensor]:
        with global_randomness(0):
            return flatten(step.run(on))

    first, fresh = run(hook, case), run(bench.make(), case)
    if gap := difference(fresh, first, exact=True):
        raise Broken(
            f"a second hook with the same options gives another result ({gap}): keep nothing on class or module"
        )
    run(hook, other)
    if not hook.state_dict():
        if gap := difference(run(hook, case), first, exact=True):
            raise Broken(
                f"after another step the same input gives another result ({gap}): what combine remembers must go through "
                "state_dict and load_state_dict, or a resumed run is another run"
            )
        return
    again = bench.make()
    run(again, case)
    run(again, other)
    if gap := difference(run(again, case), run(hook, case), exact=True):
        raise Broken(f"two hooks that saw the same steps differ ({gap})")


@RULES.add("histogram", "the mask's histogram, where there is one, is well formed and changes nothing else", SOUND[:-1])
def _histogram(bench: Bench) -> None:
    case = bench.case()
    hook = bench.make()
    if not hook.draws_mask:
        raise NotApplicable("draws_mask is False")
    asked = replace(case, context=replace(case.context, wants_histogram=True))
    with global_randomness(0):
        plain, counted = bench.run(case), bench.run(asked)
    if gap := difference(flatten(counted), flatten(plain), exact=True):
        raise Broken(f"ctx.wants_histogram changes the result ({gap}): a recorded step must be like any other")
    for fqn, grad in counted.items():
        counts_H = grad.mask_histogram
        if counts_H is None:
            raise Broken(f"{fqn}.mask_histogram is None, though draws_mask is True and ctx.wants_histogram was set")
        if not bool((counts_H.isfinite() & (counts_H >= 0)).all()) or float(counts_H[:-1].sum()) <= 0:
            raise Broken(f"{fqn}.mask_histogram must hold counts, at least one above 0, not {counts_H.tolist()}")
    if any(grad.mask_histogram is not None for grad in plain.values()):
        raise Broken("mask_histogram is set without ctx.wants_histogram: it costs time on every step")


@RULES.add("randomness", "random numbers come from ctx.generator only", SOUND[:-1])
def _randomness(bench: Bench) -> None:
    case = bench.case()
    results, moved = [], []
    for seed in (1, 2):
        with global_randomness(seed):
            before = _global_states()
            results.append(flatten(case.run(bench.make())))
            moved = [name for name, state in _global_states().items() if not _same(state, before[name])]
    if gap := difference(results[1], results[0], exact=True):
        raise Broken(
            f"the result depends on the global random state ({gap}), which differs between ranks and after a resume: pass "
            "generator=ctx.generator('a key')"
        )
    if moved:
        raise Broken(
            f"combine draws from {moved[0]}'s global generator, which shifts the model's dropout: use ctx.generator"
        )


def _global_states() -> dict[str, Any]:
    numpy: Any = sys.modules.get("numpy")
    states = {"torch": torch.get_rng_state(), "random": random.getstate()}
    return states | ({"numpy": numpy.random.get_state()} if numpy else {})


def _same(x: Any, y: Any) -> bool:
    return torch.equal(x, y) if isinstance(x, Tensor) else repr(x) == repr(y)


@RULES.add("adapter order", "the order of the adapters in the mapping does not matter", SOUND)
def _adapter_order(bench: Bench) -> None:
    case = bench.case()
    backwards = case.only(list(SHAPES)[::-1], case.context.sum_over_shards)
    if gap := difference(flatten(bench.run(backwards)), flatten(bench.run(case))):
        raise Broken(f"with the adapters in another order {gap}: key random draws and state by the adapter's name")


@RULES.add("domain order", "the order of the domains does not matter (symmetric = True)", SOUND)
def _domain_order(bench: Bench) -> None:
    assert bench.hook is not None
    if not bench.hook.symmetric:
        raise NotApplicable("the hook says symmetric = False")
    for domains in (3, 4):
        case = bench.case(domains)
        count = len(case.context.domains)
        expected = flatten(bench.run(case))
        for order in (list(range(count))[::-1], [*range(1, count), 0]):
            if gap := difference(flatten(bench.run(case.permuted(order))), expected):
                raise Broken(f"with the domains in the order {order} {gap}: mend it, or say symmetric = False")


@RULES.add("zero", "zero gradients give zeros; of one domain or one adapter only, something finite", SOUND)
def _zero(bench: Bench) -> None:
    case = bench.case()
    domains = len(case.context.domains)
    result = bench.run(case.changed(scaled_by(torch.zeros(domains))))
    refuse_infinite(result, "where every gradient is zero: guard the division (x / norm.clamp_min(1e-30))")
    for fqn, grad in result.items():
        if bool(grad.a.any()) or bool(grad.b.any()):
            raise Broken(f"{fqn} is not zero where every gradient is zero")
    for n in range(domains):
        factor_D = torch.ones(domains)
        factor_D[n] = 0.0
        refuse_infinite(bench.run(case.changed(scaled_by(factor_D))), f"where the gradients of domain {n} are zero")
    for fqn in SHAPES:
        silent = case.changed(scaled_by(torch.zeros(domains), only=fqn))
        refuse_infinite(bench.run(silent), f"where the gradients of {fqn} are zero")


@RULES.add("scale", "gradients of 1e15 and of 1e-15 give something finite, and tiny ones not nothing", SOUND)
def _scale(bench: Bench) -> None:
    case = bench.case()
    for factor in (1e15, 1e-15):
        result = bench.run(case.changed(scaled_by(torch.full((len(case.context.domains),), factor))))
        refuse_infinite(result, f"for gradients of the size {factor:g}: square in float64, guard divisions")
        for fqn, grad in bench.run(case).items():
            if factor < 1 and grad.b.any() and not result[fqn].b.any():
                raise Broken(f"{fqn} is zero for gradients of the size {factor:g} only: no absolute thresholds")


def scaled_by(factor_D: Tensor, only: str | None = None) -> Callable[[str, DomainFactorGrads], DomainFactorGrads]:
    """A change that multiplies each domain's gradients, of one adapter or of all."""

    def scaled(fqn: str, g: DomainFactorGrads) -> DomainFactorGrads:
        if only not in (None, fqn):
            return g
        f_D11 = factor_D[:, None, None]
        noise = None if g.noise is None else g.noise * torch.outer(factor_D, factor_D).double()
        return DomainFactorGrads(g.a * f_D11, g.b * f_D11, noise)

    return scaled


@RULES.add("nan", "a NaN in the gradients of an adapter never gives it a finite result", SOUND)
def _nan(bench: Bench) -> None:
    case = bench.case()
    for spoilt in ("layers.0.q_proj", "layers.0.k_proj"):
        for part in ("a", "b"):
            try:
                result = bench.run(case.changed(_with_nan(spoilt, part), aux=False))
            except (ValueError, FloatingPointError):
                continue
            if bool(result[spoilt].a.isfinite().all()) and bool(result[spoilt].b.isfinite().all()):
                raise Broken(
                    f"a NaN in {spoilt}.{part} of one domain disappears: a step that must be skipped would be taken. Do not "
                    "use nan_to_num; let the NaN through (comparisons and clamps hide it too)"
                )


def _with_nan(chosen: str, part: str) -> Callable[[str, DomainFactorGrads], DomainFactorGrads]:
    def spoil(fqn: str, g: DomainFactorGrads) -> DomainFactorGrads:
        if fqn != chosen:
            return g
        x = getattr(g, part).clone()
        x[1 % len(x), 0, 0] = math.nan
        return replace(g, **{part: x})

    return spoil


@RULES.add("one domain", "one domain alone works (min_domains = 1)", SOUND)
def _one_domain(bench: Bench) -> None:
    assert bench.hook is not None
    if bench.hook.min_domains > 1:
        raise NotApplicable(f"the hook says min_domains = {bench.hook.min_domains}")
    try:
        refuse_infinite(bench.run(bench.case(domains=1)), "for one domain")
    except Broken as fault:
        raise Broken(f"{fault}; a rule that means nothing for one domain says min_domains = 2") from None
