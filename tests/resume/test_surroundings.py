"""Other versions and devices than at the last start are told, and refuse nothing."""

import copy
import json

import pytest

from igascale.resuming import history
from igascale.resuming.surroundings import describe_surroundings

FACTS = {
    "versions": {"igascale": "0.1", "torch": "2.9", "numpy": "1"},
    "git": {"commit": "a" * 40},
    "cuda": "12.8",
    "nccl": "2.27",
    "ranks": [{"gpu": {"name": "H100"}}, {"gpu": {"name": "H100"}}],
}


def start(**changes):
    return copy.deepcopy(FACTS) | changes


def test_what_changed_since_the_last_start(tmp_path):
    (tmp_path / "environment.json").write_text(json.dumps(FACTS))
    assert describe_surroundings(tmp_path, start()) == []
    assert describe_surroundings(tmp_path, start(versions=FACTS["versions"] | {"numpy": "2"})) == []
    newer = start(versions=FACTS["versions"] | {"torch": "2.10"}, ranks=[{"gpu": None}, *FACTS["ranks"]], git=None)
    (line,) = describe_surroundings(tmp_path, newer)
    assert "torch 2.9 -> 2.10, commit of igascale aaaaaaaaaaaa -> None, device H100 -> CPU, H100" in line
    history.append(tmp_path, {"step": 1} | newer)
    assert describe_surroundings(tmp_path, newer) == []


@pytest.mark.parametrize("content", [None, "", "[1]", "{}", '{"versions": null}'])
def test_a_folder_that_does_not_say_what_it_was(tmp_path, content):
    if content is not None:
        (tmp_path / "environment.json").write_text(content)
    assert describe_surroundings(tmp_path, start()) == []
