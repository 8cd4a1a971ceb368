"""Run folders as plain data: every number against the file it comes from, read again in the plainest way."""

import json
import math
from statistics import mean

import pytest

from igascale.errors import UserError
from igascale.report import adapters as adapters_module
from igascale.report import curves as curves_module
from igascale.report.adapters import MEAN_COSINE, place, read_adapters
from igascale.report.collect import collect, names_of
from igascale.report.curves import read_metrics
from igascale.report.figures.lines import running_mean
from igascale.report.samples import MOST_TEXT, choose

from report_cases import PROJECTIONS, TRAINED, made_up_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_up_run(tmp_path_factory.mktemp("runs") / "iga", steps=150, layers=3)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_short_curves_are_the_records_themselves(run):
    metrics = read_metrics(run / "metrics.jsonl")
    train = [r for r in lines(run / "metrics.jsonl") if r["kind"] == "train"]
    assert metrics.records == len(train) == 150 and metrics.per_point == 1
    assert metrics.train["loss",].steps == [r["step"] for r in train]
    assert metrics.train["loss",].values == [r["loss"] for r in train]
    assert metrics.train["cosines", "law/science"].values == [r["cosines"]["law/science"] for r in train]
    assert metrics.under("losses").keys() == set(TRAINED)
    held_out = [r for r in lines(run / "metrics.jsonl") if r["kind"] == "validation"]
    assert metrics.validation["ood", "finance"].values == [r["ood"]["finance"] for r in held_out]
    assert metrics.validation["ood", "finance"].steps == [r["step"] for r in held_out]


def test_long_curves_are_means_of_consecutive_records(run, monkeypatch):
    monkeypatch.setattr(curves_module, "MOST_POINTS", 40)
    metrics = read_metrics(run / "metrics.jsonl")
    train = [r for r in lines(run / "metrics.jsonl") if r["kind"] == "train"]
    assert metrics.per_point == 4
    parts = [train[i : i + 4] for i in range(0, 150, 4)]
    assert metrics.train["loss",].values == pytest.approx([mean(r["loss"] for r in part) for part in parts])
    assert metrics.train["loss",].steps == [part[-1]["step"] for part in parts]
    assert len(metrics.validation["id", "law"].steps) == sum(
        r["kind"] == "validation" for r in lines(run / "metrics.jsonl")
    )


def test_damage_and_nulls_leave_gaps(tmp_path):
    good = [
        {"kind": "train", "step": s, "loss": loss, "losses": {"a": loss}, "skipped": ""}
        for s, loss in ((1, 2.0), (2, None), (3, 1.0))
    ]
    bad = [
        "",
        '{"kind": "train", "step": 4, "lo',
        "[]",
        "null",
        '{"kind": "train"}',
        '{"step": 9, "kind": "other"}',
        "\x00\xff",
        '{"kind":"train","step":"x"}',
    ]
    odd = json.dumps(
        {
            "kind": "train",
            "step": 5,
            "loss": math.nan,
            "losses": [1],
            "hook": "no",
            "clip": True,
            "skipped": "not finite",
        }
    )
    (tmp_path / "m.jsonl").write_text("\n".join([*map(json.dumps, good), *bad[1:], odd, bad[1]]), encoding="latin-1")
    metrics = read_metrics(tmp_path / "m.jsonl")
    assert metrics.train["loss",].values == [2.0, None, 1.0, None]
    assert metrics.train["loss",].steps == [1, 2, 3, 5]
    assert ("clip",) not in metrics.train  # true is no number
    assert metrics.skipped == 1 and metrics.damaged == len(bad)
    assert read_metrics(tmp_path / "none.jsonl").missing


def test_lists_become_mean_lists(tmp_path, monkeypatch):
    monkeypatch.setattr(curves_module, "MOST_POINTS", 2)
    records = [
        {"kind": "train", "step": s, "mask_histogram": h}
        for s, h in ((1, [1, 3]), (2, [3, 1]), (3, [0, None]), (4, [2, 2]))
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert read_metrics(tmp_path / "m.jsonl").lists == {("mask_histogram",): [[2.0, 2.0], [2.0, 2.0]]}


def test_frames_of_adapters_against_a_plain_reading(run, monkeypatch):
    monkeypatch.setattr(adapters_module, "MOST_FRAMES", 7)
    monkeypatch.setattr(adapters_module, "MOST_RECORDS", 1000)
    found = read_adapters(run / "adapter_metrics.jsonl")
    records = lines(run / "adapter_metrics.jsonl")
    assert found.records == found.parsed == 150 and len(found.spans) == 7
    assert found.adapters == list(records[0]["adapters"])
    for f, (first, last) in enumerate(found.spans):
        inside = [r for r in records if first <= r["step"] <= last]
        for a, name in enumerate(found.adapters):
            assert found.values["gir"][f][a] == pytest.approx(mean(r["adapters"][name]["gir"] for r in inside))
            cosines = [r["adapters"][name]["cosines"][0][1] for r in inside]
            assert found.values[MEAN_COSINE][f][a] == pytest.approx(mean(cosines))
    assert [s[0] for s in found.spans[1:]] == [s[1] + 1 for s in found.spans[:-1]] and found.spans[-1][1] == 150


def test_of_long_files_evenly_many_records_are_parsed(run, monkeypatch):
    monkeypatch.setattr(adapters_module, "MOST_FRAMES", 10)
    monkeypatch.setattr(adapters_module, "MOST_RECORDS", 3)
    found = read_adapters(run / "adapter_metrics.jsonl")
    records = {r["step"]: r for r in lines(run / "adapter_metrics.jsonl")}
    assert found.parsed == 30 and found.records == 150
    assert found.spans[-1][1] == 150  # the end of training is always there
    steps = (140, 145, 150)
    assert found.values["gir"][-1][0] == pytest.approx(
        mean(records[s]["adapters"][found.adapters[0]]["gir"] for s in steps)
    )


def test_adapters_have_a_place(run):
    found = place(read_adapters(run / "adapter_metrics.jsonl").adapters)
    assert found.rows == ["0", "1", "2"] and found.columns == list(PROJECTIONS)
    assert found.at["model.layers.2.self_attn.k_proj"] == (2, 1)
    assert found.grid(["model.layers.1.self_attn.o_proj"], [0.5])[1] == [None, None, None, 0.5]


def test_other_names_have_places_of_their_own():
    names = [
        "transformer.h.10.attn.c_proj",
        "transformer.h.2.attn.c_proj",
        "transformer.h.2.mlp.c_proj",
        "lm_head",
        "score.0",
    ]
    found = place(names)
    assert found.rows == ["2", "10", "lm_head", "score.0"]  # by number
    assert found.columns == ["attn.c_proj", "mlp.c_proj", "other"]
    assert len(set(found.at.values())) == len(names)  # no two share a cell
    both = place(["encoder.layers.0.q", "decoder.layers.0.q"])
    assert both.rows == ["decoder.layers.0", "encoder.layers.0"]
    many = place([f"model.layers.{i}.mlp.{p}" for i in range(75) for p in "abcd"])
    assert len(many.rows) == 75 and len(many.columns) == 4


def test_a_record_cut_off_is_left_out(run, tmp_path):
    text = (run / "adapter_metrics.jsonl").read_text()
    (tmp_path / "a.jsonl").write_text(text[:-40] + "")
    found = read_adapters(tmp_path / "a.jsonl")
    assert found.damaged == 1 and found.records == 149
    (tmp_path / "b.jsonl").write_text(
        '{"step": 1, "adapters": 7}\n{"step": 2}\nno\n{"step": 3, "adapters": {"x": {"gir": null, "cosines": [[1]]}, "y": 1}}\n'
    )
    found = read_adapters(tmp_path / "b.jsonl")
    assert found.spans == [(3, 3)] and found.values == {} and found.damaged == 3


def test_samples_are_those_that_differ(run):
    choice = choose({"iga": run / "evaluation" / "samples.jsonl"})
    records = lines(run / "evaluation" / "samples.jsonl")
    by_group = {}
    for r in records:
        by_group.setdefault((r["split"], r["group_id"]), []).append(r["correct"])
    different = sum(len(set(right)) > 1 for right in by_group.values())
    assert choice.in_all == {"domains": different, "runs": 0, "alike": len(by_group) - different}
    assert all(("domains" in g.differs) == (len(set(by_group[g.split, g.group_id])) > 1) for g in choice.groups)
    first = choice.groups[0]
    told = {r["domain"]: r for r in records if r["group_id"] == first.group_id and r["split"] == first.split}
    assert {d: (t.problem, t.answers["iga"].text, t.expected) for d, t in first.told.items()} == {
        d: (r["problem"], r["generated"], r["expected"]) for d, r in told.items()
    }


def test_samples_of_two_runs_stand_together(tmp_path):
    def write(name, outcomes, problem="p"):
        rows = [
            {
                "split": "id",
                "group_id": g,
                "domain": d,
                "correct": c,
                "problem": problem,
                "generated": "x" * 3000,
                "predicted": None,
                "expected": "1",
            }
            for g, d, c in outcomes
        ]
        (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"split": "id"}\nno json\n')
        return tmp_path / name

    one = write("one", [("g", "a", True), ("g", "b", True), ("h", "a", True)])
    two = write("two", [("g", "a", False), ("g", "b", False), ("h", "a", True)])
    choice = choose({"one": one, "two": two})
    assert choice.in_all == {"domains": 0, "runs": 1, "alike": 1} and choice.damaged == 4
    group = choice.groups[0]
    assert group.differs == ("runs",) and group.told["a"].answers.keys() == {"one", "two"}
    assert group.told["a"].answers["one"].text == "x" * MOST_TEXT + " … [500 more characters in samples.jsonl]"
    other = write("three", [("g", "a", False)], problem="another")
    assert choose({"one": one, "three": other}).conflicting == 1


def test_names_are_the_shortest_that_differ(tmp_path):
    assert names_of([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a/x", "b/x"]
    assert names_of([tmp_path / "a" / "x"]) == ["x"]


def test_bad_folders_are_one_line(tmp_path, run):
    for folder, said in ((tmp_path / "no", "no such run folder"), (tmp_path, "not a run folder")):
        with pytest.raises(UserError, match=said):
            collect([folder])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text("hook: {name: iga}\n")
    with pytest.raises(UserError, match="has recorded nothing yet"):
        collect([tmp_path / "empty"])
    with pytest.raises(UserError, match="name each run once"):
        collect([run, run / ".." / run.name])


def test_running_mean_against_a_slow_one():
    values = [None if i % 7 == 3 else math.sin(i) for i in range(60)]
    for width in (3, 4, 9):
        for i, got in enumerate(running_mean(values, width)):
            near = [v for v in values[max(0, i - width // 2) : i + (width + 1) // 2] if v is not None]
            assert got is None if values[i] is None else got == pytest.approx(mean(near))
