"""The run folder: what ran, with what, and what came out.

``config.yaml`` (resolved) and ``environment.json`` are written first; ``metrics.jsonl`` and ``adapter_metrics.jsonl`` grow;
``checkpoints/`` is for resuming; ``adapter/`` is the result, a normal PEFT folder.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from igascale.config import RunConfig
from igascale.errors import UserError


def check_absent(folder: Path) -> None:
    """Refuse to write into a folder that already holds a run.

    Raises:
        UserError: it exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"output_dir {folder} already exists: continue it with --resume auto, or choose another output_dir "
            "(nothing was changed)"
        )


def record(folder: Path, config: RunConfig, world_size: int) -> None:
    """Write the resolved configuration and the environment, before anything runs.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(config.to_yaml())
        (folder / "environment.json").write_text(json.dumps(environment(world_size), indent=1) + "\n")
    except OSError as error:
        raise UserError(f"output_dir {folder} cannot be written: {error.strerror}") from None


def environment(world_size: int) -> dict[str, Any]:
    """Versions, command and hardware of this process, for the record."""
    import torch

    packages = ("igascale", "torch", "deepspeed", "transformers", "peft", "safetensors", "tokenizers")
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "versions": versions,
        "git_commit": commit.stdout.strip() or None,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "world_size": world_size,
    }
