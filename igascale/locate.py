"""What a path on the command line stands for: a model folder, a PEFT adapter folder, or a run folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from igascale.errors import UserError

ADAPTER_CONFIG = "adapter_config.json"
RUN_CONFIG = "config.yaml"
RUN_ADAPTER = "adapter"

_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Located:
    """A path, and what was found there.

    Attributes:
        path: as the user wrote it.
        adapter: the PEFT adapter folder, for an adapter or a run; ``None`` for a model.
        run: the run folder, or ``None``.
        run_config: the resolved configuration of the run; empty otherwise.
    """

    path: str
    adapter: Path | None = None
    run: Path | None = None
    run_config: Mapping[str, Any] = field(default_factory=dict)

    def setting(self, key: str) -> str | None:
        """A path in the run's configuration, ``"data.validation"`` say; ``None`` where it is unset."""
        value: Any = self.run_config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None and not isinstance(value, str):
            raise UserError(f"{self.run}/{RUN_CONFIG}: {key} should be one path, found {value!r}")
        return value


def locate(path: str | Path) -> Located:
    """Tell a model (folder or Hub id), an adapter folder and a run folder apart.

    Raises:
        UserError: nothing is there, it is none of the three, or the run has no final adapter yet.
    """
    folder = Path(path)
    if not folder.is_dir():
        if _looks_like_hub_id(str(path)) and not folder.exists():
            return Located(str(path))
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{path} {what}; give a model folder, an adapter folder, a run folder or a Hub id")
    if (folder / ADAPTER_CONFIG).is_file():
        return Located(str(path), adapter=folder)
    if (folder / RUN_CONFIG).is_file():
        adapter = folder / RUN_ADAPTER
        if not (adapter / ADAPTER_CONFIG).is_file():
            raise UserError(f"run folder {path} has no {RUN_ADAPTER}/{ADAPTER_CONFIG}; let its training finish first")
        return Located(str(path), adapter=adapter, run=folder, run_config=_read_run_config(folder / RUN_CONFIG))
    if (folder / "config.json").is_file():
        return Located(str(path))
    raise UserError(
        f"{path} holds neither config.json (a model) nor {ADAPTER_CONFIG} (an adapter) nor {RUN_CONFIG} (a run)"
    )


def locate_run(path: str | Path) -> Located:
    """A run folder, whether or not its training has finished; without an adapter.

    Raises:
        UserError: there is none.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{path}: no such run folder; see `igascale runs ls`")
    if not (folder / RUN_CONFIG).is_file():
        raise UserError(f"{path} is not a run folder (it has no {RUN_CONFIG}); see `igascale runs ls`")
    return Located(str(path), run=folder, run_config=_read_run_config(folder / RUN_CONFIG))


def read_adapter_config(adapter: Path) -> dict[str, Any]:
    """The parsed ``adapter_config.json`` of a PEFT folder."""
    file = adapter / ADAPTER_CONFIG
    if not file.is_file():
        raise UserError(f"{adapter} is not a PEFT adapter folder: it has no {ADAPTER_CONFIG}")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{file} should hold a JSON object")
    return config


def base_of(located: Located, base: str | Path | None = None) -> str:
    """The base model of a located adapter: ``base`` if given, else what the adapter, else what the run says.

    Raises:
        UserError: no base is named, or the named one is neither a folder nor a Hub id.
    """
    assert located.adapter is not None
    if base is not None:
        names, source = [str(base)], "--base"
    else:
        named = read_adapter_config(located.adapter).get("base_model_name_or_path")
        names = [name for name in (named, located.setting("model.path")) if name]
        source = f"{located.adapter / ADAPTER_CONFIG}"
    if not names:
        raise UserError(f"{source} names no base model; give it with --base PATH")
    for name in names:
        if Path(name).is_dir():
            return name
    for name in names:
        if _looks_like_hub_id(name):
            return name
    raise UserError(f"the base model {names[0]} (from {source}) does not exist; give the right one with --base PATH")


def _looks_like_hub_id(name: str) -> bool:
    """``name`` or ``organisation/name``; what is deeper, absolute or in an existing folder is meant as a path."""
    return bool(_HUB_ID.fullmatch(name)) and ("/" not in name or not Path(name).parent.exists())


def _read_run_config(file: Path) -> Mapping[str, Any]:
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise UserError(f"{file} should hold a mapping, found {type(config).__name__}")
    return config
