"""A study's YAML file: strict in every key, mistakes told by file, line and key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from igascale import methods
from igascale.config import read_yaml
from igascale.errors import UserError, did_you_mean

#: ``key.sub`` of a run's configuration -> a value, or the values of an axis.
Settings = dict[str, Any]
Axes = dict[str, list[Any]]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Entry(_Strict):
    """One row of the tables, or with axes several."""

    method: str | None = Field(None, description="of `igascale methods`; null: the hook that the configuration names")
    name: str | None = Field(None, description="null: the method's")
    base: str | None = Field(
        None, description="a configuration of its own, such as the result of a search; null: the study's"
    )
    set: Settings = Field({}, description="key.sub: value, after the method")
    axes: Axes = Field({}, description="key.sub: [values]; a row for each combination")
    stands_for: str | None = Field(None, description="method whose row of the paper it is put beside; null: method")

    @property
    def title(self) -> str:
        """What its rows begin with."""
        return self.name or self.method or ""

    @model_validator(mode="after")
    def _named(self) -> Entry:
        if self.method is None and self.name is None:
            raise ValueError("give 'method', or 'name' for a configuration that brings a hook of its own")
        for name in (self.method, self.stands_for):
            if name is not None and name not in methods.available():
                known = methods.available()
                raise ValueError(f"unknown method '{name}'{did_you_mean(name, known)}; there are {', '.join(known)}")
        return self


class Evaluation(_Strict):
    """What `igascale eval` is asked for, the same of every row."""

    id: str | None = Field(None, description="null: the configuration's data.validation")
    ood: str | None = Field(None, description="null: the configuration's data.ood")
    benchmarks: dict[str, str] = Field({}, description="name: file or folder, see docs/benchmarks.md")
    layers: list[int] | str | None = Field(
        None,
        description="hidden states whose consistency is measured, as --layers; null: table5 where Table 5 is asked for",
    )
    max_new_tokens: int | None = Field(None, ge=1)
    batch_size: int | None = Field(None, ge=1)
    limit_groups: int | None = Field(None, ge=1, description="only the first so many groups of each file")
    limit_problems: int | None = Field(None, ge=1, description="at most so many of each side of a benchmark")
    num_processes: int | None = Field(None, ge=1, description="that share the answering")
    lcs_text: Literal["prompt", "full"] | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    device: str | None = None
    options: list[str] = Field([], description="any others of `igascale eval`")


class Launch(_Strict):
    """How training is started, for an engine with ranks."""

    num_processes: int | None = Field(None, ge=1, description="null: one per GPU")
    backend: Literal["deepspeed", "local", "torchrun"] | None = Field(None, description="null: deepspeed")
    hostfile: str | None = None
    max_restarts: int | None = Field(None, ge=0)
    options: list[str] = Field([], description="any others of `igascale launch`")
    jobs: int = Field(1, ge=1, description="how many at a time")


class Study(_Strict):
    """The whole file."""

    base: str = Field(description="the configuration that every run starts from")
    tuned: str | None = Field(
        None,
        description="folder of `igascale tune`: each method starts from its tuned/METHOD.yaml, unless it has a base of its own",
    )
    base_model: bool = Field(False, description="also the model as it is, without training")
    methods: list[Entry] = Field(min_length=1)
    seeds: list[int] = Field([0], min_length=1)
    axes: Axes = Field({}, description="of every method")
    set: Settings = Field({}, description="of every run, after the method")
    reference: str = Field("iga", description="the row that Table 2 compares with")
    eval: Evaluation = Evaluation()
    launch: Launch = Launch()
    tables: list[Literal[1, 2, 3, 5]] = [1, 2, 3, 5]

    @field_validator("methods", mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return (
            [{"method": each} if isinstance(each, str) else each for each in value]
            if isinstance(value, list)
            else value
        )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if repeated := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            raise ValueError(f"seed {repeated[0]} stands here twice: the same run would count as two")
        if negative := [seed for seed in seeds if seed < 0]:
            raise ValueError(f"seed {negative[0]} is negative")
        return seeds

    @field_validator("methods")
    @classmethod
    def _titled(cls, entries: list[Entry]) -> list[Entry]:
        titles = [entry.title for entry in entries]
        for title in titles:
            if titles.count(title) > 1:
                raise ValueError(f"two rows are called '{title}': give one of them a 'name' of its own")
        return entries

    @model_validator(mode="after")
    def _whole(self) -> Study:
        for axes in (self.axes, *(entry.axes for entry in self.methods)):
            for key, values in axes.items():
                if not values:
                    raise ValueError(f"axis '{key}' has no values")
                if len({repr(v) for v in values}) < len(values):
                    raise ValueError(f"axis '{key}' has a value twice")
        for keys in (self.set, self.axes, *(e.set for e in self.methods), *(e.axes for e in self.methods)):
            for reserved in ("seed", "output_dir"):
                if reserved in keys:
                    raise ValueError(
                        f"'{reserved}' is set by the study itself" + (": use 'seeds'" if reserved == "seed" else "")
                    )
        return self


def read_study(path: Path) -> Study:
    """Read and check a study; nothing that it names is looked at.

    Raises:
        UserError: no such file, not YAML, an unknown key, a wrong value; every problem with its line.
    """
    raw = read_yaml(path)
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        lines = _lines(path)
        problems = [_explain(path, lines, each) for each in error.errors()]
        raise UserError("\n".join(dict.fromkeys(problems))) from None


def _explain(path: Path, lines: dict[tuple[Any, ...], int], error: Any) -> str:
    location = [part for part in error["loc"] if not (isinstance(part, str) and part.startswith(("list[", "dict[")))]
    line = next(lines[tuple(location[:end])] for end in range(len(location), -1, -1) if tuple(location[:end]) in lines)
    key = ".".join(map(str, location))
    if error["type"] == "extra_forbidden":
        known = list(_section(location[:-1]).model_fields)
        return f"{path}:{line}: unknown key '{key}'{did_you_mean(str(location[-1]), known) or '; known here: ' + ', '.join(known)}"
    if error["type"] == "missing":
        return f"{path}:{line}: missing key '{key}'"
    message = error["msg"].removeprefix("Value error, ")
    shown = f" (got {error['input']!r})" if error["type"] != "value_error" else ""
    return f"{path}:{line}: {f'{key}: ' if key else ''}{message}{shown}"


def _section(location: Sequence[Any]) -> type[BaseModel]:
    sections: dict[str, type[BaseModel]] = {"methods": Entry, "eval": Evaluation, "launch": Launch}
    return sections.get(str(location[0]), Study) if location else Study


def _lines(path: Path) -> dict[tuple[Any, ...], int]:
    """Where every key and item of a YAML file stands, from 1."""
    found: dict[tuple[Any, ...], int] = {(): 1}

    def walk(node: yaml.Node, place: tuple[Any, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found[(*place, key.value)] = key.start_mark.line + 1
                walk(value, (*place, key.value))
        elif isinstance(node, yaml.SequenceNode):
            for number, item in enumerate(node.value):
                found[(*place, number)] = item.start_mark.line + 1
                walk(item, (*place, number))

    node = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    if node is not None:
        walk(node, ())
    return found
