"""``model.attn_implementation``: each value runs what it says, or says in one line why it cannot."""

import pytest
import torch
from transformers import LlamaForCausalLM, utils

from igascale import assemble
from igascale.attention import attention_of, check_attention
from igascale.config import load_config
from igascale.errors import UserError
from igascale.model import load_base_model

import runs
from tiny import save_tiny_model_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model_folder(tmp_path_factory.mktemp("attention") / "base")


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_what_is_asked_for_runs(folder, name):
    check_attention(name, "float32")
    assert attention_of(load_base_model(folder, "float32", name)) == name


def test_none_keeps_the_models_own(folder):
    check_attention(None, "float32")
    assert attention_of(load_base_model(folder, "float32")) == "sdpa"


def refused(name, dtype="bfloat16"):
    with pytest.raises(UserError) as error:
        check_attention(name, dtype)
    message = str(error.value)
    assert message.startswith(f"model.attn_implementation: {name} ") and "\n" not in message
    return message


def test_unknown():
    assert "did you mean 'flash_attention_2'" in refused("flash_attention2")
    assert "use sdpa, eager, flash_attention_2, flash_attention_3 or null" in refused("kernels-community/flash-attn2")


@pytest.mark.parametrize(
    ("name", "package"), [("flash_attention_2", "flash-attn"), ("flash_attention_3", "flash-attn-3")]
)
def test_flash_attention(name, package, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert refused(name).endswith("needs a CUDA GPU, and there is none here; use sdpa")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(utils, f"is_{name[:-2].replace('tention', 'tn')}_{name[-1]}_available", lambda: False)
    assert f"needs the package {package}, which is not installed; install it, or use sdpa" in refused(name)
    monkeypatch.setattr(utils, f"is_{name[:-2].replace('tention', 'tn')}_{name[-1]}_available", lambda: True)
    assert "computes in bfloat16 only" in refused(name, "float32")
    check_attention(name, "bfloat16")


def test_an_architecture_without_it(folder, monkeypatch):
    monkeypatch.setattr(LlamaForCausalLM, "_supports_sdpa", False)
    with pytest.raises(
        UserError, match=r"^model\.attn_implementation: sdpa cannot be used with this model: .*use eager"
    ):
        load_base_model(folder, "float32", "sdpa")
    assert attention_of(load_base_model(folder, "float32")) == "eager"  # its own choice then


def test_the_configuration_names_the_values(tmp_path):
    (tmp_path / "run.yaml").write_text("output_dir: x\nmodel: {path: m}\ndata: {train: t}\n")
    with pytest.raises(UserError, match=r"'model.attn_implementation': .*'sdpa', 'eager', .*\(got 'flash'\)"):
        load_config(tmp_path / "run.yaml", ["model.attn_implementation=flash"])


def test_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = runs.load(runs.prepare(tmp_path), "model.attn_implementation=flash_attention_2", "model.path=nowhere")
    with pytest.raises(UserError, match="flash_attention_2 needs a CUDA GPU"):
        assemble.build_student(config, torch.device("cpu"))


def test_training_with_either_gives_the_same_gradient(tmp_path):
    path = runs.prepare(tmp_path)
    found = []
    for name in ("sdpa", "eager"):
        overrides = [f"output_dir={tmp_path / name}", f"model.attn_implementation={name}", "train.max_steps=1"]
        found.append(
            runs.run(runs.load(path, *overrides, "hook.name=mean", "eval.every=null"), torch.device("cpu")).first
        )
    assert runs.relative(*found) <= 1e-5
