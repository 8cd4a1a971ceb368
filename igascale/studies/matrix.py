"""From a study to its rows, and from its rows to jobs: methods x axes x seeds."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from igascale.config import read_yaml
from igascale.errors import UserError, did_you_mean
from igascale.studies.jobs import Job
from igascale.studies.queue import check_distinct
from igascale.studies.schema import Entry, Settings, Study

RUNS = "runs"
BASE_MODEL = "base model"


@dataclass(frozen=True)
class Row:
    """A row of the tables: one training, repeated with every seed.

    Attributes:
        name: of the row.
        method: that it was trained by, if by one.
        stands_for: the method whose row of the paper it is put beside.
        settings: what it sets on top of its base and method, axes last.
        varied: those of them that come from axes.
        jobs: seed -> job; the base model has one, under ``None``.
    """

    name: str
    method: str | None
    stands_for: str | None
    settings: Settings
    varied: tuple[str, ...]
    jobs: dict[int | None, Job] = field(default_factory=dict)


def build(study: Study, out: Path, overrides: Sequence[str] = ()) -> list[Row]:
    """The rows, in the study's order.

    Args:
        study: what was asked for.
        out: the study's folder.
        overrides: ``key=value`` of every run, after everything but the axes.

    Raises:
        UserError: an override sets an axis, or the seed; two jobs get one name.
    """
    for override in overrides:
        key, separator, _ = override.partition("=")
        if not separator or not key:
            raise UserError(f"override '{override}': write key=value, for instance train.max_steps=100")
        if key in ("seed", "output_dir") or any(key in axes for axes in (study.axes, *(e.axes for e in study.methods))):
            what = "an axis of the study" if key not in ("seed", "output_dir") else "set by the study itself"
            raise UserError(f"override '{override}': {key} is {what}; change it in the file")
    rows = [_base_model(study, out, overrides)] if study.base_model else []
    rows += [row for entry in study.methods for row in _rows(study, entry, out, overrides)]
    names = [row.name for row in rows]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two rows are called '{twice}': give one of them a name of its own")
    if "reference" in study.model_fields_set and study.reference not in names:
        raise UserError(
            f"reference: no row is called '{study.reference}'{did_you_mean(study.reference, names)}; there are {', '.join(names)}"
        )
    check_distinct(job for row in rows for job in row.jobs.values())
    return rows


def _rows(study: Study, entry: Entry, out: Path, overrides: Sequence[str]) -> Iterator[Row]:
    axes = study.axes | entry.axes
    base, method = Path(entry.base or study.base), entry.method
    if study.tuned is not None and method is not None and entry.base is None:
        base, method = (
            _tuned(Path(study.tuned), method),
            None,
        )  # the file has the method in it, with what was found for it
    # What a search found for one rule says nothing of another that is put in its place.
    inherited = method is not None and bool(read_yaml(base).get("selection"))
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values))
        told = ", ".join(f"{key}={written(value)}" for key, value in point.items())
        name = entry.title + (f" [{told}]" if told else "")
        common = ({"selection": None} if inherited else {}) | study.set | entry.set
        arguments = (*_overrides(common), *overrides, *_overrides(point))
        jobs: dict[int | None, Job] = {}
        for seed in study.seeds:
            jobs[seed] = Job(
                name=f"{name}, seed {seed}",
                folder=out / RUNS / _slug(f"{entry.title} {told} seed{seed}"),
                config=base,
                overrides=(*arguments, f"seed={seed}"),
                method=method,
                evaluation=evaluation_arguments(study),
            )
        # A point of an axis is no row of the paper; the method that names the same setting is.
        stands_for = entry.stands_for or (entry.method if not point else None)
        yield Row(name, entry.method, stands_for, common | point, tuple(point), jobs)


def _tuned(folder: Path, method: str) -> Path:
    path = folder / "tuned" / f"{method}.yaml"
    if not path.is_file():
        raise UserError(
            f"tuned: {folder} has no tuned/{method}.yaml; search with igascale tune --method {method} --out {folder}, or give the "
            "method a base of its own"
        )
    return path


def _base_model(study: Study, out: Path, overrides: Sequence[str]) -> Row:
    job = Job(
        name=BASE_MODEL,
        folder=out / RUNS / _slug(BASE_MODEL),
        config=Path(study.base),
        overrides=(*_overrides(study.set), *overrides),
        evaluation=evaluation_arguments(study),
        trains=False,
    )
    return Row(BASE_MODEL, None, None, dict(study.set), (), {None: job})


def evaluation_arguments(study: Study) -> tuple[str, ...]:
    """The ``eval`` section as options of ``igascale eval``."""
    section, found = study.eval, list[str]()
    plain = (
        "id",
        "ood",
        "max_new_tokens",
        "batch_size",
        "limit_groups",
        "limit_problems",
        "num_processes",
        "lcs_text",
        "dtype",
    )
    for name in (*plain, "device"):
        if (value := getattr(section, name)) is not None:
            found += [f"--{name.replace('_', '-')}", str(value)]
    for name, path in section.benchmarks.items():
        found += ["--benchmark", f"{name}={path}"]
    layers = section.layers or ("table5" if 5 in study.tables else None)
    if layers:
        found += ["--layers", layers if isinstance(layers, str) else ",".join(map(str, layers))]
    return (*found, *section.options)


def written(value: Any) -> str:
    """A value as YAML on one line, which reads back as the same one."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"))
    return text.removesuffix("\n").removesuffix("\n...")


def shown(settings: Settings) -> dict[str, str]:
    """Settings with their values as YAML, which has infinities and dates."""
    return {key: written(value) for key, value in settings.items()}


def _overrides(settings: Settings) -> tuple[str, ...]:
    return tuple(f"{key}={written(value)}" for key, value in settings.items())


def _slug(text: str) -> str:
    """A folder's name that shells take without quotes."""
    return re.sub(r"[^\w.=+]+", "-", text).strip("-.") or "row"
