"""LoRA on a base model: deterministic, in the base's dtype, started warm only from the same adapter."""

import json

import pytest
import torch

from igascale.adapters import find_adapters
from igascale.errors import UserError
from igascale.model import add_lora, set_activation_checkpointing

from tiny import tiny_llama, tiny_peft

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


def lora(base=None, **changes):
    options = {
        "r": 4,
        "alpha": 8.0,
        "dropout": 0.0,
        "target_modules": TARGETS,
        "use_rslora": False,
        "init_from": None,
        "seed": 5,
    }
    return add_lora(base or tiny_llama(), **(options | changes))


def factors(model):
    return {fqn: (a.A.detach(), a.B.detach()) for fqn, a in find_adapters(model).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_have_the_base_dtype(dtype):
    model = lora(tiny_llama(dtype))
    assert {p.dtype for p in model.parameters()} == {dtype}
    for A, B in factors(model).values():
        assert A.abs().sum() > 0 and (B == 0).all()
    assert model.config.use_cache is False


def test_start_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = factors(lora())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second, other = factors(lora()), factors(lora(seed=6))
    assert torch.equal(torch.get_rng_state(), state)
    for fqn in first:
        assert torch.equal(first[fqn][0], second[fqn][0])
        assert not torch.equal(first[fqn][0], other[fqn][0])


def test_scaling():
    scalings = {a.scaling for a in find_adapters(lora(r=4, alpha=10.0)).values()}
    assert scalings == {2.5}
    assert {a.scaling for a in find_adapters(lora(r=4, alpha=10.0, use_rslora=True)).values()} == {5.0}


def test_unknown_target():
    refused("no module 'q_porj'; did you mean 'q_proj'.*its linear modules: .*down_proj", target_modules=["q_porj"])
    refused("no module 'wq'", target_modules=["q_proj", "wq"])
    refused("lora.target_modules is empty", target_modules=[])


def test_embeddings_as_target():
    refused("embed_tokens: LoRA on Embedding is not supported", target_modules=["q_proj", "embed_tokens"])


def test_warm_start(tmp_path):
    source = tiny_peft()
    source.save_pretrained(tmp_path)
    expected = factors(source)
    model = lora(init_from=tmp_path, dropout=0.1)
    for fqn, (A, B) in factors(model).items():
        assert torch.equal(A, expected[fqn][0]) and torch.equal(B, expected[fqn][1])
    assert all(p.requires_grad == ("lora_" in n) for n, p in model.named_parameters())
    ids = torch.arange(3, 13)[None]
    assert torch.equal(model.eval()(input_ids=ids).logits, source.eval()(input_ids=ids).logits)


def test_warm_start_in_bf16(tmp_path):
    source = tiny_peft()
    source.save_pretrained(tmp_path)
    model = lora(tiny_llama(torch.bfloat16), init_from=tmp_path)
    for fqn, (A, _) in factors(model).items():
        assert torch.equal(A, factors(source)[fqn][0].bfloat16())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 8}, r"trained with r=4, but lora\.r is 8; set lora\.r=4"),
        ({"alpha": 16.0}, r"trained with alpha=8, but lora\.alpha is 16\.0; set lora\.alpha=8"),
        ({"use_rslora": True}, r"use_rslora=False, but lora\.use_rslora is True; set lora\.use_rslora=false"),
        ({"target_modules": ["q_proj", "v_proj"]}, r"has an adapter on .*k_proj.*set lora\.target_modules"),
        ({"target_modules": [*TARGETS, "up_proj"]}, r"lacks an adapter on .*up_proj.*set lora\.target_modules"),
    ],
)
def test_warm_start_from_another_shape(tmp_path, changes, message):
    tiny_peft().save_pretrained(tmp_path)
    refused(message, init_from=tmp_path, **changes)


def test_warm_start_from_another_base(tmp_path):
    tiny_peft().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"q_proj\.lora_A is \[4, 64\], but \[4, 32\].*another base model"):
        lora(tiny_llama(hidden_size=32, head_dim=8), init_from=tmp_path)


def test_warm_start_from_nothing(tmp_path):
    refused("lora.init_from: no such folder: .*nowhere", init_from=tmp_path / "nowhere")
    refused("adapter_config.json", init_from=tmp_path)


def test_warm_start_from_dora(tmp_path):
    tiny_peft().save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dora": True}))
    refused("use_dora", init_from=tmp_path)


def test_checkpointing_modes_can_be_changed():
    """Each mode gives the same gradients, with and without recomputation in between."""
    model = tiny_peft()
    ids = torch.arange(3, 19).view(2, 8)
    gradients, calls = [], []
    layer = model.get_base_model().model.layers[0].mlp
    handle = layer.register_forward_pre_hook(lambda *_: calls.append(1))
    for mode in ("none", "reentrant", "non-reentrant", "none"):
        set_activation_checkpointing(model, mode)
        model.zero_grad()
        calls.clear()
        model(input_ids=ids).logits.square().mean().backward()
        assert len(calls) == (1 if mode == "none" else 2)
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    handle.remove()
    for other in gradients[1:]:
        for first, second in zip(gradients[0], other):
            torch.testing.assert_close(second, first)


def test_unknown_checkpointing_mode():
    with pytest.raises(UserError, match="unknown 'full'"):
        set_activation_checkpointing(tiny_peft(), "full")


def refused(message, **changes):
    with pytest.raises(UserError, match=message) as caught:
        lora(**changes)
    assert "\n" not in str(caught.value)
