"""environment.json against git, hashlib and the files themselves."""

import hashlib
import json
import subprocess

import pytest
from click.testing import CliRunner

from igascale import record
from igascale.cli import main
from igascale.provenance import file_digest, git_state
from igascale.resuming.sources import fingerprint_model

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


def test_a_model_that_was_not_there_yet_is_recorded_when_it_is(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (tmp_path / record.ENVIRONMENT).write_text(json.dumps({"model": {"path": "a/b", "files": None}, "seed": 3}))
    record.complete(tmp_path, str(model))
    facts = json.loads((tmp_path / record.ENVIRONMENT).read_text())
    digest = hashlib.sha256(b"{}").hexdigest()
    assert facts == {"model": {"path": str(model), "files": {"config.json": digest}}, "seed": 3}
    record.complete(tmp_path, "another/model")  # what is recorded stays
    assert json.loads((tmp_path / record.ENVIRONMENT).read_text()) == facts
    (tmp_path / record.ENVIRONMENT).write_text('{"from": "an earlier version"}')
    record.complete(tmp_path, str(model))


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
    monkeypatch.setenv("SOME_TOKEN", "very-secret")
    monkeypatch.setattr("sys.argv", ["igascale", *arguments, "x=very-secret", "my.api_key=abc"])
    result = CliRunner().invoke(main, [*arguments, "--stop-after", "1"])
    assert result.exit_code == 0, result.output
    facts = json.loads((run / "environment.json").read_text())
    assert facts["seed"] == 7
    assert facts["command"][-3:] == ["eval.every=null", "x=<redacted>", "my.api_key=<redacted>"]
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
    assert facts["model"]["files"] == fingerprint_model(str(tmp_path / "made" / "model"))
    # A resume changes none of it.
    first = (run / "environment.json").read_bytes()
    result = CliRunner().invoke(main, [*arguments, "--resume", "auto", "eval.max_groups=2"])
    assert result.exit_code == 0, result.output
    assert (run / "environment.json").read_bytes() == first
    (history,) = map(json.loads, (run / "resumes.jsonl").read_text().splitlines())
    assert history["step"] == 1
    assert history["packages"] == facts["packages"]
    assert "max_groups: 2" in (run / "config.yaml").read_text()
