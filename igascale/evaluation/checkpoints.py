"""A run's checkpoints as things to evaluate: which there are, and a copy of one's adapter that no pruning can take away."""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

from igascale.checkpoints import names
from igascale.checkpoints.manifest import Damaged, read_manifest
from igascale.errors import UserError
from igascale.evaluation.request import Request
from igascale.evaluation.results import RESULT_FILE, EvaluationResult, read_result
from igascale.evaluation.store import ANSWERS
from igascale.locate import ADAPTER_CONFIG

_ADAPTER, _WEIGHTS = "adapter/", "adapter/adapter_model.safetensors"


def choose(run: Path, which: str) -> list[int]:
    """The steps that ``--checkpoint`` stands for.

    Args:
        run: the run folder.
        which: a step, ``latest``, ``best``, or ``all``.

    Raises:
        UserError: there is no such checkpoint.
    """
    root = run / "checkpoints"
    there = published(run)
    if not there:
        raise UserError(f"{run} has no checkpoints; leave --checkpoint out to evaluate its final adapter")
    if which == "all":
        return there
    if which in (names.LATEST, names.BEST):
        step = names.step_of(Path(names.read_pointer(root, which) or "none"))
    else:
        step = int(which) if which.isascii() and which.isdigit() else names.step_of(Path(which))
        if step is None:
            raise UserError(f"--checkpoint {which}: should be a step, latest, best or all")
    if step not in there:
        raise UserError(f"--checkpoint {which}: not there; {run} has {', '.join(map(str, there))}")
    return [step]


def published(run: Path) -> list[int]:
    """Steps of the checkpoints of a run, ascending."""
    return [step for path in names.published(run / "checkpoints") if (step := names.step_of(path)) is not None]


def request_for(step: int, request: Request) -> Request:
    """The request for one checkpoint of a run.

    Args:
        step: of the checkpoint, whose adapter :func:`take` has copied.
        request: for the run, with its base model; its ``out`` is the checkpoint's already.
    """
    adapter = adapter_copy(Path(request.out))
    return replace(
        request,
        model=str(adapter),
        shown=f"{request.shown} step {step}",
        adapter_sha256=_sha256((adapter / Path(_WEIGHTS).name).read_bytes()),
    )


def adapter_copy(out: Path) -> Path:
    """Where the copy of a checkpoint's adapter lies, until its evaluation is complete."""
    return out / ANSWERS / "adapter"


def take(run: Path, step: int, out: Path) -> bool:
    """Copy a checkpoint's adapter, every byte compared with the manifest on the way.

    Args:
        run: the run folder.
        step: of the checkpoint.
        out: the folder of its evaluation.

    Returns:
        Whether there is a copy: ``False`` where the run has removed the checkpoint before it was copied.

    Raises:
        Damaged: the checkpoint is not what was saved.
        UserError: the copy cannot be written.
    """
    target, source = adapter_copy(out), run / "checkpoints" / names.name_of(step)
    try:
        files = {name: digest for name, (_, digest) in read_manifest(source).files.items() if name.startswith(_ADAPTER)}
        if _is_copy(target, files):
            return True
        content = {name: (source / name).read_bytes() for name in files}
    except (Damaged, OSError) as error:
        if not source.exists():
            return (target / ADAPTER_CONFIG).is_file()
        raise error if isinstance(error, Damaged) else Damaged(source, f"cannot be read ({error.strerror})") from None
    for name, digest in files.items():
        if _sha256(content[name]) != digest:
            raise Damaged(source / name, "content differs from what was saved")
    _write(target, content)
    return True


def adapter_digest(run: Path, step: int) -> str | None:
    """SHA-256 of a checkpoint's adapter by its manifest; ``None`` where it is gone or damaged."""
    try:
        return read_manifest(run / "checkpoints" / names.name_of(step)).files[_WEIGHTS][1]
    except (Damaged, OSError):
        return None


def earlier(run: Path, step: int, out: Path, digest: str) -> EvaluationResult | None:
    """The result that a checkpoint has already; ``None`` where the run has come to that step anew, with another adapter.

    Args:
        run: the run folder.
        step: of the checkpoint.
        out: the folder of its evaluation, which holds a result.
        digest: of the request.

    Raises:
        UserError: it was made with other options.
    """
    result = read_result(out / RESULT_FILE)
    if result.settings.get("request") != digest:
        raise UserError(
            f"{out / RESULT_FILE} was made with other options or data; pass --overwrite to replace it, or choose another --out"
        )
    now = adapter_digest(run, step)
    return result if now in (None, result.settings.get("adapter_sha256")) else None


def _is_copy(target: Path, files: dict[str, str]) -> bool:
    copies = {name: target / name.removeprefix(_ADAPTER) for name in files}
    return all(path.is_file() and _sha256(path.read_bytes()) == files[name] for name, path in copies.items())


def _write(target: Path, content: dict[str, bytes]) -> None:
    """As a whole or not at all."""
    new = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(target, ignore_errors=True)
        new.mkdir(parents=True, exist_ok=True)
        for name, data in content.items():
            path = new / name.removeprefix(_ADAPTER)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        new.rename(target)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise UserError(f"{target}: cannot be written ({error.strerror}); choose another --out") from None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
