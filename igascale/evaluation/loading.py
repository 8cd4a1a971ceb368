"""Load what is to be evaluated: a model folder or Hub id, an adapter folder, a run, or a merged folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from igascale.errors import UserError, did_you_mean
from igascale.locate import base_of, locate
from igascale.lora_folder import ADAPTER_FILE
from igascale.model import load_tokenizer

DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_for_evaluation(
    path: str | Path, base: str | Path | None = None, dtype: str = "auto", device: str | None = None
) -> tuple[nn.Module, Any]:
    """The model, in evaluation mode on its device, and the base's tokenizer.

    Args:
        path: model folder or Hub id, PEFT adapter folder, or run folder (its final adapter).
        base: base model of an adapter; by default the one that the adapter names.
        dtype: ``auto`` (as stored), ``float32``, ``bfloat16`` or ``float16``.
        device: torch device; CUDA where there is one, else the CPU, by default.

    Raises:
        UserError: something is missing, is not a causal LM, or adapter and base do not fit.
    """
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype '{dtype}'{did_you_mean(dtype, DTYPES)}; known: {', '.join(DTYPES)}")
    located = locate(path)
    if base is not None and located.adapter is None:
        raise UserError(f"--base goes with an adapter or a run, but {path} is a whole model; leave --base out")
    name = str(path) if located.adapter is None else base_of(located, base)
    model = _load_causal_lm(name, DTYPES[dtype])
    tokenizer = load_tokenizer(name)
    if located.adapter is not None:
        model = _attach(model, located.adapter)
    return model.eval().to(_device(device)), tokenizer


def device_of_rank(asked: str | None, local_rank: int) -> str | None:
    """The device of one of several processes on this machine: on GPUs one each.

    Args:
        asked: ``None`` or ``cuda`` shares the GPUs out; anything else is for all processes.
        local_rank: the process, counted on this machine.

    Raises:
        UserError: there are fewer GPUs than processes.
    """
    if asked not in (None, "cuda") or not torch.cuda.is_available():
        return asked
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"more processes than the {torch.cuda.device_count()} GPUs of this machine: one GPU each; start fewer, or --device cpu"
        )
    return f"cuda:{local_rank}"


def _load_causal_lm(name: str, dtype: Any) -> nn.Module:
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"cannot load {name} as a causal language model: {_one_line(error)}") from None
    if info["missing_keys"]:  # transformers would fill them with random numbers and only warn
        raise UserError(f"{name} lacks the weight {min(info['missing_keys'])}; the folder is not a complete model")
    return model


def _attach(model: nn.Module, adapter: Path) -> nn.Module:
    """``PeftModel`` with the adapter's weights, all of them and no others."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    try:
        # The training computes the adapter in the base's dtype; so does the evaluation.
        wrapped = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"the adapter {adapter} does not fit the base model: {_one_line(error)}") from None
    if (adapter / ADAPTER_FILE).is_file():
        with safe_open(adapter / ADAPTER_FILE, framework="pt") as file:
            stored = set(file.keys())
        # PEFT only warns here, and would evaluate a half-loaded adapter.
        different = stored ^ set(get_peft_model_state_dict(wrapped))
        if different:
            raise UserError(f"the adapter {adapter} and the base model disagree about {min(different)}")
    return wrapped


def _device(device: str | None) -> torch.device:
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise UserError(f"--device {device}: {_one_line(error)}") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {device}: there is no CUDA GPU here; leave --device out to use the CPU")
    return chosen


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + " ..."
