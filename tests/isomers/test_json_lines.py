"""Lines of JSON and paths that others give: whatever is wrong with them is one line that names them."""

import json

import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.errors import UserError
from igascale.isomers.generator import generate
from igascale.isomers.json_lines import parse_json
from igascale.isomers.schema import iter_groups, read_groups, write_groups
from igascale.isomers.seeds import read_seeds
from igascale.isomers.texts import read_texts

BAD = {
    '{"id": "a", "problem": "x", "id": "b"}': "field 'id': is there twice in one object",
    '{"id": "a", "problem": "x", "meta": {"k": {"n": 1, "m": 2, "n": 1}}}': "field 'n': is there twice in one object",
    '{"problem": "x", "id": ' + "7" * 5000 + "}": "not JSON that can be read (Exceeds the limit",
    '{"problem": "x", "meta": ' + "[" * 100_000 + "]" * 100_000 + "}": "not JSON that can be read (",
    '{"problem": "x",': "not valid JSON (",
}


def test_what_is_good_is_as_json_reads_it():
    text = '{"a": [1, 2.5, null, {"b": "ü", "c": {}}], "b": true}'
    assert parse_json(text, "f:1", "") == json.loads(text)


@pytest.mark.parametrize(("line", "told"), BAD.items(), ids=["twice", "nested", "digits", "depth", "cut"])
def test_bad_lines_are_one_line_for_every_reader(tmp_path, line, told):
    path = tmp_path / "bad.jsonl"
    for read, first in (
        (read_groups, None),
        (read_seeds, {"id": "z", "problem": "good"}),
        (lambda path: list(read_texts(path)), {"id": "z", "text": "good"}),
        (lambda path: list(read_texts(path)), {"id": "z", "problem": "good"}),
    ):
        if first is None:
            write_groups(path, generate(1))
        else:
            path.write_text(json.dumps(first) + "\n")
        path.write_text(path.read_text() + line + "\n")
        with pytest.raises(UserError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(f"{path}:2: ")
        assert told in message
        assert "\n" not in message and len(message) < 400


def test_a_group_with_a_field_twice_is_heard_of_and_left_out(tmp_path):
    groups = generate(3)
    write_groups(tmp_path / "g.jsonl", groups)
    lines = (tmp_path / "g.jsonl").read_text().splitlines()
    lines[1] = lines[1].replace('"answer": ', '"answer": "Z", "answer": ', 1)
    (tmp_path / "g.jsonl").write_text("\n".join(lines))
    heard = []
    assert [number for number, _ in iter_groups(tmp_path / "g.jsonl", heard.append)] == [1, 3]
    assert heard == [f"{tmp_path}/g.jsonl:2: field 'answer': is there twice in one object; leave one"]


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["split", "GROUPS", "--out", LONG],
        ["split", LONG, "--out", "new"],
        ["variant", "GROUPS", "--kind", "leaky", "--out", LONG],
        ["variant", LONG, "--kind", "leaky", "--out", "new"],
        ["generate", "--groups", "4", "--validation-groups", "2", "--ood-groups", "2", "--out", LONG],
        ["generate", "--groups", "4", "--validation-groups", "2", "--ood-groups", "2", "--out", "GROUPS/x"],
        ["seeds", "--count", "3", "--out", LONG],
        ["seeds", "--count", "3", "--out", "GROUPS/x"],
        ["seeds", "--count", "3", "--out", "missing/x"],
        ["inspect", LONG],
        ["inspect", "GROUPS", "--html", LONG],
        ["inspect", "GROUPS", "--html", "GROUPS/x.html"],
        ["leakage", LONG, "GROUPS"],
        ["leakage", "GROUPS", LONG],
        ["leakage", "GROUPS", "GROUPS", "--report", LONG],
        ["leakage", "GROUPS", "GROUPS", "--report", "GROUPS/x"],
        ["leakage", "GROUPS", "GROUPS", "--threshold", "1e-9"],
        ["split", "GROUPS", "--out", "new", "--threshold", "1e-9"],
        ["contamination", LONG, "--against", "GROUPS"],
        ["contamination", "GROUPS", "--against", LONG],
        ["contamination", "GROUPS", "--against", "GROUPS", "--report", "GROUPS/x"],
    ],
    ids=lambda arguments: " ".join(arguments).replace(LONG, "LONG"),
)
def test_paths_that_cannot_be_are_one_line(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    write_groups("GROUPS", generate(4))
    before = (tmp_path / "GROUPS").read_bytes()
    done = CliRunner().invoke(main, ["data", *arguments])
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    errors = [line for line in done.stderr.splitlines() if line]
    assert len(errors) == 1 and errors[0].startswith("error: "), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["GROUPS"]
    assert (tmp_path / "GROUPS").read_bytes() == before
