"""`igascale train --resume auto` over damaged checkpoints: the adapter at the end is that of the undisturbed run, to the bit."""

import json
import shutil

import pytest
from click.testing import CliRunner

from igascale.cli import main

import runs
from checkpoint_cases import contents
from launching import igascale

ADAPTER = "adapter/adapter_model.safetensors"


def train(base, out, *arguments):
    """The command, in this process."""
    return CliRunner().invoke(main, ["train", str(base), f"output_dir={out}", "checkpoint.every=1", *arguments])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fallback")
    changes = {"lora": {"r": 4, "alpha": 8.0, "dropout": 0.1}, "checkpoint": {"keep": 9}}
    steps = {"max_steps": 5, "groups_per_batch": 4, "gradient_accumulation_steps": 1}
    return runs.prepare(folder, train=steps, **changes)


@pytest.fixture(scope="module")
def undisturbed(base, tmp_path_factory):
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(base, run).exit_code == 0
    return (run / ADAPTER).read_bytes()


@pytest.fixture(scope="module")
def stopped(base, tmp_path_factory):
    run = tmp_path_factory.mktemp("stopped") / "run"
    assert train(base, run, "--stop-after", "3").exit_code == 0
    return run


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "optimizer": (lambda r: flip(r / "step-00000003" / "optimizer.safetensors"), "optimizer.safetensors", 2),
    "manifest": (lambda r: (r / "step-00000003" / "manifest.json").unlink(), "manifest.json", 2),
    "random-states-of-another-step": (
        lambda r: shutil.copy(r / "step-00000001" / "rng.safetensors", r / "step-00000003"),
        "rng.safetensors",
        2,
    ),
    "two": (
        lambda r: [(r / f"step-0000000{n}" / "state.json").write_text("") for n in (2, 3)],
        "step-00000002/state.json",
        1,
    ),
    "latest-empty": (lambda r: (r / "latest").write_text(""), "latest is empty", 3),
    "latest-missing-and-damage": (
        lambda r: ((r / "latest").unlink(), flip(r / "step-00000003" / "adapter" / "adapter_model.safetensors")),
        "latest is missing",
        2,
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_goes_on_from_the_one_before(base, undisturbed, stopped, tmp_path, case):
    damage, named, step = DAMAGE[case]
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    damage(run / "checkpoints")
    kept = {f"step-{n:08d}": contents(run / "checkpoints" / f"step-{n:08d}") for n in range(step + 1, 4)}
    done = train(base, run, "--resume", "auto")
    assert done.exit_code == 0, done.output
    assert named in done.stderr
    assert f"resumed at step {step}/5" in done.stdout
    assert (run / ADAPTER).read_bytes() == undisturbed
    for name, content in kept.items():
        assert contents(run / "checkpoints" / f"{name}.damaged") == content
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
    assert steps == [1, 2, 3, 4, 5]
    again = CliRunner().invoke(main, ["checkpoint", "verify", str(run)])
    assert again.exit_code == 0, again.output


def test_a_given_one_that_is_damaged_is_refused(base, stopped, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    folder = run / "checkpoints" / "step-00000003"
    flip(folder / "optimizer.safetensors")
    before = contents(run)
    done = train(base, run, "--resume", str(folder))
    assert done.exit_code == 2
    assert f"{folder / 'optimizer.safetensors'}: content differs from what was saved" in done.stderr
    assert f"other checkpoints: {folder.with_name('step-00000002')}" in done.stderr
    assert contents(run) == before


def test_in_a_process_of_its_own(base, undisturbed, stopped, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(stopped, run)
    (run / "checkpoints" / "step-00000003" / "rng.safetensors").write_bytes(b"")
    done = igascale("train", str(base), f"output_dir={run}", "checkpoint.every=1", "--resume", "auto")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert (
        f"rng.safetensors: 0 bytes instead of 5168; continuing from {run / 'checkpoints' / 'step-00000002'}" in told[0]
    )
    assert "step-00000003.damaged" in told[1]
    assert (run / ADAPTER).read_bytes() == undisturbed
