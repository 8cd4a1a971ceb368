"""Which code, which data, which model: short answers that change when the thing does."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

_WHOLE = 16 << 20  # files up to so many bytes are hashed whole
_END = 1 << 20  # of larger ones so many bytes at either end
_NAMES = 50  # how many changed files are listed by name


def git_state(folder: Path, root: bool = False) -> dict[str, Any] | None:
    """Commit and uncommitted changes of the repository that a folder belongs to.

    Args:
        folder: any folder.
        root: only if the folder is the repository's own root (an installed wheel may lie inside somebody else's).

    Returns:
        ``root``, ``commit``, ``dirty`` (tracked files differ from the commit), ``diff_sha256`` of ``git diff HEAD --binary``,
        ``changed`` and ``untracked`` names (the first 50 of each). ``{"root", "problem"}`` where git cannot tell; ``None``
        outside a repository.
    """
    folder = folder.resolve()
    candidates = [folder] if root else [folder, *folder.parents]
    top = next((path for path in candidates if (path / ".git").exists()), None)
    if top is None:
        return None
    try:
        commit = _git(top, "rev-parse", "HEAD").decode().strip()
        diff = _git(top, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv")
        status = _git(top, "status", "--porcelain").decode(errors="replace").splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        told = (getattr(error, "stderr", None) or str(error).encode()).decode(errors="replace").strip()
        return {"root": str(top), "problem": told.splitlines()[0] if told else "git failed"}
    changed = [line[3:] for line in status if not line.startswith("??")]
    untracked = [line[3:] for line in status if line.startswith("??")]
    return {
        "root": str(top),
        "commit": commit,
        "dirty": bool(changed),
        "diff_sha256": hashlib.sha256(diff).hexdigest() if diff else None,
        "changed": changed[:_NAMES],
        "untracked": untracked[:_NAMES],
    }


def _git(folder: Path, *arguments: str) -> bytes:
    # A variable such as GIT_DIR (set while a git hook runs) would answer for another repository.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith("GIT_CONFIG")}
    command = ["git", "-C", str(folder), *arguments]
    environ |= {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, check=True, timeout=20, env=environ).stdout


def file_digest(path: Path) -> dict[str, Any]:
    """Path, bytes, SHA-256 and number of groups (lines that are not blank) of a data file."""
    digest, size, groups = hashlib.sha256(), 0, 0
    try:
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                size += len(line)
                groups += bool(line.strip())
    except OSError as error:
        return {"path": str(path), "problem": error.strerror}
    return {"path": str(path), "bytes": size, "sha256": digest.hexdigest(), "groups": groups}


def model_fingerprint(path: str) -> dict[str, Any]:
    """What tells one model folder from another without reading hundreds of gigabytes.

    The SHA-256 is over every file's name, size and content; of files above 16 MiB, the weights, over the first and the last MiB,
    which hold a shard's table of tensors and some of its values.

    Args:
        path: a folder, or a Hub id, which is looked up in the local cache only.

    Returns:
        ``path``, ``folder``, ``files``, ``bytes`` and ``sha256``; without the last where the model is not on this disk.
    """
    folder: Path | None = Path(path)
    if not Path(path).is_dir():
        folder = _cached(path)
    if folder is None:
        return {"path": path, "sha256": None, "problem": "not in the local cache when the run started"}
    table = []
    try:
        for file in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
            table.append([file.name, file.stat().st_size, _ends(file)])
    except OSError as error:
        return {"path": path, "sha256": None, "problem": f"{error.filename}: {error.strerror}"}
    return {
        "path": path,
        "folder": str(folder.resolve()),
        "files": len(table),
        "bytes": sum(size for _, size, _ in table),
        "sha256": hashlib.sha256(json.dumps(table).encode()).hexdigest(),
    }


def _ends(path: Path) -> str:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _WHOLE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256(file.read(_END))
        file.seek(size - _END)
        digest.update(file.read())
        return digest.hexdigest()


def _cached(hub_id: str) -> Path | None:
    """The folder of a Hub model's snapshot, whose name is the revision."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub_id, "config.json")
    except HFValidationError:  # not the form of an id: loading it will say so
        return None
    return Path(found).parent if isinstance(found, str) else None
