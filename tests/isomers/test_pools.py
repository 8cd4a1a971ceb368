"""Pairing, pools and augmentation: who is with whom, under which label, how often; and never outside the training data."""

import json
import random
from collections import Counter
from dataclasses import replace

import pytest

from igascale import assemble
from igascale.config import load_config
from igascale.errors import UserError
from igascale.isomers import pools
from igascale.isomers.dataset import generate_dataset
from igascale.isomers.encode import Example
from igascale.isomers.generator import generate
from igascale.isomers.kinds.vocabulary import TRAINING_DOMAINS
from igascale.isomers.schema import read_groups, write_groups

import runs
from tiny import tiny_tokenizer

D = len(TRAINING_DOMAINS)


def examples(groups=50, domains=D):
    """Group g, domain d; the first token tells both."""
    return [[Example([100 * g + d], [-100], d, f"g{g}", f"g{g}/{d}") for d in range(domains)] for g in range(groups)]


def ids(rows):
    return [[e.instance_id for e in row] for row in rows]


def whole_groups(rows):
    """How many rows hold the isomers of one group."""
    return sum(len({e.group_id for e in row}) == 1 for row in rows)


def test_random_pairing_permutes_every_column_by_itself():
    groups = examples()
    paired = pools.pair_randomly(groups, 0)
    for d in range(D):
        column = [row[d] for row in paired]
        assert sorted(e.instance_id for e in column) == sorted(row[d].instance_id for row in groups)
        assert all(e.domain == d and e.instance_id.endswith(f"/{d}") for e in column)  # the label is still true
    orders = [[row[d].group_id for row in paired] for d in range(D)]
    assert len({tuple(order) for order in orders}) == D


def test_random_pairing_keeps_groups_together_by_chance_only():
    # A given row holds four isomers with probability 1/n^3: over 200 seeds of 50 rows 0.08 are expected.
    assert sum(whole_groups(pools.pair_randomly(examples(), seed)) for seed in range(200)) <= 2
    # Two columns agree in one row on average, as two random permutations do.
    pairs = [sum(a.group_id == b.group_id for a, b, *_ in pools.pair_randomly(examples(), s)) for s in range(200)]
    assert 0.7 < sum(pairs) / len(pairs) < 1.3


def test_mixed_keeps_the_isomers_and_breaks_the_label():
    groups = examples(400)
    mixed = pools.mix_labels(groups, 0)
    assert whole_groups(mixed) == 400
    for before, after in zip(groups, mixed):
        assert sorted(e.instance_id for e in before) == sorted(e.instance_id for e in after)
        assert [e.domain for e in after] == list(range(D))
    # Every (true domain, label) pair is as frequent as every other: 100 each, standard deviation 8.7.
    table = Counter((int(e.instance_id[-1]), e.domain) for row in mixed for e in row)
    assert len(table) == D * D
    assert all(60 < count < 140 for count in table.values())


@pytest.mark.parametrize("arrange", [pools.pair_randomly, pools.mix_labels, lambda g, s: pools.units(g[0], 30, 4, s)])
def test_the_seed_decides(arrange):
    groups = examples()
    assert ids(arrange(groups, 3)) == ids(arrange(groups, 3))
    assert ids(arrange(groups, 3)) != ids(arrange(groups, 4))


def test_arranging_leaves_its_input_alone():
    groups = examples(8)
    before = [[replace(e) for e in row] for row in groups]
    for arrange in (pools.pair_randomly, pools.mix_labels):
        arrange(groups, 0)
    pools.units([e for row in groups for e in row], 8, D, 0)
    assert groups == before


def test_units_hold_every_instance_once():
    pool = [e for row in examples() for e in row]
    dealt = pools.units(pool, 50, D, 0)
    assert [len(row) for row in dealt] == [D] * 50
    assert sorted(e.instance_id for row in dealt for e in row) == sorted(e.instance_id for e in pool)
    assert {e.domain for row in dealt for e in row} == {0}
    assert whole_groups(dealt) == 0


def test_units_repeat_a_small_pool_evenly():
    pool = examples(50, 1)
    dealt = [e.instance_id for row in pools.units([r[0] for r in pool], 50, D, 0) for e in row]
    assert set(Counter(dealt).values()) == {D}
    passes = [dealt[i * 50 : (i + 1) * 50] for i in range(D)]
    assert all(len(set(one)) == 50 for one in passes)
    assert len({tuple(one) for one in passes}) == D  # another order each time


def test_seed_problems_one_each_from_all_domains_alike():
    groups = generate(41, seed=1)
    problems = pools.seed_problems(groups, TRAINING_DOMAINS, 0)
    assert [p.seed_id for p in problems] == [g.seed_id for g in groups]
    assert all(len(p.instances) == 1 for p in problems)
    counts = Counter(p.instances[0].domain for p in problems)
    assert set(counts) == set(TRAINING_DOMAINS)
    assert max(counts.values()) - min(counts.values()) <= 1
    by_id = {i.id: i for g in groups for i in g.instances}
    assert all(p.instances[0] == by_id[p.instances[0].id] for p in problems)
    assert problems != pools.seed_problems(groups, TRAINING_DOMAINS, 1)


def test_seed_problems_takes_one_group_of_a_seed():
    groups = [replace(g, seed_id=f"s{i % 7}") for i, g in enumerate(generate(21, seed=1))]
    assert sorted(p.seed_id for p in pools.seed_problems(groups, ("law",), 0)) == [f"s{i}" for i in range(7)]


def test_augmentation_touches_the_words_of_the_problem_alone():
    problems = pools.seed_problems(generate(60, seed=2), TRAINING_DOMAINS, 0)
    pool = pools.with_augmented(problems, 3, 0.1, 0)
    assert pool[:60] == problems
    assert len({p.id for p in pool}) == len({p.instances[0].id for p in pool}) == 240
    by_seed = {p.seed_id: p.instances[0] for p in problems}
    changed = 0
    for number in range(1, 4):
        for problem in pool[60 * number : 60 * (number + 1)]:
            (copy,), original = problem.instances, by_seed[problem.seed_id]
            assert (copy.cot, copy.answer, copy.domain) == (original.cot, original.answer, original.domain)
            new, old = Counter(copy.problem.split()), Counter(original.problem.split())
            if number % 2:
                assert new == old
            else:
                assert new < old
                changed += sum((old - new).values())
    words = sum(len(i.problem.split()) for i in by_seed.values())
    assert 0.06 < changed / words < 0.17  # share 0.1, and at least one word of each
    different = sum(p.instances[0].problem != by_seed[p.seed_id].problem for p in pool[60:])
    assert different > 170  # of 180: swapping two equal words changes nothing
    assert pool == pools.with_augmented(problems, 3, 0.1, 0)
    assert pool != pools.with_augmented(problems, 3, 0.1, 1)


def test_word_operations_on_little_text():
    rng = random.Random(0)
    assert pools.swap_words("one", 0.5, rng) == pools.delete_words("one", 0.9, rng) == "one"
    assert pools.swap_words("a b", 0.1, rng) == "b a"
    assert all(pools.delete_words("a b", 0.99, random.Random(s)) in ("a", "b") for s in range(20))
    assert pools.swap_words("a\n b", 0.1, rng) == "b\n a"  # blanks stay where they were


# What load_data makes of the keys.


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return runs.prepare(tmp_path_factory.mktemp("pools"))


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    folder = tmp_path_factory.mktemp("leaky") / "data"
    generate_dataset(folder, groups=64, validation_groups=16, ood_groups=8, seed=0, leaky=True)
    return [f"data.{key}={folder / name}.jsonl" for key, name in (("validation", "validation"), ("ood", "ood"))]


def load(base, *overrides):
    return assemble.load_data(load_config(base, overrides), tiny_tokenizer())


ARRANGED = [
    ["data.pairing=random"],
    ["data.pairing=mixed"],
    ["data.pool=instances"],
    ["data.pool=seeds"],
    ["data.pool=seeds", "data.augment=0.1"],
    ["data.pool=instances", "data.num_domains=1"],
]


@pytest.mark.parametrize("keys", ARRANGED, ids=" ".join)
def test_steps_and_instances_per_step_stay(base, keys):
    plain, arranged = load(base), load(base, *keys)
    assert (len(arranged.train.groups), arranged.train.width) == (64, D)
    assert arranged.total_steps == plain.total_steps
    assert arranged.schedule.steps_per_epoch == plain.schedule.steps_per_epoch
    assert arranged.train.sha256 == plain.train.sha256  # a resume checks the file
    assert {len(row) for row in arranged.train.groups} == {D}


@pytest.mark.parametrize("keys", ARRANGED, ids=" ".join)
def test_held_out_data_is_never_arranged(base, keys):
    plain, arranged = load(base), load(base, *keys)
    assert arranged.ood == plain.ood
    if "data.num_domains=1" in keys:
        assert arranged.validation.domains == TRAINING_DOMAINS[:1]
        assert arranged.validation.groups == [row[:1] for row in plain.validation.groups]
    else:
        assert arranged.validation == plain.validation


@pytest.mark.parametrize("keys", ARRANGED, ids=" ".join)
def test_the_runs_seed_decides(base, keys):
    assert ids(load(base, *keys).train.groups) == ids(load(base, *keys).train.groups)
    assert ids(load(base, *keys).train.groups) != ids(load(base, *keys, "seed=1").train.groups)


def test_pools_in_a_run(base):
    everything = sorted(e.instance_id for row in load(base).train.groups for e in row)
    pool = load(base, "data.pool=instances")
    assert pool.train.domains == ("all",)
    assert pool.domains == TRAINING_DOMAINS
    assert sorted(e.instance_id for row in pool.train.groups for e in row) == everything
    seeds = Counter(e.instance_id for row in load(base, "data.pool=seeds").train.groups for e in row)
    assert set(seeds.values()) == {D}
    assert len({name.split("/")[0] for name in seeds}) == 64
    augmented = [e for row in load(base, "data.pool=seeds", "data.augment=0.2").train.groups for e in row]
    assert len({e.instance_id for e in augmented}) == 64 * D
    assert sum("~" not in e.instance_id for e in augmented) == 64
    assert (
        sum(
            tuple(e.input_ids) in {tuple(o.input_ids) for o in augmented if "~" not in o.instance_id} for e in augmented
        )
        < 80
    )
    one = load(base, "data.pool=instances", "data.num_domains=1")
    assert {e.instance_id.split("/")[1] for row in one.train.groups for e in row} == {TRAINING_DOMAINS[0]}


def test_domains_of_two(base):
    two = load(base, "data.num_domains=2")
    assert two.train.domains == two.validation.domains == TRAINING_DOMAINS[:2]
    assert two.train.width == 2
    named = load(base, "data.domains=[law, science, medicine]", "data.num_domains=2")
    assert named.train.domains == ("law", "science")
    with pytest.raises(UserError, match=r"data.num_domains: 5, but there are 4: mathematics"):
        load(base, "data.num_domains=5")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["data.pairing=random", "data.pool=seeds"], "data.pool: seeds has no groups for data.pairing: random"),
        (["data.augment=0.1"], "data.augment needs data.pool: seeds, not groups"),
        (["data.augment=0.1", "data.pool=instances"], "data.augment needs data.pool: seeds, not instances"),
        (["data.pool=seeds", "data.augment=1"], "'data.augment': .*less than 1"),
        (["data.pool=seeds", "data.augment=0"], "'data.augment': .*greater than 0"),
        (["data.pool=sedes"], "'data.pool': .*'groups', 'instances' or 'seeds'"),
        (["data.pairing=shuffled"], "'data.pairing': .*'isomers', 'random' or 'mixed'"),
        (["data.num_domains=0"], "'data.num_domains': .*greater than or equal to 1"),
        (["data.allow_leakage=1"], "'data.allow_leakage': .*boolean"),
    ],
)
def test_keys_are_strict(base, keys, message):
    with pytest.raises(UserError, match=message):
        load_config(base, keys)


class NeedsTwo:
    min_domains = 2


def test_too_few_domains_for_the_rule_is_one_clear_error(base):
    for keys, message in (
        (["data.pool=instances"], r"hook 'iga' needs 2 domains or more, but data.pool: instances puts .* into one"),
        (
            ["data.num_domains=1"],
            r"hook 'iga' needs 2 domains or more, but there is 1 to train on \(mathematics\); see data",
        ),
        (["data.domains=[law]"], r"hook 'iga' needs 2 .* \(law\)"),
    ):
        config = load_config(base, [*keys, "hook.name=iga"])
        with pytest.raises(UserError, match=message):
            assemble.check_domains(config, NeedsTwo(), load(base, *keys).domains)
    single = load_config(base, ["data.domains=[law]", "data.pairing=mixed"])
    from igascale import hooks

    with pytest.raises(UserError, match=r"data.pairing: mixed needs two domains"):
        assemble.check_domains(single, hooks.build("mean", {}), ("law",))
    assemble.check_domains(load_config(base), NeedsTwo(), TRAINING_DOMAINS)


# Leaky data: the ablation without a seed-level split.


def test_leaky_files_tell_training_problems_again(tmp_path):
    sizes = {"groups": 60, "validation_groups": 12, "ood_groups": 18, "seed": 3}
    generate_dataset(tmp_path / "plain", **sizes)
    manifest = generate_dataset(tmp_path / "leaky", **sizes, leaky=True)
    train = {g.seed_id: g for g in read_groups(tmp_path / "leaky" / "train.jsonl")}
    texts = {i.problem for g in train.values() for i in g.instances}
    for name, count in (("validation", 12), ("ood", 18)):
        groups = read_groups(tmp_path / "leaky" / f"{name}.jsonl")
        plain = read_groups(tmp_path / "plain" / f"{name}.jsonl")
        assert len({g.seed_id for g in groups}) == len(groups) == count
        assert [i.domain for i in groups[0].instances] == [i.domain for i in plain[0].instances]
        for group in groups:
            told = train[group.seed_id]
            assert group.dag == told.dag
            assert {i.answer for i in group.instances} == {i.answer for i in told.instances}
            assert group.meta["retells"] == told.id
            assert not {i.problem for i in group.instances} & texts  # other words, always
        assert {g.seed_id for g in plain}.isdisjoint(train)
        assert manifest.files[f"{name}.jsonl"].summary.leaky == count
    assert (tmp_path / "leaky" / "train.jsonl").read_bytes() == (tmp_path / "plain" / "train.jsonl").read_bytes()
    assert json.loads((tmp_path / "leaky" / "manifest.json").read_text())["options"]["leaky"] is True
    assert manifest.files["train.jsonl"].summary.leaky == 0
    again = generate_dataset(tmp_path / "again", **sizes, leaky=True)
    assert again.files == manifest.files


def test_leaky_sets_cannot_be_larger_than_training(tmp_path):
    with pytest.raises(UserError, match="leaky: ood_groups=30"):
        generate_dataset(tmp_path / "x", groups=20, validation_groups=5, ood_groups=30, leaky=True)
    assert not (tmp_path / "x").exists()


def test_leakage_must_be_allowed(base, leaky):
    for overrides in (leaky, leaky[:1], leaky[1:]):
        with pytest.raises(UserError, match=r"seed 'seed-0-\d+' \(of \d+\) is also in .*train.jsonl"):
            load(base, *overrides)
    data = load(base, *leaky, "data.allow_leakage=true")
    assert {*data.validation.seeds, *data.ood.seeds} <= set(data.train.seeds)
    assert len(data.warnings) == 2
    assert all(w.startswith("LEAKAGE: ") for w in data.warnings)
    assert "shares 16 of its 16 seed problems" in data.warnings[0]
    assert load(base).warnings == ()


def test_allowed_leakage_must_be_real(base):
    for overrides in ([], ["data.validation=null", "data.ood=null"]):
        with pytest.raises(UserError, match=r"data.allow_leakage: no held-out file shares.*--leaky"):
            load(base, *overrides, "data.allow_leakage=true")


def test_a_shared_seed_is_enough_to_refuse(base, tmp_path):
    data = load_config(base).data
    groups = read_groups(data.validation)
    stolen = read_groups(data.train)[5].seed_id
    write_groups(tmp_path / "v.jsonl", [*groups[:-1], replace(groups[-1], seed_id=stolen)])
    with pytest.raises(UserError, match=rf"seed '{stolen}' \(of 1\)"):
        load(base, f"data.validation={tmp_path / 'v.jsonl'}")
