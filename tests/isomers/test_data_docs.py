"""The example line in docs/data.md is a real one."""

import json
from pathlib import Path

from igascale.isomers.generator import generate
from igascale.isomers.kinds import KINDS
from igascale.isomers.kinds.vocabulary import VOCABULARIES
from igascale.isomers.schema import read_groups, to_record

TEXT = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_example_line_is_what_the_generator_writes(tmp_path):
    line = next(block for block in TEXT.split("```json\n")[1:] if '"dag"' in block).split("\n```")[0]
    (tmp_path / "example.jsonl").write_text(line + "\n", encoding="utf-8")
    (group,) = read_groups(tmp_path / "example.jsonl")
    assert json.loads(line) == to_record(generate(3, ("law", "science"))[2])
    assert group.kind == "rules"


def test_every_kind_and_domain_is_documented():
    assert all(f"`{kind}`" in TEXT for kind in KINDS)
    assert all(domain in TEXT for domain in VOCABULARIES)
