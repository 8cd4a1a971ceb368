"""Whether runs can be compared: trained on the same data from the same model, validated and evaluated on the same problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from igascale.comparing.reading import read_evaluations
from igascale.comparing.same_data import what_differs, worth_saying
from igascale.evaluation.results import RESULT_FILE
from igascale.evaluation.run_records import read_config, section, starts

_FILES = {
    "train": "the training data",
    "validation": "the validation data (ID)",
    "ood": "the out-of-distribution data",
}
_TOKENIZER = (
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "vocab.json", "merges.txt"),
)
#: Keys that decide which texts are seen, and how a loss over them is formed.
_KEYS = {
    "data.max_length": 1024,
    "data.domains": None,
    "data.num_domains": None,
    "data.pairing": "isomers",
    "data.pool": "groups",
    "data.augment": None,
    "data.allow_leakage": False,
    "train.loss_reduction": "token",
    "eval.max_groups": None,
}
#: Of those, what controls and baselines change on purpose: said, but no reason to refuse.
_ON_PURPOSE = ("data.pairing", "data.pool", "data.augment", "data.num_domains", "data.domains")


@dataclass(frozen=True)
class Difference:
    """Something that is not the same in two runs.

    Attributes:
        weight: ``refuse``: their figures are not of one thing; ``mark``: they are, under another condition that must be said;
            ``unknown``: the folders do not tell.
        text: a sentence.
    """

    weight: Literal["refuse", "mark", "unknown"]
    text: str

    def __str__(self) -> str:
        return self.text


def differences(folders: Sequence[Path], names: Sequence[str] | None = None) -> list[Difference]:
    """What differs between runs, each compared with the first: as trained, and as evaluated where all were.

    Args:
        folders: of the runs.
        names: what to call them; by default their folders.

    Raises:
        UserError: a folder is no run; an evaluation is damaged.
    """
    told = list(names or map(str, folders))
    facts = [_facts(folder) for folder in folders]
    found = []
    for name, other in zip(told[1:], facts[1:]):
        found += _compare(told[0], facts[0], name, other)
    return [*found, *evaluation_differences(folders, told)]


def evaluation_differences(folders: Sequence[Path], names: Sequence[str]) -> list[Difference]:
    """What differs between the evaluations of the runs' final adapters; runs without one are left to the caller to tell of."""
    evaluated = [(f, n) for f, n in zip(folders, names) if (f / "evaluation" / RESULT_FILE).is_file()]
    if len(evaluated) < 2:
        return []
    first, *others = read_evaluations([str(folder) for folder, _ in evaluated])
    called = {str(folder): name for folder, name in evaluated}
    found: list[Difference] = []
    for other in others:
        both = (f"{called[other.name]} beside {called[first.name]}, evaluated: ", first, other)
        found += [Difference("refuse", both[0] + _renamed(line, called)) for line in what_differs(*both[1:])]
        found += [Difference("mark", both[0] + _renamed(line, called)) for line in worth_saying(*both[1:])]
    return found


def _renamed(line: str, called: Mapping[str, str]) -> str:
    for folder, name in sorted(called.items(), key=lambda item: -len(item[0])):
        line = line.replace(folder, name)
    return line


@dataclass(frozen=True)
class _Facts:
    """What a run says of itself; ``None``: it does not."""

    files: dict[str, str | None]
    named: dict[str, str | None]
    model: dict[str, str] | None
    keys: dict[str, Any]


def _facts(folder: Path) -> _Facts:
    config = read_config(folder)
    environment = starts(folder)[-1].facts
    data, model = environment.get("data"), environment.get("model")
    files, named = {}, {}
    for key in _FILES:
        entry = data.get(key) if isinstance(data, dict) else None
        files[key] = entry.get("sha256") if isinstance(entry, dict) else None
        named[key] = section(config, "data").get(key)
    fingerprint = model.get("files") if isinstance(model, dict) else None
    keys = {}
    for key, default in _KEYS.items():
        name, field = key.split(".")
        keys[key] = section(config, name).get(field, default)
    return _Facts(files, named, fingerprint if isinstance(fingerprint, dict) else None, keys)


def _compare(first: str, one: _Facts, name: str, other: _Facts) -> list[Difference]:
    return [*_files(first, one, name, other), *_models(first, one, name, other), *_keys(first, one, name, other)]


def _files(first: str, one: _Facts, name: str, other: _Facts) -> list[Difference]:
    found = []
    for key, what in _FILES.items():
        if not one.named[key] and not other.named[key]:
            continue
        if not one.named[key] or not other.named[key]:
            lacking, having = (first, name) if not one.named[key] else (name, first)
            found.append(Difference("mark", f"{lacking} names no file for {what} (data.{key}), {having} does"))
        elif one.files[key] is None or other.files[key] is None:
            unknown = first if one.files[key] is None else name
            text = f"whether {what} of {first} and {name} are the same is not known: {unknown} did not record a hash"
            found.append(Difference("unknown", text))
        elif one.files[key] != other.files[key]:
            text = (
                f"{what} of {name} ({other.named[key]}, SHA-256 {str(other.files[key])[:12]}) is not that of {first} "
                f"({one.named[key]}, {str(one.files[key])[:12]})"
            )
            found.append(Difference("refuse", text))
    return found


def _models(first: str, one: _Facts, name: str, other: _Facts) -> list[Difference]:
    if one.model is None or other.model is None:
        unknown = first if one.model is None else name
        return [
            Difference(
                "unknown",
                f"whether {first} and {name} began from the same model is not known: {unknown} did not record it",
            )
        ]
    differing = sorted(f for f in one.model.keys() | other.model.keys() if one.model.get(f) != other.model.get(f))
    tokens, weights = [f for f in differing if f in _TOKENIZER], [f for f in differing if f not in _TOKENIZER]
    found = []
    if weights:
        found.append(Difference("refuse", f"the model of {name} is not that of {first}: {', '.join(weights)} differ"))
    if tokens:
        found.append(
            Difference(
                "refuse",
                f"the tokenizer of {name} is not that of {first}, so losses per token are not alike: {', '.join(tokens)} differ",
            )
        )
    return found


def _keys(first: str, one: _Facts, name: str, other: _Facts) -> list[Difference]:
    return [
        Difference(
            "mark" if key in _ON_PURPOSE else "refuse",
            f"{key} is {_said(other.keys[key])} in {name}, {_said(one.keys[key])} in {first}",
        )
        for key in _KEYS
        if one.keys[key] != other.keys[key]
    ]


def _said(value: Any) -> str:
    return "not set" if value is None else ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
