"""A run's checkpoints: chosen, copied while they may be pruned, evaluated as they come."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from igascale import status
from igascale.checkpoints import names
from igascale.checkpoints.manifest import Damaged
from igascale.checkpoints.publish import publish
from igascale.cli.eval import command
from igascale.errors import UserError
from igascale.evaluation import checkpoints, watching
from igascale.evaluation.evaluate import evaluate
from igascale.evaluation.request import Request, read_suites
from igascale.evaluation.results import read_result, write_result
from igascale.evaluation.store import AnswerStore
from igascale.evaluation.trail_table import trail_table
from igascale.evaluation.watching import Trail
from igascale.isomers.schema import Instance, IsomerGroup, write_groups
from igascale.tables import to_markdown

from slow_answers import Clerk


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "_POLL", 0.02)
    monkeypatch.setattr(watching, "_PATIENCE", 0.3)
    folder = tmp_path / "run"
    folder.mkdir()
    groups = [
        IsomerGroup(f"g{k}", f"g{k}", (Instance("law", f"l {k}", "So.", "3"), Instance("drug", f"d {k}", "So.", "3")))
        for k in range(3)
    ]
    write_groups(tmp_path / "id.jsonl", groups)
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"model": {"path": "base"}, "data": {"validation": str(tmp_path / "id.jsonl")}})
    )
    (folder / "environment.json").write_text("{}")
    tell(folder, status.RUNNING)
    return folder


def tell(run, state):
    """Its process is this one."""
    record = {"state": state, "step": 1, "process": status.this_process(), "updated": status.now(), "message": ""}
    new = run / "status.tmp"
    new.write_text(json.dumps(record))
    new.replace(run / status.STATUS)  # whole, for whoever reads it meanwhile


def save(run, step, weights=None, keep=9):
    state = dict.fromkeys(("optimizer_steps", "world_size"), 0) | {"step": step, "validation_loss": None}
    state |= {"hook": {}, "counters": {}, "data": "", "config": {}, "world_size": 1}

    def write(folder):
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter_config.json").write_text("{}")
        (folder / "adapter" / "adapter_model.safetensors").write_bytes(weights or b"weights %d" % step)
        (folder / "optimizer.safetensors").write_bytes(b"o" * 100)
        (folder / "rng.safetensors").write_bytes(b"r")
        (folder / "state.json").write_text(json.dumps(state))

    publish(run / "checkpoints", step, write, keep=keep)


class Evaluator:
    """In the model's place: what it answers depends on the adapter's bytes."""

    def __init__(self, during=None):
        self.done, self.during = [], during or (lambda step: None)

    def __call__(self, request, progress):
        weights = (Path(request.model) / "adapter_model.safetensors").read_bytes()
        step = int(request.shown.rpartition(" ")[2])
        self.during(step)
        if progress is not None:
            progress("answers", 0, 6)
        clerk = Clerk(name=weights.decode())
        suites, _ = read_suites(request)
        result = evaluate(clerk, suites, AnswerStore(clerk.settings()))
        result.settings.update(
            request=request.digest(), adapter_sha256=request.adapter_sha256, weights=weights.decode()
        )
        write_result(result, Path(request.out))
        self.done.append(step)
        return result


def trail(run, evaluator, **options):
    request = Request(
        model=str(run), shown=str(run), out=str(run / "evaluation"), base="base", id_file=str(run.parent / "id.jsonl")
    )
    told = []
    made = Trail(run, replace(request, **options.pop("request", {})), evaluator, tell=told.append, **options)
    return made, told


def test_choose(run):
    with pytest.raises(UserError, match="has no checkpoints; leave --checkpoint out"):
        checkpoints.choose(run, "latest")
    for step in (10, 20, 30):
        save(run, step)
    assert checkpoints.choose(run, "all") == [10, 20, 30]
    assert checkpoints.choose(run, "latest") == [30]
    assert checkpoints.choose(run, "20") == checkpoints.choose(run, "step-00000020") == [20]
    for which, message in (
        ("25", "not there; .* has 10, 20, 30"),
        ("best", "not there"),
        ("first", "should be a step"),
    ):
        with pytest.raises(UserError, match=message):
            checkpoints.choose(run, which)


def test_a_copy_is_compared_with_the_manifest(run):
    save(run, 10)
    weights = run / "checkpoints" / names.name_of(10) / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(b"weights 11")
    with pytest.raises(Damaged, match="content differs"):
        checkpoints.take(run, 10, run / "out")
    weights.unlink()
    with pytest.raises(Damaged, match="cannot be read"):
        checkpoints.take(run, 10, run / "out")
    assert not checkpoints.adapter_copy(run / "out").exists()


def test_a_checkpoint_pruned_while_it_is_read_is_gone_not_damaged(run, monkeypatch):
    save(run, 10)
    read = checkpoints.read_manifest

    def then_prune(folder):
        found = read(folder)
        names.delete(run / "checkpoints" / names.name_of(10))
        return found

    monkeypatch.setattr(checkpoints, "read_manifest", then_prune)
    assert not checkpoints.take(run, 10, run / "out")
    assert not checkpoints.adapter_copy(run / "out").exists()


def test_a_copy_outlives_its_checkpoint(run):
    save(run, 10)
    assert checkpoints.take(run, 10, run / "out")
    names.delete(run / "checkpoints" / names.name_of(10))
    assert checkpoints.take(run, 10, run / "out")
    assert (checkpoints.adapter_copy(run / "out") / "adapter_model.safetensors").read_bytes() == b"weights 10"


def test_watch_follows_a_run_that_prunes(run):
    """Every checkpoint is evaluated though the run keeps one: those that come during an evaluation are copied meanwhile."""
    steps = [10, 20, 30, 40]
    save(run, 10, keep=1)
    rows = []

    def during(step):
        if step == 10:
            for later in steps[1:]:
                save(run, later, keep=1)
                watched._looked = 0.0
                watched._progress("answers", 1, 6)
            tell(run, status.FINISHED)

    evaluator = Evaluator(during)
    watched, told = trail(run, evaluator, following=True, on_row=lambda step, result: rows.append(step))
    assert watched.watch() == status.FINISHED
    assert evaluator.done == rows == list(watched.results) == steps
    assert told == []
    for step in steps:
        out = run / "evaluation" / names.name_of(step)
        assert read_result(out / "evaluation.json").settings["weights"] == f"weights {step}"
        assert sorted(p.name for p in out.iterdir()) == ["evaluation.json", "samples.jsonl"]
    assert checkpoints.published(run) == [40]


def test_watch_waits_for_the_next_checkpoint(run):
    evaluator = Evaluator()
    watched, _ = trail(run, evaluator, following=True)
    thread = threading.Thread(target=watched.watch, daemon=True)
    thread.start()
    for step in (10, 20):
        save(run, step)
        end = time.monotonic() + 120
        while evaluator.done[-1:] != [step] and time.monotonic() < end:
            time.sleep(0.01)
        assert evaluator.done[-1] == step
        assert thread.is_alive()
    tell(run, status.INTERRUPTED)
    thread.join(120)
    assert not thread.is_alive()
    assert evaluator.done == [10, 20]


def test_a_second_watch_goes_on(run):
    for step in (10, 20, 30):
        save(run, step)
    tell(run, status.FINISHED)

    def stop(step):
        if step == 20:
            raise KeyboardInterrupt

    first, _ = trail(run, Evaluator(stop))
    with pytest.raises(KeyboardInterrupt):
        first.watch()
    assert list(first.results) == [10]
    for step in (10, 20):
        names.delete(run / "checkpoints" / names.name_of(step))
    evaluator = Evaluator()
    second, told = trail(run, evaluator)
    second.watch()
    assert evaluator.done == [20, 30]  # 20 from the copy that the first watch left
    assert list(second.results) == [10, 20, 30]
    assert told == []


def test_results_of_other_options_are_not_mixed(run):
    save(run, 10)
    tell(run, status.FINISHED)
    trail(run, Evaluator())[0].watch()
    other, _ = trail(run, Evaluator(), request={"max_new_tokens": 5})
    with pytest.raises(
        UserError, match=r"step-00000010/evaluation\.json was made with other options or data; pass --over"
    ):
        other.watch()
    evaluator = Evaluator()
    trail(run, evaluator, request={"max_new_tokens": 5}, overwrite=True)[0].watch()
    assert evaluator.done == [10]


def test_a_step_that_was_trained_anew_is_evaluated_again(run):
    save(run, 10)
    tell(run, status.FINISHED)
    trail(run, Evaluator())[0].watch()
    save(run, 10, b"other weights")
    evaluator = Evaluator()
    again, told = trail(run, evaluator)
    again.watch()
    assert evaluator.done == [10]
    assert again.results[10].settings["weights"] == "other weights"
    assert told == ["step 10: the run has come to this step anew; it is evaluated again"]


def test_a_damaged_checkpoint_is_told_and_left_out(run):
    for step in (10, 20):
        save(run, step)
    tell(run, status.FINISHED)
    (run / "checkpoints" / names.name_of(10) / "adapter" / "adapter_config.json").write_text("{ }")
    evaluator = Evaluator()
    watched, told = trail(run, evaluator)
    watched.watch()
    assert evaluator.done == [20]
    assert len(told) == 1
    assert told[0].startswith("step 10: left out: ")
    assert "content differs" in told[0]


def test_overwriting_a_pruned_step_keeps_its_result(run):
    save(run, 10)
    tell(run, status.FINISHED)
    trail(run, Evaluator())[0].watch()
    names.delete(run / "checkpoints" / names.name_of(10))
    save(run, 20)
    evaluator = Evaluator()
    again, told = trail(run, evaluator, overwrite=True)
    again.watch()
    assert evaluator.done == [20]
    assert list(again.results) == [10, 20]
    assert told[-1] == "step 10: its earlier result stands"


@pytest.mark.parametrize("state", [status.FINISHED, "unknown"])
def test_an_ended_run_without_checkpoints(run, state):
    if state == "unknown":
        (run / status.STATUS).unlink()
    else:
        tell(run, state)
    with pytest.raises(UserError, match="has no checkpoints and is"):
        trail(run, Evaluator())[0].watch()


def test_table(run):
    for step in (10, 20):
        save(run, step)
    tell(run, status.FINISHED)
    watched, _ = trail(run, Evaluator())
    watched.watch()
    lines = to_markdown(trail_table(watched.results, "run")).splitlines()
    assert "| step | ID % | no answer % | relative LCS |" in lines
    assert [line.split("|")[1].strip() for line in lines if line.startswith(("| 10", "| 20"))] == [
        "10",
        "20",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}/none", "--watch"], "no such run folder"),
        (["{data}", "--watch"], "is not a run folder"),
        (["{run}", "--watch", "--checkpoint", "1"], "leave --checkpoint out"),
        (["{run}", "--checkpoint", "1"], "has no checkpoints"),
        (["{run}", "--watch", "--endpoint", "http://localhost:1"], "a server serves one adapter"),
        (["{run}", "--watch", "--id", "{data}/none.jsonl"], "none.jsonl"),
    ],
)
def test_bad_input(run, arguments, message):
    (run.parent / "data").mkdir()
    names_ = {"run": run, "data": run.parent / "data"}
    outcome = CliRunner().invoke(command, [argument.format(**names_) for argument in arguments])
    assert isinstance(outcome.exception, UserError), outcome.exception
    assert message in str(outcome.exception)
    assert "\n" not in str(outcome.exception)
    assert not (run / "evaluation").exists()


def test_a_folder_that_cannot_be_written(run):
    save(run, 10)
    (run / "evaluation").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        checkpoints.take(run, 10, run / "evaluation" / "step-00000010")
