"""The states that hooks see are those that transformers hands out, on several architectures; names of layers."""

from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, GPTNeoXConfig, MixtralConfig, OPTConfig

from igascale.errors import UserError
from igascale.evaluation.consistency import GroupTexts, consistency
from igascale.evaluation.layer_names import parse_layers
from igascale.evaluation.layers import LayerStates, depth_of, find_decoder

import tiny

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 3, "intermediate_size": 48}
OTHERS = {
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_head=2, n_layer=3),
    "opt": OPTConfig(
        vocab_size=64, hidden_size=32, ffn_dim=48, num_attention_heads=2, num_hidden_layers=3, word_embed_proj_dim=32
    ),
    "neox": GPTNeoXConfig(**SMALL),
    "gemma2": Gemma2Config(**SMALL, num_key_value_heads=1, head_dim=16),
    # three layers, and three experts in each: a list of the same length further inside
    "mixtral": MixtralConfig(**SMALL, num_key_value_heads=1, num_local_experts=3),
}


def batch():
    mask_BT = torch.ones(3, 9, dtype=torch.long)
    mask_BT[0, 5:] = 0
    mask_BT[2, :2] = 0
    return torch.randint(6, 64, (3, 9)), mask_BT


def expected(model, ids_BT, mask_BT):
    """``[L + 1, B, H]`` from ``output_hidden_states``, averaged row by row."""
    with torch.no_grad():
        states = model(input_ids=ids_BT, attention_mask=mask_BT, output_hidden_states=True).hidden_states
    rows = [[layer[b][mask_BT[b].bool()].double().mean(0) for b in range(len(mask_BT))] for layer in states]
    return torch.stack([torch.stack(row) for row in rows])


def compare(model):
    ids_BT, mask_BT = batch()
    depth = depth_of(model)
    with torch.no_grad(), LayerStates(model, range(depth + 1)) as states:
        found = states.averages({"input_ids": ids_BT, "attention_mask": mask_BT}, mask_BT)
    known = expected(model, ids_BT, mask_BT)
    assert found.dtype == torch.float64
    assert found.shape == known.shape
    for layer in range(depth + 1):
        torch.testing.assert_close(found[layer], known[layer], rtol=1e-6, atol=1e-9, msg=f"index {layer}")


def test_every_index_is_that_of_transformers():
    compare(tiny.tiny_llama(num_hidden_layers=3).eval())


def test_every_index_under_peft():
    compare(tiny.tiny_peft().eval())


@pytest.mark.parametrize("name", OTHERS)
def test_every_index_of_other_architectures(name):
    compare(AutoModelForCausalLM.from_config(OTHERS[name]).eval())


def test_the_last_index_is_after_the_norm_and_the_one_before_is_not():
    model = tiny.tiny_llama().eval()
    ids_BT, mask_BT = batch()
    before = []
    model.model.norm.register_forward_pre_hook(lambda _, args: before.append(args[0]))
    with torch.no_grad(), LayerStates(model, [1, 2]) as states:
        penultimate, last = states.averages({"input_ids": ids_BT, "attention_mask": mask_BT}, mask_BT)
    into_norm = before[0][1].double().mean(0)
    assert not torch.allclose(last[1], into_norm, rtol=1e-3)
    assert not torch.allclose(penultimate[1], into_norm, rtol=1e-3)


def test_hooks_are_taken_away_and_the_output_is_unaltered():
    model = tiny.tiny_llama().eval()
    ids_BT, mask_BT = batch()
    with torch.no_grad():
        before = model(input_ids=ids_BT, attention_mask=mask_BT).logits
        with LayerStates(model, range(3)) as states:
            states.averages({"input_ids": ids_BT, "attention_mask": mask_BT}, mask_BT)
            inside = model(input_ids=ids_BT, attention_mask=mask_BT).logits if not states._found.clear() else None
    assert torch.equal(before, inside)
    decoder, stack = find_decoder(model)
    assert not decoder._forward_hooks
    assert not any(layer._forward_pre_hooks for layer in stack)
    with pytest.raises(UserError), LayerStates(model, [0]) as states:
        states.averages({"input_ids": ids_BT, "attention_mask": mask_BT}, mask_BT[:, :4])
    assert not any(layer._forward_pre_hooks for layer in stack)


def test_memory_holds_averages_only():
    model = tiny.tiny_llama(num_hidden_layers=6).eval()
    ids_BT, mask_BT = torch.randint(6, 64, (4, 200)), torch.ones(4, 200, dtype=torch.long)
    with torch.no_grad(), LayerStates(model, range(7)) as states:
        states.averages({"input_ids": ids_BT, "attention_mask": mask_BT}, mask_BT)
        assert {tuple(found.shape) for found in states._found.values()} == {(4, 64)}


def test_architectures_without_a_list_of_layers_are_refused():
    model = tiny.tiny_llama().eval()
    model.config.num_hidden_layers = 5
    with pytest.raises(UserError, match=r"ModuleList of the 5 layers of LlamaForCausalLM and found none"):
        consistency(model, [GroupTexts([[7], [8]])])
    twin = tiny.tiny_llama().eval()
    twin.model.other = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
    with pytest.raises(UserError, match=r"found several \(layers, other\)"):
        find_decoder(twin)
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(n_blocks=2))
    with pytest.raises(UserError, match="has no num_hidden_layers"):
        depth_of(SimpleNamespace(config=config))


def test_shared_layers_are_refused():
    model = tiny.tiny_llama().eval()
    model.model.layers[1] = model.model.layers[0]
    with pytest.raises(UserError, match="runs twice"):
        consistency(model, [GroupTexts([[7], [8]])], layers=[0])


@pytest.mark.parametrize(
    ("spec", "depth", "layers"),
    [
        ("penultimate", 32, (31,)),
        ("last", 32, (32,)),
        ("all", 3, (0, 1, 2, 3)),
        ("table5", 32, (8, 16, 24, 31)),
        ("table5", 22, (6, 11, 17, 21)),
        ("table5", 80, (20, 40, 60, 78)),
        ("table5", 2, (1,)),
        ("8,16,31", 32, (8, 16, 31)),
        ("31, 8,8", 32, (8, 31)),
        ("0.5", 32, (16,)),
        ("0.0,.25,1.0", 32, (0, 8, 32)),
        ("0,penultimate", 2, (0, 1)),
    ],
)
def test_names_of_layers(spec, depth, layers):
    assert parse_layers(spec, depth) == layers
    assert parse_layers(spec) == ()


@pytest.mark.parametrize("spec", ["", "8,", "-1", "1.5", "tabel5", "8-16", "0x3", "none"])
def test_what_is_no_layer_is_refused_before_there_is_a_model(spec):
    with pytest.raises(UserError, match="is not a layer"):
        parse_layers(spec)


def test_a_layer_beyond_the_model_is_refused():
    with pytest.raises(UserError, match="--layers 33: the model has 32 layers, so the last index is 32"):
        parse_layers("8,33", 32)
    with pytest.raises(UserError, match="there is no layer 3"):
        LayerStates(tiny.tiny_llama(), [3])
