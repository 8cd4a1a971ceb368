"""The proof of independence finds every planted leak, in the right category, and names it."""

import json
import os
import re
from dataclasses import replace

import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.errors import UserError
from igascale.files import write_atomically
from igascale.isomers.generator import generate
from igascale.isomers.leakage import CATEGORIES, form_of, prove
from igascale.isomers.schema import Dag, DagEdge, DagNode, write_groups

KINDS = ("ordering", "arithmetic", "rules")  # of these no two of those drawn are near-duplicates


@pytest.fixture(scope="module")
def groups():
    return generate(60, ("law", "science"), KINDS, seed=0)


def found(tmp_path, training, held_out, **options):
    write_groups(tmp_path / "train.jsonl", training)
    write_groups(tmp_path / "test.jsonl", held_out)
    proof = prove(tmp_path / "train.jsonl", [tmp_path / "test.jsonl"], **options)
    return proof, {finding.category: finding for finding in proof.held_out[0].findings}


def renamed(group, name, **changes):
    """The group under ids and a seed of its own."""
    instances = tuple(replace(i, id=f"{name}/{i.domain}") for i in changes.pop("instances", group.instances))
    return replace(group, **{"id": name, "seed_id": f"seed of {name}", "instances": instances, **changes})


def edited(group, change):
    return tuple(replace(instance, problem=change(instance.problem)) for instance in group.instances)


def test_files_with_nothing_in_common_pass(groups, tmp_path):
    proof, findings = found(tmp_path, groups[:40], groups[40:])
    assert proof.leaks == [] and proof.record()["passed"] is True
    assert list(findings) == list(CATEGORIES)
    assert all((f.groups, f.pairs, f.worst) == (0, 0, None) for f in findings.values())
    assert (proof.groups, proof.held_out[0].groups, proof.held_out[0].problems) == (40, 20, 40)
    json.dumps(proof.record())


PLANTS = {
    "same seed": {"seed"},
    "same group id": {"id"},
    "same text": {"problem"},
    "same text, shouted": {"problem"},
    "edited text": {"near"},
    "facts in another order": {"near"},
    "same form": {"form"},
    "retold in other domains": {"form"},
    "all of it": {"seed", "id", "problem", "form"},
}


def reordered(text):
    *facts, goal = re.findall(r"[^.?]+[.?]", text)
    return "".join([*facts[::-1], goal])


def plant(name, group, other, telling):
    """A held-out group that has one thing in common with `group`; `other` is unlike it, `telling` is it in other domains."""
    own = f"leak of {group.id}"
    texts = {"same text": str, "same text, shouted": str.upper, "facts in another order": reordered}
    texts["edited text"] = "Code amber. {}".format
    if name in texts:
        return renamed(group, own, dag=None, instances=edited(group, texts[name]))
    return {
        "same seed": renamed(other, own, seed_id=group.seed_id),
        "same group id": renamed(other, own, id=group.id),
        "same form": renamed(other, own, dag=group.dag),
        "retold in other domains": renamed(telling, own),
        "all of it": group,
    }[name]


@pytest.mark.parametrize("name", PLANTS)
def test_every_planted_leak_is_found(groups, tmp_path, name):
    tellings = generate(60, ("finance", "engineering"), KINDS, seed=0)
    leaks = [plant(name, groups[i], groups[40 + i], tellings[i]) for i in range(12)]
    rest = tellings if name == "retold in other domains" else groups
    proof, findings = found(tmp_path, groups[:40], [*leaks, *rest[52:]])
    assert {finding.category for _, finding in proof.leaks} == PLANTS[name]
    for category in PLANTS[name]:
        assert findings[category].groups == 12
        assert findings[category].worst.held_out.split("/")[0] in {leak.id for leak in leaks} | {
            f"leak of {groups[0].id}"
        }
        assert findings[category].worst.training.split("/")[0] in {group.id for group in groups[:12]}
    assert proof.record()["passed"] is False


def test_the_worst_pair_is_the_most_similar(groups, tmp_path):
    faint = renamed(groups[0], "faint", dag=None, instances=edited(groups[0], lambda t: f"Code amber. Think. {t}"))
    close = renamed(groups[1], "close", dag=None, instances=edited(groups[1], lambda t: f"Think. {t}"))
    _, findings = found(tmp_path, groups[:40], [faint, close])
    near = findings["near"]
    assert (near.groups, near.pairs) == (2, 4)
    assert near.worst.held_out.startswith("close/") and 0.9 < near.worst.similarity < 1.0


def test_what_is_ignored_is_still_reported(groups, tmp_path):
    leak = plant("same form", groups[5], groups[45], groups[46])
    proof, findings = found(tmp_path, groups[:40], [leak], ignore=("form",))
    assert findings["form"].groups == 1 and proof.leaks == [] and proof.ignored == ("form",)


@pytest.mark.parametrize(("name", "message"), [("forms", "did you mean 'form'"), ("seed", "take 'seed' off the list")])
def test_ignore_is_checked(groups, tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        found(tmp_path, groups[:2], groups[2:4], ignore=(name,))


def test_forms_without_a_formula_are_the_graphs_themselves():
    def dag(first, second, text="P"):
        nodes = (DagNode(first, "ENTITY", text), DagNode(second, "GOAL", "Q"))
        return Dag(nodes, (DagEdge(first, second, "IMPLIES"),))

    (group,) = generate(1, ("law",), seed=0)
    forms = [form_of(replace(group, dag=d)) for d in (dag("a", "b"), dag("x", "y"), dag("a", "b", "R"))]
    assert forms[0] == forms[1] != forms[2]
    assert form_of(replace(group, dag=None)) is None


def test_groups_without_a_dag_are_counted(groups, tmp_path):
    bare = [replace(group, dag=None) for group in groups]
    proof, findings = found(tmp_path, bare[:10], [*bare[10:12], groups[12]])
    assert (proof.unchecked, findings["form"].unchecked) == (10, 2)


def test_a_random_pairing_leaks_all_its_seeds(groups, tmp_path):
    paired = replace(groups[0], meta={"variant": {"kind": "random-pairing", "seeds": ["seed-0-00000", "other"]}})
    held_out = renamed(groups[50], "x", seed_id="other")
    proof, findings = found(tmp_path, [paired], [held_out])
    assert findings["seed"].worst.shared == "other"
    assert [finding.category for _, finding in proof.leaks] == ["seed"]


def test_the_command(groups, tmp_path):
    found(tmp_path, groups[:40], groups[40:])
    files = [str(tmp_path / name) for name in ("train.jsonl", "test.jsonl")]
    fine = CliRunner().invoke(main, ["data", "leakage", *files])
    assert fine.exit_code == 0, fine.output
    assert fine.output.count("pass") == len(CATEGORIES)
    report = tmp_path / "report.json"
    bad = CliRunner().invoke(main, ["data", "leakage", files[0], files[1], files[0], "--report", str(report)])
    assert bad.exit_code == 2
    assert "train.jsonl: not independent of" in bad.output
    assert f"e.g. {groups[0].id} and {groups[0].id} of training: {groups[0].seed_id}" in bad.output
    record = json.loads(report.read_text())
    assert [all(f["groups"] == 0 for f in file["findings"]) for file in record["held_out"]] == [True, False]


def test_bad_files_are_named(groups, tmp_path):
    write_groups(tmp_path / "train.jsonl", groups[:2])
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match=r"empty\.jsonl: no groups in it"):
        prove(tmp_path / "train.jsonl", [tmp_path / "empty.jsonl"])
    with pytest.raises(UserError, match=r"none\.jsonl: cannot read"):
        prove(tmp_path / "none.jsonl", [tmp_path / "train.jsonl"])
    with pytest.raises(UserError, match="nothing to compare with"):
        prove(tmp_path / "train.jsonl", [])


def test_a_device_is_not_replaced_by_a_report(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="pipe: is a device or a pipe"):
        write_atomically(pipe, "text")
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]
