"""Methods: the rows of the paper's tables, and the controls beside them, each as one word for ``--method``.

A method is a YAML file of this folder, named as it is: what it is, the rows of the paper it stands for, and the keys it sets
in a run's configuration. Model, data files, steps and learning rate stay the user's own.

>>> "pcgrad" in available()
True
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict

from igascale.errors import UserError, did_you_mean

#: Keys that any method may set. A method sets all of them, to these values where its file is silent, so that a row is the
#: same row whatever the configuration held before.
NEUTRAL: dict[str, dict[str, Any]] = {
    "lora": {"full_rank": False},
    "data": {"pairing": "isomers", "pool": "groups", "augment": None, "num_domains": None, "allow_leakage": False},
}


class Row(BaseModel):
    """A row of a table of arXiv 2606.05025: the table's number, its place there, and its name as printed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    table: int
    row: int
    label: str


class Method(BaseModel):
    """A method's file.

    Attributes:
        description: one line.
        rows: where it stands in the paper; empty for what goes beyond it.
        settings: section -> key -> value; the ``hook`` section is the whole one.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    description: str
    rows: list[Row] = []
    settings: dict[str, dict[str, Any]]


def available() -> list[str]:
    """The names of all methods."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def find(name: str) -> Method:
    """The method of that name.

    Raises:
        UserError: there is none.
    """
    known = available()
    if name not in known:
        raise UserError(f"--method: unknown method '{name}'{did_you_mean(name, known)}; there are {', '.join(known)}")
    return Method.model_validate(yaml.safe_load((Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")))


def tables() -> dict[str, list[tuple[str, str]]]:
    """Title -> (method, name of the row), in the paper's order; what is in no table comes last."""
    found = {name: find(name) for name in available()}
    placed = sorted((row.table, row.row, name, row.label) for name, method in found.items() for row in method.rows)
    titled: dict[str, list[tuple[str, str]]] = {}
    for table, _, name, label in placed:
        titled.setdefault(f"Table {table}", []).append((name, label))
    titled["Beyond the tables"] = [(name, "") for name, method in found.items() if not method.rows]
    return titled


def describe(method: Method) -> str:
    """What a method sets, as overrides would be written."""
    return " ".join(
        f"{section}.{key}={yaml.safe_dump(value, default_flow_style=True).split(chr(10))[0]}"
        for section, values in method.settings.items()
        for key, value in values.items()
    )


def apply(raw: dict[str, Any], name: str) -> None:
    """Write a method's settings into a configuration, in place.

    Args:
        raw: sections -> keys -> values, as in a YAML file. Its ``hook`` section is replaced as a whole, of the others the
            keys that a method may set.
        name: see :func:`find`.

    Raises:
        UserError: there is no such method.
    """
    settings = copy.deepcopy(find(name).settings)
    raw["hook"] = settings.pop("hook")
    for section in NEUTRAL | settings:
        values = raw.setdefault(section, {})
        if isinstance(values, dict):  # else the configuration is wrong, and its check will say so
            raw[section] = values | NEUTRAL.get(section, {}) | settings.get(section, {})
