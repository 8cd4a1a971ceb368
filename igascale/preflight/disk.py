"""The run folder: one folder for all hosts, with room for the checkpoints."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from igascale.preflight.finding import Facts, Finding, failed, listed, passed, warned

#: Bytes of a checkpoint per trained parameter (fp32 master and two moments, and the adapter), and beyond them.
PER_PARAMETER, BEYOND = 16, 1_000_000


def nearest(folder: str) -> Path:
    """The folder, or the first above it that exists: where it would be made."""
    path = Path(folder)
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def collect(folder: str) -> dict[str, Any]:
    """Free bytes where the run folder is, or will be."""
    path = nearest(folder)
    return {"folder": str(path), "free": shutil.disk_usage(path).free}


def need(config: dict[str, Any]) -> int | str:
    """Bytes that the checkpoints of this run take, and one more while it is written; or why that is not known."""
    from igascale.config import RunConfig
    from igascale.errors import UserError
    from igascale.planning.shapes import build_meta_model, find_shapes

    run = RunConfig.model_validate(config)
    try:
        shapes, _ = find_shapes(build_meta_model(run, run.model.path))
    except UserError as error:
        return str(error)
    copies = run.checkpoint.keep + run.checkpoint.keep_best + 1
    return copies * (PER_PARAMETER * shapes.lora_parameters + BEYOND) + 4 * shapes.lora_parameters


def write_token(folder: str, name: str, text: str) -> str | None:
    """Write a small file; why not, or ``None``."""
    try:
        (Path(folder) / name).write_text(text)
    except OSError as error:
        return error.strerror or str(error)
    return None


def read_token(folder: str, name: str, text: str, patience: float = 3.0) -> bool:
    """Whether the file is here with this text; a network file system may take a moment to show it."""
    deadline = time.monotonic() + patience
    while True:
        with suppress(OSError):
            if (Path(folder) / name).read_text() == text:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def remove_token(folder: str, name: str) -> None:
    """Remove the file."""
    with suppress(OSError):
        (Path(folder) / name).unlink(missing_ok=True)


def judge_shared(folder: str, writing: Mapping[str, str | None], seen: Mapping[tuple[str, str], bool]) -> list[Finding]:
    """Whether all hosts see one folder.

    Args:
        folder: where the tokens were written.
        writing: why a host could not write its token, or ``None``.
        seen: (reader, writer) -> whether the reader found the writer's token.
    """
    findings = [
        failed(
            "run folder", f"{host} cannot write to {folder}: {problem}", f"mount it on {host} for this user, writable"
        )
        for host, problem in writing.items()
        if problem
    ]
    blind = [f"{reader} does not see what {writer} writes" for (reader, writer), found in seen.items() if not found]
    if blind:
        remedy = (
            "every rank needs the same run folder: put output_dir on a disk that all hosts mount (NFS, Lustre, ...)"
        )
        findings.append(failed("run folder", f"{folder} is not shared: {listed(blind)}", remedy))
    if not findings:
        told = f", shared by {listed(writing)}" if len(writing) > 1 else ""
        findings.append(passed("run folder", f"{folder} can be written{told}"))
    return findings


def judge_room(facts: Facts, needed: int | str | None) -> list[Finding]:
    """Free space against what the checkpoints need.

    Args:
        facts: of :func:`collect`.
        needed: of :func:`need`; ``None`` without a configuration.
    """
    host, told = min(facts.items(), key=lambda item: item[1]["free"])
    found = f"{told['free'] / 1e9:.1f} GB free in {told['folder']} on {host}"
    if needed is None:
        return [passed("disk", found)]
    if isinstance(needed, str):
        return [warned("disk", f"{found}; what checkpoints need is not known: {needed}", "compare by hand")]
    found += f", checkpoints need {needed / 1e9:.3g} GB"
    if told["free"] < needed:
        return [failed("disk", found, "free some, choose another output_dir, or lower checkpoint.keep")]
    if told["free"] < 2 * needed:
        return [warned("disk", found, "tight: other runs or logs may fill it")]
    return [passed("disk", found)]
