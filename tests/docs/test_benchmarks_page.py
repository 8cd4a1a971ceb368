"""docs/benchmarks.md says what the code says."""

import re
from pathlib import Path

from igascale.evaluation.benchmarks import _summary, available, find

TEXT = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")


def test_every_benchmark_has_a_row_with_its_published_counts():
    for name in available():
        (row,) = re.findall(rf"^\| `{name}` \|.*$", TEXT, re.MULTILINE)
        published = find(name).facts.published
        numbers = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\d", row)}
        wanted = {count for split, count in published.items() if not split.endswith("_zh")}
        assert wanted <= numbers, (name, wanted - numbers)


def test_digests_on_the_page_are_those_of_the_list():
    known = {d for _, digests in _summary._digests("logiqa2").values() for d in digests}
    shown = set(re.findall(r"(?<=sha256 )[0-9a-f]{64}", TEXT))
    assert shown and shown <= known


def test_every_option_on_the_page_exists():
    from igascale.cli.data.benchmark import command

    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", TEXT)) <= options
