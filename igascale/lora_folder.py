"""Read a saved PEFT folder as plain LoRA factors; refuse, by name, whatever is not plain LoRA or rsLoRA."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from igascale.errors import UserError
from igascale.locate import ADAPTER_CONFIG, read_adapter_config

ADAPTER_FILE = "adapter_model.safetensors"

_KEY = re.compile(r"base_model\.model\.(?P<fqn>.+)\.lora_(?P<factor>[AB])\.weight")
# Settings that do not change what the saved factors mean. Any other setting must have PEFT's default.
_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "megatron_core", "peft_type",
    "peft_version", "qalora_group_size", "r", "revision", "runtime_config", "target_modules", "task_type",
    "use_rslora",
}  # fmt: skip


@dataclass(frozen=True)
class LoraFactors:
    """The factors of one saved adapter, ``W = W0 + scaling * B @ A``.

    Attributes:
        fqn: the module's name in the base model, ``model.layers.0.self_attn.q_proj`` say.
        A: ``[R, I]``, in the dtype of the file.
        B: ``[O, R]``, likewise.
        scaling: ``alpha / r``, or ``alpha / sqrt(r)`` for rsLoRA.
    """

    fqn: str
    A: Tensor
    B: Tensor
    scaling: float


def read_lora_folder(folder: Path) -> dict[str, LoraFactors]:
    """All adapters of a PEFT folder, keyed by ``fqn``, in file order.

    Raises:
        UserError: not a PEFT folder, not plain LoRA, or incomplete.
    """
    config = read_adapter_config(folder)
    check_plain_lora(config, folder / ADAPTER_CONFIG)
    rank, alpha = config["r"], config["lora_alpha"]
    scaling = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    pairs: dict[str, dict[str, Tensor]] = {}
    for key, tensor in _read_tensors(folder).items():
        match = _KEY.fullmatch(key)
        if match is None and "lora_" not in key:
            raise UserError(
                f"{folder / ADAPTER_FILE} also holds the base weight {key}; if it was not trained, save the adapter "
                "with model.save_pretrained(..., save_embedding_layers=False)"
            )
        if match is None or tensor.ndim != 2:
            raise UserError(
                f"{folder / ADAPTER_FILE}: {key} {list(tensor.shape)} is not a LoRA factor of a linear layer"
            )
        if not torch.isfinite(tensor).all():
            raise UserError(f"{folder / ADAPTER_FILE}: {key} holds NaN or infinity; take an earlier checkpoint")
        pairs.setdefault(match["fqn"], {})[match["factor"]] = tensor
    if not pairs:
        raise UserError(f"{folder / ADAPTER_FILE} holds no LoRA factors")
    lora = {}
    for fqn, pair in pairs.items():
        for factor in "AB":
            if factor not in pair:
                raise UserError(f"{folder / ADAPTER_FILE}: {fqn} has no lora_{factor}; the file is incomplete")
        if pair["A"].shape[0] != rank or pair["B"].shape[1] != rank:
            raise UserError(
                f"{folder / ADAPTER_FILE}: {fqn} has A {list(pair['A'].shape)} and "
                f"B {list(pair['B'].shape)}, but {ADAPTER_CONFIG} says r={rank}"
            )
        lora[fqn] = LoraFactors(fqn, pair["A"], pair["B"], scaling)
    return lora


def check_plain_lora(config: Mapping[str, Any], source: Path) -> None:
    """Refuse every setting under which ``W0 + s B A`` with one ``s`` would not be the trained model.

    Raises:
        UserError: naming the setting.
    """
    from peft import LoraConfig

    if config.get("peft_type") != "LORA":
        raise UserError(f"{source}: peft_type is {config.get('peft_type')!r}; only LORA is supported")
    if config.get("task_type") not in (None, "", "CAUSAL_LM"):
        raise UserError(f"{source}: task_type is {config['task_type']!r}; only CAUSAL_LM is supported")
    for key in ("r", "lora_alpha"):
        value = config.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or value <= 0:
            raise UserError(f"{source}: {key} should be a positive number, found {value!r}")
    init = config.get("init_lora_weights", True)
    if init not in (True, False, "gaussian"):
        raise UserError(
            f"{source}: init_lora_weights={init!r} changes the base weights too; save the adapter "
            "with PEFT's path_initial_model_for_weight_conversion first"
        )
    defaults = LoraConfig()
    for key, value in config.items():
        if key in _HARMLESS or value in (None, False, "none") or value == [] or value == {}:
            continue
        if value != getattr(defaults, key, None):
            raise UserError(f"{source}: {key}={value!r} is not plain LoRA; only LoRA and rsLoRA are supported")


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / ADAPTER_FILE
    if not file.is_file():
        old = "; re-save adapter_model.bin with PEFT as safetensors" if (folder / "adapter_model.bin").is_file() else ""
        raise UserError(f"{folder} has no {ADAPTER_FILE}{old}")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(f"{file} is damaged: {error}") from None
