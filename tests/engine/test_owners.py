"""Adapters spread over ranks: balanced, the same everywhere, neighbours together."""

import itertools
import random

import pytest
import torch

from igascale import hooks
from igascale.adapters import find_adapters
from igascale.engine.base import Engine
from igascale.engine.owners import assign_owners, load_shares
from igascale.errors import UserError
from igascale.step import adapter_costs

from tiny import tiny_peft


def loads(costs, owners, world):
    return [sum(costs[k] for k, r in owners.items() if r == rank) for rank in range(world)]


def test_a_llama_is_shared_evenly():
    costs = {f"l{i}.{n}": o * 64.0 for i in range(8) for n, o in (("q", 64), ("k", 16), ("v", 16), ("o", 64))}
    for world in (1, 2, 3, 8):
        owners = assign_owners(costs, world)
        assert list(owners) == list(costs)
        load = loads(costs, owners, world)
        assert max(load) - min(load) <= 64 * 64
        assert load_shares(costs, owners, world) == [x * world / sum(load) for x in load]
    assert set(assign_owners(dict(list(costs.items())[:2]), 4).values()) == {0, 1}  # some ranks own none


def test_within_four_thirds_of_the_best_there_is():
    rng = random.Random(0)
    for _ in range(20):
        costs = {f"m{i}": float(rng.choice([3, 4, 7, 10, 25])) for i in range(8)}
        for world in (2, 3):
            best = min(
                max(loads(costs, dict(zip(costs, ranks)), world))
                for ranks in itertools.product(range(world), repeat=len(costs))
            )
            assert max(loads(costs, assign_owners(costs, world), world)) <= 4 / 3 * best


def test_loads_are_those_of_dealing_out_in_order_of_cost():
    """That neighbours go together moves adapters of one cost only, so that no load changes."""
    rng = random.Random(1)
    costs = {f"m{i}": float(rng.choice([1, 2, 5, 9])) for i in range(40)}
    expected = [0.0] * 3
    for cost in sorted(costs.values(), reverse=True):
        expected[expected.index(min(expected))] += cost
    assert loads(costs, assign_owners(costs, 3), 3) == expected


def test_a_rank_takes_neighbours_and_the_first_takes_the_last_modules():
    costs = {f"l{i}.{n}": c for i in range(8) for n, c in (("q", 16.0), ("k", 4.0))}
    owners = assign_owners(costs, 4)
    for kind in "qk":
        assert [owners[f"l{i}.{kind}"] for i in range(8)] == [3, 3, 2, 2, 1, 1, 0, 0]


def test_the_hook_says_what_an_adapter_costs():
    class Uneven(type(hooks.build("mean", {}))):
        def cost(self, O, I, R, D):  # noqa: E741
            return 1e6 if O == 32 else 1.0

    adapters = find_adapters(tiny_peft())
    plain = adapter_costs(hooks.build("mean", {}), adapters, 4)
    q = next(k for k in adapters if "q_proj" in k)
    assert plain[q] == 4 * (64 + 64) * 4
    costs = adapter_costs(Uneven(), adapters, 4)
    owners = assign_owners(costs, 4)
    assert {owners[k] for k in adapters if "k_proj" in k or "v_proj" in k} == {0, 1, 2, 3}


@pytest.mark.parametrize("cost", [0.0, -1.0, float("nan"), float("inf")])
def test_a_cost_that_is_none(cost):
    model = tiny_peft()
    adapters = find_adapters(model)

    class Plain(Engine):
        forward = accumulate = backward = apply = step = get_state = set_state = None

    engine = Plain(model, adapters, torch.device("cpu"))
    with pytest.raises(UserError, match=r"cost of model\.layers\.0.* must be a number > 0"):
        engine.distribute(dict.fromkeys(adapters, cost))
