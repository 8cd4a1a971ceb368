"""Everything a build can be told: the options of ``igascale data build`` and the keys of its ``--config`` file are these fields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import click
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from igascale.config import read_yaml
from igascale.errors import UserError, did_you_mean
from igascale.isomers.factory.gates import REASONS, GateSettings
from igascale.isomers.seeds import SeedFields
from igascale.isomers.teacher.settings import MOST_AT_ONCE

LEAST_SIMILARITY = 0.05  # `similarity.LEAST_THRESHOLD`, which `--help` need not import numpy for
_OR_NONE = ("temperature", "seed")  # of the sampling; with `none` the request goes without


class BuildOptions(BaseModel):
    """See `igascale data build --help`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=(), allow_inf_nan=False)

    seeds: str = Field(description="bank of problems: JSONL, Parquet, a folder saved by `datasets`, or a Hub id")
    out: str = Field(description="folder of the build: the store of answers and the files made of them")
    model: str = Field(description="the teacher, as the server names it")

    base_url: str | None = Field(
        None, description="address of any OpenAI-compatible server, up to /v1  [default: OPENAI_BASE_URL, or OpenAI]"
    )
    temperature: float | None = Field(
        0.7, ge=0, le=2, description="of the teacher's sampling; none: not sent, for a model that takes none"
    )
    seed: int | None = Field(
        0, ge=0, description="of the teacher's sampling; none: not sent, for a server that takes none"
    )
    max_tokens: int = Field(4096, ge=1, description="longest answer; one that is cut off is never used")
    timeout: float = Field(300.0, gt=0, description="seconds for one answer")
    concurrency: int = Field(
        32, ge=1, le=MOST_AT_ONCE, description="most requests at once; fewer after the server says 'too many'"
    )
    max_retries: int = Field(12, ge=0, description="of a request that failed on its way (5xx, timeout, cut off)")
    structured: Literal["auto", "json_schema", "json_object", "none"] = Field(
        "auto", description="how JSON is asked for; auto: the strictest way that the server takes"
    )
    input_price: float = Field(0.0, ge=0, description="US dollars per million input tokens, for the costs shown")
    output_price: float = Field(0.0, ge=0, description="the same for output tokens")
    budget: float | None = Field(None, gt=0, description="US dollars that the whole build may cost; needs prices")
    max_requests: int | None = Field(None, ge=1, description="requests that the whole build may take")

    domains: str | None = Field(None, description="YAML file of domains  [default: the paper's four]")
    prompts: str | None = Field(None, description="folder of prompts that take the packaged ones' place")
    limit: int | None = Field(None, ge=1, description="only the first N seeds")
    preview: int | None = Field(None, ge=1, description="make N groups, show them side by side, and stop")
    retry: tuple[str, ...] = Field(
        (), description="reason for which seeds were rejected: ask for those again in this run; may be given again"
    )
    offline: bool = Field(False, description="ask nothing: make the files from what is stored")
    allow_change: bool = Field(False, description="go on in a folder of another bank or recipe")

    alignment: float = Field(0.85, ge=0, le=1, description="least alignment score, by the verifier")
    step_tolerance: int = Field(2, ge=0, description="most that the step counts of a group may differ")
    any_structure: bool = Field(False, description="do not compare the solutions' dependency structures")
    regenerate: int = Field(2, ge=0, description="how often a refused answer is asked for again")
    votes: int = Field(0, ge=0, description="independent solutions of each problem that must confirm its answer")
    near_duplicates: float = Field(
        0.8,
        ge=0,
        le=1,
        description="similarity from which a seed, or a group's problem, repeats an earlier one; 0: off",
    )
    decontaminate: tuple[str, ...] = Field(
        (),
        description="benchmark file (seeds, groups, or a text a line) that no problem may overlap with; may be given again",
    )
    ngram: int = Field(13, ge=2, description="words in a row that count as such an overlap")

    validation_fraction: float = Field(0.2, gt=0, lt=1, description="share of the seeds held out")
    split_seed: int = Field(0, description="chooses which")
    license: str | None = Field(
        None, description="licence of the data, for the dataset card: apache-2.0, cc-by-4.0, ..."
    )

    split: str | None = Field(None, description="of a folder or Hub id of seeds that has several")
    problem_field: str | None = Field(None, description="name of the seeds' field that holds the problem")
    answer_field: str | None = Field(None, description="... the known answer")
    solution_field: str | None = Field(None, description="... a known solution")
    id_field: str | None = Field(None, description="... an id  [without one: a hash of the problem]")
    kind_field: str | None = Field(None, description="... the kind of reasoning, or subject")

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: Any) -> Any:
        """YAML 1.1 reads ``1e-1`` as a string; a list of files is a list; ``none`` is how a command line says null."""
        annotation = str(cls.model_fields[info.field_name].annotation)
        if info.field_name in _OR_NONE and isinstance(value, str) and value.strip().lower() == "none":
            return None
        if isinstance(value, str) and "float" in annotation:
            try:
                return float(value)
            except ValueError:
                return value
        if "tuple" in annotation:
            return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, str) else value
        return value

    @field_validator("*")
    @classmethod
    def _texts(cls, value: Any) -> Any:
        """An empty text is a variable that was not set; half a surrogate pair is what the shell made of bytes that are not UTF-8."""
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and not text.strip():
                raise ValueError("is empty")
            if isinstance(text, str) and any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError(f"is not UTF-8 text: {text!r}")
        return value

    @field_validator("near_duplicates")
    @classmethod
    def _not_everything(cls, value: float) -> float:
        if 0 < value < LEAST_SIMILARITY:
            raise ValueError(
                f"must be 0 (off) or at least {LEAST_SIMILARITY}, not {value}: below it everything is alike"
            )
        return value

    @field_validator("retry")
    @classmethod
    def _reasons(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for reason in value:
            if reason not in REASONS and not reason.startswith("reply_"):
                hint = did_you_mean(reason, REASONS) or f"; there are {', '.join(REASONS)} and reply_..."
                raise ValueError(f"'{reason}' is no reason for which a teacher's answer is refused{hint}")
        return value

    @model_validator(mode="after")
    def _together(self) -> BuildOptions:
        if self.budget is not None and not (self.input_price or self.output_price):
            raise ValueError(
                "--budget needs prices: --input-price and --output-price, in US dollars per million tokens"
            )
        if self.retry and self.offline:
            raise ValueError("--retry asks the teacher, --offline asks nothing: leave one out")
        return self

    @property
    def gates(self) -> GateSettings:
        """What the gates ask for."""
        return GateSettings(
            alignment=self.alignment,
            step_tolerance=self.step_tolerance,
            same_structure=not self.any_structure,
            votes=self.votes,
            regenerate=self.regenerate,
        )

    @property
    def seed_fields(self) -> SeedFields | None:
        """How to read the bank; None: strictly as `write_seeds` writes it."""
        named = {
            name: value
            for name in ("problem", "answer", "solution", "id", "kind")
            if (value := getattr(self, f"{name}_field")) is not None
        }
        return SeedFields(**named) if named else None


def load_options(given: Mapping[str, Any], config: str | Path | None = None) -> BuildOptions:
    """The options, from a YAML file and from what is given, which wins.

    Raises:
        UserError: a key is unknown, missing, or of the wrong type or size; all problems in one message.
    """
    raw = read_yaml(Path(config)) if config is not None else {}
    try:
        return BuildOptions.model_validate({**raw, **given})
    except ValidationError as error:
        problems = [_explain(problem, given, config) for problem in error.errors()]
        raise UserError("\n".join(dict.fromkeys(problems))) from None


def flag(key: str) -> str:
    """The option on the command line that a key is."""
    return "--" + key.replace("_", "-")


def _explain(problem: Any, given: Mapping[str, Any], config: str | Path | None) -> str:
    key = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "missing":
        said = "argument SEEDS" if key == "seeds" else f"option {flag(key)}"
        return f"missing {said}" + (f", or '{key}' in {config}" if config else "; a --config file may hold it")
    if problem["type"] == "extra_forbidden":
        return f"{config}: unknown key '{key}'{did_you_mean(key, BuildOptions.model_fields) or '; see igascale data build --help'}"
    said = problem["msg"].removeprefix("Value error, ")
    if not key:  # about several together
        return str(said)
    name = flag(key) if key in given else f"{config}: '{key}'"
    return f"{name}: {said}" + ("" if problem["type"] == "value_error" else f" (got {problem['input']!r})")


def click_parameters() -> list[click.Parameter]:
    """The fields as the argument SEEDS and options."""
    parameters: list[click.Parameter] = [click.Argument(["seeds"], required=False)]
    for key, info in BuildOptions.model_fields.items():
        if key == "seeds":
            continue
        annotation, text = str(info.annotation), f"{info.description}"
        kind: Any = int if "int" in annotation else float if "float" in annotation else str
        if "Literal" in annotation:
            kind = click.Choice(get_args(info.annotation))
        if key in _OR_NONE:
            kind = _OrNone(kind)
        default = info.default
        shown = isinstance(default, (int, float, str)) and not isinstance(default, bool)
        text = text[0].upper() + text[1:] + (f"  [default: {default}]" if shown else "")
        if info.annotation is bool:
            parameters.append(click.Option([flag(key)], is_flag=True, help=text))
        else:  # not even `is_flag=False`: click takes that for an option whose value may be left out
            parameters.append(click.Option([flag(key)], type=kind, multiple="tuple" in annotation, help=text))
    return parameters


class _OrNone(click.ParamType):
    """A number, or ``none``."""

    def __init__(self, number: type[int] | type[float]) -> None:
        self._number = click.types.convert_type(number)
        self.name = f"{self._number.name}|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and value.strip().lower() == "none":
            return "none"  # BuildOptions makes it None
        return self._number.convert(value, param, ctx)
