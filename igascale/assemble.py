"""From a configuration to the parts of a run; ``train`` and ``validate`` build the same ones."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from igascale import hooks
from igascale.adapters import LoraAdapter, find_adapters
from igascale.config import RunConfig
from igascale.engine import Engine
from igascale.engine.adamw import AdamW
from igascale.engine.single import SingleEngine
from igascale.errors import UserError
from igascale.hooks.base import GradientHook
from igascale.isomers.batches import GroupSchedule
from igascale.isomers.encode import Example, encode_groups
from igascale.isomers.schema import IsomerGroup, domains_of, read_groups
from igascale.model import add_lora, check_vocabulary, load_base_model, load_tokenizer, set_activation_checkpointing


@dataclass
class Split:
    """The encoded groups of one file.

    Attributes:
        source: the file.
        domains: their order in each group.
        groups: per group, one example per domain.
        truncated: how many examples lost tokens to ``data.max_length``.
        seeds: the seed problems that the groups come from.
        sha256: of the file.
    """

    source: str
    domains: tuple[str, ...]
    groups: list[list[Example]]
    truncated: int
    seeds: frozenset[str]
    sha256: str


@dataclass
class Data:
    """The data of a run; ``validation`` and ``ood`` may be absent."""

    train: Split
    validation: Split | None
    ood: Split | None
    schedule: GroupSchedule
    total_steps: int


@dataclass
class Student:
    """The model that is trained, and the part of it that is."""

    model: nn.Module
    adapters: dict[str, LoraAdapter]
    tokenizer: Any

    @property
    def trainable(self) -> int:
        """Number of trained parameters."""
        return sum(a.A.numel() + a.B.numel() for a in self.adapters.values())


def load_data(config: RunConfig, tokenizer: Any) -> Data:
    """Read, check and tokenize every file of the ``data`` section."""
    section = config.data
    train = _load_split(section.train, section.domains, tokenizer, section.max_length)
    validation = section.validation and _load_split(section.validation, train.domains, tokenizer, section.max_length)
    ood = section.ood and _load_split(section.ood, None, tokenizer, section.max_length)
    if validation and (leaked := sorted(train.seeds & validation.seeds)):
        raise UserError(
            f"{section.validation}: seed '{leaked[0]}' (of {len(leaked)}) is also in {section.train}; "
            "validation must be held out by seed (`igascale data generate` does)"
        )
    if len(train.groups) < config.groups_per_step:
        raise UserError(
            f"{section.train}: {len(train.groups)} groups, but one optimizer step takes {config.groups_per_step} "
            "(train.groups_per_batch * train.gradient_accumulation_steps); lower one of them"
        )
    schedule = GroupSchedule(len(train.groups), config.groups_per_step, config.seed)
    steps = config.train.max_steps or max(1, math.floor(config.train.epochs * schedule.steps_per_epoch))
    return Data(train, validation or None, ood or None, schedule, steps)


def check_room(data: Data, model: nn.Module) -> None:
    """Refuse texts that are longer than the model has positions for.

    Raises:
        UserError: names the file and the largest ``data.max_length`` that fits.
    """
    room = getattr(model.config, "max_position_embeddings", None)
    for split in (data.train, data.validation, data.ood):
        longest = max((len(e.input_ids) for g in split.groups for e in g), default=0) if split else 0
        if split and room is not None and longest > room:
            raise UserError(
                f"{split.source}: a text of {longest} tokens, the model has {room} positions; set data.max_length={room} "
                "(longer texts are then cut, and counted)"
            )


def _load_split(source: str, domains: tuple[str, ...] | None, tokenizer: Any, max_length: int) -> Split:
    groups: list[IsomerGroup] = read_groups(source)
    if not groups:
        raise UserError(f"{source}: no groups in it")
    present = domains_of(groups)
    for domain in domains or ():
        if domain not in present:
            raise UserError(f"{source}: no instance of domain '{domain}'; it has {', '.join(present)}")
    domains = domains or present
    examples = encode_groups(groups, tokenizer, domains, max_length, source)
    truncated = sum(bool(e.truncated) for group in examples for e in group)
    sha256 = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    return Split(source, domains, examples, truncated, frozenset(g.seed_id for g in groups), sha256)


def build_student(config: RunConfig, device: torch.device) -> Student:
    """Load the base model and tokenizer, add (or load) the LoRA adapters."""
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


def micro_batch_size(config: RunConfig, num_groups: int, num_domains: int) -> int:
    """Instances per forward pass on a rank that holds ``num_groups`` groups of the step."""
    if config.train.micro_batch_size is not None:
        return config.train.micro_batch_size
    return math.ceil(num_groups * num_domains / config.train.gradient_accumulation_steps)


def find_run_folder(config: RunConfig) -> Path:
    """The run's folder, absolute."""
    return Path(config.output_dir).resolve()
