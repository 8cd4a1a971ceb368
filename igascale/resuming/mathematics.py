"""What may differ between a checkpoint's configuration and that of the run which resumes it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic_core import PydanticUndefined

from igascale import hooks
from igascale.config import HookConfig, RunConfig
from igascale.errors import UserError, did_you_mean
from igascale.resuming.sources import Sources, describe_difference

Kind = Literal["mathematics", "rounding", "none"]

#: Sections and keys that nothing in the training depends on. ``lora.init_from`` says where the factors began, and they come
#: from the checkpoint.
_FREE = (
    *("output_dir", "eval", "checkpoint", "logging", "supervision", "selection"),
    *("train.max_skipped_steps", "data.validation", "data.ood", "data.allow_leakage", "lora.init_from"),
)
#: Sections and keys that only change in which order, by which kernel or on how many threads the same sums are formed.
_ROUNDING = (
    *("engine", "train.micro_batch_size", "train.packing"),
    *("model.activation_checkpointing", "model.attn_implementation"),
)
#: The same of igascale's own hooks; in another one's options these words may mean anything.
_ROUNDING_OF_HOOKS = ("hook.kernel", "hook.memory_mb")
#: Only their product is mathematics, the groups of a step.
_BATCH = ("train.groups_per_batch", "train.gradient_accumulation_steps")
#: The name under which ``--allow-change`` takes another number of ranks, where that is more than rounding.
RANKS = "ranks"
#: Likewise another content of the file of a hook that is not igascale's.
HOOK_SOURCE = "hook.source"
#: With dropout a forward pass draws its masks together, so these are mathematics too.
_PASSES = ("train.micro_batch_size", "train.packing", *_BATCH)
_MISSING = object()


@dataclass(frozen=True)
class Change:
    """A key that is not what it was.

    Attributes:
        key: ``optimizer.lr`` say, or :data:`RANKS`.
        before: its value in the checkpoint; ``None`` also where it has none.
        now: its value in this run, likewise.
        kind: what it changes.
        text: how it is told.
    """

    key: str
    before: Any
    now: Any
    kind: Kind
    text: str

    def __str__(self) -> str:
        return self.text


def differing(key: str, before: Any, now: Any, kind: Kind) -> Change:
    """A change that is told by its two values."""
    text = f"{key}: {_show(before, 'no such key')} in the checkpoint, {_show(now, 'no key of this version')} now"
    first, second = (None if value is _MISSING else value for value in (before, now))
    return Change(key, first, second, kind, text)


def _show(value: Any, missing: str) -> str:
    return missing if value is _MISSING else repr(value)


def compare(saved: Mapping[str, Any], current: RunConfig, before: Sources, now: Sources) -> list[Change]:
    """Every key that differs, what it means included.

    Args:
        saved: the checkpoint's configuration, which an older version may have written: a key that it lacks has its default.
        current: this run's.
        before: what the checkpoint was trained on.
        now: what this run would be trained on.
    """
    old, new = _resolve(saved, current), _resolve(current.model_dump(mode="json"), current)
    keys = sorted(key for key in old.keys() | new.keys() if old.get(key, _MISSING) != new.get(key, _MISSING))
    if [key for key in keys if key.startswith("hook.")] == ["hook.preset"] and _is_own(new):
        keys.remove("hook.preset")  # a preset is nothing but the options it stands for
    changes = [
        differing(key, old.get(key, _MISSING), new.get(key, _MISSING), _kind(key, old, new))
        for key in keys
        if key not in ("model.path", "data.train")
    ]
    return changes + _sources(old, new, before, now)


def _kind(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Kind:
    if _within(key, _FREE):
        return "none"
    if key in _PASSES and new["lora.dropout"] > 0:
        return "mathematics"
    if _within(key, _ROUNDING) or (key in _ROUNDING_OF_HOOKS and _is_own(new)):
        return "rounding"
    if key in _BATCH and _product(old) == _product(new):
        return "rounding"
    return "mathematics"


def _is_own(values: Mapping[str, Any]) -> bool:
    """The hook comes with igascale."""
    return values["hook.name"] in hooks.available()


def _product(values: Mapping[str, Any]) -> Any:
    first, second = (values[key] for key in _BATCH)
    return first * second


def _within(key: str, names: Iterable[str]) -> bool:
    """Whether a key is one of ``names``, or in a section that is."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _sources(old: Mapping[str, Any], new: Mapping[str, Any], before: Sources, now: Sources) -> list[Change]:
    """The same model or data elsewhere is the same; something else in the same place is not."""
    changes = []
    for key, was, found in (("data.train", before.data, now.data), ("model.path", before.model, now.model)):
        moved = old[key] != new[key]
        if was is None or found is None:  # an earlier version's checkpoint, or something that is not on this machine
            if moved:
                changes.append(differing(key, old[key], new[key], "mathematics"))
        elif was != found:
            text = f"{key}: {describe_difference(key, old[key], new[key], was, found)}"
            changes.append(Change(key, old[key], new[key], "mathematics", text))
        elif moved:
            text = f"{key}: {new[key]} has the same content as {old[key]}, which the checkpoint was trained on"
            changes.append(Change(key, old[key], new[key], "none", text))
    name = new["hook.name"]
    if old["hook.name"] == name and None not in (before.hook, now.hook) and before.hook != now.hook:
        text = f"{HOOK_SOURCE}: the file of hook '{name}' is not what it was when the checkpoint was written"
        changes.append(Change(HOOK_SOURCE, before.hook, now.hook, "mathematics", text))
    return changes


def check_allowed(
    changes: Sequence[Change], allow: Collection[str], granted: Collection[str], step: int
) -> list[Change]:
    """The changes of the mathematics that are allowed.

    Args:
        changes: from :func:`compare`.
        allow: keys or sections, of ``--allow-change``.
        granted: keys that were allowed when this run was resumed before; to allow them again is no mistake, so that
            one command serves for every restart.
        step: the checkpoint's, for the message.

    Raises:
        UserError: names every key that differs and is not allowed, with both values; or what is allowed and does not differ.
    """
    for name in allow:
        if not any(_within(change.key, [name]) for change in changes) and not any(_within(k, [name]) for k in granted):
            raise UserError(f"--allow-change {name}: {_why_not(name)}")
    wrong = [change for change in changes if change.kind == "mathematics" and not _within(change.key, allow)]
    if wrong:
        options = " ".join(f"--allow-change {change.key}" for change in wrong)
        raise UserError(
            f"cannot resume with another configuration: {'; '.join(map(str, wrong))}. Put back what differs, or start a new "
            f"run in another output_dir; {options} goes on from step {step} as another run than the one that began"
        )
    return [change for change in changes if change.kind == "mathematics"]


def _why_not(name: str) -> str:
    known = [RANKS, *RunConfig.model_fields, *_defaults()]
    if name in known or name.startswith("hook."):
        return "nothing of that name differs between the checkpoint and this run; leave it out"
    return f"there is no such key{did_you_mean(name, known)}; write a key such as optimizer.lr, a section, or '{RANKS}'"


def _resolve(values: Mapping[str, Any], current: RunConfig) -> dict[str, Any]:
    """Flat keys, with defaults for those that are missing."""
    hook = values.get("hook") or {}
    rest = {key: value for key, value in values.items() if key != "hook"}
    return _defaults() | _flatten(rest) | {f"hook.{k}": v for k, v in _hook_options(hook).items()}


def _defaults() -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, field in RunConfig.model_fields.items():
        section = field.annotation
        if name == "hook":
            continue
        inner: Any = getattr(section, "model_fields", None)
        for key, each in (inner or {"": field}).items():
            if each.default is not PydanticUndefined:
                flat[f"{name}.{key}".rstrip(".")] = each.default
    return _flatten(flat)


def _hook_options(section: Mapping[str, Any]) -> dict[str, Any]:
    """A hook's name and options, those that were left out included; what a preset stands for is written out."""
    name = section.get("name", HookConfig().name)
    given = {key: value for key, value in section.items() if key != "name"}
    try:
        declared = {key: option.default for key, option in hooks.options(hooks.find(name)).items()}
        chosen = getattr(hooks.build(name, given), "chosen", {})
    except UserError:  # an option or a hook of another version: what was written must do
        declared, chosen = {}, {}
    return {"name": name} | declared | given | {key: value for key, value in chosen.items() if key in declared}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
