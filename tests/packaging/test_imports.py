"""The import directions of docs/architecture.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Folder -> what its files may import of igascale.
ALLOWED = {
    "igascale/linalg": ("igascale.linalg",),
    "hooks": (
        *("igascale.hooks", "igascale.linalg", "igascale.errors"),
        "igascale.plugins",  # imports igascale.errors only
    ),
    "igascale/engine": (
        *("igascale.engine", "igascale.hooks.base", "igascale.adapters", "igascale.errors"),
        "igascale.launchers.network",  # imports nothing of igascale; the doctor's all-reduce takes the interface that a launch takes
        "igascale.imports",  # nor does this
    ),
    "launchers": ("igascale.launchers", "igascale.errors"),
}


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    return names | {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}


@pytest.mark.parametrize("folder", ALLOWED)
def test_import_direction(folder):
    files = list((ROOT / folder).glob("*.py"))
    assert files
    for file in files:
        for name in imported(file):
            if name.split(".")[0] == "igascale":
                assert name.startswith(ALLOWED[folder]), f"{file}: {name}"


def test_only_the_engine_knows_other_ranks():
    for file in [*(ROOT / "igascale").glob("**/*.py"), *(ROOT / "hooks").glob("*.py")]:
        if (ROOT / "igascale" / "engine") not in file.parents:
            assert not {n for n in imported(file) if n.startswith(("torch.distributed", "deepspeed"))}, file
