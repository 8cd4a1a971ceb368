"""Split by seed, and the folders that `igascale data generate` writes."""

import hashlib
import json
from dataclasses import replace

import pytest

from igascale.errors import UserError
from igascale.isomers.dataset import generate_dataset, validate_file
from igascale.isomers.generator import generate, logical_form
from igascale.isomers.kinds.vocabulary import OOD_DOMAINS, TRAINING_DOMAINS
from igascale.isomers.schema import domains_of, read_groups
from igascale.isomers.split import split_groups

SIZES = {"groups": 60, "validation_groups": 12, "ood_groups": 18}


def three_per_seed():
    """Three groups from every seed, far apart in the list."""
    return [
        replace(group, seed_id=f"s{index % 30}", id=f"g{index}")
        for index, group in enumerate(generate(90, ("law",), seed=0))
    ]


def test_split_keeps_every_seed_on_one_side():
    groups = three_per_seed()
    for seed in range(20):
        training, validation = split_groups(groups, 0.2, seed)
        assert {g.seed_id for g in training}.isdisjoint({g.seed_id for g in validation})
        assert len({g.seed_id for g in validation}) == 6
        assert sorted(g.id for g in training + validation) == sorted(g.id for g in groups)


def test_split_depends_on_seed_not_on_order():
    groups = three_per_seed()
    chosen = {g.id for g in split_groups(groups, 0.2, 1)[1]}
    assert {g.id for g in split_groups(groups[::-1], 0.2, 1)[1]} == chosen
    assert {g.id for g in split_groups(groups, 0.2, 2)[1]} != chosen


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 1.5])
def test_split_refuses_fraction(fraction):
    with pytest.raises(UserError, match="validation_fraction"):
        split_groups(three_per_seed(), fraction, 0)


def test_split_refuses_one_seed():
    groups = [replace(group, seed_id="same") for group in three_per_seed()]
    with pytest.raises(UserError, match="at least two seeds"):
        split_groups(groups, 0.5, 0)


def test_folder_has_disjoint_files_and_a_true_manifest(tmp_path):
    out = tmp_path / "data"
    manifest = generate_dataset(out, **SIZES, seed=5)
    assert sorted(p.name for p in out.iterdir()) == [
        "manifest.json",
        "ood.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]
    written = json.loads((out / "manifest.json").read_text())
    assert written["options"]["seed"] == 5
    sets = {}
    for name, record in manifest.files.items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == record.sha256
        assert validate_file(out / name) == record.summary
        assert written["files"][name]["sha256"] == record.sha256
        sets[name] = read_groups(out / name)
    assert [len(sets[f"{name}.jsonl"]) for name in ("train", "validation", "ood")] == [60, 12, 18]
    assert domains_of(sets["train.jsonl"]) == domains_of(sets["validation.jsonl"]) == TRAINING_DOMAINS
    assert domains_of(sets["ood.jsonl"]) == OOD_DOMAINS
    for key in (lambda g: g.seed_id, lambda g: g.id, logical_form):
        every = [key(group) for groups in sets.values() for group in groups]
        assert len(set(every)) == 90


def test_summary_counts(tmp_path):
    generate_dataset(tmp_path / "data", **SIZES)
    summary = validate_file(tmp_path / "data" / "train.jsonl")
    groups = read_groups(tmp_path / "data" / "train.jsonl")
    answers = [instance.answer for group in groups for instance in group.instances]
    assert (summary.groups, summary.instances) == (60, 240)
    assert summary.domains == dict.fromkeys(TRAINING_DOMAINS, 60)
    assert sum(summary.kinds.values()) == sum(summary.steps.values()) == 60
    assert summary.chance == max(answers.count(a) for a in answers) / 240
    assert summary.words_min <= summary.words_mean <= summary.words_max


def test_shortcut_folder(tmp_path):
    out = tmp_path / "data"
    manifest = generate_dataset(out, **SIZES, shortcut_probability=1.0)
    plain, blank = read_groups(out / "validation.jsonl"), read_groups(out / "validation_random_cue.jsonl")
    assert all(all(group.meta["shortcut"]["agrees"].values()) for group in plain)
    assert not all(all(group.meta["shortcut"]["agrees"].values()) for group in blank)
    assert [g.dag for g in plain] == [g.dag for g in blank]
    assert set(manifest.shortcut_mapping) == set(TRAINING_DOMAINS)
    for group in read_groups(out / "ood.jsonl"):
        assert group.meta["shortcut"]["agrees"] == {}


def test_refuses_to_overwrite(tmp_path):
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        generate_dataset(tmp_path, **SIZES)
    assert [p.name for p in tmp_path.iterdir()] == ["precious.txt"]


def test_refusal_writes_nothing(tmp_path):
    with pytest.raises(UserError, match="'law' is in domains and in ood_domains"):
        generate_dataset(tmp_path / "data", **SIZES, ood_domains=("law",))
    with pytest.raises(UserError, match="unknown domain"):
        generate_dataset(tmp_path / "data", **SIZES, ood_domains=("astrology",))
    with pytest.raises(UserError, match="ood_groups must be at least 1"):
        generate_dataset(tmp_path / "data", **{**SIZES, "ood_groups": 0})
    assert not (tmp_path / "data").exists()


def test_validate_file_reports_like_read_groups(tmp_path):
    generate_dataset(tmp_path / "data", **SIZES)
    path = tmp_path / "data" / "train.jsonl"
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(UserError, match=r"train\.jsonl:61: not valid JSON"):
        validate_file(path)
