"""What tells the model that answers from any other, so that no answer of another is used in its place. Plain Python."""

from __future__ import annotations

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

from igascale.locate import base_of, locate
from igascale.resuming.sources import fingerprint_model

_WHOLE = 1 << 26  # files up to this size are read in full


def identity(model: str, base: str | None = None) -> dict[str, Any]:
    """Hashes of the adapter and the small files, size, time and samples of the large weights, versions of the libraries.

    A folder that was copied counts as another one, because of the times: to answer again is dear, to use the wrong answer worse.

    Args:
        model: what is evaluated.
        base: base model of an adapter, as the user named it.
    """
    located = locate(model)
    name = model if located.adapter is None else base_of(located, base)
    found: dict[str, Any] = {"files": fingerprint_model(name) or name, "weights": _weights(Path(name))}
    if located.adapter is not None:
        found["adapter"] = {path.name: _sha256(path) for path in sorted(located.adapter.glob("adapter_*"))}
    return found | {"versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")}}


def _weights(folder: Path) -> dict[str, Any]:
    """Of the weight files: what a change of one byte between two samples would alter too."""
    if not folder.is_dir():
        return {}
    weights = [path for ending in ("*.safetensors", "*.bin") for path in sorted(folder.glob(ending))]
    return {
        p.name: _sha256(p) if p.stat().st_size <= _WHOLE else [p.stat().st_size, p.stat().st_mtime_ns] for p in weights
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
