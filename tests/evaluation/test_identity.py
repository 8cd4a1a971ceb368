"""What makes a model another one, for the answers that are kept; and a base that is not the run's."""

import json
import os

import pytest

from igascale.evaluation import identity as module
from igascale.evaluation.identity import identity
from igascale.evaluation.of_run import other_base_note
from igascale.resuming.sources import fingerprint_model

import tiny


@pytest.fixture
def folder(tmp_path):
    return tiny.save_tiny_model_folder(tmp_path / "model")


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_any_byte_of_the_weights_makes_another_model(folder):
    before, weights = identity(str(folder)), folder / "model.safetensors"
    assert identity(str(folder)) == before
    size = weights.stat().st_size
    for position in (size // 3, size // 2 + 777, size - 1):
        flip(weights, position)
        assert identity(str(folder)) != before
        flip(weights, position)
        assert identity(str(folder)) == before


def test_large_weights_by_time(folder, monkeypatch):
    monkeypatch.setattr(module, "_WHOLE", 10)
    before, weights = identity(str(folder)), folder / "model.safetensors"
    position = weights.stat().st_size * 2 // 3 + 5001
    flip(weights, position)
    flip(weights, position)
    os.utime(weights, ns=(1, 1))
    assert identity(str(folder)) != before


def test_template_and_adapter(folder, tmp_path):
    before = identity(str(folder))
    tiny.tiny_tokenizer(chat_template=True).save_pretrained(folder)
    assert identity(str(folder)) != before
    tiny.tiny_peft().save_pretrained(tmp_path / "adapter")
    with_adapter = identity(str(tmp_path / "adapter"), str(folder))
    assert with_adapter != identity(str(folder))
    flip(tmp_path / "adapter" / "adapter_model.safetensors", 2000)
    assert identity(str(tmp_path / "adapter"), str(folder)) != with_adapter


def test_a_base_that_is_not_the_runs_is_told(folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    assert other_base_note(run, str(folder)) == []  # nothing is known
    (run / "environment.json").write_text(json.dumps({"model": {"files": fingerprint_model(str(folder))}}))
    assert other_base_note(run, str(folder)) == []
    tiny.tiny_tokenizer(chat_template=True).save_pretrained(folder)
    (note,) = other_base_note(run, str(folder))
    assert note.startswith(f"THE BASE MODEL {folder} IS NOT WHAT THIS RUN WAS TRAINED ON: chat_template.jinja")
