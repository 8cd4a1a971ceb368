"""What is handed to Slurm, and when a job goes back into the queue; Slurm's programs are stand-ins here (tests/hosts has real ones)."""

import json
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.launching import submit
from igascale.launching.options import Options

import runs


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return runs.prepare(tmp_path_factory.mktemp("submit"), engine={"name": "deepspeed"})


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stand-ins that note how they were called."""
    (tmp_path / "bin").mkdir()
    calls = tmp_path / "calls"
    for name, says in (("sbatch", "echo 17"), ("squeue", 'echo "${STATE:-RUNNING}"'), ("scontrol", ":"), ("srun", ":")):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\necho "OWN=$OWN" >> {calls}.environment\n{says}\n')
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return calls


def test_submit(base, slurm, tmp_path):
    run = tmp_path / "runs" / "one"
    words = [
        "--nodes",
        "2",
        "-n",
        "4",
        "--partition",
        "gpu",
        "--time",
        "1-0",
        "--sbatch-arg=--gpus-per-node=4",
        "--hook",
        "mean",
    ]
    arguments = ["launch", str(base), f"output_dir={run}", "--backend", "slurm", *words, "--env", "OWN=hunter2"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "job 17 submitted" in result.output
    script = (run.parent / "one.sbatch").read_text()
    assert slurm.read_text() == f"sbatch --parsable {run.parent / 'one.sbatch'}\n"
    for line in ("#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4", "#SBATCH --requeue", "#SBATCH --gpus-per-node=4"):
        assert line in script.splitlines()
    last = script.splitlines()[-1]
    assert last.startswith("exec ")
    assert last.endswith("--hook mean --resume auto --backend slurm --num-processes 4 --env OWN")
    assert "hunter2" not in script  # it goes by the environment
    assert "OWN=hunter2" in slurm.with_name("calls.environment").read_text()
    assert not run.exists()
    (run.parent / "one.sbatch").write_text("precious")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "is not ours" in result.output
    assert (run.parent / "one.sbatch").read_text() == "precious"


def test_a_given_checkpoint_is_the_jobs_too(slurm, tmp_path, monkeypatch):
    """The job is told of it, and after a requeue goes on from where it has come itself."""
    run, path = tmp_path / "fork", str(tmp_path / "old" / "checkpoints" / "step-00000002")
    config = SimpleNamespace(output_dir=str(run))
    monkeypatch.setattr(submit.checks, "check_run", Mock())
    options = Options(backend="slurm", num_processes=1)
    assert submit.submit(config, options, ["train", "run.yaml", "--resume", path], dry_run=False) == 0
    assert f"launch run.yaml --resume {path} --backend slurm" in run.with_name("fork.sbatch").read_text()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("IGASCALE_REQUEUE", "1")
    assert submit.resume_of_job(path, run) == path
    run.mkdir()
    (run / "resumes.jsonl").write_text('{"job": "16"}\n')
    assert submit.resume_of_job(path, run) == path
    (run / "resumes.jsonl").write_text('{"job": "16"}\n{"job": "17"}\n')
    assert submit.resume_of_job(path, run) == "auto"
    monkeypatch.delenv("SLURM_JOB_ID")
    assert submit.resume_of_job(path, run) == path


@pytest.mark.parametrize(
    ("code", "state", "before", "expected"),
    [
        (138, "RUNNING", [], True),
        (143, "RUNNING", [], True),
        (75, "RUNNING", [75], True),
        (75, "RUNNING", [75, 0, 75, 75], True),
        (75, "RUNNING", [75, 75, 75], False),
        (143, "COMPLETING", [], False),
        (143, "CANCELLED", [], False),
        (0, "RUNNING", [], False),
        (2, "RUNNING", [], False),
        (130, "RUNNING", [], False),
    ],
)
def test_requeue(slurm, tmp_path, monkeypatch, code, state, before, expected):
    (tmp_path / "launches.jsonl").write_text("".join(json.dumps({"exit_code": c}) + "\n" for c in before))
    monkeypatch.setenv("STATE", state)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    submit.requeue(code, tmp_path)
    assert not slurm.exists()  # not our own script
    monkeypatch.setenv("IGASCALE_REQUEUE", "1")
    submit.requeue(code, tmp_path)
    assert (slurm.exists() and "scontrol requeue 17\n" in slurm.read_text()) == expected
