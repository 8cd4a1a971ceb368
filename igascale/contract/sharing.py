"""Clauses about several ranks, and about what survives a resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from igascale.contract.behaviour import scaled_by
from igascale.contract.bench import SOUND, Bench, Broken, NotApplicable, Rules
from igascale.contract.cases import SHAPES, SHARES, Case, Result, difference, flatten
from igascale.contract.ranks import Unmet, run_ranks
from igascale.hooks.base import GradientHook

RULES = Rules()


@RULES.add("no adapters", "a rank that owns none (more ranks than adapters) returns {} and does not fail", SOUND)
def _no_adapters(bench: Bench) -> None:
    case, hooks = bench.case(), [bench.make(), bench.make()]
    outcomes = run_ranks([lambda s: case.only(SHAPES, s).run(hooks[0]), lambda s: case.only((), s).run(hooks[1])])
    mine = outcomes[1]
    if isinstance(mine, (Exception, SystemExit)) and not isinstance(mine, Unmet):
        raise mine
    if not isinstance(mine, Unmet) and mine != {}:
        raise Broken(f"returned {len(mine)} adapters there")


@RULES.add(
    "collective", "every rank asks for the same sums over shards, as often as the others", (*SOUND, "no adapters")
)
def _collective(bench: Bench) -> None:
    case = bench.case()
    _run_sharded(case, [bench.make() for _ in SHARES])
    for factor in (0.0, 1e6):  # a rank must not decide by what it alone sees
        alone = torch.full((len(case.context.domains),), factor)
        _run_sharded(case.changed(scaled_by(alone, only=next(iter(SHAPES)))), [bench.make() for _ in SHARES])


def _run_sharded(case: Case, hooks: list[GradientHook]) -> Result:
    """The results of three ranks together, each with its own hook and its share of the adapters."""

    def job(rank: int) -> Callable[..., Result]:
        return lambda s: case.only(SHARES[rank], s).run(hooks[rank])

    outcomes = run_ranks([job(rank) for rank in range(len(SHARES))])
    # What a rank died of comes before who waited for it.
    for outcome in sorted(outcomes, key=lambda o: isinstance(o, Unmet)):
        if isinstance(outcome, Unmet):
            raise Broken(
                f"a run on several ranks would hang: {outcome}. Call ctx.sum_over_shards the same number of times on every "
                "rank, also where a rank owns no adapter"
            )
        if isinstance(outcome, (Exception, SystemExit)):
            raise outcome
    return {fqn: grad for outcome in outcomes for fqn, grad in outcome.items()}


@RULES.add(
    "sharded", "the result does not depend on which rank owns an adapter", (*SOUND, "adapter order", "collective")
)
def _sharded(bench: Bench) -> None:
    for domains in (3, 4):
        case = bench.case(domains)
        found = _run_sharded(case, [bench.make() for _ in SHARES])
        if gap := difference(flatten(found), flatten(bench.run(case))):
            raise Broken(
                f"with three ranks {gap} from one process: what needs all adapters must be a sum through "
                "ctx.sum_over_shards, and the number of adapters is len(ctx.shapes)"
            )


@RULES.add("state", "state_dict() survives a file, and a new hook that loads it continues to the bit", SOUND)
def _state(bench: Bench) -> None:
    hook, first, second = bench.make(), bench.case(), bench.case(seed=1)
    first.run(hook)
    saved = _through_a_file(hook.state_dict())
    expected = flatten(second.run(hook))
    resumed = bench.make()
    resumed.load_state_dict(saved)
    if gap := difference(flatten(second.run(resumed)), expected, exact=True):
        raise Broken(
            f"a resumed hook continues differently ({gap}): state_dict() or load_state_dict() leaves something out"
        )
    try:
        bench.make().load_state_dict({"never heard of": 1})
    except (ValueError, KeyError):
        return
    raise Broken(
        "load_state_dict accepts a state it has never heard of: raise ValueError, the checkpoint is another hook's"
    )


def _through_a_file(state: Any) -> dict[str, Any]:
    """What a checkpoint gives back: tensors by safetensors, the rest by JSON."""
    if not isinstance(state, Mapping):
        raise Broken(f"state_dict() returned {type(state).__name__}, not a dict")
    tensors: dict[str, Tensor] = {}

    def put_away(node: Mapping[Any, Any], path: str) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for key, value in node.items():
            if not isinstance(key, str):
                raise Broken(f"state_dict(){path} has the key {key!r}: only strings survive a file")
            if isinstance(value, Mapping):
                kept[key] = put_away(value, f"{path}[{key!r}]")
            elif isinstance(value, Tensor):
                tensors[f"{path}[{key!r}]"] = value.detach().cpu().contiguous()
            else:
                kept[key] = _plain(value, f"state_dict(){path}[{key!r}]")
        return kept

    def put_back(node: Mapping[str, Any], path: str, kept: dict[str, Any]) -> dict[str, Any]:
        for key, value in node.items():
            here = f"{path}[{key!r}]"
            if isinstance(value, Mapping):
                put_back(value, here, kept[key])
            elif isinstance(value, Tensor):
                kept[key] = read[here]
        return kept

    kept = put_away(state, "")
    try:
        read = load(save(tensors))
    except RuntimeError:
        raise Broken("two tensors of state_dict() share memory, which no file can hold: clone() them") from None
    return put_back(state, "", kept)


def _plain(value: Any, where: str) -> Any:
    try:
        read = json.loads(json.dumps(value))
    except (TypeError, ValueError):
        raise Broken(
            f"{where} is {type(value).__name__}: a state is tensors, numbers, strings and dicts of them"
        ) from None
    if read != value and value == value:
        raise Broken(f"{where} is {type(value).__name__} and comes back as {type(read).__name__}")
    return read


@RULES.add(
    "state on ranks",
    "the state of several ranks, put together, continues on any number of ranks",
    (*SOUND, "sharded", "state"),
)
def _state_on_ranks(bench: Bench) -> None:
    hooks, first, second = [bench.make() for _ in SHARES], bench.case(), bench.case(seed=1)
    _run_sharded(first, hooks)
    states = [_through_a_file(hook.state_dict()) for hook in hooks]
    if not any(states):
        raise NotApplicable("the hook keeps no state")
    rests = [{k: v for k, v in state.items() if k != "adapters"} for state in states]
    for rank, rest in enumerate(rests):
        for key in sorted(rest.keys() | rests[0].keys()):
            if not _equal(rest.get(key), rests[0].get(key)):
                raise Broken(
                    f"state_dict()[{key!r}] differs between rank 0 and rank {rank}, and only rank 0's is saved: what belongs to "
                    "one adapter goes under state['adapters'][its name], what needs all of them through sum_over_shards"
                )
    merged = dict(states[0])
    if "adapters" in merged:  # as a checkpoint does: each from its owner
        held = [(fqn, states[rank].get("adapters", {})) for rank, fqns in enumerate(SHARES) for fqn in fqns]
        merged["adapters"] = {fqn: adapters[fqn] for fqn, adapters in held if fqn in adapters}
    alone, resumed = bench.make(), [bench.make() for _ in range(1 + len(SHARES))]
    first.run(alone)
    expected = flatten(second.run(alone))
    for hook in resumed:
        hook.load_state_dict(_through_a_file(merged))
    if gap := difference(flatten(second.run(resumed[0])), expected):
        raise Broken(f"saved by three ranks and resumed by one, {gap} from a run on one rank throughout")
    if gap := difference(flatten(_run_sharded(second, resumed[1:])), expected):
        raise Broken(f"saved and resumed by three ranks, {gap} from a run on one rank throughout")


def _equal(x: Any, y: Any) -> bool:
    if isinstance(x, Mapping) and isinstance(y, Mapping):
        return x.keys() == y.keys() and all(_equal(x[k], y[k]) for k in x)
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return x.shape == y.shape and bool(((x == y) | (x.isnan() & y.isnan())).all())
    return type(x) is type(y) and (x == y or (x != x and y != y))
