"""The PEFT folder, written from a copy: the model may train on meanwhile."""

from __future__ import annotations

import json
from typing import Any

from igascale.checkpoints.content import Files, to_host


def adapter_files(model: Any, prefix: str = "") -> Files:
    """What ``model.save_pretrained`` would write, copied to host memory.

    Two differences: no model card (PEFT's is a template with every field open), and sets in the configuration are sorted, so
    that the same adapter gives the same bytes in every process.

    Args:
        model: a ``PeftModel`` with one adapter.
        prefix: a folder for the files, ``"adapter/"`` say.
    """
    from peft import get_peft_model_state_dict

    config = model.peft_config[model.active_adapter].to_dict() | {"inference_mode": True}
    config["base_model_name_or_path"] = config["base_model_name_or_path"] or model.get_base_model().name_or_path or None
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {
        f"{prefix}adapter_config.json": json.dumps(config, indent=2, sort_keys=True),
        f"{prefix}adapter_model.safetensors": {name: to_host(tensor) for name, tensor in tensors.items()},
    }
