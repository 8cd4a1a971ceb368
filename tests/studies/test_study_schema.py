"""A study's file is strict: every mistake is told by file, line and key."""

import pytest

from igascale.errors import UserError
from igascale.studies.schema import read_study


def told(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_study(path)
    return str(error.value).replace(f"{path}", "study.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base: x\nmethods: [iga, igaa]\n", "study.yaml:2: methods.1: unknown method 'igaa'; did you mean 'iga'?"),
        ("base: x\nmethods:\n - iga\nseed: [0]\n", "study.yaml:4: unknown key 'seed'; did you mean 'seeds'?"),
        ("methods: [iga]\n", "study.yaml:1: missing key 'base'"),
        ("base: x\nmethods: [iga]\nseeds: [1, 2, 1]\n", "study.yaml:3: seeds: seed 1 stands here twice"),
        ("base: x\nmethods: [iga]\nseeds: [1, -1]\n", "study.yaml:3: seeds: seed -1 is negative"),
        ("base: x\nmethods: [iga]\nseeds: []\n", "study.yaml:3: seeds: List should have at least 1 item"),
        ("base: x\nmethods: [iga, iga]\n", "study.yaml:2: methods: two rows are called 'iga'"),
        ("base: x\nmethods:\n  - iga\n  - {method: erm-sft, sets: {}}\n", "study.yaml:4: unknown key 'methods.1.sets'"),
        (
            "base: x\nmethods: [iga]\neval:\n  layer: 3\n",
            "study.yaml:4: unknown key 'eval.layer'; did you mean 'layers'?",
        ),
        ("base: x\nmethods: [iga]\nlaunch:\n  jobs: 0\n", "study.yaml:4: launch.jobs: Input should be greater"),
        ("base: x\nmethods: [iga]\naxes: {seed: [1]}\n", "'seed' is set by the study itself: use 'seeds'"),
        ("base: x\nmethods: [iga]\nset: {output_dir: y}\n", "'output_dir' is set by the study itself"),
        ("base: x\nmethods: [iga]\naxes: {hook.tau: []}\n", "axis 'hook.tau' has no values"),
        ("base: x\nmethods: [iga]\naxes: {hook.tau: [1, 1]}\n", "axis 'hook.tau' has a value twice"),
        ("base: x\nmethods: [iga]\ntables: [4]\n", "study.yaml:3: tables.0: Input should be 1, 2, 3 or 5 (got 4)"),
        ("base: x\nmethods: [iga]\nmethods: [irm]\n", "study.yaml:3: key 'methods' stands here twice"),
        ("base: x\nmethods:\n  - {set: {a: 1}}\n", "study.yaml:3: methods.0: give 'method', or 'name'"),
        ("base: x\nmethods: [iga\n", "study.yaml:3: not valid YAML"),
        ("- iga\n", "study.yaml: must hold keys and values"),
    ],
)
def test_one_clear_line(tmp_path, text, expected):
    found = told(tmp_path, text)
    assert expected in found
    assert len(found.splitlines()) == 1


def test_every_mistake_at_once(tmp_path):
    found = told(tmp_path, "base: x\nmethods: [igaa]\nseeds: [0, 0]\ntable: [1]\n")
    assert [line.split(":")[1] for line in found.splitlines()] == ["2", "3", "4"]


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="no such configuration file"):
        read_study(tmp_path / "nothing.yaml")
