"""What a resumed run computes with, against what it computed with before: nothing that is refused, but bits may differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from igascale.resuming import history

#: Packages whose version can change a figure; the others only decide whether a run starts.
_PACKAGES = ("igascale", "torch", "deepspeed", "transformers", "peft", "triton", "torchjd")


def describe_surroundings(run: Path, now: Mapping[str, Any]) -> list[str]:
    """What has changed since the last start of a run.

    Args:
        run: the folder of the run that the checkpoint is of.
        now: :func:`igascale.record.environment` of this start.

    Returns:
        A line for the user, or none; also where the folder no longer says what it was.
    """
    before = (history.read(run) or [_first(run)])[-1]
    try:
        old, new = _figures(before), _figures(now)
    except (KeyError, TypeError, AttributeError):
        return []
    changed = [f"{key} {old[key]} -> {new[key]}" for key in old if old[key] != new[key]]
    return [f"the same to the bit only if these compute alike: {', '.join(changed)}"] if changed else []


def _first(run: Path) -> Any:
    try:
        return json.loads((run / "environment.json").read_text())
    except (OSError, ValueError):
        return None


def _figures(facts: Mapping[str, Any]) -> dict[str, Any]:
    figures = {name: facts["versions"].get(name) for name in _PACKAGES}
    commit = (facts["git"] or {}).get("commit")
    figures["commit of igascale"] = commit[:12] if commit else None
    figures |= {"CUDA": facts["cuda"], "NCCL": facts["nccl"]}
    figures["device"] = ", ".join(sorted({(rank["gpu"] or {}).get("name", "CPU") for rank in facts["ranks"]}))
    return figures
