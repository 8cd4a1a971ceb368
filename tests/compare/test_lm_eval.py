"""Files of lm-evaluation-harness 0.4.13, really written by it: joined and scored again; and ours in its format.

``lm_eval_0_4_13/``: its tasks hendrycks_math_algebra and minerva_math_algebra against a server with written answers, logiqa2 with a
random model; invented problems; the few-shot examples of minerva_math are cut out of ``arguments``.
"""

import hashlib
import json
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.comparing.lm_eval_export import export_lm_eval
from igascale.comparing.lm_eval_samples import compare_with_lm_eval, read_documents
from igascale.comparing.reading import read_evaluations
from igascale.errors import UserError

from evaluations import grouped, sample, write

FILES = Path(__file__).parent / "lm_eval_0_4_13"
HENDRYCKS, MINERVA, LOGIQA2 = (
    str(FILES / f"samples_{task}.jsonl") for task in ("hendrycks_math_algebra", "minerva_math_algebra", "logiqa2")
)


@pytest.fixture
def math(tmp_path):
    """Our evaluation of the same eight problems; the first, second and last are right."""
    documents = read_documents(Path(HENDRYCKS))
    samples = [
        sample(
            i, i in (0, 1, 7), suite="math", split="id", problem=document.item.problem + " ", group=f"test/algebra/{i}"
        )
        for i, document in enumerate(documents)
    ]
    return write(tmp_path / "math", samples, model="ours/model")


def test_texts_scored_again(math):
    """lm-eval's hendrycks_math looks for no box; ours does. Counted by hand from the eight texts."""
    (evaluation,) = read_evaluations([math])
    found = compare_with_lm_eval(evaluation, [HENDRYCKS])
    # 12, 1/4 as \frac14, no (3.5 is not 7/2 to the reference), Final Answer: $11$, Answer: 6, no (8), the interval, no mark.
    assert [each.correct for each in found.rescored] == [True, True, False, True, True, False, True, False]
    assert [each.predicted for each in found.rescored] == ["12", r"\frac14", "3.5", "11", "6", "8", "[0,1)", None]
    texts, own = found.agreements
    assert (texts.of, texts.metric, texts.documents) == ("the same texts", "exact_match", 8)
    theirs = [json.loads(line)["exact_match"] for line in Path(HENDRYCKS).read_text().splitlines()]
    assert theirs == [0, 0, 0, 1, 0, 0, 0, 1]  # as lm_eval wrote it: only answers that are nothing but a formula
    assert (texts.both, texts.theirs_only, texts.ours_only, texts.neither) == (1, 1, 4, 2)
    assert texts.agree == pytest.approx(3 / 8)
    assert (own.of, own.both, own.theirs_only, own.ours_only, own.neither) == ("our own answers", 1, 1, 2, 4)


def test_both_metrics_of_minerva(math):
    (evaluation,) = read_evaluations([math])
    found = compare_with_lm_eval(evaluation, [MINERVA])
    assert {(a.of, a.metric) for a in found.agreements} == {
        (of, metric) for of in ("the same texts", "our own answers") for metric in ("exact_match", "math_verify")
    }
    by_metric = {a.metric: a for a in found.agreements if a.of == "the same texts"}
    assert by_metric["exact_match"].agree < by_metric["math_verify"].agree
    # Through two files of one benchmark at once, every document counts.
    assert compare_with_lm_eval(evaluation, [MINERVA, HENDRYCKS]).agreements[0].documents == 16


def test_likelihoods_have_no_text(tmp_path):
    documents = read_documents(Path(LOGIQA2))
    assert all(document.text is None and set(document.verdicts) == {"acc", "acc_norm"} for document in documents)
    assert documents[1].item.answer == "B" and len(documents[1].item.options) == 4
    samples = [
        sample(
            i,
            i % 2 == 0,
            suite="logiqa2",
            split="id",
            problem=d.item.problem,
            group=f"test/{i}",
            expected=d.item.answer,
        )
        for i, d in enumerate(documents[:4])
    ]
    (evaluation,) = read_evaluations([write(tmp_path / "e", samples)])
    found = compare_with_lm_eval(evaluation, [LOGIQA2])
    assert {a.of for a in found.agreements} == {"our own answers"}
    assert all(a.documents == 4 for a in found.agreements)
    notes = " ".join(found.notes)
    assert "2 of their documents are not among our problems" in notes and "ranks the options by likelihood" in notes


def test_command(math):
    def run(*arguments):
        result = CliRunner(env={"COLUMNS": "200"}).invoke(main, ["compare", math, *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.output

    out = run("--lm-eval-samples", HENDRYCKS, "--show", "2")
    assert "igascale and lm-evaluation-harness on math" in out and "25.0" in out
    assert out.count("expected:") == 2 and "ours: right, read as '12'" in out
    found = json.loads(run("--lm-eval-samples", HENDRYCKS, "--json"))
    assert found["agreements"][0]["agree"] == 0.375 and len(found["differing"]) == 5


def test_refusals(math, tmp_path):
    (evaluation,) = read_evaluations([math])
    other = tmp_path / "other.jsonl"
    other.write_text('{"doc_id": 0, "doc": {"query": "?"}, "metrics": ["acc"], "acc": 1, "resps": [["x"]]}\n')
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"doc_id": 0}\n')
    (tmp_path / "empty.jsonl").touch()
    strange = tmp_path / "strange.jsonl"
    record = json.loads(Path(HENDRYCKS).read_text().splitlines()[0])
    strange.write_text(json.dumps(record | {"doc": record["doc"] | {"problem": "Another?"}}) + "\n")
    for files, told in (
        ([str(tmp_path / "gone.jsonl")], "gone.jsonl: No such file"),
        ([str(tmp_path / "empty.jsonl")], "is empty"),
        ([str(other)], "known are those of hendrycks_math*, minerva_math* and logiqa2"),
        ([str(broken)], "broken.jsonl:1: no sample of lm_eval"),
        ([HENDRYCKS, LOGIQA2], "documents of logiqa2 and math"),
        ([LOGIQA2], "holds no logiqa2, only math; evaluate it with --benchmark logiqa2=SOURCE"),
        ([str(strange)], "none of the 1 documents has the text of one of the 8 math problems"),
    ):
        with pytest.raises(UserError) as refused:
            compare_with_lm_eval(evaluation, files)
        assert told in str(refused.value) and "\n" not in str(refused.value)


def test_filters_are_put_together(math, tmp_path):
    """Tasks with several filters have a line for each of them."""
    record = json.loads(Path(HENDRYCKS).read_text().splitlines()[0])
    file = tmp_path / "samples.jsonl"
    lines = [
        record | {"filter": "strict-match", "exact_match": 0},
        record | {"filter": "flexible-extract", "exact_match": 1},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (document,) = read_documents(file)
    assert document.verdicts == {"exact_match (strict-match)": False, "exact_match (flexible-extract)": True}


def test_export_has_the_fields_of_a_real_file(tmp_path):
    samples = [*grouped(1, 0.6), *(sample(k, k % 3 != 0, suite="math", split="id", group=f"t/{k}") for k in range(9))]
    samples[0] = sample(0, False, predicted=None, group="g0")
    (evaluation,) = read_evaluations([write(tmp_path / "e", samples, model="org/model", **{"math.task_version": 3})])
    results, *files = export_lm_eval(evaluation, tmp_path / "lm", datetime(2026, 11, 29, 10, 0, 0, 5))
    assert results == tmp_path / "lm" / "org__model" / "results_2026-11-29T10-00-00.000005.json"
    assert [file.name.rsplit("_", 1)[0] for file in files] == [
        "samples_igascale_isomers_ood",
        "samples_igascale_math_id",
    ]
    real = json.loads(Path(HENDRYCKS).read_text().splitlines()[0])
    lines = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert len(lines) == 120 and [line["doc_id"] for line in lines] == list(range(120))
    for line in lines:
        assert set(line) == set(real)
        assert {name: type(line[name]) for name in real} == {name: type(real[name]) for name in real} | {
            "exact_match": float
        }
        assert (
            line["doc_hash"]
            == hashlib.sha256(json.dumps(line["doc"], indent=2, ensure_ascii=False).encode()).hexdigest()
        )
    assert lines[0]["filtered_resps"] == ["[invalid]"] and lines[0]["resps"] == [[samples[0].generated]]
    # lm_eval's own hash of a real document, so that the rule is theirs.
    assert (
        real["doc_hash"] == hashlib.sha256(json.dumps(real["doc"], indent=2, ensure_ascii=False).encode()).hexdigest()
    )
    assert real["target_hash"] == hashlib.sha256(real["target"].encode()).hexdigest()
    found = json.loads(results.read_text())
    score = found["results"]["igascale_math_id"]
    assert score["exact_match,none"] == pytest.approx(6 / 9) and score["sample_len"] == 9
    assert score["exact_match_stderr,none"] == pytest.approx((6 / 9 * 3 / 9 / 8) ** 0.5)
    assert found["versions"]["igascale_math_id"] == 3


def test_export_command(math, tmp_path):
    result = CliRunner().invoke(main, ["compare", math, "--export-lm-eval", str(tmp_path / "lm")])
    assert result.exit_code == 0 and "samples_igascale_math_id_" in result.output
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, ["compare", math, "--export-lm-eval", str(tmp_path / "file")])
    assert result.exit_code == 2 and "cannot be written" in result.output
    both = CliRunner().invoke(main, ["compare", math, math, "--export-lm-eval", "x"])
    assert both.exit_code == 2
