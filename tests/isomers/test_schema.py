"""The JSONL schema: what it accepts comes back unchanged, and each refusal names file, line and field."""

import copy
import json

import pytest

from igascale.errors import UserError
from igascale.evaluation.answers import extract_answer, is_correct
from igascale.isomers.encode import completion_text
from igascale.isomers.generator import generate
from igascale.isomers.schema import (
    EDGE_LABELS,
    NODE_TYPES,
    IsomerGroup,
    domains_of,
    iter_groups,
    read_groups,
    to_record,
    write_groups,
)

DOMAINS = ("law", "science")


@pytest.fixture
def records():
    return [to_record(group) for group in generate(6, DOMAINS, seed=3)]


def write_lines(path, lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_round_trip_keeps_everything(tmp_path):
    groups = generate(12, DOMAINS, seed=5)
    write_groups(tmp_path / "a.jsonl", groups)
    assert read_groups(tmp_path / "a.jsonl") == groups
    assert [number for number, _ in iter_groups(tmp_path / "a.jsonl")] == list(range(1, 13))
    assert domains_of(groups) == DOMAINS


def test_plain_group_without_dag_kind_or_ids(tmp_path):
    instances = [{"domain": d, "problem": "Is it?", "cot": "", "answer": "yes"} for d in DOMAINS]
    line = {"id": "g", "seed_id": "s", "instances": instances}
    (group,) = read_groups(write_lines(tmp_path / "plain.jsonl", [line]))
    assert group == IsomerGroup("g", "s", group.instances)
    assert [instance.id for instance in group.instances] == ["g/law", "g/science"]


def test_generated_records_use_the_declared_types(records):
    for record in records:
        assert {node["type"] for node in record["dag"]["nodes"]} <= set(NODE_TYPES)
        assert {edge["label"] for edge in record["dag"]["edges"]} <= set(EDGE_LABELS)


def drop(*path):
    def change(record):
        target = record
        for key in path[:-1]:
            target = target[key]
        del target[path[-1]]

    return change


def put(value, *path):
    def change(record):
        target = record
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return change


BROKEN = [
    (drop("id"), "'id'", "missing"),
    (drop("seed_id"), "'seed_id'", "missing"),
    (drop("instances"), "'instances'", "missing"),
    (put({}, "instances"), "'instances'", "must be a list, not an object"),
    (put([], "instances"), "'instances'", "empty"),
    (put(7, "id"), "'id'", "must be a string, not a number"),
    (put("x", "promblem"), "'promblem'", "not a known field"),
    (drop("instances", 1, "answer"), "'instances[1].answer'", "missing"),
    (put("", "instances", 1, "answer"), "'instances[1].answer'", "empty"),
    (put("  ", "instances", 0, "problem"), "'instances[0].problem'", "empty"),
    (put(None, "instances", 0, "cot"), "'instances[0].cot'", "must be a string, not null"),
    (put(True, "instances", 0, "answer"), "'instances[0].answer'", "must be a string, not a boolean"),
    *[
        (put(answer, "instances", 1, "answer"), f"'instances[1].answer': {answer!r}", "could never be scored as right")
        for answer in ("1\n2", "...", "Answer: 5", "\n5", '"."', "a\u2028b", "5 (Answer:)")
    ],
    (put("x", "instances", 0, "anwser"), "'instances[0].anwser'", "did you mean 'answer'"),
    (put("law", "instances", 1, "domain"), "'instances[1].domain'", "twice"),
    (put([], "meta"), "'meta'", "must be an object, not a list"),
    (put("FACT", "dag", "nodes", 0, "type"), "'dag.nodes[0].type'", "not one of ENTITY"),
    (put("IMPLY", "dag", "edges", 0, "label"), "'dag.edges[0].label'", "did you mean 'IMPLIES'"),
    (put("nowhere", "dag", "edges", 0, "source"), "'dag.edges[0].source'", "'nowhere'"),
    (put(-1, "dag", "steps"), "'dag.steps'", "whole number"),
    (put(True, "dag", "steps"), "'dag.steps'", "whole number"),
    (put("g", "dag", "nodes", 0, "id"), "'dag.nodes[", "twice"),
]


@pytest.mark.parametrize(("change", "field", "problem"), BROKEN)
def test_bad_line_names_file_line_and_field(tmp_path, records, change, field, problem):
    records[2] = copy.deepcopy(records[2])
    change(records[2])
    path = write_lines(tmp_path / "bad.jsonl", records)
    with pytest.raises(UserError) as error:
        read_groups(path)
    message = str(error.value)
    assert message.startswith(f"{path}:3: ")
    assert field in message
    assert problem in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "answer", ["5", " 5. ", '"The Bank."', "Ja.", "\\frac{1}{2}", "x, y", "answer: 5", "是", "'", "-0.5"]
)
def test_answers_that_can_be_right(tmp_path, records, answer):
    put(answer, "instances", 0, "answer")(records[0])
    group = read_groups(write_lines(tmp_path / "good.jsonl", records))[0]
    instance = group.instances[0]
    assert instance.answer == answer
    assert is_correct(extract_answer(completion_text(instance)), answer)


def test_broken_json_names_line_and_column(tmp_path, records):
    path = write_lines(tmp_path / "bad.jsonl", [records[0], '{"id": "x",\n'])
    with pytest.raises(UserError, match=r"bad\.jsonl:2: not valid JSON .*column"):
        read_groups(path)


def test_line_that_is_no_object(tmp_path, records):
    path = write_lines(tmp_path / "bad.jsonl", [records[0], "[1]\n"])
    with pytest.raises(UserError, match=r"bad\.jsonl:2: .*must be an object, not a list"):
        read_groups(path)


def test_not_utf8(tmp_path, records):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(json.dumps(records[0]).encode() + b"\n\xff\xfe\n")
    with pytest.raises(UserError, match=r"bad\.jsonl:2: not UTF-8"):
        read_groups(path)


def test_group_missing_a_domain(tmp_path, records):
    del records[3]["instances"][0]
    with pytest.raises(UserError, match=r":4: .*'instances'.* no instance of domain 'law'.*line 1"):
        read_groups(write_lines(tmp_path / "bad.jsonl", records))


def test_group_with_an_extra_domain(tmp_path, records):
    records[3]["instances"].append({"domain": "sciense", "problem": "p", "cot": "", "answer": "a"})
    with pytest.raises(UserError, match=r":4: .*'sciense'.*did you mean 'science'"):
        read_groups(write_lines(tmp_path / "bad.jsonl", records))


def test_duplicate_group_id(tmp_path, records):
    records[4]["id"] = records[1]["id"]
    with pytest.raises(UserError, match=r":5: field 'id': .*already on line 2"):
        read_groups(write_lines(tmp_path / "bad.jsonl", records))


def test_duplicate_instance_id(tmp_path, records):
    records[4]["instances"][1]["id"] = records[1]["instances"][0]["id"]
    with pytest.raises(UserError, match=r":5: field 'instances\[1\]\.id': .*already on line 2"):
        read_groups(write_lines(tmp_path / "bad.jsonl", records))


def test_cyclic_graph(tmp_path, records):
    edge = records[0]["dag"]["edges"][0]
    records[0]["dag"]["edges"].append({"source": edge["target"], "target": edge["source"], "label": "IMPLIES"})
    with pytest.raises(UserError, match=r":1: field 'dag\.edges': hold the cycle"):
        read_groups(write_lines(tmp_path / "bad.jsonl", records))


def test_missing_and_empty_file(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: cannot read"):
        read_groups(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match=r"empty\.jsonl: no groups"):
        read_groups(write_lines(tmp_path / "empty.jsonl", ["\n"]))


@pytest.mark.parametrize("own", [True, False])
def test_instance_ids_that_are_left_out_count_too(tmp_path, own):
    """An id may be that of another group's instance, also where that one is not written down."""

    def group(name, *ids, domains=DOMAINS):
        instances = [{"domain": d, "problem": "p", "cot": "", "answer": "a"} for d in domains]
        return {"id": name, "seed_id": "s", "instances": [i | ({"id": n} if n else {}) for i, n in zip(instances, ids)]}

    plain, named = group("a", "", ""), group("b", "b1", "a/law")
    lines = [plain, named] if own else [named, plain]
    with pytest.raises(UserError, match=r":2: field 'instances\[[01]\].id': instance 'a/law' is already on line 1"):
        read_groups(write_lines(tmp_path / "bad.jsonl", lines))
    read_groups(
        write_lines(tmp_path / "good.jsonl", [plain, group("b", "b1", "a/medicine"), group("c", "a/x", "c/law")])
    )
    # The group's own id is free where its instances have others.
    read_groups(write_lines(tmp_path / "free.jsonl", [group("a", "x", "y"), group("b", "a/law", "")]))
    with pytest.raises(UserError, match=r":2: .* instance 'b1' is already on line 2"):
        read_groups(write_lines(tmp_path / "twice.jsonl", [plain, group("b", "b1", "b1")]))
    domains = ("x/y", "y") if own else ("y", "x/y")
    with pytest.raises(UserError, match=r":2: .* instance 'a/x/y' is already on line 1"):
        read_groups(write_lines(tmp_path / "slash.jsonl", [group(n, "", "", domains=domains) for n in ("a", "a/x")]))
