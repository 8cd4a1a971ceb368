"""docs/evaluation.md names what the command has."""

import re
from pathlib import Path

from igascale.cli.eval import command

PAGE = Path("docs/evaluation.md").read_text()


def test_every_option_of_the_page_exists():
    known = {option for parameter in command.params for option in parameter.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert len(named) > 15
    assert named - known == {"--nproc-per-node", "--file"}  # of torchrun, and of a benchmark


def test_every_module_of_the_page_exists():
    listed = re.findall(r"`([a-z_/]+\.py)`", PAGE)
    assert len(listed) > 9
    for name in listed:
        assert Path(name if "/" in name else f"igascale/evaluation/{name}").is_file(), name
