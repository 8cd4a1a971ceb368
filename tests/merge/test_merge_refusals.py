"""What cannot be merged is refused in one clear line, and leaves nothing behind."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import igascale.merge
import igascale.merge_check
from igascale.errors import UserError
from igascale.merge import merge_adapter

import tiny


@pytest.fixture
def folders(tmp_path):
    base = tiny.save_tiny_model_folder(tmp_path / "base")
    tiny.tiny_peft().save_pretrained(tmp_path / "adapter")
    return base, tmp_path / "adapter", tmp_path / "results" / "out"


def refused(folders, message, **options):
    base, adapter, out = folders
    with pytest.raises(UserError, match=message) as caught:
        merge_adapter(base, adapter, out, **options)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert not out.parent.exists() or not list(out.parent.iterdir())


def edit_config(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_tensors(file, edit):
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora=True is not plain LoRA"),
        ({"bias": "lora_only"}, "bias='lora_only' is not plain LoRA"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"),
        ({"some_future_variant": {"x": 1}}, "some_future_variant"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' changes the base"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'"),
        ({"r": 8}, "says r=8"),
        ({"r": "4"}, "r should be a positive number"),
        ({"lora_alpha": 0}, "lora_alpha should be a positive number"),
    ],
)
def test_not_plain_lora(folders, changes, message):
    edit_config(folders[1], **changes)
    refused(folders, message)


def test_output_that_is_not_empty_is_left_alone(folders):
    base, adapter, out = folders
    out.mkdir(parents=True)
    (out / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="exists and is not empty"):
        merge_adapter(base, adapter, out)
    assert [file.name for file in out.iterdir()] == ["mine.txt"]
    assert list(out.parent.iterdir()) == [out]


def test_empty_output_folder_is_used(folders):
    base, adapter, out = folders
    out.mkdir(parents=True)
    merge_adapter(base, adapter, out, verify=False)
    assert (out / "model.safetensors").is_file()


def test_base_of_other_shape(folders):
    tiny.tiny_llama(hidden_size=32).save_pretrained(folders[0])
    refused(folders, r"is \[\d+, 32\] in base model .* adapter was trained for \[\d+, 64\]")


def test_base_without_a_target(folders):
    tiny.tiny_llama(num_hidden_layers=1).save_pretrained(folders[0])
    refused(folders, r"no tensor model\.layers\.1\.self_attn\.\w_proj\.weight")


def test_tied_head(folders):
    tiny.tiny_llama(tie_word_embeddings=True).save_pretrained(folders[0])
    tiny.tiny_peft(targets=("q_proj", "lm_head")).save_pretrained(folders[1], save_embedding_layers=False)
    refused(folders, "lm_head.* tied to the embedding")


def test_quantised_base(folders):
    file = folders[0] / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"load_in_4bit": True}}))
    refused(folders, "is quantised")


def test_missing_shard(folders):
    tiny.tiny_llama().save_pretrained(folders[0], max_shard_size="40KB")
    min(folders[0].glob("model-*.safetensors")).unlink()
    refused(folders, "shard .* is missing")


def test_index_pointing_elsewhere(folders):
    tiny.tiny_llama().save_pretrained(folders[0], max_shard_size="40KB")
    file = folders[0] / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["lm_head.weight"] = "../outside.safetensors"
    file.write_text(json.dumps(index))
    refused(folders, "shard ../outside.safetensors is missing")


def test_truncated_base(folders):
    file = folders[0] / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    refused(folders, "model.safetensors is damaged")


def test_half_an_adapter(folders):
    def drop(tensors):
        del tensors[next(key for key in tensors if "lora_B" in key)]

    edit_tensors(folders[1] / "adapter_model.safetensors", drop)
    refused(folders, "has no lora_B")


def test_foreign_tensor_in_the_adapter(folders):
    key = "base_model.model.model.embed_tokens.lora_embedding_A"
    edit_tensors(folders[1] / "adapter_model.safetensors", lambda tensors: tensors.update({key: torch.ones(4, 128)}))
    refused(folders, "embed_tokens.lora_embedding_A .* is not a LoRA factor")


def test_base_weight_in_the_adapter(folders):
    tiny.tiny_peft(targets=("q_proj", "lm_head")).save_pretrained(folders[1])  # PEFT adds lm_head itself
    refused(folders, "also holds the base weight .*save_embedding_layers=False")


def test_nan_in_the_adapter(folders):
    edit_tensors(
        folders[1] / "adapter_model.safetensors",
        lambda tensors: next(iter(tensors.values())).fill_(torch.nan),
    )
    refused(folders, "NaN or infinity")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_adapter_folder_lacks_a_file(folders, name):
    (folders[1] / name).unlink()
    refused(folders, f"has no {name}")


def test_overflow_of_a_float16_base(folders):
    tiny.tiny_llama(torch.float16).save_pretrained(folders[0])
    edit_config(folders[1], lora_alpha=10**8)
    refused(folders, "overflows torch.float16")


@pytest.mark.parametrize("error", [1.0, 1.01, -1.0, 0.0])
def test_wrong_arithmetic_fails_the_verification(folders, monkeypatch, error):
    """A merge that scales the adapter wrongly must not pass."""
    right = igascale.merge.merged_weight

    def wrong(weight, factors):
        change = right(weight, factors).float() - weight.float()
        return (weight.float() + error * change).to(weight.dtype)

    monkeypatch.setattr(igascale.merge, "merged_weight", wrong)
    if error == 1.0:
        merge_adapter(*folders)
    else:
        refused(folders, "nothing was written")


def test_small_adapter_on_bfloat16_is_still_checked(folders, monkeypatch):
    """Its effect on the logits is below their tolerance; the weights give a forgotten adapter away."""
    tiny.tiny_llama(torch.bfloat16).save_pretrained(folders[0])
    tiny.tiny_peft(b_scale=0.002).save_pretrained(folders[1])
    base, adapter, out = folders
    report = merge_adapter(base, adapter, out.with_name("right"))
    assert report.verification.adapter_effect < report.verification.tolerance
    monkeypatch.setattr(igascale.merge, "merged_weight", lambda weight, factors: weight)
    with pytest.raises(UserError, match="roundings away"):
        merge_adapter(base, adapter, out)
    assert [folder.name for folder in out.parent.iterdir()] == ["right"]


def test_interruption_leaves_nothing(folders, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(igascale.merge, "copy_companions", interrupt)
    with pytest.raises(KeyboardInterrupt):
        merge_adapter(*folders)
    assert not list(folders[2].parent.iterdir())
