"""The wheel exposes igascale alone, with hooks, launchers and ds_configs inside; the guards stop what would go wrong."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKS = ("hooks", "launchers", "ds_configs")


def copy_sources(target: Path) -> None:
    for name in ("igascale", *LINKS):
        shutil.copytree(ROOT / name, target / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)


def build(source: Path, out: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out)]
    return subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)


def test_links_are_relative_links():
    for name in LINKS:
        link = ROOT / "igascale" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name


def test_wheel_contents(tmp_path):
    (tmp_path / "src").mkdir()
    copy_sources(tmp_path / "src")
    done = build(tmp_path / "src", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "out").glob("igascale-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"igascale"}
    for expected in (
        "hooks/iga.py",
        "launchers/deepspeed.py",
        "ds_configs/zero2.json",
        "py.typed",
        "isomers/schema.py",
        "isomers/inspection/page.html",
        "isomers/inspection/page.css",
        "isomers/inspection/page.js",
    ):
        assert f"igascale/{expected}" in names
    packaged = {n for n in names if n.endswith(".py")}
    on_disk = {f"igascale/{p.relative_to(ROOT / 'igascale')}" for p in (ROOT / "igascale").rglob("*.py")}
    on_disk |= {f"igascale/{n}/{p.name}" for n in ("hooks", "launchers") for p in (ROOT / n).glob("*.py")}
    assert packaged == on_disk


def test_build_stops_without_the_links(tmp_path):
    copy_sources(tmp_path)
    (tmp_path / "igascale" / "hooks").unlink()
    (tmp_path / "igascale" / "hooks").write_text("../hooks")  # what git leaves without symlink support
    done = subprocess.run([sys.executable, "setup.py", "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "igascale/hooks must be a link to ../hooks" in done.stderr


@pytest.mark.parametrize("name", ["hooks", "launchers"])
def test_not_importable_by_their_top_level_names(name):
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"import igascale.{name}, not {name}" in done.stderr
