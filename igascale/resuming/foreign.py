"""What a folder is that is no checkpoint of igascale, and what to do with it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from igascale.checkpoints.names import DATA_SET

_WARM_START = "start a new run from its adapter with lora.init_from={} (the optimizer begins anew)"


def describe_foreign(path: Path) -> str | None:
    """What a path is that ``--resume`` or ``output_dir`` names.

    Returns:
        What it is, and what to do with it, or ``None`` where it may be a run or a checkpoint of igascale.
    """
    if not path.exists():
        return "there is no such folder"
    if not path.is_dir():
        return None if path.name in ("latest", "best") else "a file; name a run folder or a checkpoint in it"
    if not any(path.iterdir()):
        return "an empty folder, there is nothing to continue from"
    if _has(path, [DATA_SET]) and _has(path, ["manifest.json"]) and not _has(path, ["state.json", "checkpoints"]):
        return "a data set, not a run; name its files in the data section of a configuration"
    if _is_ours(path):
        return None
    if _has(path, ["step-*/manifest.json"]):
        return f"the checkpoints of a run; name the run, --resume {path.parent}, or one of them"
    warm = f"; {_WARM_START.format(path)}" if _has(path, ["adapter_config.json"]) else ""
    if _has(path, ["zero"]) and _has(path / "zero", ["*/fp32.pt"]):
        return f"a universal checkpoint of DeepSpeed; bring it in with `igascale checkpoint import {path} CONFIG`"
    if where := _deepspeed(path):
        return (
            "a checkpoint of DeepSpeed; make a universal one of it (python -m deepspeed.checkpoint.ds_to_universal "
            f"--input_folder {where} --output_folder {where}_universal --inject_missing_state), then `igascale checkpoint "
            f"import {where}_universal CONFIG`{warm}"
        )
    if _has(path, ["checkpoint-*/trainer_state.json"]):
        return (
            "the output of a Hugging Face Trainer, with checkpoints whose optimizer state is a pickle and is not read"
        )
    if _has(path, ["trainer_state.json", "scheduler.pt", "rng_state*.pth"]):
        return f"a checkpoint of the Hugging Face Trainer, whose optimizer state is a pickle and is not read{warm}"
    if _has(path, [".metadata", "*.distcp"]):
        return f"a checkpoint of torch.distributed.checkpoint, which is a pickle and is not read{warm}"
    if warm:
        return f"a PEFT adapter, without an optimizer state to continue with{warm}"
    if _has(path, ["config.json"]) and _has(path, ["*.safetensors", "pytorch_model*.bin"]):
        return "a model folder, not a run; give it as model.path and start a new run"
    return "neither a run nor a checkpoint of igascale"


def _is_ours(path: Path) -> bool:
    return _has(path, ["environment.json", "manifest.json", "state.json", "checkpoints"])


def _deepspeed(path: Path) -> Path | None:
    """The folder of the tag, where ``path`` is it or the one above."""
    latest = path / "latest"
    inside = [path / latest.read_text().strip()] if latest.is_file() else []
    for folder in [path, *inside]:
        if _has(folder, ["mp_rank_*_model_states.pt", "*zero_pp_rank_*_optim_states.pt"]):
            return folder
    return None


def _has(folder: Path, patterns: Iterable[str]) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)
