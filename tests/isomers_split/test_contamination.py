"""Contamination: n-grams in common are found, named and measured; nothing else is."""

import json
import random

import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.errors import UserError
from igascale.isomers.contamination import check
from igascale.isomers.generator import generate
from igascale.isomers.normal import tokens
from igascale.isomers.schema import write_groups
from igascale.isomers.seeds import Seed, write_seeds
from igascale.isomers.texts import read_texts

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "po", "ri") for b in ("ren", "tos", "vul", "dax", "fen", "gor")]


def words(number, count):
    return " ".join(random.Random(number).choices(WORDS, k=count))


def test_a_copied_passage_is_found_named_and_measured():
    reference = words(1, 40)
    copied = " ".join(reference.split()[10:30]).upper().replace(" ", ", ")
    report = check(
        [("a", words(2, 60)), ("b", f"Before it comes this: {copied}. After it nothing.")], [("exam", "q7", reference)]
    )
    (hit,) = report.hits
    assert (hit.id, hit.benchmark, hit.reference) == ("b", "exam", "q7")
    assert hit.overlap == " ".join(reference.split()[10:30])
    assert hit.shared == 20 - 13 + 1
    assert hit.coverage == round(8 / 28, 4)
    assert (report.texts, report.contaminated, report.references) == (2, 1, {"exam": 1})


def test_one_word_less_than_n_is_no_hit():
    reference = words(1, 40)
    for length, hits in ((12, 0), (13, 1)):
        text = f"{words(2, 30)} {' '.join(reference.split()[5 : 5 + length])} {words(3, 30)}"
        assert len(check([("a", text)], [("exam", "1", reference)]).hits) == hits
    assert check([("a", " ".join(reference.split()[:5]))], [("exam", "1", reference)], n=5).hits[0].shared == 1


def test_the_same_as_sets_of_ngrams():
    """Against the definition, for texts of few different words, so that many n-grams repeat."""
    rng = random.Random(0)
    texts = [(f"t{i}", " ".join(rng.choices(WORDS[:3], k=rng.randint(3, 40)))) for i in range(60)]
    references = [("exam", f"r{i}", " ".join(rng.choices(WORDS[:3], k=rng.randint(4, 30)))) for i in range(60)]
    report = check(texts, references, n=6, least=4, common=1000)

    def grams(text, length):
        return {tuple(text.split()[i : i + length]) for i in range(len(text.split()) - length + 1)}

    expected = {}
    for name, text in texts:
        for _, reference, other in references:
            length = min(6, len(other.split()))
            own = grams(other, length)
            if own & grams(text, length):
                expected[name, reference] = round(len(own & grams(text, length)) / len(own), 4)
    assert {(hit.id, hit.reference): hit.coverage for hit in report.hits} == expected
    assert len(expected) > 100
    texts_by_id, references_by_id = dict(texts), {name: text for _, name, text in references}
    for hit in report.hits:
        assert hit.overlap in texts_by_id[hit.id]
        length = min(6, len(references_by_id[hit.reference].split()))
        assert grams(hit.overlap, length) <= grams(references_by_id[hit.reference], length)


def test_short_references_are_taken_whole():
    ten, three = words(5, 10), "Compute 2 + 2."
    references = [("exam", "ten", ten), ("exam", "three", three)]
    report = check([("in", f"{words(6, 9)} {ten} {words(7, 9)}"), ("equal", "compute 2+2")], references)
    assert [(hit.id, hit.reference, hit.coverage) for hit in report.hits] == [
        ("in", "ten", 1.0),
        ("equal", "three", 1.0),
    ]
    assert (report.short, report.tiny) == (1, 1)
    assert check([("in", f"First, {three} Then add 1.")], references).hits == ()


def test_boilerplate_is_left_out_and_said():
    preamble = words(8, 20)
    references = [("exam", f"r{i}", f"{preamble} {words(100 + i, 20)}") for i in range(11)]
    texts = [("only preamble", f"{preamble} {words(9, 30)}"), ("copy", references[3][2])]
    report = check(texts, references)
    assert [(hit.id, hit.reference) for hit in report.hits] == [("copy", "r3")]
    assert report.hits[0].coverage == 1.0
    assert report.boilerplate == 8
    assert len(check(texts, references[:10]).hits) == 20
    same = [("exam", f"r{i}", preamble) for i in range(11)]  # a reference is never left without n-grams
    assert len(check(texts[:1], same).hits) == 11


def test_scripts_without_blanks_and_formulas():
    chinese = "甲、乙、丙三人参加考试，甲的成绩比乙高，丙的成绩比甲高，请问三人中谁的成绩最高？"
    report = check([("zh", f"题目：{chinese}答案是丙。")], [("logiqa", "1", chinese)])
    assert report.hits[0].coverage == 1.0
    tex = r"Let $f(x) = x^{2} - 5x + 6$. Find the sum of all values of $x$ with $f(x) = 0$."
    other = r"let f(x)=x^2-5x+6. find the sum of all values of x with f(x)=0"
    assert check([("a", other)], [("math", "1", tex)]).hits[0].coverage == 1.0
    assert tokens(tex) == tokens(other)


def test_hits_are_in_order_and_texts_are_streamed():
    references = [("b", "2", words(2, 30)), ("a", "1", words(1, 30))]
    seen = []

    def stream():
        for number in (1, 9, 2, 1):
            seen.append(number)
            yield f"t{number}", words(number, 30)

    report = check(stream(), iter(references))
    assert [(hit.id, hit.benchmark) for hit in report.hits] == [("t1", "a"), ("t2", "b"), ("t1", "a")]
    assert (report.texts, report.contaminated) == (4, 2)


@pytest.mark.parametrize(
    ("texts", "references", "n", "message"),
    [
        ([], [("a", "1", "x")], 13, "no texts"),
        ([("a", "x")], [], 13, "no references"),
        ([], [], 1, "n must be at least"),
    ],
)
def test_bad_arguments(texts, references, n, message):
    with pytest.raises(UserError, match=message):
        check(texts, references, n)


# Files.


def test_files_of_groups_seeds_and_plain_text(tmp_path):
    (group,) = generate(1, ("law",), seed=0)
    write_groups(tmp_path / "groups.jsonl", [group])
    write_seeds(tmp_path / "seeds.jsonl", [Seed("a", "What?", solution="That."), Seed("b", "Who?")])
    (tmp_path / "plain.txt").write_text("one text\n\nanother\n")
    (tmp_path / "texts.jsonl").write_text('{"name": "math/test", "id": "7", "text": "How many?"}\n')
    told = group.instances[0]
    assert list(read_texts(tmp_path / "groups.jsonl")) == [(told.id, told.problem), (told.id, told.cot)]
    assert list(read_texts(tmp_path / "groups.jsonl", solutions=False)) == [(told.id, told.problem)]
    assert list(read_texts(tmp_path / "seeds.jsonl")) == [("a", "What?"), ("a", "That."), ("b", "Who?")]
    assert list(read_texts(tmp_path / "texts.jsonl")) == [("7", "How many?")]
    assert list(read_texts(tmp_path / "plain.txt")) == [("1", "one text"), ("3", "another")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no text in it"),
        (b"\n[1]\n", r"x:2: a JSON list"),
        (b'{"problem": "a"}\n{"problem"\n', r"x:2: not valid JSON"),
        (b'{"problem": "a"}\n{"id": "b"}\n', r"x:2: field 'problem' is missing"),
        (b'{"problem": "a"}\ntext\n', r"x:2: not valid JSON"),
        (b'{"problem": "a"}\n3\n', r"x:2: not a JSON object"),
        (b"a\n\xff\n", r"x:2: not UTF-8"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_texts(tmp_path / "x"))


def test_the_command(tmp_path):
    groups = generate(12, ("law", "science"), ("selection",), seed=0)
    write_groups(tmp_path / "train.jsonl", groups)
    write_seeds(tmp_path / "exam.jsonl", [Seed("q1", groups[4].instances[1].problem), Seed("q2", "Two?")])
    (tmp_path / "other.txt").write_text(words(1, 30) + "\n")
    report = tmp_path / "hits.json"
    arguments = ["data", "contamination", str(tmp_path / "train.jsonl")]
    arguments += ["--against", str(tmp_path / "exam.jsonl"), "--against", str(tmp_path / "other.txt")]
    done = CliRunner().invoke(main, [*arguments, "--report", str(report)])
    assert done.exit_code == 0, done.output
    assert f"{groups[4].instances[1].id}: 100% of exam q1" in done.output
    assert "48 texts against exam 2, other 1; runs of 13 words" in done.output
    assert [hit["id"] for hit in json.loads(report.read_text())["hits"]] == [groups[4].instances[1].id]
    assert CliRunner().invoke(main, [*arguments, "--fail"]).exit_code == 2
    missing = CliRunner().invoke(main, [*arguments, "--report", str(tmp_path / "no" / "hits.json")])
    assert missing.exit_code == 2 and "cannot write the report" in missing.output
