"""Evaluations as tables: what must stand beside what, whatever was measured."""

import csv
import io

import pytest
from rich.console import Console

from igascale.evaluation.accuracy import Accuracy
from igascale.evaluation.results import (
    Consistency,
    EvaluationResult,
    HeldOutResidual,
    Residual,
    SplitResult,
    SuiteResult,
    read_result,
)
from igascale.evaluation.selection_marks import SelectionMark
from igascale.evaluation.tables import (
    MethodResult,
    comparison_table,
    comparison_tables,
    evaluation_table,
    evaluation_tables,
    warnings,
)
from igascale.tables import to_csv, to_html, to_json, to_latex, to_markdown


def consistency(lcs=2.0, layer=1, collapsed=False, **more):
    return Consistency(lcs, None if lcs is None else lcs / 50, 50.0, 0.3, collapsed, layer, 10, **more)


def split(value, chance=0.25, failures=0.0, lcs=None, **more):
    accuracy = Accuracy(value, value - 0.1, value + 0.1, chance, failures, 100, 50)
    values = {"unfinished": 0.0, "seconds": 1.0, "consistency": lcs} | more
    return SplitResult(accuracy, {"law": accuracy}, {}, **values)


def result(**suites):
    return EvaluationResult({name: SuiteResult.of(*sides) for name, sides in suites.items()}, {"max_new_tokens": 96})


def rows(table):
    return list(csv.DictReader(io.StringIO(to_csv(table), newline="")))


def printed(renderable, width=160):
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()


def test_chance_and_missing_answers_stand_beside_every_accuracy():
    tables = evaluation_tables(result(isomers=(split(0.7), split(0.5)), math=(split(0.4, failures=0.02), split(0.3))))
    every = {row["set"].strip(): row for row in rows(tables[0])}
    assert list(every) == ["ID", "law", "OOD", "math ID", "math OOD"]
    assert float(every["ID"]["accuracy %"]) == pytest.approx(70) and float(every["ID"]["chance %"]) == 25
    suites = {row["suite"]: row for row in rows(tables[1])}
    assert float(suites["math"]["no answer %"]) == 1.0  # pooled over both sides
    assert float(suites["isomers"]["gap"]) == pytest.approx(20)
    assert float(suites["isomers"]["gap low"]) < 20 < float(suites["isomers"]["gap high"])


def test_averages_are_over_the_benchmarks_and_say_so():
    table = evaluation_tables(
        result(isomers=(split(0.9), split(0.9)), math=(split(0.4), split(0.2)), arb=(None, split(0.6)))
    )[1]
    mean = next(row for row in rows(table) if row["suite"] == "average")
    assert float(mean["OOD %"]) == pytest.approx(40)
    assert float(mean["OOD % high"]) - 40 == pytest.approx(10 * 2**0.5 / 2)
    assert mean["ID %"] == "" and mean["gap"] == ""
    assert any("root of summed squares" in note for note in table.notes)
    partial = evaluation_tables(
        result(math=(split(0.4), split(0.2)), logiqa2=(split(0.4), split(0.2)), arb=(None, split(0.6)))
    )[1]
    assert "average ID is over math, logiqa2 only" in partial.notes


def test_lcs_is_times_a_hundred_and_relative_and_doubted_at_chance():
    found = result(isomers=(split(0.7, lcs=consistency(standard_error=0.1)), split(0.3, lcs=consistency(3.0))))
    good, bad = rows(evaluation_tables(found)[2])
    assert (float(good["LCS ×10²"]), float(good["relative LCS"]), float(good["standard error ×10²"])) == (
        200.0,
        0.04,
        10.0,
    )
    assert (good["LCS ×10² mark"], bad["LCS ×10² mark"], bad["relative LCS mark"]) == ("", "?", "?")


def test_collapse_is_an_alarm_everywhere():
    lcs = consistency(collapsed=True, alarm="the states are all but zero")
    found = result(isomers=(split(0.7, lcs=lcs), None))
    assert "0.3 collapsed" in to_markdown(evaluation_tables(found)[1])
    assert warnings(found) == ["ID: the states are all but zero: collapsed, LCS means nothing (layer 1)"]
    assert "collapsed" in printed(evaluation_table(found))
    assert "iga: ID: the states" in printed(comparison_table([MethodResult("iga", found)]))


def test_states_that_are_not_finite():
    lcs = Consistency(None, None, None, None, True, 1, 10)
    text = printed(evaluation_table(result(isomers=(split(0.7, lcs=lcs), None))))
    assert "not finite" in text


def test_a_layer_that_only_one_side_has():
    one = split(0.7, lcs=consistency(), layers=[consistency(1.0, 1), consistency(2.0, 2)])
    two = split(0.7, lcs=consistency(), layers=[consistency(3.0, 2), consistency(4.0, 3, collapsed=True)])
    table = evaluation_tables(result(isomers=(one, two)))[3]
    found = rows(table)
    assert [row["layer"] for row in found] == ["1", "2", "3"]
    assert [row["ID LCS ×10²"] for row in found] == ["100.0", "200.0", ""]
    assert [row["OOD LCS ×10² mark"] for row in found] == ["", "", "?"]


def test_pairs_of_domains():
    lcs = consistency(pairs={"law/maths": 1.5, "law/=drug": 2.5})
    table = evaluation_tables(result(isomers=(split(0.7, lcs=lcs), None)))[2]
    assert [(row["domains"], float(row["LCS ×10²"]), float(row["relative LCS"])) for row in rows(table)] == [
        ("law/maths", 150.0, 0.03),
        ("law/=drug", 250.0, 0.05),
    ]


def test_held_out_gir_stands_beside_its_noise():
    residual = Residual(0.5, 0.9, 0.4, None, {})
    gir = HeldOutResidual(residual, {}, ["law"], {"law": 1.0}, 8)
    table = evaluation_tables(result(isomers=(split(0.7, lcs=consistency(), gir=gir), None)))[-1]
    assert "GIR" in to_markdown(table) and "| 0.5 | 90.0 | 0.4 | – | 8 |" in to_markdown(table)


def test_the_gap_of_one_suite_is_a_line_in_the_terminal():
    text = printed(evaluation_table(result(isomers=(split(0.7), split(0.5)))))
    assert "ID − OOD: +20.0 [" in text and "suite" not in text


def test_texts_that_were_cut_off_or_had_no_answer_are_warned_of():
    found = result(isomers=(split(0.7, unfinished=0.03, failures=0.06), split(0.7, unfinished=0.02, failures=0.05)))
    assert warnings(found) == [
        "ID: 3.0% of the texts ran into the limit of 96 new tokens",
        "ID: no answer could be read from 6.0% of the texts",
    ]


def test_methods_side_by_side():
    one = MethodResult("mean", result(isomers=(split(0.7, lcs=consistency()), split(0.5))), 0.1234, 2**30)
    two = MethodResult("iga|x", result(isomers=(None, split(0.6))), selected=SelectionMark("F", "fixed settings"))
    (table,) = comparison_tables([one, two])
    first, second = rows(table)
    assert (first["s/step"], first["peak memory MiB"], first["selected by"]) == ("0.1234", "1024.0", "")
    assert (second["ID %"], second["gap"], second["LCS ×10²"], second["selected by"]) == ("", "", "", "F")
    assert "chance: ID 25.0%, OOD 25.0%" in table.notes[0]
    assert table.notes[1] == "selected by F: fixed settings"


def test_methods_without_isomer_groups():
    found = comparison_tables(
        [
            MethodResult("mean", result(math=(split(0.4), split(0.2)), arb=(None, split(0.6)))),
            MethodResult("iga", result(math=(split(0.4), split(0.3)))),
        ]
    )
    (table,) = found
    assert [(row["benchmark"], row["method"]) for row in rows(table)] == [
        *(("math", m) for m in ("mean", "iga")),
        *(("arb", m) for m in ("mean", "iga")),
        *(("average", m) for m in ("mean", "iga")),
    ]
    assert rows(table)[3]["OOD %"] == "" and rows(table)[5]["OOD %"] == ""


def test_the_terminal_is_never_too_narrow():
    many = [
        MethodResult(f"method {n}", result(isomers=(split(0.7, lcs=consistency()), split(0.5))), 1.0, 2**30)
        for n in range(3)
    ]
    for width in (40, 80, 120, 200):
        assert all(len(line) <= width for line in printed(comparison_table(many), width).splitlines())
    assert "[60, 80]" in printed(comparison_table(many), 120)  # not broken over lines


@pytest.mark.parametrize("write", [to_csv, to_html, to_json, to_latex, to_markdown])
def test_every_writer_takes_every_table(write):
    sides = (split(0.7, lcs=consistency(pairs={"a/b": 1.0})), split(0.5, lcs=consistency()))
    for table in evaluation_tables(result(isomers=sides, math=sides)):
        assert write(table)


def test_results_of_earlier_versions_are_read(tmp_path):
    import json

    text = json.loads(result(isomers=(split(0.7, lcs=consistency()), None)).to_json())
    lcs = text["suites"]["isomers"]["id"]["consistency"]
    for key in ("pairs", "standard_error", "alarm", "text", "skipped_groups", "cut_texts"):
        del lcs[key]
    (tmp_path / "evaluation.json").write_text(json.dumps(text))
    assert rows(evaluation_tables(read_result(tmp_path / "evaluation.json"))[1])[0]["set"] == "ID"
