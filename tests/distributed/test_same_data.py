"""Ranks that hold different data do not train."""

import re
from dataclasses import replace

import pytest

from igascale import assemble
from igascale.config import load_config
from igascale.errors import UserError
from igascale.same_data import check_same_data

import runs
from launching import launch
from tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same-data")
    runs.prepare(folder)
    lines = (folder / "data" / "train.jsonl").read_text().splitlines(keepends=True)
    (folder / "data" / "other.jsonl").write_text("".join([*lines[1:], lines[0]]))  # the same groups in another order
    return folder


class Others:
    """Three ranks; this one is the first, the others hold what they are given."""

    world_size = 3

    def __init__(self, *others):
        self.others, self.calls = others, 0

    def gather_objects(self, value):
        self.calls += 1
        return [value, *(value if other is None else ("node-b", {**value[1], **other}) for other in self.others)]


def test_the_ranks_and_hosts_that_differ_are_named(folder):
    tokenizer = tiny_tokenizer()
    data = assemble.load_data(load_config(folder / "run.yaml"), tokenizer)
    same = Others(None, {})
    check_same_data(data, tokenizer, same)
    assert same.calls == 1
    for name, value, who in (
        ("the SHA-256 of data.train", "0123", [None, {}]),
        ("the SHA-256 of data.validation", "none", [{}, None]),
        ("the number of groups", "3", [{}, {}]),
        ("the list of domains", "law", [{}, {}]),
        ("the tokenizer (or the version of transformers or tokenizers)", "unknown", [None, {}]),
    ):
        others = [None if facts is None else {name: value} for facts in who]
        with pytest.raises(UserError) as caught:
            check_same_data(data, tokenizer, Others(*others))
        told = ", ".join(f"rank {rank} (node-b)" for rank, other in enumerate(others, start=1) if other)
        assert f": {name} is " in str(caught.value)
        assert f", but {value} on {told}; give every host the same files" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_another_order_or_another_held_out_file_is_seen(folder):
    tokenizer = tiny_tokenizer()
    first = assemble.load_data(load_config(folder / "run.yaml"), tokenizer)
    second = assemble.load_data(load_config(folder / "run.yaml", [f"data.train={folder}/data/other.jsonl"]), tokenizer)
    seen = []

    class Keep(Others):
        def gather_objects(self, value):
            seen.append(value)
            return [value] * 3

    for data in (first, second, replace(first, ood=None)):
        check_same_data(data, tokenizer, Keep())
    differing = [[name for name, value in facts.items() if value != seen[0][1][name]] for _, facts in seen]
    assert differing == [[], ["the SHA-256 of data.train"], ["the SHA-256 of data.ood"]]


def test_train_on_two_ranks_refuses(folder, tmp_path):
    with pytest.raises(AssertionError) as caught:
        launch("torchrun", 2, "worker_data.py", str(folder), str(tmp_path))
    told = str(caught.value)
    assert re.search(r"the SHA-256 of data\.train is \w{16} on rank 0 \(\S+\), but \w{16} on rank 1 \(", told), told
    assert re.search(r"exitcode +: 2 ", told)
    assert told.count("Traceback") <= 1, told  # torchrun's own
    assert not list((tmp_path / "run").glob("checkpoint*"))
