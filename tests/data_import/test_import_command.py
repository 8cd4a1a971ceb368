"""`data import`: every format gives the same groups, every decision is said, and what is wrong leaves nothing behind."""

import json
import random

import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.isomers.generator import generate
from igascale.isomers.schema import read_groups

DOMAINS = ("law", "science", "medicine")


@pytest.fixture(scope="module")
def groups():
    return generate(30, DOMAINS, seed=2)


def rows_of(groups, **more):
    return [
        {
            "question": i.problem,
            "response": f"{i.cot}\nAnswer: {i.answer}",
            "domain": i.domain,
            "group_id": g.id,
            **more,
        }
        for g in groups
        for i in g.instances
    ]


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(source, out, *options):
    sources = source if isinstance(source, list) else [source]
    return CliRunner().invoke(main, ["data", "import", *map(str, sources), "--out", str(out), *map(str, options)])


def texts(groups):
    return {(g.id, i.domain): (i.problem, i.cot, i.answer) for g in groups for i in g.instances}


def test_rows_in_any_order_become_the_groups(tmp_path, groups):
    rows = rows_of(groups, note="x")
    random.Random(1).shuffle(rows)
    result = run(jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl")
    assert result.exit_code == 0, result.output
    found = read_groups(tmp_path / "out.jsonl")
    assert texts(found) == texts(groups)
    assert [g.id for g in found] == list(dict.fromkeys(row["group_id"] for row in rows))  # as first seen
    assert all([i.domain for i in g.instances] == [i.domain for i in found[0].instances] for g in found)
    assert all(g.seed_id == g.id for g in found)
    assert (
        "guessed from the names of the columns: prompt = 'question', completion = 'response', domain = 'domain', group = 'group_id'"
        in result.output
    )
    assert "not used: note" in result.output
    assert (
        "90 rows: the answer is from a last line 'Answer: ...'; the solution is what stands before it" in result.output
    )
    assert "30 groups, 90 instances" in result.output


def test_every_format_gives_the_same_bytes(tmp_path, groups):
    import csv

    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = rows_of(groups)
    sources = [
        jsonl(tmp_path / "rows.jsonl", rows),
        tmp_path / "rows.json",
        tmp_path / "rows.parquet",
        tmp_path / "rows.csv",
        tmp_path / "rows.tsv",
    ]
    (tmp_path / "rows.json").write_text("\ufeff \n" + json.dumps(rows, indent=2) + "\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet", row_group_size=7)
    for name, delimiter in (("rows.csv", ","), ("rows.tsv", "\t")):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "one")
    datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(rows[:3])}
    ).save_to_disk(tmp_path / "two")
    contents = set()
    for number, source in enumerate([*sources, tmp_path / "one"]):
        result = run(source, tmp_path / f"{number}.jsonl")
        assert result.exit_code == 0, result.output
        contents.add((tmp_path / f"{number}.jsonl").read_bytes())
    assert run(tmp_path / "two", tmp_path / "two.jsonl", "--split", "train").exit_code == 0
    contents.add((tmp_path / "two.jsonl").read_bytes())
    half = len(rows) // 2
    parts = [jsonl(tmp_path / "a.jsonl", rows[:half]), jsonl(tmp_path / "b.jsonl", rows[half:])]
    assert run(parts, tmp_path / "parts.jsonl").exit_code == 0
    contents.add((tmp_path / "parts.jsonl").read_bytes())
    assert len(contents) == 1
    result = run(tmp_path / "two", tmp_path / "no.jsonl")
    assert result.exit_code == 2 and "has the splits train, test; choose one with --split" in result.output


def test_columns_can_be_named(tmp_path, groups):
    rows = [
        {"q": i.problem, "why": i.cot, "a": i.answer, "where": i.domain, "set": n, "root": f"r{n // 2}", "sort": g.kind}
        for n, g in enumerate(groups)
        for i in g.instances
    ]
    named = {
        "prompt": "q",
        "cot": "why",
        "answer": "a",
        "domain": "where",
        "group": "set",
        "seed": "root",
        "kind": "sort",
    }
    options = [f"--{field}-field={column}" for field, column in named.items()]
    result = run(jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl", *options)
    assert result.exit_code == 0, result.output
    assert "guessed" not in result.output and "not used" not in result.output
    found = read_groups(tmp_path / "out.jsonl")
    assert [g.seed_id for g in found] == [f"r{n // 2}" for n in range(30)]
    assert [g.kind for g in found] == [g.kind for g in groups]
    assert [[(i.problem, i.cot, i.answer) for i in g.instances] for g in found] == [
        [(i.problem, i.cot, i.answer) for i in g.instances] for g in groups
    ]


def test_chosen_domains_in_their_order(tmp_path, groups):
    result = run(jsonl(tmp_path / "rows.jsonl", rows_of(groups)), tmp_path / "out.jsonl", "--domains", "medicine,law")
    assert result.exit_code == 0, result.output
    assert "30 of 90 rows are of other domains than --domains, and are left out" in result.output
    assert {tuple(i.domain for i in g.instances) for g in read_groups(tmp_path / "out.jsonl")} == {("medicine", "law")}
    result = run(tmp_path / "rows.jsonl", tmp_path / "no.jsonl", "--domains", "medicin,law")
    assert result.exit_code == 2 and "no row of domain 'medicin'; did you mean 'medicine'?" in result.output


def test_incomplete_groups_are_refused_or_left_out_by_name(tmp_path, groups):
    rows = rows_of(groups)
    rows.append(dict(rows[4]))  # twice
    del rows[0]
    source = jsonl(tmp_path / "rows.jsonl", rows)
    result = run(source, tmp_path / "out.jsonl")
    assert result.exit_code == 2
    assert f"{source}:1: group '{groups[0].id}' has no instance of domain law" in result.output
    assert f"{source}:3: group '{groups[1].id}' has domain 'science' twice: {source}:4 and {source}:90" in result.output
    assert "2 of 30 groups are not one instance of each domain; mend them" in result.output
    assert not (tmp_path / "out.jsonl").exists()
    result = run(source, tmp_path / "out.jsonl", "--drop-incomplete")
    assert result.exit_code == 0, result.output
    assert "they are left out (--drop-incomplete)" in result.output
    assert [g.id for g in read_groups(tmp_path / "out.jsonl")] == [g.id for g in groups[2:]]


def test_nothing_left_is_an_error(tmp_path, groups):
    rows = [row for n, row in enumerate(rows_of(groups)) if n % 3 == n // 3 % 3]
    result = run(jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl", "--drop-incomplete")
    assert result.exit_code == 2 and "no group is left; nothing was written" in result.output
    assert list(tmp_path.iterdir()) == [tmp_path / "rows.jsonl"]


def test_columns_that_the_first_row_lacks(tmp_path, groups):
    rows = rows_of(groups)
    for row in rows[4:]:
        row["rationale"], row["response"] = row["response"].rpartition("\n")[::2]
    source = jsonl(tmp_path / "rows.jsonl", rows)
    result = run(source, tmp_path / "out.jsonl")
    assert result.exit_code == 0, result.output
    assert "cot = 'rationale'" in result.output
    assert texts(read_groups(tmp_path / "out.jsonl")) == texts(groups)
    many = [dict(row, group_id=f"{n}/{row['group_id']}") for n in range(3) for row in rows_of(groups)]
    many[-1]["comment"] = "x"
    result = run(jsonl(source, many), tmp_path / "out.jsonl", "--force")
    assert result.exit_code == 0, result.output
    assert f"not used: comment, which none of the first 200 rows has ({source}:270)" in result.output


def test_an_existing_file_is_kept(tmp_path, groups):
    source = jsonl(tmp_path / "rows.jsonl", rows_of(groups))
    (tmp_path / "out.jsonl").write_text("mine")
    result = run(source, tmp_path / "out.jsonl")
    assert result.exit_code == 2 and "already exists" in result.output
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    broken = jsonl(tmp_path / "broken.jsonl", [*rows_of(groups), {}])
    assert run(broken, tmp_path / "out.jsonl", "--force").exit_code == 2
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    assert run(source, tmp_path / "out.jsonl", "--force").exit_code == 0
    assert len(read_groups(tmp_path / "out.jsonl")) == 30
    assert len(list(tmp_path.iterdir())) == 3


def test_out_folder_must_exist(tmp_path, groups):
    result = run(jsonl(tmp_path / "rows.jsonl", rows_of(groups)), tmp_path / "no" / "out.jsonl")
    assert result.exit_code == 2 and "there is no folder" in result.output


def test_bad_rows_are_all_named_up_to_a_number(tmp_path, groups):
    rows = rows_of(groups)
    for row in rows[3:]:
        row["response"] = "I do not know"
    rows[0]["question"] = None
    rows[1]["group_id"] = " "
    source = jsonl(tmp_path / "rows.jsonl", rows)
    result = run(source, tmp_path / "out.jsonl")
    assert result.exit_code == 2
    assert f"{source}:1: column 'question': expected text, not nothing" in result.output
    assert f"{source}:2: column 'group_id': is empty" in result.output
    assert f"{source}:4: no answer in the completion: no last line 'Answer: ...'" in result.output
    assert "(it ends '...I do not know')" in result.output
    assert result.output.count(f"{source}:") == 20
    assert "89 of 90 rows cannot be imported (the first 20 are shown); nothing was written" in result.output
    assert not (tmp_path / "out.jsonl").exists()


def test_rows_of_a_group_must_agree(tmp_path, groups):
    rows = rows_of(groups, seed_id="s")
    rows[1]["seed_id"] = "t"
    source = jsonl(tmp_path / "rows.jsonl", rows)
    result = run(source, tmp_path / "out.jsonl")
    assert result.exit_code == 2
    assert f"{source}:2: group '{groups[0].id}' has seed 't' here and 's' at {source}:1" in result.output


def test_half_a_surrogate_pair_is_a_bad_row(tmp_path, groups):
    rows = rows_of(groups)
    rows[5]["question"] += "\ud83d"
    result = run(jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl")
    assert result.exit_code == 2 and "rows.jsonl:6: holds half of a surrogate pair" in result.output


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', r"a.jsonl:2: not valid JSON"),
        ("a.jsonl", '"text"\n', "a.jsonl:1: a row must be an object with named fields, not str"),
        ("a.jsonl", "", "the source has no rows"),
        ("a.json", '[{"a": 1}, {"a": 2', "a.json, row 2: not valid JSON"),
        ("a.json", '[{"a": 1} {"a": 2}]', "a.json, row 2: not valid JSON (a comma is missing)"),
        ("a.json", '[{"a": 1}', "does not end; the file is cut off after row 1"),
        ("a.json", '[{"a": 1},', "does not end; the file is cut off after row 1"),
        ("a.json", '[{"a": 1}] x', "more text after the JSON array's end"),
        ("a.json", "[]", "the source has no rows"),
        ("a.json", "[1, 2]", "a.json, row 1: a row must be an object"),
        ("a.csv", "a,b\n1,2\n3\n", "a.csv:3: the row has not as many fields as the header, 2"),
        ("a.csv", "a,a\n1,2\n", "a.csv:1: a column's name is there twice"),
        ("a.csv", 'a,b\n1,"2', "a.csv:2: not valid CSV"),
        ("a.parquet", "no", "not a Parquet file that can be read"),
        ("a.jsonl", '{"question": "q", "response": "Answer: 1", "group": 1}', "which column holds the domain"),
        ("a.jsonl", '{"question": "q", "response": "Answer: 1", "domain": "law"}', "Name it with --group-field"),
        ("a.jsonl", '{"text": "q", "domain": "law", "group": 1}', "no prompt and no messages"),
        ("a.jsonl", '{"prompt": "q", "domain": "law", "group": 1}', "no completion and no answer"),
        (
            "a.jsonl",
            '{"a": 1}\n{"a": 1, "b": {"c": 1, "c": 2}}\n',
            "a.jsonl:2: not valid JSON (the key 'c' is there twice)",
        ),
        ("a.json", '[{"a": 1, "a": 2}]', "a.json, row 1: not JSON that can be read (the key 'a' is there twice)"),
        ("a.jsonl", '{"a": ' + "1" * 5000 + "}", "a.jsonl:1: not valid JSON (Exceeds the limit"),
        ("a.json", '[{"a": ' + "1" * 5000 + "}]", "a.json, row 1: not JSON that can be read (Exceeds the limit"),
        ("a.json", '[{"a": ' + "[" * 100_000, "a.json, row 1: not JSON that can be read (maximum recursion"),
        ("a.jsonl", '{"id": "g", "seed_id": "s", "instances": []}', "is a group of isomers already"),
    ],
)
def test_broken_sources(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    named = ["--domain-field=a", "--group-field=a", "--prompt-field=a", "--answer-field=a"]
    columns = named if '"a"' in content or name == "a.csv" else []  # these break while they are read, the others before
    result = run(tmp_path / name, tmp_path / "out.jsonl", *columns)
    assert result.exit_code == 2, result.output
    assert message in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out.jsonl").exists()


def test_sources_that_are_not_there(tmp_path, monkeypatch):
    for name in ("none.jsonl", "./none", str(tmp_path / "none")):
        result = run(name, tmp_path / "out.jsonl")
        assert result.exit_code == 2 and f"{name}: no such file; check the path" in result.output
    (tmp_path / "folder").mkdir()
    result = run(tmp_path / "folder", tmp_path / "out.jsonl")
    assert result.exit_code == 2 and "not a folder that `datasets` saved" in result.output
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\n")
    result = run(tmp_path / "bytes.jsonl", tmp_path / "out.jsonl")
    assert result.exit_code == 2 and "not UTF-8" in result.output


def test_the_hub_without_a_network_is_one_line(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    result = run("nobody/no-such-set", tmp_path / "out.jsonl", "--split", "train")
    assert result.exit_code == 2
    lines = [line for line in result.output.splitlines() if "nobody/no-such-set" in line]
    assert lines and "`datasets` cannot load it from the Hub (" in lines[-1]
    assert "Traceback" not in result.output


def test_a_wrong_column_or_pattern_is_one_line(tmp_path, groups):
    source = jsonl(tmp_path / "rows.jsonl", rows_of(groups))
    result = run(source, tmp_path / "out.jsonl", "--prompt-field", "questoin")
    assert result.exit_code == 2
    assert "no column 'questoin' (--prompt-field); did you mean 'question'?" in result.output
    for pattern, message in (("(", "not a regular expression"), ("(a)(b)", "has 2 groups")):
        result = run(source, tmp_path / "out.jsonl", "--answer-pattern", pattern)
        assert result.exit_code == 2 and message in result.output
    result = run(source, tmp_path / "out.jsonl", "--split", "train")
    assert result.exit_code == 2 and "--split and --subset are for" in result.output


def test_names_that_no_file_can_have_are_one_line(tmp_path, groups):
    source = jsonl(tmp_path / "rows.jsonl", rows_of(groups))
    for a, b in (("x" * 300, tmp_path / "out.jsonl"), (source, tmp_path / ("x" * 300))):
        result = run(a, b)
        assert result.exit_code == 2 and "File name too long" in result.output and "Traceback" not in result.output
    result = run(source, source / "out.jsonl")
    assert result.exit_code == 2 and "there is no folder" in result.output
    result = run(source / "x.jsonl", tmp_path / "out.jsonl")
    assert result.exit_code == 2 and "no such file; check the path" in result.output


def test_numbers_that_a_table_made_floats_name_the_same_group(tmp_path):
    rows = [
        {"prompt": "Q", "answer": "1", "domain": domain, "group": group, "seed": 42}
        for domain, numbers in (("a", (1, 2.5)), ("b", (1.0, 2.5)))
        for group in numbers
    ]
    result = run(jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl")
    assert result.exit_code == 0, result.output
    assert [(g.id, g.seed_id) for g in read_groups(tmp_path / "out.jsonl")] == [("1", "1"), ("2.5", "2.5")]
    assert "not used: seed" in result.output  # a sampler's, more likely than a seed problem


def test_an_instruction_with_its_input(tmp_path):
    rows = [
        {"instruction": "Add.", "input": f"2 and {n}", "output": f"Answer: {n + 2}", "domain": domain, "group": n}
        for n in range(2)
        for domain in ("a", "b")
    ]
    result = run(jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl")
    assert result.exit_code == 0, result.output
    assert "prompt = 'instruction'" in result.output and "the problem's second part = 'input'" in result.output
    assert "4 rows: column 'input' stands after the instruction, as part of the problem" in result.output
    assert "not used" not in result.output
    assert read_groups(tmp_path / "out.jsonl")[1].instances[0].problem == "Add.\n\n2 and 1"


def test_a_set_larger_than_the_memory_it_takes(tmp_path):
    """2,000 rows of 20 kB are 40 MB; Python holds a fifth of that (the first 200 rows, to choose the columns by), SQLite at most 16 MiB."""
    import tracemalloc

    from igascale.data_import.convert import Options, import_groups

    count, text = 500, "word " * 4000

    def rows():
        for domain in ("a", "b", "c", "d"):
            for number in range(count):
                row = {"prompt": f"{text}{domain}{number}", "answer": "1", "domain": domain, "group": number}
                yield f"row {number}", row

    tracemalloc.start()
    try:
        assert import_groups(rows(), tmp_path / "out.jsonl", Options(), lambda line: None) == count
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "out.jsonl").stat().st_size > 40e6
    assert peak < 8e6
