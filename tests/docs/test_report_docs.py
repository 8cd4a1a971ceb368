"""docs/report.md: every option and every section is on it."""

import re
from pathlib import Path

from igascale.cli.report import command
from igascale.report import adapters, curves, samples
from igascale.report.write import FORMATS

PAGE = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")


def test_every_option_and_format_is_on_the_page():
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    assert options <= set(re.findall(r"--[a-z-]+", PAGE))
    assert all(f".{kind}" in PAGE for kind in FORMATS)


def test_its_limits_are_those_of_the_code():
    for number in (
        curves.MOST_POINTS,
        adapters.MOST_FRAMES,
        adapters.MOST_RECORDS,
        samples.MOST_TEXT,
        samples.MOST_DIFFERENT,
    ):
        assert re.search(rf"\b{number}\b", PAGE), number
    assert f"{2 * samples.MOST_ALIKE} that do not" in PAGE
