"""Which code, which data: short answers that change when the thing does."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any

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
