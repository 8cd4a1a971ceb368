"""`igascale checkpoint ls|verify|show`: what they say, how they exit, and that they import no torch."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from igascale.checkpoints import inspect, names
from igascale.cli import main

from checkpoint_cases import contents, files_of, save
from launching import environment


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    for step in (1, 2, 3):
        save(folder / "checkpoints", step, best=1)
    (folder / "config.yaml").write_text(yaml.safe_dump({"hook": {"name": "iga"}, "seed": 0}))
    os.utime(folder / "checkpoints" / "step-00000001" / "manifest.json", (0, 0))
    return folder


def invoke(*arguments):
    return CliRunner().invoke(main, ["checkpoint", *map(str, arguments)])


def damage(run):
    path = run / "checkpoints" / "step-00000002" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    return path


def test_ls(run):
    damage(run)
    (run / "checkpoints" / "step-00000009.damaged").mkdir()
    (run / "checkpoints" / ".step-00000004.tmp").mkdir()
    before = contents(run)
    done = invoke("ls", run)
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines() if line.strip()[:1].isdigit()]
    assert [(row[0], row[-1]) for row in rows] == [("1", "best"), ("2", "damaged"), ("3", "latest")]
    assert rows[2][2] in ("s", "min")
    assert rows[0][2] == "d"  # a manifest of 1970 is old
    assert "damaged: " in done.stdout
    assert "step-00000009.damaged" in done.stdout
    assert "unfinished" in done.stdout
    assert contents(run) == before
    assert (run / "checkpoints" / ".step-00000004.tmp").is_dir()


def test_ls_json(run):
    path = damage(run)
    told = json.loads(invoke("ls", run, "--json").stdout)
    assert [(c["step"], c["valid"], c["latest"], c["best"]) for c in told["checkpoints"]] == [
        (1, True, False, True),
        (2, False, False, False),
        (3, True, True, False),
    ]
    assert told["checkpoints"][1]["problems"][0]["file"] == str(path)
    assert told["checkpoints"][2]["bytes"] == sum(
        p.stat().st_size
        for p in (run / "checkpoints" / "step-00000003").rglob("*")
        if p.is_file() and p.name != "manifest.json"
    )
    assert told["checkpoints"][2]["world_size"] == 1


def test_verify(run):
    done = invoke("verify", run)
    assert (done.exit_code, done.stdout.count("valid ")) == (0, 3)
    path = damage(run)
    (path.parent / "state.json").unlink()
    done = invoke("verify", run)
    assert done.exit_code == 1
    assert f"damaged  {path}: " in done.stdout  # every file that is, not only the first
    assert f"damaged  {path.parent / 'state.json'}: missing" in done.stdout
    assert invoke("verify", run / "checkpoints" / "step-00000003").exit_code == 0
    assert invoke("verify", run / "checkpoints" / "step-00000003", path.parent).exit_code == 1
    told = json.loads(invoke("verify", path.parent, "--json").stdout)["checkpoints"][0]
    assert (told["valid"], len(told["problems"])) == (False, 2)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("verb", ["ls", "verify"])
def test_what_a_run_removes_meanwhile_is_not_damaged(run, monkeypatch, verb, moment):
    """A run that trains on removes old checkpoints; who looks just then must not raise the alarm."""
    old, read = run / "checkpoints" / "step-00000002", inspect.read_manifest

    def removed(folder):
        manifest = read(folder) if moment == "before" or folder != old else None
        if folder == old:
            names.delete(old)
        return manifest or read(folder)

    monkeypatch.setattr(inspect, "read_manifest", removed)
    done = invoke(verb, run, "--json")
    assert done.exit_code == 0, done.stdout
    told = json.loads(done.stdout)
    assert [(row["step"], row["valid"]) for row in told["checkpoints"]] == [(1, True), (3, True)]
    assert told["problems"] == []


@pytest.mark.parametrize("which", ["latest", "best"])
def test_verify_looks_at_the_pointers(run, which):
    names.write_pointer(run / "checkpoints", which, "step-00000007")
    done = invoke("verify", run)
    assert done.exit_code == 1
    assert f"{which}: names 'step-00000007', which is not there" in done.stdout


def test_show(run):
    told = json.loads(invoke("show", run / "checkpoints" / "latest", "--json").stdout)
    tensors = files_of(3)["optimizer.safetensors"]
    assert told["step"] == 3
    assert (told["optimizer_tensors"], told["trained_tensors"]) == (len(tensors), len(tensors) // 3)
    assert told["trainable_parameters"] == sum(t.numel() for n, t in tensors.items() if n.endswith(".master")) == 128
    hook = told["files"]["hook.safetensors"]
    assert told["bytes_per_parameter"] == (told["bytes"] - hook) / 128
    assert told["hook_state"] == {"keys": ["adapters", "calls"], "tensor_bytes": hook}
    assert told["differs_from_run"] == {"hook.name": ["mean", "iga"]}
    text = invoke("show", run).stdout
    assert "step 3, 3 optimizer steps taken" in text
    assert "hook.name: 'mean' here, 'iga' in the run" in text
    shutil.copytree(run / "checkpoints" / "step-00000003", run.parent / "alone" / "elsewhere" / "copy")
    assert "no run's config.yaml beside it" in invoke("show", run.parent / "alone" / "elsewhere" / "copy").stdout


@pytest.mark.parametrize("verb", ["ls", "verify", "show"])
def test_what_is_no_run(tmp_path, verb):
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "step-00000001"):
        done = invoke(verb, path)
        assert done.exit_code == 2, done.output
        assert done.stderr.startswith("error: ")
        assert str(path) in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_run_without_a_checkpoint_yet(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    assert "no checkpoint in" in invoke("ls", tmp_path / "run").stdout
    assert invoke("verify", tmp_path / "run").exit_code == 0


def test_no_torch(run):
    code = (
        "import sys; from click.testing import CliRunner; from igascale.cli import main\n"
        f"for verb in ('ls', 'verify', 'show'): assert CliRunner().invoke(main, ['checkpoint', verb, {str(run)!r}]).exit_code == 0\n"
        "assert not {'torch', 'safetensors', 'transformers', 'pydantic'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("verb", ["ls", "verify", "show"])
def test_a_data_set_is_no_checkpoint(tmp_path, verb):
    """It has a manifest of its own."""
    for name in ("manifest.json", "train.jsonl"):
        (tmp_path / name).write_text("{}\n")
    result = invoke(verb, tmp_path)
    assert result.exit_code == 2
    assert "damaged" not in result.output
    assert "checkpoint" in result.output
