"""What the documentation shows is what works: its code runs, its configuration loads, its commands and files exist."""

import re
from pathlib import Path

import pytest
import torch

from igascale import hooks
from igascale.cli import COMMANDS
from igascale.config import load_config
from igascale.hooks import DomainFactorGrads, HookContext

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]


def blocks(path, language):
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


def test_the_readmes_rule_runs(tmp_path, monkeypatch):
    code, _ = blocks(ROOT / "README.md", "python")
    (tmp_path / "readme_rules.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    hook = hooks.build("readme_rules:FirstDomainTwice", {})
    grads = {"q": DomainFactorGrads(torch.tensor([[[1.0]], [[4.0]]]), torch.zeros(2, 1, 1))}
    result = hook.combine(grads, {}, HookContext(domains=("x", "y")))
    assert float(result["q"].a) == pytest.approx((2 * 1 + 4) / 3)


def test_the_readmes_loop_is_the_examples():
    """Call by call what examples/deepspeed_loop.py does, which another test runs under the real launcher."""
    _, code = blocks(ROOT / "README.md", "python")
    compile(code, "README.md", "exec")
    example = (ROOT / "examples" / "deepspeed_loop.py").read_text()
    calls = re.findall(r"(?:igascale|surgery)\.\w+", code)
    assert calls == ["igascale.AdamW", "igascale.attach", "surgery.rows", "surgery.loss", "surgery.step"]
    for call in calls:
        assert call + "(" in example, call
    for option in re.findall(r"(\w+)=", code):
        assert option in [*re.findall(r"(\w+)=", example), "domains"], option


def test_the_readmes_configuration_loads(tmp_path):
    (text,) = blocks(ROOT / "README.md", "yaml")
    (tmp_path / "run.yaml").write_text(text)
    config = load_config(tmp_path / "run.yaml")
    assert hooks.build(config.hook.name, config.hook.options).uses_reference


@pytest.mark.parametrize("path", DOCS, ids=lambda p: p.name)
def test_commands_and_files_exist(path):
    text = path.read_text()
    for verb in re.findall(r"^ {4}igascale (\w+)", text, re.MULTILINE):
        assert verb in COMMANDS, verb
    for target in re.findall(r"(?:`|^ {4})make ([a-z-]+)", text, re.MULTILINE):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(), target
    for name in re.findall(r"`((?:docs|tests|configs|hooks|igascale|launchers|benchmarks|ds_configs)/[\w./-]*)`", text):
        # A file that CONTRIBUTING tells a reader to write is not there yet.
        assert (ROOT / name).exists() or "my_rule" in name, name


def test_no_placeholder_is_left():
    for path in DOCS:
        assert not re.search(r"\b[A-Z]+[_-](OUTPUT|FIGURES)\b|TODO|FIXME", path.read_text()), path
