"""Read a DeepSpeed JSON file and refuse, before anything starts, what would silently change the gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from igascale.errors import UserError, did_you_mean

PACKAGED = Path(__file__).resolve().parent.parent / "ds_configs"

# Key -> why it is refused and what to do instead.
_REFUSED = {
    "fp16": "fp16 scales the loss, and captured gradients would carry the scale; use model.dtype: bfloat16",
    "amp": "apex mixed precision is not supported; use model.dtype: bfloat16",
    "torch_autocast": "igascale runs the model in model.dtype; use model.dtype: bfloat16",
    "optimizer": "igascale builds the optimizer; set optimizer.* in the run's configuration",
    "scheduler": "igascale sets the learning rate; set optimizer.* in the run's configuration",
    "compression_training": "it rewrites the modules that are captured",
    "prescale_gradients": "gradients do not pass through DeepSpeed's reduction",
    "sequence_parallel_size": "rows would be split between ranks",
}
_ZERO_REFUSED = {
    "round_robin_gradients": "with it, replaced gradients reach the wrong parameters without an error",
    "offload_optimizer": "DeepSpeed then clips by the norm of gradients that were replaced, and the second gradient of "
    "second_moment: max has no place; LoRA optimizer states are small, leave it out",
    "offload_param": "it belongs to ZeRO-3",
    "cpu_offload": "see offload_optimizer",
    "zero_hpz_partition_size": "it belongs to ZeRO-3",
    "zero_quantized_gradients": "gradients would be quantised",
}
# What may stand in the file: it changes how DeepSpeed works, not what is computed.
_ALLOWED = (
    "zero_optimization",
    "gradient_clipping",
    "bf16",
    "fp16",
    "zero_allow_untested_optimizer",
    "steps_per_print",
    "wall_clock_breakdown",
    "memory_breakdown",
    "dump_state",
    "comms_logger",
    "communication_data_type",
    "managed_gradient_accumulation",
)
_OWNED = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")


def find_ds_config(name: str) -> Path:
    """The file behind ``zero2`` (a packaged one) or behind a path."""
    path = Path(name)
    if path.suffix == ".json":
        if not path.is_file():
            raise UserError(f"engine.ds_config: no such file: {path}")
        return path
    packaged = PACKAGED / f"{name}.json"
    if not packaged.is_file():
        known = ", ".join(sorted(p.stem for p in PACKAGED.glob("*.json")))
        raise UserError(f"engine.ds_config: unknown '{name}'; use one of {known}, or the path of a .json file")
    return packaged


def load_ds_config(name: str, bf16: bool) -> dict[str, Any]:
    """The configuration for ``deepspeed.initialize``.

    Args:
        name: a packaged name or a path; see :func:`find_ds_config`.
        bf16: whether the model is bfloat16; masters and optimizer states are float32 either way.

    Raises:
        UserError: a setting with which replaced gradients would be wrong, unclear or clipped twice.
    """
    path = find_ds_config(name)
    try:
        config = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: must hold one JSON object")
    _check(config, path, bf16)
    for key in _OWNED:
        config.pop(key, None)
    # igascale accumulates itself: to DeepSpeed every optimizer step is one (coalesced) backward pass.
    config |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": 1}
    config["zero_allow_untested_optimizer"] = True
    config["bf16"] = {"enabled": bf16}
    if bf16 and config["zero_optimization"]["stage"] == 2:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def _check(config: dict[str, Any], path: Path, bf16: bool) -> None:
    for key, why in _REFUSED.items():
        value = config.get(key)
        if value and not (isinstance(value, dict) and value.get("enabled") is False):
            raise UserError(f"{path}: '{key}' is not supported: {why}")
    for key in config:
        if key not in (*_ALLOWED, *_OWNED, *_REFUSED):
            raise UserError(f"{path}: '{key}' is not supported{did_you_mean(key, _ALLOWED)}; remove it")
    asked = (config.get("bf16") or {}).get("enabled", "auto")
    if asked not in ("auto", bf16):
        raise UserError(
            f"{path}: bf16.enabled is {asked}, but model.dtype says {'bfloat16' if bf16 else 'float32'}; remove 'bf16'"
        )
    for key in _OWNED:
        if config.get(key, "auto") not in ("auto", 1):
            raise UserError(
                f"{path}: remove '{key}' (or set it to \"auto\"): the batch is set by train.groups_per_batch, "
                "train.gradient_accumulation_steps and train.micro_batch_size"
            )
    if config.get("gradient_clipping") != 0.0:
        raise UserError(
            f'{path}: set "gradient_clipping": 0.0 (DeepSpeed clips at 1.0 where it is left out). igascale clips the '
            "combined gradient and its reference together before it hands them over: optimizer.max_grad_norm"
        )
    zero = config.get("zero_optimization")
    if not isinstance(zero, dict):
        raise UserError(f"{path}: 'zero_optimization' must be an object, such as {{\"stage\": 2}}")
    if zero.get("stage") not in (1, 2):
        raise UserError(
            f"{path}: zero_optimization.stage must be 1 or 2, not {zero.get('stage')!r}; "
            "the frozen base model is not sharded by igascale yet"
        )
    for key, why in _ZERO_REFUSED.items():
        value = zero.get(key)
        if value and not (isinstance(value, dict) and value.get("device") in (None, "none")):
            raise UserError(f"{path}: 'zero_optimization.{key}' is not supported: {why}")
    if config.get("managed_gradient_accumulation") is False:
        raise UserError(f"{path}: 'managed_gradient_accumulation' must stay true: igascale coalesces the reduction")
