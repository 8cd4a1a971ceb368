"""``igascale merge`` on an adapter and on a run."""

import pytest
import yaml
from click.testing import CliRunner

from igascale.cli.merge import command
from igascale.errors import UserError

import tiny


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def run_folder(tmp_path):
    base = tiny.save_tiny_model_folder(tmp_path / "base")
    tiny.tiny_peft().save_pretrained(tmp_path / "run" / "adapter")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"model": {"path": str(base)}}))
    return tmp_path / "run"


def test_run_takes_its_base_from_the_config(run_folder, tmp_path):
    outcome = run(run_folder, "--out", tmp_path / "out")
    assert outcome.exit_code == 0, outcome.output
    assert "Merged 8 modules" in outcome.output
    assert "Verified against base + adapter" in outcome.output
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_adapter_with_base_unverified(run_folder, tmp_path):
    arguments = ("--base", tmp_path / "base", "--out", tmp_path / "out", "--no-verify")
    outcome = run(run_folder / "adapter", *arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "Not verified" in outcome.output


def test_refusals(run_folder, tmp_path):
    outcome = run(tmp_path / "base", "--out", tmp_path / "out")
    assert isinstance(outcome.exception, UserError)
    assert "nothing to merge" in str(outcome.exception)
    outcome = run(run_folder / "adapter", "--out", tmp_path / "out")  # PEFT wrote no base name for a model from memory
    assert isinstance(outcome.exception, UserError)
    assert "--base" in str(outcome.exception)
    assert not (tmp_path / "out").exists()


def test_help_teaches():
    assert "igascale merge runs/iga --out models/iga-merged" in run("--help").output
