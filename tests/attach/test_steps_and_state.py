"""Steps that are not taken, state that is saved, and what ``import igascale`` brings."""

import subprocess
import sys
import warnings

import pytest
import torch

import igascale
from igascale import hooks
from igascale.hooks import FactorGrads, GradientHook

from by_hand import DOMAINS, ByHand, make_batches, worst
from launching import environment
from tiny import tiny_peft


def make(hook, kind="adamw-reference", model=None, **options):
    model = model or tiny_peft()
    trained = [p for p in model.parameters() if p.requires_grad]
    if kind == "sgd":
        optimizer = torch.optim.SGD(trained, lr=0.3)
    else:
        optimizer = igascale.AdamW(trained, lr=1e-3, use_reference=True)
    return model, optimizer, igascale.attach(model, optimizer, hook=hook, domains=DOMAINS, **options)


def step(model, surgery, number, factor=1.0):
    for batch in make_batches(2, seed=number):
        with surgery.rows(batch["domain"]):
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            (factor * surgery.loss(logits, batch["labels"])).backward()
    return surgery.step()


def snapshot(model, optimizer):
    tensors = [p for p in model.parameters() if p.requires_grad]
    tensors += [v for s in optimizer.state.values() for k, v in s.items() if k != "reference_grad"]
    return [t.detach().clone() for t in tensors]


@pytest.mark.parametrize("what", ["loss", "weights", "missing"])
def test_a_step_that_is_not_taken_changes_nothing(what):
    model, optimizer, surgery = make("iga", on_missing="skip")
    assert step(model, surgery, 0).skipped == ""
    before, steps = snapshot(model, optimizer), optimizer.steps
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            batch = make_batches(1)[0]
            if what == "missing":
                batch["labels"][::3] = -100
            with surgery.rows(batch["domain"]):
                loss = surgery.loss(model(input_ids=batch["input_ids"]).logits, batch["labels"])
                (loss * torch.nan if what == "loss" else loss).backward()
            if what == "weights":
                surgery._capture.sums()["model.layers.0.self_attn.q_proj"].a[0, 0, 0] = torch.inf
            report = surgery.step()
            assert report.skipped
            assert ("maths" in report.skipped) == (what == "missing")
    assert sum("skipped on every rank" in str(w.message) for w in said) == 1
    assert all(torch.equal(a, b) for a, b in zip(before, snapshot(model, optimizer)))
    assert (surgery.steps, surgery.skipped_steps, optimizer.steps) == (3, 2, steps)
    assert step(model, surgery, 1).skipped == ""  # nothing of it is left
    fresh, _, other = make("iga")
    step(fresh, other, 0)
    other.steps = 3
    step(fresh, other, 1)
    assert worst(model, fresh) == 0.0


def test_reset_drops_a_micro_batch_that_was_interrupted():
    model, _, surgery = make("pcgrad", "sgd")
    batch = make_batches(1)[0]
    with pytest.raises(MemoryError), surgery.rows(batch["domain"]):
        surgery.loss(model(input_ids=batch["input_ids"]).logits, batch["labels"]).backward()
        raise MemoryError
    with pytest.raises(igascale.UserError, match="reset"):
        surgery.step()
    surgery.reset()
    step(model, surgery, 0)
    oracle = ByHand(tiny_peft(), hooks.build("pcgrad", {}), 0.3, "sgd")
    oracle.step(make_batches(2, seed=0))
    assert worst(model, oracle.model) <= 1e-6


def test_a_backward_pass_left_out_does_not_count():
    model, _, surgery = make("pcgrad", "sgd")
    batch = make_batches(1, seed=9)[0]
    with surgery.rows(batch["domain"]):
        surgery.loss(model(input_ids=batch["input_ids"]).logits, batch["labels"])
    step(model, surgery, 0)
    other, _, without = make("pcgrad", "sgd")
    step(other, without, 0)
    assert worst(model, other) == 0.0


def test_a_resumed_run_is_the_undisturbed_one_to_the_bit(tmp_path):
    model, optimizer, surgery = make("drawing_hook:Drawing", seed=5)
    for number in range(2):
        step(model, surgery, number)
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "surgery": surgery.state_dict()}
    torch.save(saved, tmp_path / "saved.pt")
    for number in range(2, 4):
        step(model, surgery, number)
    loaded = torch.load(tmp_path / "saved.pt", weights_only=True)
    again = tiny_peft(seed=3)
    again.load_state_dict(loaded["model"])
    _, optimizer_2, surgery_2 = make("drawing_hook:Drawing", seed=5, model=again)
    optimizer_2.load_state_dict(loaded["optimizer"])
    surgery_2.load_state_dict(loaded["surgery"])
    for number in range(2, 4):
        step(again, surgery_2, number)
    assert worst(model, again) == 0.0
    assert surgery_2.steps == 4


def test_activation_checkpointing():
    for hook in ("pcgrad", "irm"):
        model, _, surgery = make(hook, "sgd")
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        step(model, surgery, 0)
        oracle = ByHand(tiny_peft(), hooks.build(hook, {}), 0.3, "sgd")
        oracle.step(make_batches(2, seed=0))
        assert worst(model, oracle.model) <= 1e-6, hook


class Alarmed(GradientHook):
    statistics = ("figure",)

    def combine(self, grads, adapters, ctx):
        stats = {"figure": torch.tensor(1.0)}
        return {fqn: FactorGrads(g.a.mean(0), g.b.mean(0), stats=stats) for fqn, g in grads.items()}

    def warnings(self):
        return ["think twice"]

    def alarms(self, stats):
        return {"odd": f"the figure is {stats['figure']}"}


def test_what_a_hook_has_to_say_is_said_once():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model, _, surgery = make(Alarmed(), "sgd")
        for number in range(2):
            step(model, surgery, number)
    messages = [str(w.message) for w in said if str(w.message).startswith("igascale:")]
    assert messages == ["igascale: think twice", "igascale: step 0: the figure is 1.0"]


def test_importing_igascale_is_light_and_its_names_are_there():
    code = (
        "import sys, igascale; assert 'torch' not in sys.modules; assert 'attach' in dir(igascale)\n"
        "import igascale.surgery; assert callable(igascale.attach)\n"
        "assert all(getattr(igascale, name) for name in igascale.__all__)\n"
        "assert issubclass(igascale.AdamW, sys.modules['torch'].optim.Optimizer)\n"
        "try: igascale.atach\nexcept AttributeError as error: assert 'atach' in str(error)\nelse: raise SystemExit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
