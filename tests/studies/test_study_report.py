"""Tables of evaluations that are known: nothing is dropped in silence, and the paper's figures stand beside."""

import csv
import io
import json
import random
from statistics import mean, stdev

import pytest
import yaml
from rich.console import Console

from igascale.studies import matrix, records
from igascale.studies.remarks import remarks
from igascale.studies.report import report
from igascale.studies.results import collect
from igascale.studies.schema import read_study

from study_world import finish, made_up, world, write_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    world(folder)
    return folder


def answers(share, seed, groups=20):
    rng = random.Random(seed)
    return [[rng.random() < share for _ in range(2)] for _ in range(groups)]


@pytest.fixture(scope="module")
def written(folder):
    methods = [
        "erm-sft",
        "iga",
        "iga-mixed",
        "pcgrad",
        "irm",
        {"method": "iga", "name": "wide", "axes": {"hook.tau": [2.0]}},
    ]
    study = read_study(write_study(folder, methods=methods, seeds=[0, 1], base_model=True, tables=[1, 2, 3, 5]))
    out = folder / "out"
    rows = matrix.build(study, out)
    shares = {
        "base model": 0.3,
        "erm-sft": 0.5,
        "iga": 0.8,
        "iga-mixed": 0.7,
        "pcgrad": 0.5,
        "wide [hook.tau=2.0]": 0.75,
    }
    truth = {}
    for row in rows:
        for seed, job in row.jobs.items():
            if row.name == "irm" or (row.name == "pcgrad" and seed == 1):
                continue
            groups = 19 if row.name == "iga-mixed" else 20
            result = made_up(answers(0.9, seed or 0, groups), answers(shares[row.name], f"{row.name}{seed}", groups))
            truth[row.name, seed] = 100 * result.isomers.ood.accuracy.value
            finish(job, result)
    failed = next(row for row in rows if row.name == "pcgrad").jobs[1]
    failed.records.mkdir(parents=True)
    records.Record(None, "failed", "training: no memory").write(failed.records)
    console = Console(file=io.StringIO(), width=250)
    report(study, rows, out, console)
    return out, truth, console.file.getvalue()


def cells(text, title, name):
    table = text.split(f"**{title}")[1].split("**\n", 1)[1]
    line = next(line for line in table.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip(" *") for cell in line.strip("|").split("|")]


def test_means_and_deviations(written):
    out, truth, shown = written
    text = (out / "study.md").read_text()
    both = [truth["iga", seed] for seed in (0, 1)]
    assert cells(text, "Table 1", "iga")[2] == f"{mean(both):.1f} ± {stdev(both):.1f}"
    differences = [truth["wide [hook.tau=2.0]", seed] - truth["iga", seed] for seed in (0, 1)]
    assert cells(text, "Table 2", "wide [hook.tau=2.0]")[2] == f"{mean(differences):+.1f} ± {stdev(differences):.1f}"
    rows = {row["method"]: row for row in csv.DictReader((out / "table1.csv").open())}
    assert float(rows["iga"]["OOD %"]) == pytest.approx(mean(both))
    assert float(rows["iga"]["OOD % std"]) == pytest.approx(stdev(both))
    assert rows["  the paper: IGA (Ours)"]["gap mark"] == "†" and rows["  the paper: IGA (Ours)"]["LCS ×10²"] == "3.1"
    assert "Table 1" in shown and "Table 5" in shown


def test_nothing_is_dropped(written):
    out, truth, _ = written
    text = (out / "study.md").read_text()
    assert "10 of 13 jobs are finished, in 7 rows." in text
    assert cells(text, "Table 1", "irm")[1:7] == ["–"] * 4 + ["–", "not run"]
    assert cells(text, "Table 1", "pcgrad")[6] == "1 of 2"
    assert "pcgrad, seed 1: failed: training: no memory" in text
    assert "irm, seed 0: not run" in text
    assert "± " not in cells(text, "Table 1", "pcgrad")[2]  # one seed has no deviation
    assert cells(text, "Table 1", "iga-mixed‡")[0] == "iga-mixed‡"
    assert "iga-mixed was evaluated on other problems than base model (isomers ID, isomers OOD)" in text
    assert "NO TUNED ERM" in text and "selection not stated" in text


def test_statements_and_orderings(written):
    out, truth, shown = written
    record = json.loads((out / "study.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    told = "\n".join(record["statements"])
    assert "Table 1, isomers OOD: of 6 orderings of the paper" in told and "3 not measured" in told
    assert told.splitlines()[0] in (out / "study.md").read_text() and told.splitlines()[0] in shown
    pairs = {
        (o["better"], o["worse"]): o for o in record["orderings"] if o["quantity"] == "isomers OOD" and o["table"] == 1
    }
    assert pairs["iga", "erm-sft"]["difference"] == pytest.approx(
        mean(truth["iga", s] - truth["erm-sft", s] for s in (0, 1))
    )
    assert pairs["pcgrad", "erm-sft"]["verdict"] == "cannot be told" and "one seed" in pairs["pcgrad", "erm-sft"]["why"]
    assert pairs["iga", "irm"]["verdict"] == "not measured"
    assert record["rows"][1]["figures"]["isomers ood %"] == {"0": truth["erm-sft", 0], "1": truth["erm-sft", 1]}
    assert {p.name for p in out.iterdir() if p.suffix in (".csv", ".tex")} == {
        f"{name}.{end}" for name in ("table1", "table2", "table3", "table5", "orderings") for end in ("csv", "tex")
    }


def test_what_holds_of_all_tables_is_said_once(written):
    out, _, shown = written
    text = (out / "study.md").read_text()
    for said in ("irm, seed 0: not run", "± is the sample standard deviation over seeds (n - 1)"):
        assert text.count(said) == 1 and shown.count(said) == 1
        plain = said.removeprefix("± ")  # which LaTeX writes otherwise
        assert all(plain in (out / f"table{n}.tex").read_text() for n in (1, 2, 5)), "each of them may stand alone"
    assert "average Δ: of isomers; the paper's is of arb, logiqa2, reclor" in text


def test_a_row_that_leaves_what_was_searched_is_not_called_tuned(folder):
    searched = {"optimizer.lr": [1e-3], "hook.tau": [0.5]}
    tuned = yaml.safe_load((folder / "run.yaml").read_text()) | {
        "optimizer": {"lr": 1e-3},
        "hook": {"name": "iga", "tau": 0.5},
        "selection": {"by": "leave_one_domain_out", "trials": 4, "searched": searched},
    }
    (folder / "search" / "tuned").mkdir(parents=True)
    (folder / "search" / "tuned" / "iga.yaml").write_text(yaml.safe_dump(tuned))
    methods = ["iga", {"method": "iga", "name": "faster", "set": {"optimizer.lr": 5e-3}}]
    study = read_study(write_study(folder, methods=methods, tuned=str(folder / "search")))
    rows = matrix.build(study, folder / "departed")
    for row in rows:
        finish(row.jobs[0], made_up(answers(0.9, 0), answers(0.5, 1)))
    told = remarks(collect(rows))
    assert told.selected["iga"] == "leave-one-domain-out, 4 trials"
    assert told.selected["faster"] == "leave-one-domain-out, 4 trials, then changed: optimizer.lr"
    assert any("faster was searched, but optimizer.lr is now what the search never tried" in c for c in told.claims)
