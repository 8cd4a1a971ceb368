"""A merged folder against float64 algebra and against PEFT and transformers themselves."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from igascale.merge import INDEX_FILE, merge_adapter

import tiny


def save_adapter(folder, base_folder, *, dtype=torch.float32, **changes):
    """A PEFT folder on a saved base, with both factors drawn at random."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=dtype)
    config = LoraConfig(task_type="CAUSAL_LM", **(settings | changes))
    model = get_peft_model(base, config, autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def read_all(folder):
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors


def dense_float64(base_folder, adapter_folder, scaling):
    """Every weight of base + adapter in float64, from the two files alone."""
    weights = {name: tensor.double() for name, tensor in read_all(base_folder).items()}
    factors = load_file(adapter_folder / "adapter_model.safetensors")
    changed = set()
    for key, A in factors.items():
        if ".lora_A." in key:
            name = key.removeprefix("base_model.model.").replace(".lora_A.", ".")
            weights[name] += scaling * factors[key.replace("lora_A", "lora_B")].double() @ A.double()
            changed.add(name)
    return weights, changed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rslora", [False, True])
def test_every_weight_is_rounded_once(tmp_path, dtype, rslora):
    base = tiny.save_tiny_model_folder(tmp_path / "base", dtype=dtype)
    adapter = save_adapter(tmp_path / "adapter", base, use_rslora=rslora)
    report = merge_adapter(base, adapter, tmp_path / "out")
    exact, changed = dense_float64(base, adapter, 8 / 2 if rslora else 8 / 4)
    merged, before = read_all(tmp_path / "out"), read_all(base)
    assert merged.keys() == before.keys()
    assert len(changed) == report.merged_modules == 8
    eps = torch.finfo(dtype).eps
    for name, weight in merged.items():
        assert weight.dtype == dtype
        if name in changed:
            error = (weight.double() - exact[name]).abs()
            # Half a unit in the last place, and what float32 arithmetic adds before it.
            assert (error <= eps / 2 * exact[name].abs() + 1e-7).all(), name
            assert not torch.equal(weight, before[name])
        else:
            assert torch.equal(weight, before[name]), name


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_logits_equal_base_with_adapter(tmp_path, dtype, tolerance):
    base = tiny.save_tiny_model_folder(tmp_path / "base", dtype=dtype)
    adapter = save_adapter(tmp_path / "adapter", base, dtype=dtype)
    report = merge_adapter(base, adapter, tmp_path / "out")
    tokens = torch.randint(128, (3, 20))
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
        assert plain.dtype == dtype
        ours = plain.float()(tokens).logits
        reference = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter
        ).eval()
        theirs = reference(tokens).logits
        with reference.disable_adapter():
            without = reference(tokens).logits
    assert (ours - theirs).norm() <= tolerance * theirs.norm()
    assert (without - theirs).norm() > 3 * tolerance * theirs.norm()  # else the line above says nothing
    assert report.verification is not None
    assert report.verification.relative_difference <= report.verification.tolerance
    assert report.verification.adapter_effect > 0.05
    assert report.verification.weight_error <= 1


def test_sharded_base_keeps_names_index_and_companions(tmp_path):
    base = tmp_path / "base"
    tiny.tiny_llama().save_pretrained(base, max_shard_size="40KB")
    tiny.tiny_tokenizer(chat_template=True).save_pretrained(base)
    (base / "LICENSE").write_text("terms")
    (base / "README.md").write_text("card of the base")
    (base / "pytorch_model.bin").write_bytes(b"old weights")
    adapter = save_adapter(tmp_path / "adapter", base)
    seen = []
    report = merge_adapter(base, adapter, tmp_path / "out", progress=lambda *args: seen.append(args))
    out = tmp_path / "out"
    shards = sorted(file.name for file in base.glob("*.safetensors"))
    assert len(shards) > 2
    assert sorted(file.name for file in out.glob("*.safetensors")) == shards
    assert seen == [(i + 1, len(shards)) for i in range(len(shards))]
    assert report.shards == len(shards)
    index = json.loads((out / INDEX_FILE).read_text())
    for name, file in index["weight_map"].items():
        with safe_open(out / file, framework="pt") as shard:
            assert name in shard.keys()  # noqa: SIM118 (safe_open has no __contains__)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in read_all(out).values())
    for name in ("config.json", "generation_config.json", "tokenizer.json", "LICENSE"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    assert not (out / "README.md").exists()
    assert not (out / "pytorch_model.bin").exists()
    assert AutoTokenizer.from_pretrained(out).chat_template == tiny.CHAT_TEMPLATE
    exact, _ = dense_float64(base, adapter, 2.0)
    for name, weight in read_all(out).items():
        torch.testing.assert_close(weight.double(), exact[name], rtol=1e-6, atol=1e-7)


def test_tied_embeddings_stay_tied(tmp_path):
    base = tmp_path / "base"
    tiny.tiny_llama(tie_word_embeddings=True).save_pretrained(base)
    adapter = save_adapter(tmp_path / "adapter", base)
    merge_adapter(base, adapter, tmp_path / "out")
    assert "lm_head.weight" not in read_all(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_pickled_base_is_converted(tmp_path):
    base = tiny.save_tiny_model_folder(tmp_path / "base")
    adapter = save_adapter(tmp_path / "adapter", base)
    torch.save(load_file(base / "model.safetensors"), base / "pytorch_model.bin")
    merge_adapter(base, adapter, tmp_path / "one")
    (base / "model.safetensors").unlink()
    merge_adapter(base, adapter, tmp_path / "two")
    one, two = read_all(tmp_path / "one"), read_all(tmp_path / "two")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_bfloat16_adapter_and_all_linear_layers(tmp_path):
    base = tiny.save_tiny_model_folder(tmp_path / "base", dtype=torch.bfloat16)
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
    adapter = save_adapter(tmp_path / "adapter", base, dtype=torch.bfloat16, target_modules=every)
    report = merge_adapter(base, adapter, tmp_path / "out")
    assert report.merged_modules == 15
    assert report.dtype == "BF16"


def test_zero_adapter_changes_nothing(tmp_path):
    base = tiny.save_tiny_model_folder(tmp_path / "base", dtype=torch.bfloat16)
    model = tiny.tiny_peft(torch.bfloat16, b_scale=0.0)
    model.save_pretrained(tmp_path / "adapter")
    merge_adapter(base, tmp_path / "adapter", tmp_path / "out")
    before, after = read_all(base), read_all(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)
