"""The example line in docs/data.md is a real one."""

import json
from pathlib import Path

from igascale.isomers.cues import CUE_KINDS
from igascale.isomers.generator import generate
from igascale.isomers.kinds import ALL_KINDS, FAMILIES
from igascale.isomers.kinds.vocabulary import ALL_VOCABULARIES
from igascale.isomers.schema import read_groups, to_record

TEXT = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_example_line_is_what_the_generator_writes(tmp_path):
    line = next(block for block in TEXT.split("```json\n")[1:] if '"dag"' in block).split("\n```")[0]
    (tmp_path / "example.jsonl").write_text(line + "\n", encoding="utf-8")
    (group,) = read_groups(tmp_path / "example.jsonl")
    assert json.loads(line) == to_record(generate(3, ("law", "science"))[2])
    assert group.kind == "rules"


def test_every_kind_and_domain_is_documented():
    assert all(f"`{kind}`" in TEXT for kind in (*ALL_KINDS, *FAMILIES, *CUE_KINDS))
    assert all(domain in TEXT for domain in ALL_VOCABULARIES)


def test_example_of_seeds_runs():
    code = next(block for block in TEXT.split("```python\n")[1:] if "generate_with_seeds" in block).split("\n```")[0]
    names: dict = {}
    exec(code, names)
    assert names["seed"].kind in ("sets", "causal") and len(names["group"].instances) == 2
