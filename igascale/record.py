"""What a run was made of, for whoever has to reproduce it: ``environment.json``, gathered before anything runs."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from igascale.config import RunConfig
from igascale.files import write_atomically
from igascale.launchers.environment import redact, secret_values
from igascale.provenance import file_digest, git_state
from igascale.resuming.sources import fingerprint_model
from igascale.status import now

ENVIRONMENT = "environment.json"
#: The packages a result may depend on; ``packages`` has everything that is installed.
RELEVANT = (
    "igascale",
    "torch",
    "deepspeed",
    "transformers",
    "peft",
    "safetensors",
    "tokenizers",
    "accelerate",
    "numpy",
    "triton",
    "torchjd",
)


def rank_facts(rank: int) -> dict[str, Any]:
    """Where a rank runs; every rank says it, rank 0 writes it down."""
    import torch

    device = None
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(torch.cuda.current_device())
        device = {"name": found.name, "memory_bytes": found.total_memory, "capability": [found.major, found.minor]}
    return {
        "rank": rank,
        "host": os.uname().nodename,
        "cpus": os.cpu_count(),
        "gpu": device,
        "driver": _nvidia_driver(),
    }


def environment(config: RunConfig, ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """Versions, sources, command, data and hardware of a start, as JSON.

    Args:
        config: the run.
        ranks: every rank's :func:`rank_facts`.
    """
    import torch

    data = {name: getattr(config.data, name) for name in ("train", "validation", "ood")}
    source, project = git_state(Path(__file__).parents[1], root=True), git_state(Path.cwd())
    return {
        "started": now(),
        "command": [redact(argument, secret_values(os.environ)) for argument in sys.argv],
        "working_directory": str(Path.cwd()),
        "job": os.environ.get("SLURM_JOB_ID"),
        "seed": config.seed,
        "world_size": len(ranks),
        "ranks": ranks,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
        "nccl": _nccl(),
        "versions": {name: _version(name) for name in RELEVANT},
        "git": source,
        "project_git": None if project and source and project["root"] == source["root"] else project,
        "model": _model(config.model.path),
        "init_from": _model(config.lora.init_from) if config.lora.init_from else None,
        "data": {name: file_digest(Path(path)) for name, path in data.items() if path},
        "hook": _hook_source(config.hook.name),
        "packages": {d.name: d.version for d in sorted(metadata.distributions(), key=lambda d: d.name.lower())},
    }


def complete(folder: Path, model: str) -> None:
    """Add the fingerprint of a model that came from the Hub only after the start was recorded."""
    path = folder / ENVIRONMENT
    with suppress(OSError, ValueError, KeyError, TypeError):
        facts = json.loads(path.read_text())
        if facts["model"]["files"] is None:
            facts["model"] = _model(model)
            write_atomically(path, json.dumps(facts, indent=1) + "\n")


def _model(path: str) -> dict[str, Any]:
    return {"path": path, "files": fingerprint_model(path)}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _hook_source(name: str) -> dict[str, Any] | None:
    """File, hash and distribution of a rule that does not come with igascale."""
    from igascale.hooks import find

    hook = find(name)
    if hook.__module__.startswith("igascale."):
        return None
    file = getattr(sys.modules[hook.__module__], "__file__", None)
    top = hook.__module__.split(".")[0]
    offered = metadata.packages_distributions().get(top, [])
    return {
        "class": f"{hook.__module__}:{hook.__qualname__}",
        "file": file,
        "sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else None,
        "distribution": {d: _version(d) for d in offered} or None,
    }


def _nvidia_driver() -> str | None:
    """The kernel driver's version, without starting a process."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text)
    return found[0] if found else text.splitlines()[0]


def _nccl() -> str | None:
    import torch

    if not torch.cuda.is_available():
        return None
    try:
        return ".".join(map(str, torch.cuda.nccl.version()))
    except (AttributeError, RuntimeError, TypeError):  # a build without NCCL
        return None
