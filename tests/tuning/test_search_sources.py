"""A search goes on only with the model, the data and the hooks that its trials on record were made with."""

import json
import shutil

import pytest

from igascale.errors import UserError
from igascale.tuning.plan import Asked
from igascale.tuning.records import SEARCH, check_search
from igascale.tuning.search import Search

from runs import prepare


def _wanted(path, folder):
    return {"files": Search(Asked(path, methods=("erm-sft",), trials=1), folder, print)._files(), "methods": {}}


def test_another_base_model_is_another_search(tmp_path):
    path = prepare(tmp_path)
    before = _wanted(path, tmp_path / "search")
    assert set(before["files"]) == {"data.train", "data.validation", "model.path"}
    check_search(tmp_path / "search", before)
    check_search(tmp_path / "search", _wanted(path, tmp_path / "search"))  # nothing changed

    shutil.copytree(tmp_path / "model", tmp_path / "kept")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    with pytest.raises(UserError, match=r"holds another search: the content of model\.path is not what it was"):
        check_search(tmp_path / "search", _wanted(path, tmp_path / "search"))


def test_a_record_without_the_model_is_completed(tmp_path):
    path = prepare(tmp_path)
    now = _wanted(path, tmp_path / "search")
    old = {"files": {k: v for k, v in now["files"].items() if k != "model.path"}, "methods": {}}
    check_search(tmp_path / "search", old)
    check_search(tmp_path / "search", now)
    assert json.loads((tmp_path / "search" / SEARCH).read_text())["files"] == now["files"]
