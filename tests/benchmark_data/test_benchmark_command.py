"""``igascale data benchmark``: descriptions, summaries, seeds, texts, the challenge file; the registry."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.errors import UserError
from igascale.evaluation.benchmarks import Benchmark, _summary, available, find, seeds, texts, texts_of
from igascale.isomers import contamination
from igascale.isomers.seeds import Seed, write_seeds

from published_files import (
    arb_folder,
    logiqa_folder,
    math_tree,
    reclor_folder,
    reclor_question,
    write_json,
    write_lines,
)

MAKERS = {"arb": arb_folder, "logiqa2": logiqa_folder, "math": math_tree, "reclor": reclor_folder}
OWN = """
from igascale.evaluation.benchmarks import Benchmark, find
class Own(type(find("reclor"))):
    name = "own"
class Unfinished(Benchmark):
    name = "unfinished"
"""


def invoke(*arguments, status=0):
    result = CliRunner().invoke(main, ["data", "benchmark", *map(str, arguments)])
    if isinstance(result.exception, UserError):
        assert status == 2, result.exception
        assert "\n" not in str(result.exception)
        return str(result.exception)
    assert result.exit_code == status, (result.output, result.exception)
    return result.output


def test_every_benchmark_is_found_by_its_file_name():
    assert available() == sorted(MAKERS)
    for name in available():
        assert find(name).name == name
    with pytest.raises(UserError, match="unknown benchmark 'recolr'; did you mean 'reclor'"):
        find("recolr")


def test_a_benchmark_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "own_benchmarks.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert isinstance(find("own_benchmarks:Own"), Benchmark)
    for name, said in (
        ("own_benchmarks:Unfinished", r"it must define item\(\), part\(\), split_of\(\)"),
        ("own_benchmarks:find", "not a subclass"),
        ("own_benchmarks:None_", "there is no 'None_' in own_benchmarks"),
        ("no_such_module:X", "ModuleNotFoundError"),
    ):
        with pytest.raises(UserError, match=said):
            find(name)


@pytest.mark.parametrize("name", MAKERS)
def test_the_description_says_what_must_be_known(name):
    output = invoke(name)
    for heading in (
        "licence",
        "how to get it",
        "published counts",
        "split of arXiv 2606.05025",
        "what the public files allow",
    ):
        assert f"  {heading}: " in output
    assert max(map(len, output.splitlines())) <= 112


@pytest.mark.parametrize("name", MAKERS)
def test_summary_seeds_and_texts_of_each(name, tmp_path):
    root = MAKERS[name](tmp_path / "data")
    output = invoke(name, root, "--seeds", tmp_path / "seeds.jsonl", "--texts", tmp_path / "texts.jsonl")
    benchmark = find(name)
    items = benchmark.load(root).items
    written = [Seed(**json.loads(line)) for line in (tmp_path / "seeds.jsonl").read_text().splitlines()]
    assert written == list(seeds(benchmark, items)) and len({seed.id for seed in written}) == len(items)
    for seed, item in zip(written, items, strict=True):
        assert seed.problem.startswith(item.question) and seed.answer == item.answer and seed.kind == item.subject
        assert seed.source == f"{name}/{item.split}" and seed.meta["licence"] == benchmark.facts.licence
        if item.options and item.answer:
            assert f"\n{item.answer}. {item.options[item.answer_index]}" in seed.problem
    lines = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    assert [(r["name"], r["id"], r["text"]) for r in lines] == list(texts(name, root))
    assert all(option in r["text"] for r, item in zip(lines, items, strict=True) for option in item.options)
    assert re.search(r"published are \d+", output) and "sha256 " in output
    sides = [len(benchmark.select(items, side)) for side in ("id", "ood")]
    assert f"split: id {sides[0]}, ood {sides[1]}, neither {len(items) - sum(sides)}" in output


@pytest.mark.parametrize("name", MAKERS)
def test_every_seed_is_found_in_the_texts_of_its_own_benchmark(name, tmp_path):
    items = find(name).load(MAKERS[name](tmp_path)).items
    pairs = [(seed.id, seed.problem) for seed in seeds(find(name), items)]
    report = contamination.check(pairs, texts_of(items))
    assert report.contaminated == len(items)
    whole = {f"{find(name).name}/{hit.reference}" for hit in report.hits if hit.coverage == 1.0}
    assert whole >= {seed_id for seed_id, _ in pairs}
    # Questions too short for an n-gram of their own: only the run across the options' borders can tell.
    short = [
        replace(item, question="Which one?", options=("one two", "three four", "five six", "seven")) for item in items
    ]
    report = contamination.check(((seed.id, seed.problem) for seed in seeds(find(name), short)), texts_of(short))
    assert report.contaminated == len(items)


def test_written_seeds_are_read_back_by_the_writer_of_seeds(tmp_path):
    items = find("math").load(math_tree(tmp_path)).items
    assert write_seeds(tmp_path / "again.jsonl", seeds(find("math"), items)) == len(items)
    invoke("math", tmp_path / "MATH", "--seeds", tmp_path / "seeds.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "seeds.jsonl").read_bytes()


def test_a_side_and_a_subset_are_selected(tmp_path):
    output = invoke("math", math_tree(tmp_path), "--split", "id", "--subset", "train", "--seeds", tmp_path / "s.jsonl")
    written = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert {(s["kind"], s["source"]) for s in written} == {("Algebra", "math/train"), ("Number Theory", "math/train")}
    assert "sides: id 2, ood 3, neither 2; id is selected" in output and "selected: 2 of 14 problems" in output
    assert "is this the paper's split? Not exactly" in output
    assert "cannot be evaluated" not in output
    output = invoke("math", tmp_path / "MATH", "--subset", "test", "--seeds", tmp_path / "t.jsonl")
    assert "They are from test: what is trained on them cannot be evaluated on that." in output
    held = ["--split", "ood", "--held-out", "Prealgebra", "--texts", tmp_path / "p.jsonl"]
    assert "ood 2, neither 0" in invoke("math", tmp_path / "MATH", *held)


def test_an_expected_digest(tmp_path):
    folder = reclor_folder(tmp_path)
    digest = find("reclor").load(folder).sha256
    assert digest in invoke("reclor", folder, "--expect", digest.upper())
    said = invoke("reclor", folder, "--expect", "0" * 64, status=2)
    assert f"sha256 of the whole is {digest}, not the expected 000" in said


def test_known_digests_are_compared_and_well_formed(tmp_path, monkeypatch):
    for name in available():
        for how, digests in _summary._digests(name).values():
            assert how in ("computed", "reported") and all(re.fullmatch("[0-9a-f]{64}", d) for d in digests)
    path = write_json(tmp_path / "val.json", [reclor_question(0)])
    output = invoke("reclor", path)
    assert "val.json: its sha256 is not the computed one (49a43973" in output
    benchmark = find("reclor")
    digest = benchmark.load(path).sha256
    monkeypatch.setattr(_summary, "_digests", lambda name: {"val.json": ("computed", (digest,))})
    output = invoke("reclor", path)
    assert "(as published)" in output and "its sha256 is not" not in output


def test_published_counts_give_no_warning(tmp_path):
    records = [reclor_question(n, "val", context=f"Context {n}.") for n in range(500)]
    output = invoke("reclor", write_json(tmp_path / "val.json", records))
    assert "val.json: 500 rows, 500 problems" in output and "published are" not in output
    assert "val: 499 problems, published are 500" in invoke("reclor", write_json(tmp_path / "val.json", records[1:]))


def test_the_challenge_file_by_command(tmp_path):
    folder = reclor_folder(tmp_path / "reclor")
    answers = write_lines(tmp_path / "answers.jsonl", [{"id": f"test_{n}", "prediction": "DCBA"[n]} for n in range(4)])
    out = tmp_path / "test_preds.npy"
    output = invoke("reclor", folder, "--predictions", answers, "--npy", out)
    assert np.load(out).tolist() == [3, 2, 1, 0] and np.load(out).dtype == np.int64
    assert "EvalAI challenge 503" in output
    assert "exists already" in invoke("reclor", folder, "--predictions", answers, "--npy", out, status=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["recolr"], "did you mean 'reclor'"),
        (["reclor", "--seeds", "s.jsonl"], "--seeds needs a path or a Hub id after 'reclor'"),
        (["reclor", "--split", "ood"], "--split needs a path"),
        (["reclor", "DATA", "--subset", "vall"], "--subset vall: not there; did you mean 'val'"),
        (["reclor", "DATA", "--held-out", "x"], "--held-out goes with --split id or --split ood"),
        (
            ["reclor", "DATA", "--held-out", "x", "--split", "ood"],
            "nothing here is labelled 'x'; these problems have no labels",
        ),
        (["reclor", "DATA", "--npy", "x.npy"], "--npy and --predictions go together"),
        (["reclor", "DATA", "--predictions", "x"], "--npy and --predictions go together"),
        (["reclor", "DATA", "--unanswered", "A"], "--unanswered goes with --npy"),
        (["math", "DATA", "--npy", "x", "--predictions", "y"], "--npy is for reclor"),
        (["reclor", "DATA", "--seeds", "no/such/folder/s.jsonl"], "s.jsonl: cannot be written: No such file"),
        (["reclor", "DATA", "--seeds", "DATA/val.json/s.jsonl"], "s.jsonl: cannot be written: Not a directory"),
        (["reclor", "DATA", "--seeds", "s" * 300], "cannot be written: File name too long"),
        (["reclor", "s" * 300], "cannot be read: File name too long"),
        (["reclor", "DATA/val.json/x/y"], "x/y: no such file or folder"),
        (["reclor", "DATA", "--seeds", "s.jsonl", "--texts", "./s.jsonl"], "--seeds and --texts both name ./s.jsonl"),
        (["reclor", "DATA", "--texts", "DATA/val.json"], "val.json: exists already"),
        (["reclor", "DATA/val.json", "--split", "id", "--seeds", "s.jsonl"], "nothing is selected; no file is written"),
    ],
)
def test_bad_arguments_are_one_line_and_write_nothing(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    reclor_folder(tmp_path / "DATA")
    before = sorted(Path().rglob("*"))
    assert said in invoke(*arguments, status=2)
    assert sorted(Path().rglob("*")) == before


def test_help_and_descriptions_import_nothing_heavy():
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom igascale.cli import main\n"
        "for arguments in (['data', '--help'], ['data', 'benchmark', '--help'], ['data', 'benchmark'], ['data', 'benchmark', 'arb']):\n"
        "    assert CliRunner().invoke(main, arguments).exit_code == 0\n"
        "print(sorted({'torch', 'datasets', 'openai', 'pyarrow', 'pandas'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
