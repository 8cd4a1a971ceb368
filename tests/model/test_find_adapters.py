"""Plain LoRA is found; every other kind of PEFT model is refused by name, with the remedy."""

import math

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from igascale.adapters import find_adapters
from igascale.errors import UserError

from tiny import tiny_llama, tiny_peft

Q0 = r"model\.layers\.0\.self_attn\.q_proj"


def peft_model(base=None, **changes):
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    config = LoraConfig(**(options | changes))
    return get_peft_model(base or tiny_llama(), config, autocast_adapter_dtype=False)


def test_names_shapes_and_order():
    adapters = find_adapters(tiny_peft(r=3, alpha=12))
    parts = ("q_proj", "k_proj", "v_proj", "o_proj")
    assert list(adapters) == [f"model.layers.{i}.self_attn.{p}" for i in range(2) for p in parts]
    k_proj = adapters["model.layers.1.self_attn.k_proj"]
    assert (k_proj.fqn, k_proj.rank, k_proj.in_features, k_proj.out_features) == (
        "model.layers.1.self_attn.k_proj", 3, 64, 32,
    )  # fmt: skip
    assert k_proj.scaling == 4
    assert k_proj.A.shape == (3, 64) and k_proj.B.shape == (32, 3)


@pytest.mark.parametrize(("use_rslora", "scaling"), [(False, 8 / 4), (True, 8 / math.sqrt(4))])
def test_scaling_is_what_the_layer_computes(use_rslora, scaling):
    model = tiny_peft(use_rslora=use_rslora)
    adapter = find_adapters(model)["model.layers.0.self_attn.k_proj"]
    assert adapter.scaling == scaling
    layer = model.get_base_model().model.layers[0].self_attn.k_proj
    x = torch.randn(2, 3, 64)
    expected = layer.base_layer(x) + scaling * x @ adapter.A.T @ adapter.B.T
    torch.testing.assert_close(layer(x), expected)


def test_the_parameters_are_the_model_s_own():
    model = tiny_peft(torch.bfloat16)
    ours = {id(p) for a in find_adapters(model).values() for p in (a.A, a.B)}
    assert ours == {id(p) for p in model.parameters() if p.requires_grad}


def test_half_of_the_targets():
    model = peft_model(target_modules=["down_proj"], layers_to_transform=[1])
    assert list(find_adapters(model)) == ["model.layers.1.mlp.down_proj"]


REFUSED_CONFIGS = {
    "dora": ({"use_dora": True}, rf"{Q0}: DoRA .*use_dora=False"),
    "lora_bias": ({"lora_bias": True}, rf"{Q0}\.lora_B has a bias.*lora_bias=False"),
    "modules_to_save": ({"modules_to_save": ["lm_head"]}, r"lm_head: .*without modules_to_save"),
    "saved_embeddings": ({"modules_to_save": ["embed_tokens"]}, r"embed_tokens: .*without modules_to_save"),
    "embeddings": ({"target_modules": ["embed_tokens"]}, r"model\.embed_tokens: LoRA on Embedding.*target_modules"),
    "trained_tokens": ({"trainable_token_indices": [1, 2]}, r"LoraConfig\.trainable_token_indices=.*drop"),
    "rank_pattern": ({"rank_pattern": {"q_proj": 2}}, r"LoraConfig\.rank_pattern.*one rank"),
    "alpha_pattern": ({"alpha_pattern": {"q_proj": 2}}, r"LoraConfig\.alpha_pattern.*one alpha"),
    "pissa": ({"init_lora_weights": "pissa"}, r"init_lora_weights='pissa' changes the base"),
    "olora": ({"init_lora_weights": "olora"}, r"init_lora_weights='olora' changes the base"),
    "parameters": (
        {"target_modules": [], "target_parameters": ["mlp.up_proj.weight"]},
        r"LoraConfig\.target_parameters=.*target_modules instead",
    ),
    "replication": ({"layer_replication": [(0, 2), (0, 2)]}, r"LoraConfig\.layer_replication=.*drop"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_CONFIGS)
def test_refused_configurations(case):
    changes, message = REFUSED_CONFIGS[case]
    refuse(peft_model(**changes), message)


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_trained_biases(bias):
    refuse(peft_model(tiny_llama(attention_bias=True), bias=bias), rf"{Q0}\.bias: a trained bias.*bias='none'")


def test_bias_setting_without_a_bias():
    refuse(peft_model(bias="all"), "LoraConfig.bias='all'.*bias='none'")


def test_conv1d():
    base = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32, n_positions=16))
    model = peft_model(base, target_modules=["c_attn"], fan_in_fan_out=True)
    refuse(model, r"transformer\.h\.0\.attn\.c_attn: LoRA on Conv1D .*target_modules")


def test_two_adapters():
    model = peft_model()
    model.add_adapter("other", LoraConfig(target_modules=["q_proj"]))
    refuse(model, r"2 adapters \(default, other\).*delete_adapter\('other'\)")


def test_another_kind_of_peft():
    config = IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    refuse(get_peft_model(tiny_llama(), config), r"'default' is IA3; only LORA")


def test_no_peft_at_all():
    refuse(tiny_llama(), "PEFT model .* not LlamaForCausalLM")


def test_float16_factors():
    model = peft_model()
    find_adapters(model)["model.layers.1.self_attn.v_proj"].lora_B.half()
    refuse(model, r"model\.layers\.1\.self_attn\.v_proj\.lora_B is float16; use bfloat16 or float32")


def test_float16_model():
    refuse(tiny_peft().half(), rf"{Q0}: the base weight is float16")


def test_merged():
    model = peft_model()
    model.merge_adapter()
    refuse(model, rf"{Q0}: the adapter is merged.*unmerge_adapter\(\)")
    model.unmerge_adapter()
    assert len(find_adapters(model)) == 4


def test_disabled():
    model = peft_model()
    with model.disable_adapter():
        refuse(model, rf"{Q0}: the adapter is not active")
    assert len(find_adapters(model)) == 4


def test_trainable_base_parameter():
    model = peft_model()
    model.get_base_model().model.norm.weight.requires_grad_(True)
    refuse(model, r"model\.norm\.weight: trainable, but not a LoRA factor; freeze it")


def test_trainable_base_weight_under_an_adapter():
    model = peft_model()
    model.get_base_model().model.layers[1].self_attn.q_proj.base_layer.weight.requires_grad_(True)
    refuse(model, r"model\.layers\.1\.self_attn\.q_proj\.weight: trainable, but not a LoRA factor")


def test_frozen_factor():
    model = peft_model()
    find_adapters(model)["model.layers.0.self_attn.q_proj"].A.requires_grad_(False)
    refuse(model, rf"{Q0}\.lora_A is frozen; .*is_trainable=True")


class Linear4bit(nn.Linear):
    """Named like the quantized layer of bitsandbytes, which PEFT would take for a linear layer where that is absent."""


def test_quantized_base_layer():
    base = tiny_llama()
    base.model.layers[0].self_attn.q_proj = Linear4bit(64, 64, bias=False)
    refuse(peft_model(base), rf"{Q0}: its base layer is quantized \(Linear4bit\); .*bfloat16 or float32")


class OtherLinear(nn.Linear):
    """A linear layer that may compute something else."""


def test_unknown_linear_layer():
    base = tiny_llama()
    base.model.layers[0].self_attn.q_proj = OtherLinear(64, 64, bias=False)
    refuse(peft_model(base), rf"{Q0}: LoRA on OtherLinear is not supported")


def test_shared_factor():
    model = peft_model()
    adapters = find_adapters(model)
    adapters["model.layers.1.self_attn.q_proj"].lora_A.weight = adapters["model.layers.0.self_attn.q_proj"].A
    refuse(model, rf"{Q0}\.lora_A is shared: .*layers\.0.* and .*layers\.1")


def test_tied_base_weight():
    model = peft_model(tiny_llama(tie_word_embeddings=True), target_modules=["lm_head"])
    refuse(model, r"lm_head: its base weight is shared with model\.embed_tokens\.weight")


def refuse(model, message):
    with pytest.raises(UserError, match=message) as caught:
        find_adapters(model)
    assert "\n" not in str(caught.value)
