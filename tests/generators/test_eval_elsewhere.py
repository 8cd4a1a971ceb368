"""`igascale eval --endpoint` as a user runs it."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.isomers.schema import Instance, IsomerGroup, write_groups

from faulty_server import FaultyServer, Plan

KEY = "sk-very-secret-0815"


def groups(name, domains, count=6):
    return [
        IsomerGroup(
            id=f"{name}{k}",
            seed_id=f"{name}{k}",
            kind="chain",
            instances=tuple(Instance(d, f"What is {k} plus 1, in {d}?", "", str(k + 1)) for d in domains),
        )
        for k in range(count)
    ]


def answerer(messages, body):
    """Right in law and art, wrong in war."""
    words = messages[-1]["content"].split()
    return f"Thus.\nAnswer: {int(words[2]) + (1 if 'war?' not in words else 5)}"


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    write_groups(tmp_path / "id.jsonl", groups("a", ["law", "art"]))
    write_groups(tmp_path / "ood.jsonl", groups("b", ["law", "war"]))
    (tmp_path / "math").mkdir()
    problem = {
        "problem": "What is 3 plus 1 ?",
        "level": "Level 1",
        "type": "Algebra",
        "solution": "It is $\\boxed{4}$.",
    }
    (tmp_path / "math" / "test.jsonl").write_text(json.dumps(problem) + "\n")
    return ["--id", "id.jsonl", "--ood", "ood.jsonl", "--benchmark", "math=math"]


def run(*arguments):
    result = CliRunner(env={"COLUMNS": "160"}).invoke(main, ["eval", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_accuracy_of_a_server(files, tmp_path):
    with FaultyServer(answerer, Plan(rates={"429": 0.2, "500": 0.1}, seed=1), key=KEY) as server:
        result = run(
            "org/model:tag", *files, "--endpoint", server.url, "--served-model", "teacher", "--max-new-tokens", "99"
        )
    assert result.exit_code == 0, result.output
    assert "LCS needs the model in this process" in result.output and "Consistency Score" not in result.output
    assert KEY not in result.output
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    isomers, math = found["suites"]["isomers"], found["suites"]["math"]
    assert isomers["id"]["accuracy"]["value"] == 1 and isomers["ood"]["accuracy"]["value"] == 0.5
    assert isomers["ood"]["per_domain"]["war"]["value"] == 0 and isomers["id"]["consistency"] is None
    assert math["id"]["accuracy"]["value"] == 1
    settings = found["settings"]
    assert settings["generator"] == "endpoint" and settings["served_model"] == "teacher"
    assert settings["max_new_tokens"] == 99 and settings["model"] == "org/model:tag"
    everything = [p for p in (tmp_path / "evaluation").rglob("*") if p.is_file()]
    assert sorted(p.name for p in everything) == ["evaluation.json", "samples.jsonl"]
    assert all(KEY not in p.read_text() for p in everything)


def test_refusals(files, tmp_path):
    with FaultyServer(answerer) as server:
        url = ["--endpoint", server.url]
        for arguments, told in (
            ([*url, "--generator", "vllm"], "one of them answers"),
            (["--served-model", "x"], "--served-model goes with --endpoint"),
            (["--generator", "vllm"], "needs the vllm package"),
            ([*url, "--served-model", "gone"], "has no model 'gone'"),
        ):
            result = run("model", *files, *arguments)
            lines = [line for line in result.output.splitlines() if "error: " in line]
            assert result.exit_code == 2 and len(lines) == 1 and told in lines[0], result.output
    assert not (tmp_path / "evaluation" / "evaluation.json").exists()


def test_killed_in_the_middle(files, tmp_path):
    """kill -9 of the whole command: what was answered is not asked again, and the result is complete."""
    with FaultyServer(answerer) as server:
        server.limit = 10  # there is work left when the kill comes
        arguments = ["model", *files, "--endpoint", server.url, "--served-model", "teacher", "--concurrency", "2"]
        child = subprocess.Popen(
            [sys.executable, "-m", "igascale", "eval", *arguments],
            stdout=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        server.until(lambda: len(server.log) >= 8 or child.poll() is not None)
        child.send_signal(signal.SIGKILL)
        child.wait()
        before = len(server.log)
        assert 8 <= before < 20
        server.limit = math.inf
        assert run(*arguments).exit_code == 0
        assert len(server.log) <= 25 + 2  # 24 tellings and one problem, of which two were under way
    lines = (tmp_path / "evaluation" / "samples.jsonl").read_text().splitlines()
    assert len(lines) == 25


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--batch-size", "4"], "--batch-size needs the model in this process; leave it out with --endpoint"),
        (["--dtype", "float32"], "--dtype needs the model"),
        (["--device", "cpu"], "--device needs the model"),
        (["--layers", "all"], "--layers needs the model"),
        (["--lcs-text", "full"], "--lcs-text needs the model"),
        (["--gir"], "--gir needs the model"),
        (["--base", "x"], "--base needs the model"),
        (["--num-processes", "2"], "--num-processes needs the model"),
    ],
)
def test_what_a_server_has_no_use_for_is_refused(files, arguments, told):
    result = run("model", *files, "--endpoint", "http://127.0.0.1:9/v1", *arguments)
    assert result.exit_code == 2 and told in result.output and result.output.count("error: ") == 1, result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--id", "id.jsonl", "--limit-problems", "4"],
            "--limit-problems goes with --benchmark NAME=SOURCE, for groups",
        ),
        (["--id", "id.jsonl", "--benchmark-split", "all"], "--benchmark-split goes with --benchmark"),
        (["--id", "id.jsonl", "--gir-groups", "4"], "give --gir too"),
        (["--id", "id.jsonl", "--concurrency", "4"], "--concurrency goes with --endpoint URL"),
        (["--id", "id.jsonl", "--timeout", "4"], "--timeout goes with --endpoint URL"),
        (["--benchmark", "math=math", "--limit-groups", "4"], "--limit-groups is about isomer groups"),
        (["--benchmark", "math=math", "--layers", "all"], "--layers is about isomer groups"),
    ],
)
def test_options_without_what_they_are_about_are_refused(files, tmp_path, arguments, told):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    result = run("model", *arguments)
    assert result.exit_code == 2 and told in result.output and result.output.count("error: ") == 1, result.output
