"""Loading base models and tokenizers, and what is said where that is impossible."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from igascale.errors import UserError
from igascale.model import check_vocabulary, load_base_model, load_tokenizer

from tiny import save_tiny_model_folder, tiny_llama, tiny_tokenizer


@pytest.fixture
def folder(tmp_path):
    return save_tiny_model_folder(tmp_path / "base")


def edit_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "float32", "bfloat16"])
def test_dtype(folder, dtype):
    model = load_base_model(folder, dtype)
    assert {str(p.dtype).removeprefix("torch.") for p in model.parameters()} == {str(dtype).removeprefix("torch.")}


def test_weights_are_those_saved(folder):
    model = load_base_model(str(folder), "float32", attn_implementation="eager")
    expected = tiny_llama().state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, expected[name]), name


@pytest.mark.parametrize("dtype", [torch.float16, "float16"])
def test_float16(folder, dtype):
    one_line(lambda: load_base_model(folder, dtype), "float16 needs loss scaling.*bfloat16 or float32")


def test_unknown_dtype(folder):
    one_line(lambda: load_base_model(folder, "bfloat61"), "did you mean 'bfloat16'")


@pytest.mark.parametrize("load", [lambda p: load_base_model(p, "float32"), load_tokenizer])
def test_missing_folder(load, tmp_path):
    one_line(lambda: load(tmp_path / "nowhere"), r"nowhere: no such model folder; check model\.path")


def test_misspelt_folder_beside_others_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    one_line(lambda: load_base_model("models/lama", "float32"), r"^models/lama: no such model folder")


@pytest.mark.parametrize("load", [lambda p: load_base_model(p, "float32"), load_tokenizer])
def test_empty_folder(load, tmp_path):
    one_line(lambda: load(tmp_path), r"holds no config\.json")


@pytest.mark.parametrize("load", [lambda p: load_base_model(p, "float32"), load_tokenizer])
def test_a_file(load, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"")
    one_line(lambda: load(tmp_path / "model.bin"), "is a file")


@pytest.mark.parametrize("load", [lambda p: load_base_model(p, "float32"), load_tokenizer])
@pytest.mark.parametrize("name", ["no-such-organisation/no-such-model", "no-such-model"])
def test_hub_id_that_cannot_be_had(load, name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir("/")
    one_line(
        lambda: load(name), rf"{name}: no such folder, and .* Hugging Face Hub; check model\.path or the connection"
    )


def test_bert_is_not_a_causal_lm(tmp_path):
    config = BertConfig(vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    BertForMaskedLM(config).save_pretrained(tmp_path / "bert")
    one_line(
        lambda: load_base_model(tmp_path / "bert", "float32"), r"not a causal language model \(it is BertForMaskedLM\)"
    )
    edit_config(tmp_path / "bert", architectures=None)
    one_line(lambda: load_base_model(tmp_path / "bert", "float32"), r"not a causal language model \(it is bert\)")


def test_causal_by_model_type(folder):
    edit_config(folder, architectures=None)
    assert type(load_base_model(folder, "float32")).__name__ == "LlamaForCausalLM"


def test_quantized_model(folder):
    edit_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    one_line(lambda: load_base_model(folder, "float32"), "the model is quantized")


def test_incomplete_weights(folder):
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, {"format": "pt"})
    one_line(lambda: load_base_model(folder, "float32"), r"1 weights are not in the files .*layers\.1\.mlp\.up_proj")


def test_truncated_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    one_line(lambda: load_base_model(folder, "float32"), "cannot load a causal language model from this folder")


def test_broken_config(folder):
    (folder / "config.json").write_text("{")
    one_line(lambda: load_base_model(folder, "float32"), "cannot load a model configuration from this folder")


def test_tokenizer(folder):
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.padding_side) == (0, 2, "right")


def test_tokenizer_without_padding_token(tmp_path, caplog):
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="igascale"):
        loaded = load_tokenizer(tmp_path)
    assert loaded.pad_token_id == loaded.eos_token_id == 2
    assert "no padding token; its EOS token '</s>' pads" in caplog.text


def test_tokenizer_without_eos(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    one_line(lambda: load_tokenizer(tmp_path), "no EOS token .* set eos_token")


def test_model_without_tokenizer(tmp_path):
    tiny_llama().save_pretrained(tmp_path)
    one_line(lambda: load_tokenizer(tmp_path), "tokenizer")


def test_vocabulary(folder):
    tokenizer = load_tokenizer(folder)
    check_vocabulary(tokenizer, tiny_llama())
    one_line(
        lambda: check_vocabulary(tokenizer, tiny_llama(vocab_size=50)), r"tokenizer has \d+ tokens.*embedding only 50"
    )


def one_line(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
