"""environment.json against git, hashlib and the files themselves."""

import hashlib
import json
import subprocess

import pytest
from click.testing import CliRunner

from igascale import record
from igascale.cli import main
from igascale.provenance import file_digest, git_state, model_fingerprint

import runs


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, check=True)
    return done.stdout


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "rules.py").write_text("x = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder


def test_git_state_of_a_clean_and_a_changed_checkout(repository):
    (repository / "deep").mkdir()
    clean = git_state(repository / "deep")
    assert clean["commit"] == git(repository, "rev-parse", "HEAD").decode().strip()
    assert (clean["dirty"], clean["diff_sha256"], clean["untracked"]) == (False, None, [])
    (repository / "new.txt").touch()
    assert git_state(repository)["dirty"] is False  # a run folder in the checkout does not make it dirty
    assert git_state(repository)["untracked"] == ["new.txt"]
    (repository / "rules.py").write_text("x = 2\n")
    one = git_state(repository)
    assert one["dirty"]
    assert one["changed"] == ["rules.py"]
    assert one["diff_sha256"] == hashlib.sha256(git(repository, "diff", "HEAD", "--binary")).hexdigest()
    git(repository, "add", "rules.py")
    assert git_state(repository)["diff_sha256"] == one["diff_sha256"]  # staged or not, the same code
    (repository / "rules.py").write_text("x = 3\n")
    assert git_state(repository)["diff_sha256"] != one["diff_sha256"]


def test_git_state_outside_of_a_repository_and_where_git_fails(tmp_path, repository, monkeypatch):
    assert git_state(tmp_path) is None
    (repository / "inner").mkdir()
    assert git_state(repository / "inner", root=True) is None
    assert git_state(repository, root=True)["commit"]
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as within a git hook
    assert git_state(repository)["commit"]
    (repository / ".git" / "HEAD").write_text("rubbish\n")
    assert "problem" in git_state(repository)
    monkeypatch.setenv("PATH", "")
    assert "problem" in git_state(repository)


def test_digest_of_a_data_file(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"a": 1}\n\n  \n{"b": 2}')
    found = file_digest(path)
    assert found["groups"] == 2
    assert found["bytes"] == path.stat().st_size
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert file_digest(tmp_path / "missing")["problem"]


def test_a_models_fingerprint_changes_with_it(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    weights = folder / "model.safetensors"
    content = bytearray(bytes(range(256)) * (80 << 10))  # 20 MiB: hashed at both ends
    weights.write_bytes(content)
    seen = {model_fingerprint(str(folder))["sha256"]}
    for place in (0, len(content) - 1):
        content[place] ^= 1
        weights.write_bytes(content)
        seen.add(model_fingerprint(str(folder))["sha256"])
    weights.write_bytes(content[:-1])
    seen.add(model_fingerprint(str(folder))["sha256"])
    (folder / "config.json").write_text("{ }")
    seen.add(model_fingerprint(str(folder))["sha256"])
    (folder / "config.json").rename(folder / "other.json")
    found = model_fingerprint(str(folder))
    seen.add(found["sha256"])
    assert len(seen) == 6
    assert (found["files"], found["bytes"]) == (2, len(content) - 1 + 3)
    assert found == model_fingerprint(str(folder))


def test_a_hub_model_is_looked_up_in_the_cache_only(tmp_path):
    assert model_fingerprint("nobody/nothing-of-this-name")["sha256"] is None
    assert model_fingerprint("not an id/at/all")["sha256"] is None
    # Recorded later, when it has come.
    (tmp_path / "model").mkdir()
    (tmp_path / record.ENVIRONMENT).write_text(json.dumps({"model": {"sha256": None, "problem": "x"}, "seed": 3}))
    record.complete(tmp_path, str(tmp_path / "model"))
    facts = json.loads((tmp_path / record.ENVIRONMENT).read_text())
    assert facts["seed"] == 3
    assert len(facts["model"]["sha256"]) == 64
    record.complete(tmp_path, "another/model")
    assert json.loads((tmp_path / record.ENVIRONMENT).read_text()) == facts


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("hook.api_key=abc def", "hook.api_key=<redacted>"),
        ("hook={token: abc, x: 1}", "hook={token: <redacted>"),
        ("model.path=https://me:pw@host/m", "model.path=https://me:<redacted>@host/m"),
        ("x=hf_abcdefghij", "x=hf_<redacted>"),
        ("train.loss_reduction=token", "train.loss_reduction=token"),
        ("optimizer.lr=1e-4", "optimizer.lr=1e-4"),
    ],
)
def test_secrets_of_the_command_are_not_recorded(argument, shown):
    assert record.redact(argument) == shown


def test_a_real_run_records_what_it_was_made_of(tmp_path, repository, monkeypatch):
    (repository / "my_own_rules.py").write_text(
        "from igascale.hooks import FactorGrads, GradientHook\n"
        "class Mine(GradientHook):\n"
        "    def combine(self, grads, adapters, ctx):\n"
        "        return {k: FactorGrads(g.a.mean(0), g.b.mean(0)) for k, g in grads.items()}\n"
    )
    monkeypatch.chdir(repository)
    config = runs.prepare(tmp_path / "made")
    run = tmp_path / "made" / "run"
    arguments = ["train", str(config), "hook.name=my_own_rules:Mine", "seed=7", "train.max_steps=2", "eval.every=null"]
    result = CliRunner().invoke(main, [*arguments, "--stop-after", "1"])
    assert result.exit_code == 0, result.output
    facts = json.loads((run / "environment.json").read_text())
    assert facts["seed"] == 7
    assert facts["world_size"] == len(facts["ranks"]) == 1
    assert facts["versions"]["torch"] == facts["packages"]["torch"]
    assert facts["project_git"]["commit"] == git(repository, "rev-parse", "HEAD").decode().strip()
    assert facts["project_git"]["untracked"] == ["my_own_rules.py"]
    own = repository / "my_own_rules.py"
    assert facts["hook"]["sha256"] == hashlib.sha256(own.read_bytes()).hexdigest()
    for name in ("train", "validation", "ood"):
        path = tmp_path / "made" / "data" / f"{name}.jsonl"
        assert facts["data"][name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert facts["data"]["train"]["groups"] == 64
    assert facts["model"]["sha256"] == model_fingerprint(str(tmp_path / "made" / "model"))["sha256"]
    # A resume changes none of it.
    first = {name: (run / name).read_bytes() for name in ("environment.json", "config.yaml")}
    result = CliRunner().invoke(main, [*arguments, "--resume", "auto", "eval.max_groups=2"])
    assert result.exit_code == 0, result.output
    assert {name: (run / name).read_bytes() for name in first} == first
    (history,) = (run / "resumes.jsonl").read_text().splitlines()
    assert json.loads(history)["config"]["eval"]["max_groups"] == 2
