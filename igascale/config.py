"""The configuration of a run: a YAML file plus ``key=value`` overrides, strict in every key and type.

Every key is documented where it is declared; ``igascale validate CONFIG`` prints the resolved values.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from igascale import methods
from igascale.errors import UserError, did_you_mean


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: Any) -> Any:
        """YAML 1.1 reads ``2e-4`` as a string; every user means the number."""
        annotation = cls.model_fields[info.field_name].annotation
        if isinstance(value, str) and "float" in str(annotation):
            try:
                return float(value)
            except ValueError:
                return value
        if isinstance(value, list) and "tuple" in str(annotation):
            return tuple(value)
        return value


class ModelConfig(_Section):
    """The frozen base model."""

    path: str = Field(description="folder of a causal language model, or its Hub id")
    dtype: Literal["bfloat16", "float32"] = Field("bfloat16", description="of weights and activations")
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] | None = Field(
        None, description="the last two need a GPU, their package and bfloat16; null: the model's own"
    )
    activation_checkpointing: Literal["none", "non-reentrant", "reentrant"] = "none"


class LoraSection(_Section):
    """The trained adapters."""

    r: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    use_rslora: bool = False
    init_from: str | None = Field(None, description="PEFT folder to start from (a warm start)")
    full_rank: bool = Field(
        False,
        description="train W itself: A is the identity and frozen, r and alpha have no meaning (small models only)",
    )


class DataConfig(_Section):
    """Isomer groups, JSONL (docs/data.md)."""

    train: str
    validation: str | None = Field(None, description="held-out groups of the training domains (ID)")
    ood: str | None = Field(None, description="groups of unseen domains; reported, never used to select anything")
    domains: tuple[str, ...] | None = Field(
        None, description="the training domains and their order; null: as in the file"
    )
    num_domains: int | None = Field(None, ge=1, description="train on the first so many of them; null: on all")
    pairing: Literal["isomers", "random", "mixed"] = Field(
        "isomers",
        description="random: a training group holds unrelated problems, one per domain; mixed: domain labels permuted per group",
    )
    pool: Literal["groups", "instances", "seeds"] = Field(
        "groups",
        description="instances: all of them, ungrouped, as one domain; seeds: one telling of each seed problem, the same way",
    )
    augment: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="with pool: seeds, share of words swapped or deleted in all but one copy; null: copies",
    )
    allow_leakage: bool = Field(
        False,
        description="held-out files share seed problems with training (and must: `igascale data generate --leaky`)",
    )
    max_length: int = Field(1024, ge=8, description="tokens of prompt and completion; longer ones are cut, and counted")


class TrainConfig(_Section):
    """Steps and batches. One optimizer step sees ``groups_per_batch * gradient_accumulation_steps`` groups."""

    epochs: float = Field(3, gt=0)
    max_steps: int | None = Field(None, ge=1, description="ends the run earlier (or later) than epochs")
    schedule_steps: int | None = Field(
        None,
        ge=1,
        description="steps that the learning rate's schedule is laid out for, where the run ends before it does; null: the run's",
    )
    groups_per_batch: int = Field(32, ge=1, description="isomer groups per micro-step, over all ranks")
    gradient_accumulation_steps: int = Field(4, ge=1)
    micro_batch_size: int | None = Field(
        None, ge=1, description="instances per forward pass and rank; null: what the two keys above imply"
    )
    packing: bool = Field(
        False, description="concatenate the instances of a forward pass into one row, in place of padding them"
    )
    loss_reduction: Literal["token", "instance"] = Field(
        "token",
        description="a domain's loss: mean over its tokens, or mean of per-instance means (the default of preset: paper)",
    )
    max_skipped_steps: int = Field(5, ge=1, description="stop after this many steps in a row with a NaN or infinity")


class OptimizerConfig(_Section):
    """AdamW with linear warm-up and cosine decay to zero."""

    lr: float = Field(2e-4, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    warmup_ratio: float = Field(0.03, ge=0, le=1)
    max_grad_norm: float | None = Field(1.0, gt=0, description="of the combined gradient over all adapters; null: off")


class EngineConfig(_Section):
    """Who takes the step."""

    name: Literal["deepspeed", "single"] = "deepspeed"
    ds_config: str = Field("zero2", description="zero1, zero2, or the path of a DeepSpeed JSON file")
    threads: int | None = Field(None, ge=1, description="CPU threads per process; null: PyTorch's choice")
    reduce_bucket_mb: float = Field(
        32,
        gt=0,
        description="per-domain gradients are sent to their owners in buckets of so many MiB; smaller: sooner, but more",
    )
    overlap_reduce: bool = Field(
        True, description="send a bucket as soon as the last backward pass has filled it; false: after that pass"
    )


class EvalConfig(_Section):
    """Validation losses while training."""

    every: int | None = Field(100, ge=1, description="optimizer steps between validations; null: only at the end")
    max_groups: int = Field(128, ge=1, description="groups of each file that are used")


class CheckpointConfig(_Section):
    """Resumable checkpoints, adapter and optimizer only."""

    every: int | None = Field(200, ge=1, description="optimizer steps between checkpoints; null: none by steps")
    minutes: float | None = Field(None, gt=0, description="also one when so much time has passed since the last")
    keep: int = Field(2, ge=1, description="how many to keep, the newest")
    keep_best: bool = Field(
        False, description="also write and keep the one with the lowest mean loss on data.validation (never data.ood)"
    )
    asynchronous: bool = Field(
        False, description="training waits for the copy to host memory only; a thread writes (needs room for the copy)"
    )
    on_error: Literal["stop", "continue"] = Field(
        "stop", description="when one cannot be written; continue: warn, and try again at the next"
    )


class SupervisionConfig(_Section):
    """How soon a run that is stuck ends, with one message (docs/failures.md). Seconds are real ones, not the clock's."""

    heartbeat_timeout: float = Field(
        60, ge=5, description="seconds without a sign of life of a rank, or of the launcher, after which it is lost"
    )
    hang_timeout: float | None = Field(
        1800,
        ge=5,
        description="seconds in which no rank gets to another micro-batch or phase after which the one behind is at fault; "
        "longer than your longest micro-batch, hook call or checkpoint; null: never",
    )
    start_timeout: float = Field(600, ge=10, description="seconds for all ranks to arrive and find each other")
    check_replicas_every: int | None = Field(
        100,
        ge=1,
        description="steps between comparisons of the ranks' adapters, bit by bit; also before every checkpoint; null: never",
    )


class LoggingConfig(_Section):
    """Metrics go to ``metrics.jsonl`` in the run folder."""

    every: int = Field(1, ge=1)
    tensorboard: bool = False
    wandb: bool = Field(
        False, description="also send to Weights & Biases (docs/runs.md); WANDB_MODE=offline keeps it here"
    )
    wandb_project: str | None = Field(None, description="null: WANDB_PROJECT, else igascale")
    wandb_name: str | None = Field(None, description="null: the run folder's name")


class HookConfig(BaseModel):
    """The gradient rule: its name, and its options as further keys."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = Field("iga", description="a file of igascale/hooks, or package.module:Class")

    @property
    def options(self) -> dict[str, Any]:
        """Every key but the name."""
        return dict(self.model_extra or {})


class SelectionConfig(_Section):
    """How learning rate, steps and the rule's own options were chosen (docs/tune.md). It changes nothing; reports mark the run by it."""

    by: Literal["leave_one_domain_out", "in_domain", "ood_oracle", "fixed"] = Field(
        description="left-out training domains; validation on the training domains; out-of-distribution data itself; not searched"
    )
    trials: int = Field(1, ge=1, description="settings that were tried")
    budget: int | None = Field(None, ge=1, description="what they took: optimizer steps times domains trained on")
    searched: dict[str, list[Any]] = Field({}, description="key -> the values that were tried")
    source: str | None = Field(None, description="where the log of the search is")


class RunConfig(_Section):
    """Everything that decides what a run computes."""

    output_dir: str
    seed: int = Field(0, ge=0, lt=2**48)
    model: ModelConfig
    lora: LoraSection = LoraSection()
    data: DataConfig
    hook: HookConfig = HookConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    engine: EngineConfig = EngineConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    selection: SelectionConfig | None = Field(None, description="null: not stated")
    _method: str | None = PrivateAttr(None)  # whose overlay was applied; told in to_yaml, part of nothing else

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        data, lora, train = self.data, self.lora, self.train
        if data.domains is not None and len(set(data.domains)) != len(data.domains):
            raise ValueError("data.domains: a domain is named twice")
        if data.pool != "groups" and data.pairing != "isomers":
            raise ValueError(
                f"data.pool: {data.pool} has no groups for data.pairing: {data.pairing} to pair; set one of them back"
            )
        if data.augment is not None and data.pool != "seeds":
            raise ValueError(f"data.augment needs data.pool: seeds, not {data.pool}")
        if train.schedule_steps is not None and train.max_steps is not None and train.schedule_steps < train.max_steps:
            raise ValueError(
                f"train.schedule_steps: {train.schedule_steps} is less than train.max_steps: {train.max_steps}; a schedule is as "
                "long as the run or longer"
            )
        if self.checkpoint.keep_best and data.validation is None:
            raise ValueError(
                "checkpoint.keep_best needs data.validation: the best is the one with the lowest loss there"
            )
        if lora.full_rank:
            for key, value, remedy in (
                ("dropout", lora.dropout, 0),
                ("use_rslora", lora.use_rslora, "false"),
                ("init_from", lora.init_from, "null"),
            ):
                if value:
                    raise ValueError(f"lora.full_rank trains W itself: set lora.{key}: {remedy} (it is {value})")
        return self

    def __eq__(self, other: object) -> bool:
        """Same keys and values; that one came by a method's name and one was written out makes no difference."""
        return isinstance(other, RunConfig) and self.model_dump() == other.model_dump()

    @property
    def groups_per_step(self) -> int:
        """Isomer groups in one optimizer step, over all ranks."""
        return self.train.groups_per_batch * self.train.gradient_accumulation_steps

    def to_yaml(self) -> str:
        """The resolved configuration; :func:`load_config` reads it back to an equal one."""
        title = f"# method: {self._method}\n" if self._method else ""
        return title + yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


class _Loader(yaml.SafeLoader):
    """YAML, but a key that stands twice is an error and not a silent last word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = str(self.construct_object(key_node, deep=True))  # type: ignore[no-untyped-call]
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' stands here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_config(
    path: str | Path, overrides: Iterable[str] = (), method: str | None = None, hook: str | None = None
) -> RunConfig:
    """Read a YAML file, apply a method or a hook, apply ``key.sub=value`` overrides, check every key.

    Args:
        path: the file.
        overrides: each ``key=value``; the value is read as YAML (``optimizer.lr=1e-4``, ``train.max_steps=null``).
        method: a name of :mod:`igascale.methods`; what it sets replaces what the file says.
        hook: name of a hook, which replaces the file's ``hook`` section.

    Raises:
        UserError: no such file, not YAML, an unknown or missing key, a wrong type; all problems in one message.
            No such method, or both a method and a hook.
    """
    if method is not None and hook is not None:
        raise UserError(f"--method {method} brings a hook of its own: leave out --hook {hook}, or --method")
    path = Path(path)
    raw = read_yaml(path)
    if method is not None:
        methods.apply(raw, method)
    if hook is not None:
        raw["hook"] = {"name": hook}
    blamed = {}
    for override in overrides:
        _override(raw, override)
        blamed[override.partition("=")[0]] = f"override '{override}'"
    _make_absolute(raw)
    _follow_preset(raw)
    try:
        config = RunConfig.model_validate(raw)
    except ValidationError as error:
        problems = [f"{blamed.get('.'.join(map(str, e['loc'])), path)}: {_explain(e)}" for e in error.errors()]
        raise UserError("\n".join(dict.fromkeys(problems))) from None
    config._method = method
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file of keys and values; mistakes are named with file and line."""
    try:
        raw = yaml.load(path.read_text(), _Loader)
    except OSError as error:
        raise UserError(f"no such configuration file: {path} ({error.strerror})") from None
    except RecursionError:
        raise UserError(f"{path}: not a configuration (brackets thousands deep)") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(error, "problem", error)
        twice = isinstance(error, yaml.constructor.ConstructorError) and "twice" in str(problem)
        raise UserError(f"{where}: {problem if twice else f'not valid YAML: {problem}'}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: must hold keys and values, such as 'output_dir: runs/first'")
    return raw


def _follow_preset(raw: dict[str, Any]) -> None:
    """``hook.preset: paper`` is the paper to the letter, its loss included, unless the configuration says otherwise."""
    hook, train = raw.get("hook"), raw.setdefault("train", {})
    if isinstance(hook, dict) and hook.get("preset") == "paper" and isinstance(train, dict):
        train.setdefault("loss_reduction", "instance")


def _make_absolute(raw: dict[str, Any]) -> None:
    """Paths are relative to where the command is run; the resolved configuration must not depend on it."""
    for section, names in {"model": ("path",), "lora": ("init_from",), "data": ("train", "validation", "ood")}.items():
        values = raw.get(section)
        if not isinstance(values, dict):
            continue
        for name in names:
            value = values.get(name)
            if isinstance(value, str) and Path(value).exists():  # a Hub id or a mistake stays as it was written
                values[name] = str(Path(value).absolute())


def _override(raw: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise UserError(f"override '{override}': write key=value, for instance optimizer.lr=1e-4")
    *sections, last = key.split(".")
    node = raw
    for name in sections:
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            raise UserError(f"override '{override}': '{name}' is not a section")
        node = child
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"override '{override}': the value is not valid YAML") from None


def _explain(error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if key == "method":
        return (
            "unknown key 'method': a method is named on the command line, --method NAME (`igascale methods` lists them)"
        )
    if error["type"] == "extra_forbidden":
        known = _keys_at(location[:-1])
        full = [".".join([*location[:-1], name]) for name in known]
        return f"unknown key '{key}'{did_you_mean(key, full) or '; known here: ' + ', '.join(full)}"
    if error["type"] == "missing":
        return f"missing key '{key}'"
    message = error["msg"].removeprefix("Value error, ")
    return f"'{key}': {message} (got {error['input']!r})" if key else message


def _keys_at(location: list[str]) -> list[str]:
    section: Any = RunConfig
    for name in location:
        annotation = section.model_fields[name].annotation
        section = next((each for each in get_args(annotation) if hasattr(each, "model_fields")), annotation)
    return list(section.model_fields)
