"""docs/inspect.md: its output is what the command prints of its group; every option is on it."""

import re
from pathlib import Path

from click.testing import CliRunner

from igascale.cli import main
from igascale.cli.data.inspect import command

PAGE = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text(encoding="utf-8")


def test_the_output_is_what_the_command_prints(tmp_path, monkeypatch):
    (line,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    (output,) = re.findall(r"```\n(bank-0017.*?)```", PAGE, re.DOTALL)
    (tmp_path / "data" / "build").mkdir(parents=True)
    (tmp_path / "data" / "build" / "groups.jsonl").write_text(line, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    first, second, third = (c.split()[1:] for c in re.findall(r"^    (igascale data inspect .*)$", PAGE, re.MULTILINE))
    result = CliRunner().invoke(main, first, env={"COLUMNS": "100"})
    assert [text.rstrip() for text in result.output.splitlines()] == output.splitlines()
    assert "1 of the 1 groups in groups.jsonl matches" in CliRunner().invoke(main, second).output
    assert CliRunner().invoke(main, third).exit_code == 0
    assert (tmp_path / "build.html").is_file()


def test_every_option_is_on_the_page():
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    assert options <= set(re.findall(r"--[a-z-]+", PAGE))
