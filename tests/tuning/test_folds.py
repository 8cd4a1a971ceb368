"""A left-out domain is in nothing that a fold trains on: looked for in the texts that training reads."""

import json
import re

import pytest

from igascale.config import load_config
from igascale.errors import UserError
from igascale.isomers.schema import read_groups
from igascale.loading import load_data
from igascale.tuning.folds import IN_DOMAIN, LEAVE_ONE_OUT, Fold, plan_folds, write_files

from runs import prepare
from tiny import tiny_tokenizer

DOMAINS = ("mathematics", "medicine", "law", "science")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("folds"))


def folds_of(path, tmp_path, *overrides, by=LEAVE_ONE_OUT, count=None, method=None):
    config = load_config(path, overrides, method)
    folds = plan_folds(config, by, count, tmp_path, "it")
    write_files(config.data.validation, folds, tmp_path)
    return folds


def words_of(text):
    return set(re.findall(r"[A-Za-z]+", text))


def own_words(groups):
    """Domain -> the words that occur in its texts and in no other domain's."""
    found = {domain: set() for domain in DOMAINS}
    for group in groups:
        for instance in group.instances:
            found[instance.domain] |= words_of(f"{instance.problem} {instance.cot}")
    return {name: words - set().union(*(found[o] for o in DOMAINS if o != name)) for name, words in found.items()}


@pytest.mark.parametrize(
    "method", ["erm-sft", "lora-sft", "cot-distill", "iga", "iga-mixed", "random-pairing", "pcgrad"]
)
def test_the_left_out_domain_is_not_trained_on(path, tmp_path, method):
    own = own_words(read_groups(load_config(path).data.train))
    tokenizer = tiny_tokenizer(words=sorted(set().union(*own.values())))
    for fold in folds_of(path, tmp_path, method=method):
        config = load_config(path, fold.settings, method)
        data = load_data(config, tokenizer)
        trained = words_of(" ".join(tokenizer.decode(e.input_ids) for group in data.train.groups for e in group))
        assert not own[fold.name] & trained
        assert all(own[other] & trained for other in fold.domains)  # the search would find what it looks for
        assert data.domains == fold.domains == tuple(d for d in DOMAINS if d != fold.name)
        assert data.ood.domains == (fold.name,)
        assert not set(data.train.seeds) & set(data.ood.seeds)
        assert set(data.ood.seeds) == {g.seed_id for g in read_groups(config.data.validation)}


def test_the_left_out_file_holds_the_validation_instances_of_its_domain_with_their_cue(path, tmp_path):
    folds = folds_of(path, tmp_path)
    validation = read_groups(load_config(path).data.validation)
    for fold in folds:
        (override,) = [each for each in fold.settings if each.startswith("data.ood=")]
        left_out = read_groups(json.loads(override.removeprefix("data.ood=")))
        wanted = [(g.id, g.seed_id, i) for g in validation for i in g.instances if i.domain == fold.name]
        assert [(g.id, g.seed_id, g.instances[0]) for g in left_out] == wanted


def test_in_domain_looks_at_no_other_domain(path, tmp_path):
    (fold,) = folds_of(path, tmp_path, by=IN_DOMAIN)
    config = load_config(path, fold.settings)
    assert config.data.ood is None and fold.domains == DOMAINS and fold.split == "id"
    assert not list(tmp_path.iterdir())


def test_the_training_domains_are_those_of_the_configuration(path, tmp_path):
    chosen = folds_of(path, tmp_path, "data.domains=[law, science, medicine]")
    assert [(fold.name, fold.domains) for fold in chosen] == [
        ("law", ("science", "medicine")),
        ("science", ("law", "medicine")),
        ("medicine", ("law", "science")),
    ]
    first = folds_of(path, tmp_path, "data.num_domains=3", count=1)
    assert [(fold.name, fold.domains) for fold in first] == [("mathematics", ("medicine", "law"))]
    assert load_config(path, ["data.num_domains=3", *first[0].settings]).data.num_domains is None


def test_scores_are_means_of_the_split_and_nothing_where_one_is_not_finite():
    fold = Fold("in-domain", "id", DOMAINS, ())
    assert fold.score({"id": {"a": 1.0, "b": 3.0}, "ood": {"c": 9.0}}) == 2.0
    assert fold.score({"id": {"a": None, "b": 3.0}}) is None
    assert fold.score({"ood": {"c": 9.0}}) is None


@pytest.mark.parametrize(
    ("overrides", "by", "count", "told"),
    [
        (
            ["data.domains=[law, science]"],
            LEAVE_ONE_OUT,
            None,
            r"2 training domain\(s\) \(law, science\); .* takes 3 or more",
        ),
        (["data.num_domains=1"], LEAVE_ONE_OUT, None, r"1 training domain\(s\) \(mathematics\)"),
        (["data.validation=null"], LEAVE_ONE_OUT, None, "data.validation: nothing to select by"),
        (["data.validation=null"], IN_DOMAIN, None, "data.validation: nothing to select by"),
        (["data.allow_leakage=true"], IN_DOMAIN, None, "held-out groups were trained on"),
        ([], LEAVE_ONE_OUT, 5, "--folds 5: there are 4 training domains"),
    ],
)
def test_folds_that_cannot_be_made(path, tmp_path, overrides, by, count, told):
    with pytest.raises(UserError, match=told) as error:
        folds_of(path, tmp_path, *overrides, by=by, count=count)
    assert "\n" not in str(error.value)


def test_a_validation_file_that_shares_seeds_or_lacks_a_domain(path, tmp_path):
    config = load_config(path)
    with pytest.raises(UserError, match=r"is also in .*held-out data must share no seed"):
        folds_of(path, tmp_path, f"data.validation={config.data.train}")
    lacking = tmp_path / "lacking.jsonl"
    with lacking.open("w") as file:
        for line in open(config.data.validation):  # noqa: SIM115
            group = json.loads(line)
            group["instances"] = [i for i in group["instances"] if i["domain"] != "law"]
            file.write(json.dumps(group) + "\n")
    with pytest.raises(UserError, match="no instance of domain 'law'"):
        folds_of(path, tmp_path, f"data.validation={lacking}")


def test_a_left_out_file_that_changed_is_not_replaced(path, tmp_path):
    folds_of(path, tmp_path)
    (tmp_path / "left-out-law.jsonl").write_text("mine\n")
    with pytest.raises(UserError, match=r"left-out-law.jsonl does not hold .* take another --out"):
        folds_of(path, tmp_path)
    assert (tmp_path / "left-out-law.jsonl").read_text() == "mine\n"
