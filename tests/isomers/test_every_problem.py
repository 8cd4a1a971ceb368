"""`data validate`: every problem of a file, with its line and field, by the rules that reading stops at."""

import json

import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.errors import UserError
from igascale.isomers.generator import generate
from igascale.isomers.schema import iter_groups, read_groups, to_record, write_groups

from tiny import save_tiny_model_folder


@pytest.fixture
def records():
    return [to_record(group) for group in generate(6, ("law", "science"), seed=3)]


def write(path, records):
    path.write_text("".join(r if isinstance(r, str) else json.dumps(r) + "\n" for r in records))
    return path


@pytest.fixture
def bad(tmp_path, records):
    del records[1]["instances"][0]["answer"]
    records[1]["instances"][1]["problem"] = " "
    records[1]["knid"] = "x"
    records[1]["dag"]["steps"] = -1
    records[1]["dag"]["nodes"][0]["type"] = "FACT"
    records[2] = "not json\n"
    records[3]["id"] = records[0]["id"]
    del records[3]["instances"][1]
    records[4]["seed_id"] = 7
    records[4]["instances"] = [records[4]["instances"][0], "told", {}]
    return write(tmp_path / "bad.jsonl", records)


EXPECTED = [
    "2: field 'knid': is not a known field; did you mean 'kind'?",
    "2: field 'instances[0].answer': is missing",
    "2: field 'instances[1].problem': is empty",
    "2: field 'dag.nodes[0].type': is 'FACT', not one of",
    "2: field 'dag.steps': must be a whole number of at least 0, not -1",
    "3: not valid JSON",
    "4: field 'id': group '3-00000' is already on line 1",
    "4: field 'instances[0].id': instance",
    "4: field 'instances': group '3-00000' has no instance of domain 'science', which the group on line 1 has",
    "5: field 'instances[1]': must be an object, not a string",
    "5: field 'instances[2].domain': is missing",
    "5: field 'instances[2].problem': is missing",
    "5: field 'instances[2].cot': is missing",
    "5: field 'instances[2].answer': is missing",
    "5: field 'seed_id': must be a string, not a number",
]


def test_every_problem_of_every_line(bad, records):
    records[3]["instances"][0]["id"] = records[0]["instances"][1]["id"]
    write(bad, records)
    found = []
    good = [number for number, _ in iter_groups(bad, found.append)]
    assert good == [1, 6]
    assert len(found) == len(EXPECTED)
    for problem, expected in zip(found, EXPECTED):
        assert problem.startswith(f"{bad}:{expected}")
    with pytest.raises(UserError) as error:
        read_groups(bad)
    assert str(error.value) == found[0]


def test_lines_that_are_no_text_or_no_json(tmp_path, records):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(
        b"\xff\n" + b"[" * 100_000 + b"\n" + json.dumps(records[0]).encode() + b'\n{"id": ' + b"9" * 5000 + b"}\n"
    )
    found = []
    assert [number for number, _ in iter_groups(path, found.append)] == [3]
    assert [problem.split(": ")[0].rsplit(":", 1)[1] for problem in found] == ["1", "2", "4"]
    assert "not UTF-8" in found[0]
    assert all("JSON" in problem for problem in found[1:])


def validate(*arguments):
    return CliRunner().invoke(main, ["data", "validate", *map(str, arguments)])


def test_command_shows_all_and_fails(bad):
    result = validate(bad)
    assert result.exit_code == 2
    assert result.output.count(f"{bad}:") >= 14
    assert f"{bad}: 14 problem(s)\n" in result.output
    assert "its lines without a problem: 2 groups" in result.output
    assert "Traceback" not in result.output


def test_command_counts_what_it_does_not_show(bad):
    result = validate(bad, "--max-problems", 3)
    assert result.exit_code == 2
    assert f"{bad}: 14 problem(s), the first 3 shown" in result.output
    assert result.output.count(f"{bad}:2: field") == 3
    assert f"{bad}:3:" not in result.output


def test_an_empty_file_is_a_problem(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    result = validate(tmp_path / "empty.jsonl")
    assert result.exit_code == 2
    assert "no groups in it" in result.output


def test_a_missing_file_is_one_line(tmp_path):
    result = validate(tmp_path / "nothing.jsonl")
    assert result.exit_code == 2
    assert "cannot read this file of groups" in result.output


def test_no_file_named(tmp_path):
    result = validate()
    assert result.exit_code == 2
    assert "--config RUN.yaml" in result.output


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_tiny_model_folder(tmp_path_factory.mktemp("model"), chat_template=True)


def test_with_a_tokenizer_a_group_is_rendered_and_lengths_are_told(tmp_path, model):
    groups = generate(6, ("law", "science"), seed=3)
    write_groups(tmp_path / "a.jsonl", groups)
    result = validate(tmp_path / "a.jsonl", "--tokenizer", model)
    assert result.exit_code == 0, result.output
    for domain in ("law", "science"):
        assert f"group {groups[0].id}, {domain}; the loss is on the marked tokens" in result.output
    assert result.output.count("<|user|>") == result.output.count("<|assistant|>[[") == 2
    assert result.output.count("</s>]]") == 2
    assert "none is longer than max_length 1024" in result.output
    assert "every instance has supervised tokens" in result.output
    assert ", p50 " in result.output and ", p99 " in result.output


def test_what_a_cut_leaves_is_counted(tmp_path, model):
    write_groups(tmp_path / "a.jsonl", generate(6, ("law", "science"), seed=3))
    result = validate(tmp_path / "a.jsonl", "--tokenizer", model, "--max-length", 8)
    assert result.exit_code == 2
    assert "12 of 12 instances are longer than max_length 8" in result.output
    assert "12 instances have no supervised token at max_length 8, the first is '3-00000/law'" in result.output


def test_a_configuration_names_files_tokenizer_and_length(tmp_path):
    import runs

    config = runs.prepare(tmp_path)
    result = validate("--config", config)
    assert result.exit_code == 0, result.output
    for name in ("train", "validation", "ood"):
        assert f"{name}.jsonl: none is longer than max_length 512" in result.output, result.output
