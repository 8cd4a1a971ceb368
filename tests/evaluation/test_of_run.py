"""Which domains count as in-distribution is the training file's to say, not the validation file's."""

import pytest

from igascale.errors import UserError
from igascale.evaluation.of_run import in_distribution, leakage_note
from igascale.isomers.dataset import generate_dataset
from igascale.isomers.schema import domains_of, read_groups


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    generate_dataset(folder, groups=4, validation_groups=3, ood_groups=2, seed=0)
    return folder


def turned(groups):
    """The same groups, the instances of each in the opposite order."""
    from dataclasses import replace

    return [replace(g, instances=tuple(reversed(g.instances))) for g in groups]


def test_everything_is_kept_where_the_run_took_every_domain(data):
    groups = read_groups(data / "validation.jsonl")
    assert in_distribution(groups, {"train": str(data / "train.jsonl")}) == (groups, [])


def test_the_first_domains_are_those_of_the_training_file(data):
    first, second, *rest = domains_of(read_groups(data / "train.jsonl"))
    groups = turned(read_groups(data / "validation.jsonl"))
    assert domains_of(groups)[:2] != (first, second)  # the validation file alone would say otherwise
    kept, notes = in_distribution(groups, {"train": str(data / "train.jsonl"), "num_domains": 2})
    assert set(domains_of(kept)) == {first, second}
    assert len(kept) == len(groups)
    assert all(name in notes[0].partition("left out")[2] for name in rest)


def test_named_domains_need_no_training_file(data):
    groups = read_groups(data / "validation.jsonl")
    name = domains_of(groups)[1]
    kept, (note,) = in_distribution(groups, {"train": "gone.jsonl", "domains": [name]})
    assert domains_of(kept) == (name,)
    assert note.startswith(f"ID is {name}, ")


def test_a_training_file_that_is_gone_is_named(data):
    groups = read_groups(data / "validation.jsonl")
    with pytest.raises(UserError, match=r"gone\.jsonl"):
        in_distribution(groups, {"train": "gone.jsonl", "num_domains": 2})


def test_leakage_is_told():
    assert leakage_note({}) == []
    assert leakage_note({"allow_leakage": False}) == []
    assert "LEAKAGE" in leakage_note({"allow_leakage": True})[0]
