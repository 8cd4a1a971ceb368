"""Benchmarks from their files to the numbers of an evaluation, by a generator that knows what it answers."""

import sys
from pathlib import Path

import pytest

from igascale.errors import UserError
from igascale.evaluation.evaluate import evaluate
from igascale.evaluation.generator import Answered
from igascale.evaluation.request import BenchmarkChoice, Request, parse_benchmarks, read_suites
from igascale.evaluation.results import read_result, write_result
from igascale.evaluation.store import AnswerStore
from igascale.isomers.schema import Instance, IsomerGroup, write_groups

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmark_data"))
from published_files import arb_folder, logiqa_folder, math_tree, reclor_folder, write_lines


class Oracle:
    """Answers what it is told to, by what stands in the problem."""

    def __init__(self, says):
        self.says, self.asked = says, []

    def settings(self):
        return {"generator": "oracle", "template": "chat"}

    def answer(self, problems):
        for index in reversed(range(len(problems))):
            self.asked.append(problems[index])
            yield index, Answered(self.says(problems[index]), 7, True)


def request(*benchmarks, **changes):
    return Request(model="m", shown="m", out="out", benchmarks=benchmarks, **changes)


def measured(says, *benchmarks, **changes):
    suites, notes = read_suites(request(*benchmarks, **changes))
    oracle = Oracle(says)
    return evaluate(oracle, suites, AnswerStore(oracle.settings())), notes, oracle


def test_math_sides_gap_chance_and_settings(tmp_path):
    """Right on algebra and nowhere else; chance is the most frequent answer's share."""
    tree = math_tree(tmp_path)
    choice = BenchmarkChoice("math", str(tree), ("test",))
    result, notes, oracle = measured(lambda p: r"So \boxed{0}." if "Algebra" in p else r"\boxed{77}", choice)
    suite = result.suites["math"]
    assert (suite.id.accuracy.samples, suite.ood.accuracy.samples) == (2, 3)
    assert (suite.id.accuracy.value, suite.ood.accuracy.value, suite.delta_gap) == (0.5, 0.0, 0.5)
    assert suite.id.accuracy.chance == 0.5
    assert suite.id.per_domain["Algebra"].value == 1.0
    assert suite.id.per_domain["Number Theory"].value == 0.0
    assert suite.id.consistency is None
    assert len(oracle.asked) == 5
    assert "math: 2 of 7 problems are on neither side and are not asked (--benchmark-split all)" in notes
    assert result.settings["math.source"] == str(tree)
    assert len(result.settings["math.sha256"]) == 64
    assert result.settings["math.task_version"] >= 1
    sample = next(s for s in result.samples if s.domain == "Algebra")
    assert (sample.suite, sample.split, sample.correct, sample.expected) == ("math", "id", True, "0")
    write_result(result, tmp_path / "out")
    assert read_result(tmp_path / "out" / "evaluation.json") == result


def test_training_problems_are_told(tmp_path):
    _, notes, _ = measured(lambda p: "", BenchmarkChoice("math", str(math_tree(tmp_path))))
    assert "math: ID: 2 of 4 problems are of the publisher's training split (--subset)" in notes


def test_all_problems_together(tmp_path):
    result, _, _ = measured(
        lambda p: r"\boxed{4}", BenchmarkChoice("math", str(math_tree(tmp_path)), ("test",)), benchmark_split="all"
    )
    suite = result.suites["math"]
    assert list(suite.splits) == ["all"]
    assert (suite.id, suite.ood, suite.delta_gap) == (None, None, None)
    assert suite.all.accuracy.value == pytest.approx(1 / 7)
    write_result(result, tmp_path / "out")
    assert read_result(tmp_path / "out" / "evaluation.json") == result


def test_held_out_labels_make_the_sides(tmp_path):
    choice = BenchmarkChoice("math", str(math_tree(tmp_path)), ("test",))
    result, _, _ = measured(lambda p: "", choice, held_out={"math": ("Prealgebra",)})
    assert result.suites["math"].ood.accuracy.samples == 1
    assert result.suites["math"].id.accuracy.samples == 6
    with pytest.raises(UserError, match="did you mean 'Prealgebra'"):
        measured(lambda p: "", choice, held_out={"math": ("Prealgbra",)})


def test_one_side_only_is_told(tmp_path):
    """ReClor's validation file alone is all OOD."""
    folder = reclor_folder(tmp_path)
    result, notes, oracle = measured(lambda p: "Answer: A", BenchmarkChoice("reclor", str(folder / "val.json")))
    suite = result.suites["reclor"]
    assert (suite.id, suite.delta_gap) == (None, None)
    assert suite.ood.accuracy.value == 0.5  # labels 0 and 1
    assert any("there is no ID side in these files, so no gap" in note for note in notes)
    assert "A. The green thing is dark." in oracle.asked[0]
    assert len(result.samples) == 2


def test_hidden_answers_are_left_out_and_counted(tmp_path):
    folder = reclor_folder(tmp_path)
    choice = BenchmarkChoice("reclor", str(folder))
    result, notes, _ = measured(lambda p: "Answer: B", choice, benchmark_split="all")
    assert result.suites["reclor"].all.accuracy.samples == 5
    assert any("ALL: 4 left out: its answer is hidden" in note for note in notes)
    with pytest.raises(UserError, match="no problem that can be scored"):
        measured(lambda p: "", BenchmarkChoice("reclor", str(folder), ("test",)), benchmark_split="all")


def test_proofs_are_left_out_and_counted(tmp_path):
    result, notes, _ = measured(lambda p: "ANSWER: B", BenchmarkChoice("arb", str(arb_folder(tmp_path))))
    assert any("proof" in note and "left out" in note for note in notes)
    assert result.suites["arb"].ood.accuracy.value > 0
    assert all(s.kind != "proof" for s in result.samples)


def test_several_benchmarks_and_isomers_at_once(tmp_path):
    group = IsomerGroup("g", "g", (Instance("law", "Who?", "So.", "Ann"), Instance("drug", "Who is it?", "So.", "Ann")))
    write_groups(tmp_path / "id.jsonl", [group])
    choices = (
        BenchmarkChoice("logiqa2", str(logiqa_folder(tmp_path)), ("test", "ood_test")),
        BenchmarkChoice("math", str(math_tree(tmp_path)), ("test",)),
    )
    result, _, _ = measured(lambda p: "Answer: Ann", *choices, id_file=str(tmp_path / "id.jsonl"))
    assert list(result.suites) == ["isomers", "logiqa2", "math"]
    assert result.isomers.id.accuracy.value == 1.0
    assert [s.suite for s in result.samples] == ["isomers"] * 2 + ["logiqa2"] * 5 + ["math"] * 5
    assert result.suites["logiqa2"].id.accuracy.parse_failures == 1.0


def test_an_answer_of_blanks_is_no_answer(tmp_path):
    result, _, _ = measured(lambda p: " \n\t", BenchmarkChoice("math", str(math_tree(tmp_path)), ("test",)))
    assert result.suites["math"].id.accuracy.parse_failures == 1.0
    assert all(sample.predicted is None and not sample.correct for sample in result.samples)


def test_limited_problems_are_spread(tmp_path):
    choice = BenchmarkChoice("math", str(math_tree(tmp_path)), ("test",))
    result, notes, _ = measured(lambda p: "", choice, benchmark_split="all", limit_problems=3)
    assert [s.domain for s in result.samples] == ["Algebra", "Geometry", "Number Theory"]
    assert any("only 3 problems of each side" in note for note in notes)


@pytest.mark.parametrize(
    ("benchmarks", "subsets", "message"),
    [
        (["math"], [], "--benchmark math: should be NAME=SOURCE"),
        (["maths=x"], [], "unknown benchmark 'maths'; did you mean 'math'"),
        (["math=x", "math=y"], [], "given twice"),
        (["math=x"], ["arb=test"], "there is no --benchmark arb=SOURCE"),
        (["math=x"], ["math"], "--subset math: should be NAME=SPLIT"),
    ],
)
def test_bad_options(benchmarks, subsets, message):
    with pytest.raises(UserError, match=message) as error:
        parse_benchmarks(benchmarks, subsets)
    assert "\n" not in str(error.value)


def test_bad_files(tmp_path):
    with pytest.raises(UserError, match=r"math=test2: .* has no such split; did you mean 'test'"):
        measured(lambda p: "", BenchmarkChoice("math", str(math_tree(tmp_path)), ("test2",)))
    lines = write_lines(tmp_path / "test.jsonl", [{"problem": "x", "level": 1, "type": "Algebra", "answer": "1"}] * 2)
    lines.write_text(lines.read_text().replace('"problem": "x", ', "", 1))
    with pytest.raises(UserError, match=r"test\.jsonl:1: .*'problem'"):
        measured(lambda p: "", BenchmarkChoice("math", str(lines)))
    outside = write_lines(
        tmp_path / "val.jsonl",
        [{"context": "c", "question": "q", "answers": ["a", "b", "c", "d"], "label": 4, "id_string": "val_0"}],
    )
    with pytest.raises(UserError, match=r"val\.jsonl:1: .*'label'"):
        measured(lambda p: "", BenchmarkChoice("reclor", str(outside)))


def test_a_request_survives_the_way_to_another_process():
    one = request(BenchmarkChoice("math", "x", ("test",)), held_out={"math": ("Algebra",)}, run_data={"train": "t"})
    assert Request.from_json(one.to_json()) == one


def test_digest_tells_options_and_data_but_not_places(tmp_path):
    write_groups(tmp_path / "id.jsonl", [IsomerGroup("g", "g", (Instance("law", "Who?", "So.", "Ann"),))])
    base = {"model": "m", "shown": "m", "out": "out", "id_file": str(tmp_path / "id.jsonl")}
    one = Request(**base)
    assert Request(**base | {"model": "n", "out": "elsewhere", "device": "cpu"}).digest() == one.digest()
    assert Request(**base, max_new_tokens=5).digest() != one.digest()
    before = one.digest()
    write_groups(tmp_path / "id.jsonl", [IsomerGroup("g", "g", (Instance("law", "What?", "So.", "Ann"),))])
    assert one.digest() != before
