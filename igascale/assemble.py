"""From a configuration to the parts of a run; ``train`` and ``validate`` build the same ones."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from igascale import hooks
from igascale.adapters import LoraAdapter, find_adapters
from igascale.attention import check_attention
from igascale.config import DataConfig, RunConfig
from igascale.engine import Engine
from igascale.engine.adamw import AdamW
from igascale.engine.single import SingleEngine
from igascale.errors import UserError
from igascale.hooks.base import GradientHook
from igascale.isomers import pools
from igascale.isomers.batches import GroupSchedule
from igascale.isomers.encode import Example, encode_groups
from igascale.isomers.schema import IsomerGroup, domains_of, read_groups
from igascale.model import add_lora, check_vocabulary, load_base_model, load_tokenizer, set_activation_checkpointing


@dataclass
class Split:
    """The encoded groups of one file.

    Attributes:
        source: the file.
        domains: what an example's domain counts in; of a pool of single instances there is only one.
        groups: per group, one example per domain, or a pool's unit of as many.
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

    @property
    def width(self) -> int:
        """Instances of a group."""
        return len(self.groups[0])


@dataclass
class Data:
    """The data of a run.

    Attributes:
        train: what is trained on, arranged by ``data.pairing`` and ``data.pool``.
        validation: held-out groups as they are, in the training domains.
        ood: groups of other domains.
        schedule: which groups each step takes.
        total_steps: of the run.
        domains: the domains that the training texts come from; ``train.domains`` unless the groups are dissolved.
        warnings: to be said before the run starts.
    """

    train: Split
    validation: Split | None
    ood: Split | None
    schedule: GroupSchedule
    total_steps: int
    domains: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


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


def load_data(config: RunConfig, tokenizer: Any) -> Data:
    """Read, check and tokenize every file of the ``data`` section."""
    section = config.data
    train, domains = _load_training(config, tokenizer)
    validation = section.validation and _load_split(section.validation, domains, tokenizer, section.max_length)
    ood = section.ood and _load_split(section.ood, None, tokenizer, section.max_length)
    warnings = check_seeds(section, train.seeds, {s.source: s.seeds for s in (validation, ood) if s})
    if len(train.groups) < config.groups_per_step:
        raise UserError(
            f"{section.train}: {len(train.groups)} groups, but one optimizer step takes {config.groups_per_step} "
            "(train.groups_per_batch * train.gradient_accumulation_steps); lower one of them"
        )
    schedule = GroupSchedule(len(train.groups), config.groups_per_step, config.seed)
    steps = config.train.max_steps or max(1, math.floor(config.train.epochs * schedule.steps_per_epoch))
    return Data(train, validation or None, ood or None, schedule, steps, domains, warnings)


def check_seeds(section: DataConfig, training: Set[str], held_out: Mapping[str, Set[str]]) -> tuple[str, ...]:
    """Held-out files share no seed problem with training, unless ``data.allow_leakage`` says so; then one of them must.

    Args:
        section: the ``data`` section.
        training: seed problems of the training file.
        held_out: the same of each held-out file, by its path.

    Returns:
        What the user must be told: which figures are not to be believed.

    Raises:
        UserError: names the file and a seed problem, or says how to make leaky data.
    """
    shared = {source: sorted(training & seeds) for source, seeds in held_out.items()}
    leaks = {source: seeds for source, seeds in shared.items() if seeds}
    if section.allow_leakage and not leaks:
        raise UserError(
            f"data.allow_leakage: no held-out file shares a seed problem with {section.train}, so nothing would leak; make "
            "such data with `igascale data generate --leaky` and name its data.validation and data.ood, or set it to false"
        )
    for source, seeds in leaks.items():
        if not section.allow_leakage:
            raise UserError(
                f"{source}: seed '{seeds[0]}' (of {len(seeds)}) is also in {section.train}; held-out data must share no seed "
                "problem with training (`igascale data generate` sees to it)"
            )
    return tuple(
        f"LEAKAGE: {source} shares {len(seeds)} of its {len(held_out[source])} seed problems with training "
        "(data.allow_leakage); accuracy on it is no measure of generalisation"
        for source, seeds in leaks.items()
    )


def training_domains(section: DataConfig, groups: Sequence[IsomerGroup]) -> tuple[str, ...]:
    """The domains that are trained on, in order.

    Raises:
        UserError: the file lacks one, or there are fewer than ``data.num_domains``.
    """
    present = domains_of(groups)
    _check_domains_exist(section.train, section.domains or (), present)
    wanted = section.domains or present
    if section.num_domains is not None and section.num_domains > len(wanted):
        raise UserError(f"data.num_domains: {section.num_domains}, but there are {len(wanted)}: {', '.join(wanted)}")
    return wanted[: section.num_domains]


def check_domains(config: RunConfig, hook: GradientHook, domains: Sequence[str]) -> None:
    """Refuse a rule, or a pairing, that means nothing for so few domains.

    Args:
        config: the run's configuration.
        hook: its rule.
        domains: what is trained on, from :func:`training_domains`.

    Raises:
        UserError: names the rule and the keys that decide.
    """
    name, section = config.hook.name, config.data
    if section.pool != "groups" and hook.min_domains > 1:
        raise UserError(
            f"hook '{name}' needs {hook.min_domains} domains or more, but data.pool: {section.pool} puts all instances into "
            "one; set data.pool: groups, or hook.name: mean"
        )
    if len(domains) < hook.min_domains:
        raise UserError(
            f"hook '{name}' needs {hook.min_domains} domains or more, but there is {len(domains)} to train on "
            f"({', '.join(domains)}); see data.domains and data.num_domains, or set hook.name: mean"
        )
    if config.lora.full_rank and getattr(hook, "chosen", {}).get("space") == "weight":
        raise UserError(
            "lora.full_rank has no factors to extract gradients for: set hook.space=factor (--method full-rank)"
        )
    if len(domains) < 2 and section.pairing != "isomers":
        raise UserError(f"data.pairing: {section.pairing} needs two domains or more; there is only {domains[0]}")


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


def _load_training(config: RunConfig, tokenizer: Any) -> tuple[Split, tuple[str, ...]]:
    """The training data as ``data.pool`` and ``data.pairing`` arrange it, and the domains that its texts come from."""
    section, seed = config.data, config.seed
    groups = read_groups(section.train)
    domains = training_domains(section, groups)
    width = len(section.domains or domains_of(groups))  # as many instances in a unit as without num_domains
    if section.pool == "seeds":
        problems = pools.seed_problems(groups, domains, seed)
        if section.augment is not None:
            problems = pools.with_augmented(problems, width - 1, section.augment, seed)
        rows = [
            row
            for problem in problems
            for row in encode_groups([problem], tokenizer, domains_of([problem]), section.max_length, section.train)
        ]
    else:
        rows = encode_groups(groups, tokenizer, domains, section.max_length, section.train)
    if section.pool != "groups":
        rows = pools.units([example for row in rows for example in row], len(groups), width, seed)
    elif section.pairing == "random":
        rows = pools.pair_randomly(rows, seed)
    elif section.pairing == "mixed":
        rows = pools.mix_labels(rows, seed)
    labels = domains if section.pool == "groups" else pools.ONE_DOMAIN
    return _split(section.train, groups, labels, rows), domains


def _load_split(source: str, domains: tuple[str, ...] | None, tokenizer: Any, max_length: int) -> Split:
    groups = read_groups(source)
    present = domains_of(groups)
    _check_domains_exist(source, domains or (), present)
    domains = domains or present
    return _split(source, groups, domains, encode_groups(groups, tokenizer, domains, max_length, source))


def _check_domains_exist(source: str, wanted: Sequence[str], present: Sequence[str]) -> None:
    for domain in wanted:
        if domain not in present:
            raise UserError(f"{source}: no instance of domain '{domain}'; it has {', '.join(present)}")


def _split(source: str, groups: Sequence[IsomerGroup], domains: tuple[str, ...], rows: list[list[Example]]) -> Split:
    truncated = sum(bool(e.truncated) for row in rows for e in row)
    sha256 = hashlib.sha256(Path(source).read_bytes()).hexdigest()
    return Split(source, domains, rows, truncated, frozenset(g.seed_id for g in groups), sha256)


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
