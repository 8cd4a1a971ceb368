"""`data tokenize`: the cache made ahead of a job is the one that the job opens, and what it prints is true."""

import pytest
from click.testing import CliRunner

from igascale import assemble
from igascale.cli import main
from igascale.config import load_config
from igascale.isomers.cache import Listener
from igascale.model import load_tokenizer

import runs


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return runs.prepare(tmp_path_factory.mktemp("tokenize"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IGASCALE_CACHE", str(tmp_path / "cache"))


def tokenize(*arguments):
    return CliRunner().invoke(main, ["data", "tokenize", *map(str, arguments)])


@pytest.mark.parametrize("keys", [[], ["data.max_length=90", "data.num_domains=2", "data.pairing=random", "seed=5"]])
def test_a_configuration_makes_what_its_runs_open(base, keys):
    result = tokenize(base)
    assert result.exit_code == 0, result.output
    assert result.output.count(" groups tokenized in ") == 3
    calls = []
    config = load_config(base, keys)
    tokenizer = load_tokenizer(config.model.path)
    data = assemble.load_data(config, tokenizer, Listener(calls.append, lambda *call: calls.append(call)))
    assert calls == []  # nothing was made, and nothing had to be said
    if not keys:
        lengths = data.train.lengths()
        assert f"{int(lengths.sum()):,} tokens in {lengths.size:,} instances" in result.output
        assert f"longest {int(lengths.max())};" in result.output
    assert tokenize(base).output.count(" groups are in the cache, checked in ") == 3


def test_augmented_texts_are_made_too(base, tmp_path):
    config = tmp_path / "augmented.yaml"
    config.write_text(load_config(base, ["data.pool=seeds", "data.augment=0.2", "hook.name=mean"]).to_yaml())
    result = tokenize(config)
    assert result.exit_code == 0, result.output
    assert "the augmented texts of data.augment are tokenized too" in result.output
    calls = []
    loaded = load_config(config)
    assemble.load_data(
        loaded, load_tokenizer(loaded.model.path), Listener(calls.append, lambda *call: calls.append(call))
    )
    assert calls == []


def test_bad_input_is_one_line(base, tmp_path):
    train = load_config(base).data.train
    result = tokenize(train)
    assert result.exit_code == 2
    assert result.output.strip().splitlines()[-1].startswith(f"error: {train}: which tokenizer? Give --tokenizer PATH")
    result = tokenize(tmp_path / "none.jsonl", "--tokenizer", load_config(base).model.path)
    assert result.exit_code == 2 and "none.jsonl: cannot read this file of groups" in result.output
    result = tokenize(train, "--tokenizer", tmp_path / "none")
    assert result.exit_code == 2 and "Traceback" not in result.output


def test_what_is_cut_is_counted(base):
    config = load_config(base)
    result = tokenize(config.data.train, "--tokenizer", config.model.path, "--max-length", 90)
    cut = assemble.load_data(
        load_config(base, ["data.max_length=90"]), load_tokenizer(config.model.path)
    ).train.truncated
    assert cut > 0
    assert f"{cut} of 256 instances are longer than max_length 90" in result.output
