"""When checkpoints are written, which stay, what runs beside the training, and what happens when it fails."""

import errno
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from igascale import assemble, saving, trainer
from igascale.checkpoints.adapter import adapter_files
from igascale.checkpoints.content import write_files
from igascale.checkpoints.find import find
from igascale.errors import UserError
from igascale.supervision.lifeline import Lifeline
from igascale.trainer import Interrupted

import runs
from checkpoint_cases import contents, reseal
from tiny import tiny_llama, tiny_peft

WORKERS = Path(__file__).parents[1] / "distributed"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saving")
    return runs.prepare(folder, train={"max_steps": 6, "groups_per_batch": 4, "gradient_accumulation_steps": 1})


def go(path, out, *overrides, resume=None, stop_after=None, lifeline=None):
    config = runs.load(path, f"output_dir={out}", "eval.every=null", *overrides)
    return runs.train(config, assemble.start(config), resume, stop_after, lifeline=lifeline)


def steps(run):
    return sorted(int(p.name[5:]) for p in (run / "checkpoints").glob("step-*"))


def pointer(run, which):
    return (run / "checkpoints" / which).read_text().strip()


def state(run, step):
    return json.loads((run / "checkpoints" / f"step-{step:08d}" / "state.json").read_text())


@pytest.fixture
def losses(monkeypatch):
    """In-domain validation losses of steps 1 to 6, as given; the losses out of domain run the other way."""
    given = {}

    def scripted(engine, split, **keywords):
        # Every validation asks for both splits, the in-domain one first.
        given["calls"] = given.get("calls", -1) + 1
        n = given["calls"] // 2
        value = given["id"][n] if given["calls"] % 2 == 0 else 10.0 - n
        return {"one": value - 1, "two": value + 1}

    monkeypatch.setattr(trainer, "validation_losses", scripted)
    return given


BEST = ("checkpoint.every=null", "checkpoint.keep=1", "checkpoint.keep_best=true", "eval.every=1")


def test_the_best_is_kept_by_in_domain_loss(base, tmp_path, losses):
    run = tmp_path / "run"
    losses["id"] = [float("nan"), 3.0, float("nan"), 3.0, 4.0, 4.0]
    go(base, run, *BEST)
    assert steps(run) == [2, 6]
    assert (pointer(run, "best"), pointer(run, "latest")) == ("step-00000002", "step-00000006")
    assert (state(run, 2)["validation_loss"], state(run, 6)["validation_loss"]) == (3.0, 4.0)
    assert find(run, str(run / "checkpoints" / "best")).folder.name == "step-00000002"


def test_the_best_survives_a_resume(base, tmp_path, losses):
    run = tmp_path / "run"
    losses["id"] = [5.0, 3.0, 4.0, 3.5, 2.0, 2.5]
    go(base, run, *BEST, stop_after=3)
    assert steps(run) == [2, 3]
    go(base, run, *BEST, resume="auto", stop_after=1)
    assert (steps(run), pointer(run, "best")) == ([2, 4], "step-00000002")
    go(base, run, *BEST, resume="auto")
    assert (steps(run), pointer(run, "best")) == ([5, 6], "step-00000005")


def test_a_best_that_is_gone_is_looked_for_anew(base, tmp_path, losses, capsys):
    run = tmp_path / "run"
    losses["id"] = [5.0, 3.0, 4.0, 3.9, 4.5, 4.5]
    go(base, run, *BEST, stop_after=3)
    shutil.rmtree(run / "checkpoints" / "step-00000002")
    go(base, run, *BEST, resume="auto")
    assert "step-00000002, is not in" in capsys.readouterr().out
    assert (steps(run), pointer(run, "best")) == ([4, 6], "step-00000004")


def test_a_best_of_other_held_out_instances_is_not_compared_with(base, tmp_path, losses, capsys):
    """Losses on two files, or on more groups of one, say nothing about each other."""
    run, first = tmp_path / "run", base.parent / "data" / "validation.jsonl"
    losses["id"] = [5.0, 3.0, 4.0, 3.9, 4.5, 4.5]
    go(base, run, *BEST, stop_after=3)
    (tmp_path / "moved.jsonl").write_bytes(first.read_bytes())
    go(base, run, *BEST, f"data.validation={tmp_path / 'moved.jsonl'}", resume="auto", stop_after=1)
    assert (steps(run), pointer(run, "best")) == ([2, 4], "step-00000002")  # the same instances elsewhere
    (tmp_path / "other.jsonl").write_text("".join(first.read_text().splitlines(keepends=True)[1:]))
    capsys.readouterr()
    go(base, run, *BEST, f"data.validation={tmp_path / 'other.jsonl'}", resume="auto")
    assert "step-00000002, was chosen by another data.validation" in capsys.readouterr().out
    assert (steps(run), pointer(run, "best")) == ([5, 6], "step-00000005")


def test_without_keep_best_there_is_no_best(base, tmp_path, losses):
    losses["id"] = [5.0, 3.0, 4.0, 3.9, 4.5, 4.5]
    go(base, tmp_path / "run", "checkpoint.every=2", "eval.every=1", "checkpoint.keep=2")
    assert steps(tmp_path / "run") == [4, 6]
    assert not (tmp_path / "run" / "checkpoints" / "best").exists()


def test_best_needs_validation_data(base):
    with pytest.raises(UserError, match=r"checkpoint\.keep_best needs data\.validation"):
        runs.load(base, "checkpoint.keep_best=true", "data.validation=null")


def test_by_the_clock_and_by_steps(base, tmp_path, monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):  # begins at 25, each step asks once, each save twice
            self.now += 25.0
            return self.now

    monkeypatch.setattr(saving, "time", Clock())
    go(base, tmp_path / "a", "checkpoint.every=null", "checkpoint.minutes=1", "checkpoint.keep=9", stop_after=5)
    assert steps(tmp_path / "a") == [3, 5]
    monkeypatch.setattr(saving, "time", Clock())
    go(base, tmp_path / "b", "checkpoint.every=2", "checkpoint.minutes=1", "checkpoint.keep=9", stop_after=5)
    assert steps(tmp_path / "b") == [2, 4, 5]  # the one by steps starts the clock again


@pytest.fixture
def late(monkeypatch):
    """A background write begins, and ends, at the begin of the so many-th step after it was started, or where it is waited for.

    The training is further on by then.
    """
    go_on, state = threading.Event(), {"steps": 2, "left": 0}
    wait, start, flags = saving.Saver._wait, saving.BackgroundWriter.start, saving.Saver.flags

    def write(folder, files):
        if threading.current_thread() is not threading.main_thread():
            go_on.wait(600)
            time.sleep(0.2)
        write_files(folder, files)

    def waiting(self, until):
        go_on.set()
        wait(self, until)

    def starting(self, *arguments):
        go_on.clear()
        state["left"] = state["steps"]
        start(self, *arguments)

    def flagging(self):
        state["left"] -= 1
        if state["left"] == 0 and self._writer.busy:
            go_on.set()
            self._writer._thread.join()
        return flags(self)

    monkeypatch.setattr(saving, "write_files", write)
    monkeypatch.setattr(saving.Saver, "_wait", waiting)
    monkeypatch.setattr(saving.Saver, "flags", flagging)
    monkeypatch.setattr(saving.BackgroundWriter, "start", starting)
    return state


def test_in_the_background_the_same_bytes(base, tmp_path, late, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(WORKERS))
    extra = ("hook.name=stateful_hook:Momentum", "lora.dropout=0.1", "checkpoint.every=2", "checkpoint.keep=9")
    found = []
    for kind in ("false", "true"):
        go(base, tmp_path / "run", *extra, f"checkpoint.asynchronous={kind}")
        found.append(contents(tmp_path / "run"))
        (tmp_path / "run").rename(tmp_path / kind)
    assert "before that of step" not in capsys.readouterr().out
    sync, background = found
    assert sync.keys() == background.keys()
    assert sum("hook.safetensors" in name for name in sync) == 3
    differ = {name for name in sync if sync[name] != background[name] and "checkpoints/" in name}
    assert {Path(name).name for name in differ} == {"state.json", "manifest.json"}  # the option itself is in the state
    for name in differ:
        if name.endswith("state.json"):
            one, two = json.loads(sync[name]), json.loads(background[name])
            one["config"]["checkpoint"]["asynchronous"] = True
            assert one == two
    assert sync["adapter/adapter_model.safetensors"] == background["adapter/adapter_model.safetensors"]


def test_while_one_is_written_the_next_is_put_off(base, tmp_path, late, capsys):
    late["steps"] = 3  # begun after step 2, written when step 5 begins: due after 4, put off to after 5
    go(base, tmp_path / "run", "checkpoint.every=2", "checkpoint.keep=9", "checkpoint.asynchronous=true", stop_after=5)
    assert steps(tmp_path / "run") == [2, 5]
    assert "before that of step" not in capsys.readouterr().out


def test_an_interrupt_waits_for_what_is_written(base, tmp_path, late, monkeypatch):
    original = trainer.take_step

    def interrupting(*arguments, **keywords):
        report = original(*arguments, **keywords)
        if keywords["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return report

    monkeypatch.setattr(trainer, "take_step", interrupting)
    lifeline, keys = Lifeline(), ("checkpoint.every=3", "checkpoint.keep=9", "checkpoint.asynchronous=true")
    restore = lifeline.take_signals()
    try:
        with pytest.raises(Interrupted):
            go(base, tmp_path / "run", *keys, lifeline=lifeline)
    finally:
        restore()
    assert steps(tmp_path / "run") == [3, 4]
    assert pointer(tmp_path / "run", "latest") == "step-00000004"


@pytest.fixture
def broken(monkeypatch):
    """Saves that fail: ``broken[step] = error``; on a disk so quick that none is under way when the next step begins."""
    runs.write_quickly(monkeypatch.setattr)
    errors = {}
    original = saving.publish

    def publish(root, step, write, **keywords):
        if step in errors:
            raise errors[step]
        return original(root, step, write, **keywords)

    monkeypatch.setattr(saving, "publish", publish)
    return errors


FULL = OSError(errno.ENOSPC, "No space left on device", "/somewhere")
KINDS = ("checkpoint.asynchronous=false", "checkpoint.asynchronous=true")


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_stops_at_the_next_step(base, tmp_path, broken, kind):
    broken[2] = FULL
    with pytest.raises(UserError, match=r"checkpoint of step 2 cannot be written: No space left.*Earlier .* intact"):
        go(base, tmp_path / "run", "checkpoint.every=1", "checkpoint.keep=9", kind)
    assert steps(tmp_path / "run")[0] == 1
    assert 6 not in steps(tmp_path / "run")
    assert not (tmp_path / "run" / "adapter").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_is_told_and_passed_over(base, tmp_path, broken, kind, capsys):
    broken[2] = broken[3] = FULL
    go(base, tmp_path / "run", "checkpoint.every=1", "checkpoint.keep=9", "checkpoint.on_error=continue", kind)
    assert steps(tmp_path / "run") == [1, 4, 5, 6]
    told = capsys.readouterr().out
    assert told.count("Training goes on (checkpoint.on_error: continue)") == 2
    assert (tmp_path / "run" / "adapter").is_dir()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_the_last_checkpoint_counts_whatever_the_policy(base, tmp_path, broken, kind, policy):
    broken[6] = FULL
    with pytest.raises(UserError, match=r"checkpoint of step 6 cannot be written"):
        go(base, tmp_path / "run", "checkpoint.every=3", f"checkpoint.on_error={policy}", kind)
    assert steps(tmp_path / "run") == [3]
    assert (tmp_path / "run" / "adapter").is_dir()  # what can be saved is


def test_a_result_that_cannot_be_written(base, tmp_path, monkeypatch):
    def full(folder, write):
        raise FULL

    monkeypatch.setattr(saving, "publish_result", full)
    with pytest.raises(UserError, match=r"the result, adapter/, of step 6 cannot be written"):
        go(base, tmp_path / "run", "checkpoint.on_error=continue")
    monkeypatch.undo()
    go(base, tmp_path / "run", resume="auto")
    assert (tmp_path / "run" / "adapter").is_dir()


def test_a_best_that_could_not_be_written_is_not_the_best(base, tmp_path, broken, losses):
    broken[2] = FULL
    losses["id"] = [5.0, 3.0, 4.0, 4.5, 4.5, 4.5]
    go(base, tmp_path / "run", *BEST, "checkpoint.on_error=continue")
    assert (steps(tmp_path / "run"), pointer(tmp_path / "run", "best")) == ([3, 6], "step-00000003")


@pytest.mark.parametrize("kind", KINDS)
def test_a_bug_is_not_passed_over(base, tmp_path, broken, kind):
    broken[2] = TypeError("Object of type module is not JSON serializable")
    with pytest.raises(UserError, match=r"step 2 cannot be made: TypeError: Object of type module is not JSON"):
        go(base, tmp_path / "run", "checkpoint.every=1", "checkpoint.on_error=continue", kind)


def test_the_adapter_is_what_peft_writes(tmp_path):
    for number, changes in enumerate(({}, {"use_rslora": True, "dropout": 0.1})):
        model, ours, theirs = tiny_peft(**changes), tmp_path / f"ours{number}", tmp_path / f"theirs{number}"
        ours.mkdir()
        write_files(ours, adapter_files(model))
        model.save_pretrained(str(theirs), save_embedding_layers=False)
        (theirs / "README.md").unlink()
        one, two = contents(ours), contents(theirs)
        assert one.keys() == two.keys()
        assert one["adapter_model.safetensors"] == two["adapter_model.safetensors"]
        one, two = (json.loads(each["adapter_config.json"]) for each in (one, two))
        assert one["target_modules"] == sorted(two["target_modules"])
        assert one | {"target_modules": None} == two | {"target_modules": None}
        loaded = PeftModel.from_pretrained(tiny_llama(), ours)
        assert get_peft_model_state_dict(loaded).keys() == get_peft_model_state_dict(model).keys()


def test_a_copy_does_not_follow_the_model():
    model = tiny_peft()
    files = adapter_files(model)
    tensors = files["adapter_model.safetensors"]
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    for parameter in model.parameters():
        parameter.data.add_(1)
    assert all((tensors[name] == before[name]).all() for name in before)


def test_a_checkpoint_of_another_model_is_one_line_and_nothing_is_changed(base, tmp_path):
    run = tmp_path / "run"
    go(base, run, stop_after=2)
    folder = run / "checkpoints" / "step-00000002"
    tensors = load_file(folder / "optimizer.safetensors")
    name = next(iter(tensors))
    tensors[name] = tensors[name].T.contiguous()
    save_file(tensors, folder / "optimizer.safetensors")
    reseal(folder)
    before = {k: v for k, v in contents(run).items() if not k.endswith(".json")}
    with pytest.raises(
        UserError, match=r"optimizer\.safetensors: .* this model has .*is model\.path the same"
    ) as error:
        go(base, run, resume="auto")
    assert "\n" not in str(error.value)
    assert {k: v for k, v in contents(run).items() if not k.endswith(".json")} == before


def test_a_start_that_is_only_checked_writes_nothing(base, tmp_path):
    """`igascale launch` asks before it starts anything; what a running job is writing must be left alone."""
    from igascale import runfolder

    run = tmp_path / "run"
    go(base, run, stop_after=2)
    (run / "checkpoints" / ".step-00000004.tmp").mkdir()
    (run / "checkpoints" / "latest").unlink()
    before = sorted(run.rglob("*"))
    config = runs.load(base, f"output_dir={run}", "eval.every=null")
    assert runfolder.check_start(config, "auto").folder.name == "step-00000002"
    assert sorted(run.rglob("*")) == before
