"""Guard: the packages hooks, launchers and ds_configs live at top level and are reached through committed links."""

from pathlib import Path

from setuptools import setup

for name in ("hooks", "launchers", "ds_configs"):
    if not (Path(__file__).parent / "igascale" / name).is_dir():
        raise SystemExit(
            f"igascale/{name} must be a link to ../{name}, but this checkout has none (git without symlink support?): "
            "git config core.symlinks true, then clone again"
        )
setup()
