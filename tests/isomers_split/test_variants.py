"""Variant files hold what the keys of a run would train on, and say where they come from."""

import json
from collections import Counter

import pytest
from click.testing import CliRunner

from igascale import assemble
from igascale.cli import main
from igascale.config import load_config
from igascale.errors import UserError
from igascale.isomers.kinds.vocabulary import TRAINING_DOMAINS
from igascale.isomers.leakage import prove, seeds_of, sha256_of
from igascale.isomers.schema import read_groups
from igascale.isomers.split_file import split_file
from igascale.isomers.variants import VariantOptions, write_variant

import runs
from tiny import tiny_tokenizer

D = len(TRAINING_DOMAINS)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return runs.prepare(tmp_path_factory.mktemp("variants"))


@pytest.fixture(scope="module")
def parent(base):
    return load_config(base).data.train


def load(base, *overrides):
    return assemble.load_data(load_config(base, overrides), tiny_tokenizer())


def rows(data):
    """All that training sees of an example."""
    return [[(e.instance_id, list(e.input_ids), list(e.labels), e.domain) for e in row] for row in data.train.groups]


@pytest.mark.parametrize("seed", [0, 7])
def test_random_pairing_is_what_the_key_trains_on(base, parent, tmp_path, seed):
    write_variant(parent, tmp_path / "v", "random-pairing", VariantOptions(seed=seed))
    variant = load(base, f"data.train={tmp_path / 'v' / 'train.jsonl'}", f"seed={seed}")
    assert rows(variant) == rows(load(base, "data.pairing=random", f"seed={seed}"))
    assert rows(variant) != rows(load(base, f"seed={seed}"))
    assert set(variant.train.seeds) == set(load(base).train.seeds)  # so a held-out file is refused as before


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (VariantOptions(num_domains=2), ["data.num_domains=2"]),
        (VariantOptions(domains=("law", "science", "medicine")), ["data.domains=[law, science, medicine]"]),
        (
            VariantOptions(domains=("law", "science", "medicine"), num_domains=2),
            ["data.domains=[law, science, medicine]", "data.num_domains=2"],
        ),
    ],
)
def test_n_domains_is_what_the_keys_train_on(base, parent, tmp_path, options, keys):
    write_variant(parent, tmp_path / "v", "n-domains", options)
    variant, run = load(base, f"data.train={tmp_path / 'v' / 'train.jsonl'}"), load(base, *keys)
    assert rows(variant) == rows(run)
    assert variant.train.domains == run.train.domains
    assert [e.group_id for row in variant.train.groups for e in row] == [
        e.group_id for row in run.train.groups for e in row
    ]


def test_single_domain_has_the_instances_of_the_papers_row(base, parent, tmp_path):
    manifest = write_variant(parent, tmp_path / "v", "single-domain", VariantOptions())
    assert manifest.use.endswith(f"where an epoch has every instance {D} times and a unit {D} of them")
    variant = load(base, f"data.train={tmp_path / 'v' / 'train.jsonl'}", "data.pool=instances", "data.validation=null")
    run = load(base, "data.pool=instances", "data.num_domains=1")

    def count(data):
        return Counter((name, tuple(ids)) for row in rows(data) for name, ids, _, _ in row)

    assert count(run) == Counter(dict.fromkeys(count(variant), D))
    other = write_variant(parent, tmp_path / "w", "single-domain", VariantOptions(domain="law"))
    assert other.files["train.jsonl"].summary.domains == {"law": 64}


def test_leaky_shares_seeds_and_no_instance(base, parent, tmp_path):
    manifest = write_variant(parent, tmp_path / "v", "leaky", VariantOptions(domain="science", fraction=0.25, seed=3))
    train, held_out = (read_groups(tmp_path / "v" / name) for name in ("train.jsonl", "ood.jsonl"))
    original = {group.id: group for group in read_groups(parent)}
    assert (len(train), len(held_out)) == (64, 16)
    assert all([i.domain for i in group.instances] == ["mathematics", "medicine", "law"] for group in train)
    for group in held_out:
        told = original[group.meta["retells"]]
        assert (group.seed_id, group.dag) == (told.seed_id, told.dag)
        assert group.instances == tuple(i for i in told.instances if i.domain == "science")
    assert manifest.leaky and manifest.files["ood.jsonl"].summary.leaky == 16
    (found,) = prove(tmp_path / "v" / "train.jsonl", [tmp_path / "v" / "ood.jsonl"]).held_out
    assert {f.category: f.groups for f in found.findings} == {"seed": 16, "id": 0, "problem": 0, "near": 0, "form": 16}
    files = [f"data.train={tmp_path}/v/train.jsonl", "data.validation=null", f"data.ood={tmp_path}/v/ood.jsonl"]
    with pytest.raises(UserError, match=r"ood.jsonl: seed 'seed-0-\d+' \(of 16\) is also in"):
        load(base, *files)
    data = load(base, *files, "data.allow_leakage=true")
    assert data.warnings[0].startswith("LEAKAGE: ")


def test_the_manifest_names_the_parent(parent, tmp_path):
    write_variant(parent, tmp_path / "v", "n-domains", VariantOptions(num_domains=1))
    manifest = json.loads((tmp_path / "v" / "manifest.json").read_text())
    assert manifest["parent_sha256"] == sha256_of(parent)
    assert manifest["options"] == {"domains": ["mathematics"], "num_domains": 1}
    assert manifest["files"]["train.jsonl"]["sha256"] == sha256_of(tmp_path / "v" / "train.jsonl")
    assert all(g.meta["variant"] == {"kind": "n-domains"} for g in read_groups(tmp_path / "v" / "train.jsonl"))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("n-domain", VariantOptions(), "no variant 'n-domain'.*did you mean 'n-domains'"),
        ("n-domains", VariantOptions(), "n-domains needs num_domains, or domains"),
        ("n-domains", VariantOptions(num_domains=5), r"num_domains: must be from 1 to 4 \(mathematics"),
        ("n-domains", VariantOptions(num_domains=0), "num_domains: must be from 1"),
        ("n-domains", VariantOptions(domains=("law", "low")), "no instance of domain 'low'.*did you mean 'law'"),
        ("n-domains", VariantOptions(domains=("law", "law")), "names one twice"),
        ("random-pairing", VariantOptions(domain="law"), "domain: the variant random-pairing does not know it"),
        ("leaky", VariantOptions(fraction=0.0), "fraction: must be above 0"),
        ("single-domain", VariantOptions(domain="art"), "no instance of domain 'art'"),
    ],
)
def test_bad_options_write_nothing(parent, tmp_path, kind, options, message):
    with pytest.raises(UserError, match=message):
        write_variant(parent, tmp_path / "v", kind, options)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def paired(parent, tmp_path):
    write_variant(parent, tmp_path / "paired", "random-pairing", VariantOptions(seed=3))
    return tmp_path / "paired" / "train.jsonl"


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("n-domains", VariantOptions(num_domains=2)),
        ("n-domains", VariantOptions(domains=("science", "medicine"))),
        ("single-domain", VariantOptions(domain="law")),
        ("leaky", VariantOptions(domain="mathematics")),
        ("random-pairing", VariantOptions(seed=8)),
    ],
)
def test_a_variant_of_a_pairing_knows_every_instances_seed(parent, paired, tmp_path, kind, options):
    seed_of = {i.id: group.seed_id for group in read_groups(parent) for i in group.instances}
    write_variant(paired, tmp_path / "v", kind, options)
    for file in (tmp_path / "v").glob("*.jsonl"):
        groups = read_groups(file)
        for group in groups:
            assert group.seed_id == seed_of[group.instances[0].id]
            assert set(seeds_of(group)) == {seed_of[i.id] for i in group.instances}
        if file.name == "train.jsonl":
            assert Counter(g.seed_id for g in groups) == Counter(g.seed_id for g in read_groups(parent))
        assert any(len(seeds_of(group)) > 1 for group in groups) == (len(groups[0].instances) > 1)


def test_fewer_domains_of_a_pairing_still_tie_its_seeds(parent, paired, tmp_path):
    """No split of them passes with an instance of one seed on two sides."""
    seed_of = {i.id: group.seed_id for group in read_groups(parent) for i in group.instances}
    write_variant(paired, tmp_path / "v", "n-domains", VariantOptions(num_domains=2))
    for seed in range(5):
        out = tmp_path / f"s{seed}"
        try:
            split_file(
                tmp_path / "v" / "train.jsonl", out, {"validation": 0.3}, seed, ignore=("near", "problem", "form")
            )
        except UserError as error:
            assert "must stay together" in str(error)
            continue
        sides = [
            {seed_of[i.id] for group in read_groups(out / f"{part}.jsonl") for i in group.instances}
            for part in ("train", "validation")
        ]
        assert not sides[0] & sides[1]


def test_seeds_that_do_not_fit_the_instances_are_refused(paired, tmp_path):
    lines = [json.loads(line) for line in paired.read_text().splitlines()]
    lines[1]["meta"]["variant"]["seeds"].pop()
    paired.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        UserError, match=r"train.jsonl: group 'pair-00001': meta.variant.seeds must name a seed for each of its 4"
    ):
        write_variant(paired, tmp_path / "v", "n-domains", VariantOptions(num_domains=2))


def test_a_pairing_needs_two_domains(parent, tmp_path):
    write_variant(parent, tmp_path / "one", "single-domain", VariantOptions())
    for kind in ("random-pairing", "leaky"):
        with pytest.raises(UserError, match="two domains or more; there is only mathematics"):
            write_variant(tmp_path / "one" / "train.jsonl", tmp_path / "v", kind, VariantOptions())


def test_the_command(parent, tmp_path):
    done = CliRunner().invoke(main, ["data", "variant", parent, "--kind", "leaky", "--out", str(tmp_path / "v")])
    assert done.exit_code == 0, done.output
    assert "LEAKY: 13 OF THE 13 GROUPS" in done.output
    again = CliRunner().invoke(main, ["data", "variant", parent, "--kind", "leaky", "--out", str(tmp_path / "v")])
    assert again.exit_code == 2
    assert "already exists and is not empty" in again.output
