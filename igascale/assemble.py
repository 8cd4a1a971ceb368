"""From a configuration to the parts of a run; ``train`` and ``validate`` build the same ones."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from igascale import hooks
from igascale.adapters import LoraAdapter, find_adapters
from igascale.attention import check_attention
from igascale.config import RunConfig
from igascale.engine import Engine
from igascale.engine.adamw import AdamW
from igascale.engine.single import SingleEngine
from igascale.errors import UserError
from igascale.hooks.base import GradientHook
from igascale.loading import Data, Split, check_domains, check_room, check_seeds, load_data, training_domains
from igascale.model import add_lora, check_vocabulary, load_base_model, load_tokenizer, set_activation_checkpointing
from igascale.same_data import check_same_data

__all__ = [
    "Data",
    "Split",
    "Student",
    "build_engine",
    "build_hook",
    "build_student",
    "check_domains",
    "check_room",
    "check_same_data",
    "check_seeds",
    "find_run_folder",
    "load_data",
    "micro_batch_size",
    "start",
    "training_domains",
]


@dataclass
class Student:
    """The model that is trained, and the part of it that is."""

    model: nn.Module
    adapters: dict[str, LoraAdapter]
    tokenizer: Any

    @property
    def trainable(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for a in self.adapters.values() for p in (a.A, a.B) if p.requires_grad)


def build_student(config: RunConfig, device: torch.device) -> Student:
    """Load the base model and tokenizer, add (or load) the LoRA adapters."""
    check_attention(config.model.attn_implementation, config.model.dtype)
    tokenizer = load_tokenizer(config.model.path)
    dtype = torch.bfloat16 if config.model.dtype == "bfloat16" else torch.float32
    base = load_base_model(config.model.path, dtype, config.model.attn_implementation)
    check_vocabulary(tokenizer, base)
    lora = config.lora
    model = add_lora(
        base,
        r=lora.r,
        alpha=lora.alpha,
        dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        use_rslora=lora.use_rslora,
        init_from=lora.init_from,
        seed=config.seed,
        full_rank=lora.full_rank,
    )
    set_activation_checkpointing(model, config.model.activation_checkpointing)
    model.to(device).train()
    return Student(model, find_adapters(model), tokenizer)


def build_hook(config: RunConfig) -> GradientHook:
    """The gradient rule of the ``hook`` section."""
    return hooks.build(config.hook.name, config.hook.options)


def start(config: RunConfig) -> torch.device:
    """Threads, and the process group where the engine needs one; returns this rank's device."""
    if config.engine.threads:
        torch.set_num_threads(config.engine.threads)
    if config.engine.name == "deepspeed":
        from igascale.engine.deepspeed import init_distributed
        from igascale.engine.ds_config import load_ds_config

        load_ds_config(config.engine.ds_config, bf16=False)  # refuse what is wrong before ranks wait for each other
        return init_distributed()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "engine.name is 'single', but a launcher started several processes; set engine.name: deepspeed, or start one"
        )
    if torch.cuda.is_available():
        return torch.device("cuda")
    os.environ.setdefault(
        "DS_ACCELERATOR", "cpu"
    )  # transformers imports DeepSpeed, which else warns of the missing GPU
    return torch.device("cpu")


def build_engine(config: RunConfig, student: Student, hook: GradientHook, device: torch.device) -> Engine:
    """The engine of the ``engine`` section."""
    section = config.optimizer

    def make_optimizer(parameters: list[nn.Parameter]) -> AdamW:
        return AdamW(
            parameters,
            lr=section.lr,
            betas=(section.beta1, section.beta2),
            eps=section.eps,
            weight_decay=section.weight_decay,
            use_reference=hook.uses_reference,
        )

    if config.engine.name == "single":
        return SingleEngine(student.model, student.adapters, make_optimizer, device)
    from igascale.engine.deepspeed import DeepSpeedEngine
    from igascale.engine.ds_config import load_ds_config

    ds_config = load_ds_config(config.engine.ds_config, bf16=config.model.dtype == "bfloat16")
    return DeepSpeedEngine(student.model, student.adapters, make_optimizer, device, ds_config)


def micro_batch_size(config: RunConfig, num_groups: int, width: int) -> int:
    """Instances per forward pass on a rank that holds ``num_groups`` groups of ``width`` instances of the step."""
    if config.train.micro_batch_size is not None:
        return config.train.micro_batch_size
    return width * math.ceil(num_groups / config.train.gradient_accumulation_steps)  # whole groups


def find_run_folder(config: RunConfig) -> Path:
    """The run's folder, absolute."""
    return Path(config.output_dir).resolve()
