"""Where records come from: forms of files, folders, archives, the Hub; what breaks them is one line."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile

import pyarrow
import pyarrow.parquet
import pytest

from igascale.errors import UserError
from igascale.evaluation.benchmarks import _sources, find

from published_files import logiqa_question, math_problem, math_tree, reclor_folder, reclor_question, write_lines


def loaded_equal(one, other):
    assert one.items and one.items == other.items


def test_a_tar_and_a_zip_hold_what_the_folder_holds(tmp_path):
    tree = math_tree(tmp_path)
    with tarfile.open(tmp_path / "MATH.tar", "w") as tar:
        tar.add(tree, "MATH")
    with zipfile.ZipFile(tmp_path / "MATH.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in tree.rglob("*.json"):
            archive.write(path, path.relative_to(tmp_path))
        archive.writestr("__MACOSX/MATH/train/algebra/._1.json", b"\x00")
    folder = find("math").load(tree)
    for name in ("MATH.tar", "MATH.zip"):
        archive = find("math").load(tmp_path / name)
        loaded_equal(archive, folder)
        assert archive.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_digests_are_those_of_sha256sum(tmp_path):
    folder = reclor_folder(tmp_path)
    loaded = find("reclor").load(folder)
    names = ["test.json", "train.json", "val.json"]
    sums = "".join(f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names)
    assert loaded.sha256 == hashlib.sha256(sums.encode()).hexdigest()
    assert find("reclor").load(folder / "val.json").sha256 == sums.splitlines()[2].split()[0]


def test_array_lines_object_and_parquet_are_told_apart_by_content(tmp_path):
    records = [reclor_question(n) for n in range(3)]
    one = {"array.json": json.dumps(records, indent=1), "lines.json": "\n\n".join(map(json.dumps, records))}
    for name, text in one.items():
        assert [r.value for r in _sources.parse(text.encode(), name)] == records
    assert [r.where for r in _sources.parse(one["lines.json"].encode(), "f")] == ["f:1", "f:3", "f:5"]
    assert [r.where for r in _sources.parse(one["array.json"].encode(), "f")] == ["f[0]", "f[1]", "f[2]"]
    (single,) = _sources.parse(json.dumps(records[0], indent=4).encode("utf-8-sig"), "f")
    assert (single.value, single.where) == (records[0], "f")
    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), table)
    assert [r.value for r in _sources.parse(table.getvalue(), "f")] == records


def test_separators_that_are_not_line_ends_stay_in_their_string():
    value = {"text": "one\u2028two\x85three\x0bfour"}
    text = json.dumps(value, ensure_ascii=False) + "\n" + json.dumps(value, ensure_ascii=False)
    assert [r.value for r in _sources.parse(text.encode(), "f")] == [value, value]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "train.jsonl: is empty"),
        (b'{"a": 1}\n{"a": 2\n', "train.jsonl:2: not valid JSON"),
        (b"[1]\n", r"train.jsonl\[0\]: expected an object with one problem, found a number"),
        (b'[{"a": 1},\n 7]', r"train.jsonl\[0\]: field 'type': is missing"),
        (b'[{"a": 1},\n {"a": }]', "train.jsonl:2: not valid JSON"),
        (b'{"problem":\n "x",}', "train.jsonl:2: not valid JSON"),
        (b'{"a": 1}\n\xff\xfe', "train.jsonl:2: not UTF-8 text"),
        (b"PAR1 and no more", "train.jsonl: not a readable Parquet file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "train.jsonl: is a Git LFS pointer"),
        (b"[" * 100_000, "train.jsonl: nested too deeply"),
        (b'[{"problem": "\\ud800"}]', r"train.jsonl\[0\]: holds half of a surrogate pair"),
        (b"7", "train.jsonl: expected an object with one problem, found a number"),
    ],
)
def test_content_that_is_none_of_the_forms(tmp_path, content, said):
    path = tmp_path / "train.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said) as raised:
        find("math").load(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_folders_and_archives_without_what_is_wanted(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="an empty folder"):
        find("math").load(tmp_path / "empty")
    other = write_lines(tmp_path / "other" / "poems.jsonl", [{"a": 1}])
    with pytest.raises(UserError, match="no file of ReClor in it; read are: train"):
        find("reclor").load(other.parent)
    with pytest.raises(UserError, match="no file of ReClor"):
        find("reclor").load(other)
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    with pytest.raises(UserError, match="an archive without files"):
        find("reclor").load(tmp_path / "a.zip")
    with pytest.raises(UserError, match="no such file or folder, and not a Hub id"):
        find("reclor").load("nothing.here")
    with pytest.raises(UserError, match="cannot be read: File name too long"):
        find("reclor").load("x" * 3000)
    for slip in ("data/vall.json", f"{tmp_path}/vall"):
        with pytest.raises(UserError, match=r"vall(\.json)?: no such file or folder$"):
            find("reclor").load(slip)


def test_a_damaged_archive_is_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("train.json", json.dumps([reclor_question(n) for n in range(50)]))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[200] ^= 0xFF
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match="damaged") as raised:
        find("reclor").load(tmp_path / "a.zip")
    assert "\n" not in str(raised.value)


def test_a_folder_is_read_without_version_control_and_caches(tmp_path):
    folder = reclor_folder(tmp_path / "data")
    (folder / ".git").mkdir()
    (folder / ".git" / "train.json").write_text("not JSON")
    assert all(".git" not in note for note in find("reclor").load(folder).notes)


class FakeHub:
    """Stands in for the `datasets` module: three configurations, of which one repeats the others."""

    def __init__(self, tables):
        self.tables = tables

    def get_dataset_config_names(self, name):
        assert name == "owner/name"
        return list(self.tables)

    def load_dataset(self, name, config):
        return self.tables[config]


def test_a_hub_id_is_read_by_configuration_and_split(monkeypatch):
    rows = [logiqa_question(n, type="{'Conjunctive Reasoning': True}") for n in range(3)]
    tables = {
        "logiqa2": {"train": rows[:1], "validation": rows[1:2], "test": rows[2:]},
        "logiqa2_zh": {"test": [{k: v for k, v in rows[0].items() if k not in ("id", "type")}]},
        "logiqa2_nli": {"test": [{"label": "entailed"}]},
    }
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(tables))
    loaded = find("logiqa2").load("owner/name")
    assert [(i.id, i.split) for i in loaded.items] == [("train/100", "train"), ("dev/101", "dev"), ("test/102", "test")]
    assert [f.name for f in loaded.files] == ["logiqa2/train", "logiqa2/validation", "logiqa2/test"]
    chinese = find("logiqa2").load("owner/name:logiqa2_zh")
    assert [i.id for i in chinese.items] == ["test_zh/row0"]
    with pytest.raises(UserError, match="owner/name: no configuration 'zh'; it has logiqa2, logiqa2_zh, logiqa2_nli"):
        find("logiqa2").load("owner/name:zh")
    bad = {"default": {"test": [math_problem(), math_problem(level="Level 9")]}}
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(bad))
    with pytest.raises(UserError, match=r"^owner/name default/test\[1\]: field 'level'"):
        find("math").load("owner/name")


def test_a_real_data_set_of_datasets_is_read(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([reclor_question(n, "val", label=str(n % 4)) for n in range(5)])
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["default"])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config: datasets.DatasetDict({"validation": rows}))
    loaded = find("reclor").load("owner/name")
    assert [i.answer for i in loaded.items] == list("ABCDA") and {i.split for i in loaded.items} == {"val"}


def test_offline_is_one_line(tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-m", "igascale", "data", "benchmark", "math", "EleutherAI/hendrycks_math"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(
        "error: 'EleutherAI/hendrycks_math': no such file or folder, and as a Hub id it cannot be read"
    )


@pytest.mark.parametrize("content", ['[{"id": %s}]', '{"id": %s}', '{"a": 1}\n{"id": %s}\n'])
def test_a_number_of_thousands_of_digits_is_one_line(content):
    with pytest.raises(UserError, match=r"^x\.json(:\d)?: not (valid JSON|JSON that can be read) \(.*digits") as raised:
        _sources.parse((content % ("1" * 5000)).encode(), "x.json")
    assert "\n" not in str(raised.value)
