"""docs/factory.md names every reason, option and file that there is."""

import re
from pathlib import Path

from igascale.isomers.factory.manifest import STAGES
from igascale.isomers.factory.options import BuildOptions, flag
from igascale.isomers.factory.pipeline import STAGES as ASKED

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "factory.md").read_text(encoding="utf-8")


def test_every_reason_is_explained():
    reasons = re.findall(r'Issue\(\s*"(\w+)"', (ROOT / "igascale/isomers/factory/gates.py").read_text())
    assert len(reasons) > 15
    for reason in reasons:
        assert f"`{reason}`" in TEXT, reason
    for stage in ASKED:
        assert f"| `{stage}` |" in TEXT, stage
    assert set(ASKED) < {stage for stage, _ in STAGES}


def test_every_option_it_names_exists():
    known = {flag(key) for key in BuildOptions.model_fields} | {"--help", "--config", "--write-defaults"}
    for option in re.findall(r"(--[a-z][a-z-]+)", TEXT):
        assert option in known, option
    for key in re.findall(r"meta\.(\w+)", TEXT):
        assert f'"{key}"' in (ROOT / "igascale/isomers/factory/pipeline.py").read_text(), key
