"""Arranged places give what arranged lists of examples gave: the same groups, to the last one, as before there was a cache."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale import assemble
from igascale.config import load_config
from igascale.isomers import pools
from igascale.isomers.encode import Example, encode_groups
from igascale.isomers.generator import generate
from igascale.isomers.schema import domains_of, read_groups, write_groups

import runs
from tiny import tiny_tokenizer


def shuffled(items, name):
    order = list(items)
    random.Random(f"igascale {name}").shuffle(order)
    return order


def paired(groups, seed):
    return [list(row) for row in zip(*(shuffled(c, f"pairing {seed}/{i}") for i, c in enumerate(zip(*groups))))]


def mixed(groups, seed):
    return [
        [replace(e, domain=label) for label, e in enumerate(shuffled(group, f"labels {seed}/{index}"))]
        for index, group in enumerate(groups)
    ]


def dealt(pool, count, size, seed):
    rows = [e for number in range(-(-count * size // len(pool))) for e in shuffled(pool, f"pool {seed}/{number}")]
    rows = [replace(e, domain=0) for e in rows]
    return [rows[i * size : (i + 1) * size] for i in range(count)]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 99), st.integers(1, 9), st.integers(1, 4))
def test_places_move_as_examples_did(groups, width, seed, count, size):
    rows = [[Example([10 * g + d], [-100], d, f"g{g}", f"g{g}/{d}") for d in range(width)] for g in range(groups)]
    flat = [e for row in rows for e in row]
    assert list(pools.pair_randomly(rows, seed)) == paired(rows, seed)
    assert list(pools.mix_labels(rows, seed)) == mixed(rows, seed)
    assert list(pools.units(flat, count, size, seed)) == dealt(flat, count, size, seed)
    assert list(pools.mix_labels(pools.pair_randomly(rows, seed), seed)) == mixed(paired(rows, seed), seed)


def seed_problems(groups, domains, seed):
    by_seed = {}
    for group in groups:
        by_seed.setdefault(group.seed_id, []).append(group)
    rng = random.Random(f"igascale seed problems {seed}")
    chosen = [rng.choice(same) for same in by_seed.values()]
    turns = [domains[i % len(domains)] for i in range(len(chosen))]
    rng.shuffle(turns)
    return [replace(g, instances=tuple(i for i in g.instances if i.domain == d)) for g, d in zip(chosen, turns)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arranged")
    config = runs.prepare(folder)
    # Seeds of several groups, whose first groups stand in another order than those that are drawn.
    groups = [replace(g, seed_id=f"train-{i % 23}") for i, g in enumerate(generate(64, seed=5))]
    write_groups(folder / "data" / "train.jsonl", groups)
    return config


ARRANGEMENTS = [
    [],
    ["data.domains=[law, mathematics]"],
    ["data.pairing=random"],
    ["data.pairing=mixed", "data.num_domains=3"],
    ["data.pool=instances", "data.num_domains=2"],
    ["data.pool=seeds"],
    ["data.pool=seeds", "data.domains=[science, law]"],
    ["data.pool=seeds", "data.augment=0.2"],
    ["data.pool=seeds", "data.augment=0.3", "data.num_domains=2", "seed=9"],
    ["data.max_length=90"],
]


@pytest.mark.parametrize("keys", ARRANGEMENTS, ids=" ".join)
def test_a_run_sees_what_it_saw(base, keys):
    config, tokenizer = load_config(base, keys), tiny_tokenizer()
    found = assemble.load_data(config, tokenizer).train
    section, seed = config.data, config.seed
    groups = read_groups(section.train)
    domains = tuple(section.domains or domains_of(groups))
    width, domains = len(domains), domains[: section.num_domains]
    if section.pool == "seeds":
        problems = seed_problems(groups, domains, seed)
        if section.augment:
            problems = pools.with_augmented(problems, width - 1, section.augment, seed)
        rows = [row for p in problems for row in encode_groups([p], tokenizer, domains_of([p]), section.max_length, "")]
    else:
        rows = encode_groups(groups, tokenizer, domains, section.max_length, "")
    if section.pool != "groups":
        rows = dealt([e for row in rows for e in row], len(groups), width, seed)
    elif section.pairing == "random":
        rows = paired(rows, seed)
    elif section.pairing == "mixed":
        rows = mixed(rows, seed)
    assert list(found.groups) == rows
    assert found.truncated == sum(e.truncated for row in rows for e in row)
    assert list(found.seeds) == [g.seed_id for g in groups]
    assert found.lengths().tolist() == [[len(e.input_ids) for e in row] for row in rows]
