"""Seeds with known truth, and the command lines of the generator."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.errors import UserError
from igascale.isomers.dataset import generate_dataset, validate_file
from igascale.isomers.generated_seeds import generate_with_seeds, truth_of
from igascale.isomers.generator import generate
from igascale.isomers.kinds import ALL_KINDS, KINDS
from igascale.isomers.kinds.vocabulary import FURTHER_VOCABULARIES, OOD_DOMAINS, TRAINING_DOMAINS
from igascale.isomers.kinds.wording import Wording
from igascale.isomers.schema import read_groups
from igascale.isomers.seeds import Seed, write_seeds
from igascale.isomers.solver import solve


def cli(*arguments):
    return CliRunner().invoke(main, ["data", *map(str, arguments)])


def test_pairs_agree_and_are_deterministic():
    options = {"steps": (1, 4), "width": 1, "wording": Wording.parse("full")}
    pairs = list(generate_with_seeds(45, TRAINING_DOMAINS, tuple(ALL_KINDS), 3, **options))
    assert pairs == list(generate_with_seeds(45, TRAINING_DOMAINS, tuple(ALL_KINDS), 3, **options))
    assert len({seed.problem for seed, _ in pairs}) == len({seed.id for seed, _ in pairs}) == 45
    for seed, group in pairs:
        assert (seed.id, seed.kind) == (group.seed_id, group.kind)
        assert seed.answer == solve(seed.kind, group.dag) == group.instances[0].answer
        assert len(seed.solution.split("\n")) == group.dag.steps
        assert seed.meta["logical_form"] == group.dag.logical_form
        assert seed.source == "generator/general"
        assert seed.problem not in {instance.problem for instance in group.instances}


def test_truth_of_a_seed_that_was_written_and_read(tmp_path):
    pairs = list(generate_with_seeds(30, ("law", "sports"), tuple(ALL_KINDS), 9))
    write_seeds(tmp_path / "seeds.jsonl", [seed for seed, _ in pairs])
    lines = (tmp_path / "seeds.jsonl").read_text().splitlines()
    for line, (seed, group) in zip(lines, pairs):
        again = Seed(**json.loads(line))
        assert again == seed
        assert truth_of(again, ("law", "sports")) == group


def test_truth_does_not_need_the_problems_before_it():
    """Even where a problem was drawn again because its first draw had come up before."""
    pairs = list(generate_with_seeds(1500, ("law",), ["geometry"], 0, steps=(1, 1)))
    again = [(seed, group) for seed, group in pairs if seed.meta["recipe"]["attempt"] > 0]
    assert len(again) > 50
    assert all(truth_of(seed, ("law",)) == group for seed, group in again)


def test_truth_is_the_generators_group_but_for_the_joined_graph():
    pairs = list(generate_with_seeds(12, TRAINING_DOMAINS, seed=4))
    for (_, group), plain in zip(pairs, generate(12, seed=4)):
        assert group.instances == plain.instances and group.id == plain.id
        assert group.dag.nodes[:-1] == plain.dag.nodes and group.dag.logical_form == plain.dag.logical_form


def test_a_seed_that_was_changed_has_no_truth():
    (seed, _), *_ = generate_with_seeds(1, ("law",))
    with pytest.raises(UserError, match="its recipe gives another problem"):
        truth_of(replace(seed, answer="Z"))
    with pytest.raises(UserError, match="no recipe in its meta"):
        truth_of(replace(seed, meta={}))
    with pytest.raises(UserError, match="no recipe in its meta"):
        truth_of(replace(seed, meta={"recipe": {"seed": 1}}))


def test_seeds_command(tmp_path):
    path = tmp_path / "seeds.jsonl"
    result = cli(
        "seeds", "--out", path, "--count", 20, "--kinds", "logical,sets", "--domain", "cooking", "--depth", 3, 4
    )
    assert result.exit_code == 0, result.output
    assert "20 seeds; kinds deductive 4" in result.output
    seeds = [Seed(**json.loads(line)) for line in path.read_text().splitlines()]
    assert {seed.source for seed in seeds} == {"generator/cooking"}
    assert {seed.meta["difficulty"]["depth"] for seed in seeds} == {3, 4}
    assert all(truth_of(seed).seed_id == seed.id for seed in seeds)
    before = path.read_bytes()
    assert "already exists; choose another name" in cli("seeds", "--out", path).output
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kinds", "sett"], "unknown reasoning kind 'sett'"),
        (["--domain", "lawe"], "unknown domain 'lawe'"),
        (["--kinds", ","], "kinds is empty; name at least one"),
        (["--count", "0"], "at least 1, not 0"),
        (["--paraphrase", "lots"], "paraphrase is 'lots'"),
        (["--width", "9"], "width must be within 0 to"),
        (["--kinds", "geometry", "--steps", "1", "1", "--count", "5000"], "at most 3,600"),
    ],
)
def test_seeds_command_refuses(tmp_path, arguments, message):
    path = tmp_path / "seeds.jsonl"
    run = subprocess.run(
        [sys.executable, "-m", "igascale", "data", "seeds", "--out", str(path), *arguments],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert message in run.stderr and "Traceback" not in run.stderr and len(run.stderr.strip().splitlines()) == 1
    assert not path.exists()


def test_generate_command_with_everything(tmp_path):
    result = cli(
        "generate", "--out", tmp_path / "d", "--groups", 30, "--validation-groups", 15, "--ood-groups", 15,
        "--kinds", "all", "--depth", 2, 3, "--width", 2, "--paraphrase", "full", "--ood-domains", "education,logistics",
        "--shortcut", 0.9, "--shortcut-kind", "name",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    train = read_groups(tmp_path / "d" / "train.jsonl")
    assert all(group.meta["difficulty"]["width"] >= 2 for group in train)
    options = json.loads((tmp_path / "d" / "manifest.json").read_text())["options"]
    summary = json.loads((tmp_path / "d" / "manifest.json").read_text())["files"]["train.jsonl"]["summary"]
    assert set(summary["chance_of_kind"]) == set(ALL_KINDS) and summary["chance_of_kind"]["causal"] >= 0.5
    assert validate_file(tmp_path / "d" / "train.jsonl").chance_of_kind == summary["chance_of_kind"]
    assert options["kinds"] == list(ALL_KINDS) and options["width"] == 2 and options["paraphrase"] == "full"


def test_defaults_are_the_six_kinds_and_six_domains():
    assert len(KINDS) == 6 and len(TRAINING_DOMAINS) == 4 and OOD_DOMAINS == ("finance", "engineering")
    assert not set(FURTHER_VOCABULARIES) & {*TRAINING_DOMAINS, *OOD_DOMAINS}


def test_a_set_is_written_as_it_is_made(tmp_path):
    """Peak memory of ten times the groups is nearly the same."""
    program = (
        "import re, sys; from pathlib import Path; from igascale.isomers.dataset import generate_dataset as g; "
        "g(sys.argv[1], groups=int(sys.argv[2]), validation_groups=20, ood_groups=20); "
        "print(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    peaks = []
    for groups in (300, 3000):
        run = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / str(groups)), str(groups)],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(run.stdout))
    # KiB, of the process itself: ru_maxrss would begin with what this one has.
    assert peaks[1] - peaks[0] < 3_000  # 3,000 groups held would be 30 MB and more


def test_a_set_that_fails_midway_leaves_nothing(tmp_path, monkeypatch):
    import igascale.isomers.dataset as module

    written = []

    def full(group):
        written.append(group.id)
        if len(written) > 25:
            raise OSError(28, "No space left on device")
        return {"id": group.id}

    monkeypatch.setattr(module, "to_record", full)
    with pytest.raises(UserError, match=r"cannot write there \(No space left on device\)"):
        generate_dataset(tmp_path / "d", groups=30, validation_groups=6, ood_groups=6)
    assert not (tmp_path / "d").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError):
        generate_dataset(tmp_path / "empty", groups=30, validation_groups=6, ood_groups=6)
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_made(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot make this folder"):
        generate_dataset(tmp_path / "d", groups=4, validation_groups=2, ood_groups=2)
