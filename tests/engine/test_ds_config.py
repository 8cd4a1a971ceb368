"""DeepSpeed files that would silently change the gradients are refused by name."""

import json

import pytest

from igascale.engine.ds_config import load_ds_config
from igascale.errors import UserError


@pytest.mark.parametrize("name", ["zero1", "zero2"])
@pytest.mark.parametrize("bf16", [False, True])
def test_packaged_files_load(name, bf16):
    config = load_ds_config(name, bf16)
    assert config["gradient_clipping"] == 0.0
    assert config["gradient_accumulation_steps"] == 1
    assert config["bf16"] == {"enabled": bf16}
    assert config["zero_optimization"]["stage"] == int(name[-1])


TRAPS = {
    "fp16": ({"fp16": {"enabled": True}}, "loss"),
    "clipping at DeepSpeed's default": ({"gradient_clipping": None}, "max_grad_norm"),
    "clipping": ({"gradient_clipping": 1.0}, "max_grad_norm"),
    "round robin": (
        {"zero_optimization": {"stage": 2, "round_robin_gradients": True}},
        "round_robin_gradients",
    ),
    "offload": (
        {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}},
        "offload_optimizer",
    ),
    "stage 3": ({"zero_optimization": {"stage": 3}}, "stage must be 1 or 2"),
    "stage 0": ({"zero_optimization": {}}, "stage must be 1 or 2"),
    "optimizer": ({"optimizer": {"type": "AdamW"}}, "optimizer.*"),
    "scheduler": ({"scheduler": {"type": "WarmupLR"}}, "optimizer.*"),
    "accumulation": ({"gradient_accumulation_steps": 4}, "train.gradient_accumulation_steps"),
    "unmanaged": ({"managed_gradient_accumulation": False}, "managed_gradient_accumulation"),
    "accumulation dtype": ({"data_types": {"grad_accum_dtype": "bf16"}}, "data_types"),
    "another precision": ({"bf16": {"enabled": True}}, "model.dtype says float32"),
    "typing error": ({"gradient_cliping": 0.0}, "did you mean 'gradient_clipping'"),
    "no object": ({"zero_optimization": 5}, "must be an object"),
    "autocast": ({"torch_autocast": {"enabled": True}}, "model.dtype"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps_are_refused(tmp_path, trap):
    change, expected = TRAPS[trap]
    config = {"zero_optimization": {"stage": 2}, "gradient_clipping": 0.0} | change
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    with pytest.raises(UserError, match=r"mine\.json.*" + expected.replace("*", r"\*")):
        load_ds_config(str(path), bf16=False)


def test_disabled_sections_and_auto_are_fine(tmp_path):
    path = tmp_path / "mine.json"
    config = {
        "zero_optimization": {"stage": 1, "offload_optimizer": {"device": "none"}},
        "gradient_clipping": 0.0,
        "fp16": {"enabled": False},
        "train_batch_size": "auto",
    }
    path.write_text(json.dumps(config))
    assert "train_batch_size" not in load_ds_config(str(path), bf16=True)


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_ds_config(str(tmp_path / "none.json"), False)
    with pytest.raises(UserError, match="unknown 'zero7'; use one of zero1, zero2"):
        load_ds_config("zero7", False)
    broken = tmp_path / "broken.json"
    broken.write_text('{\n "a": 1,,\n}')
    with pytest.raises(UserError, match=r"broken\.json:2: not valid JSON"):
        load_ds_config(str(broken), False)
