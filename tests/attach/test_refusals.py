"""What would silently train something else is refused in one line that says what to do."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

import igascale
from igascale import hooks
from igascale.errors import UserError
from igascale.hooks import FactorGrads, GradientHook

from by_hand import DOMAINS, make_batches
from launching import launch
from tiny import tiny_llama, tiny_peft

DEEPSPEED = {
    "fine": "",
    "DeepSpeed clips the mean": "",
    "also the engine's": "",
    "fp16": "use bf16",
    "autocast16": "use bf16",
    "round robin": "round_robin_gradients",
    "offload": "offload_optimizer",
    "unmanaged": "managed_gradient_accumulation",
    "zero3": "set zero_optimization.stage to 2",
    "bf16 zero1 fp32": "set stage 2, or grad_accum_dtype bf16",
    "bf16 zero0": "stage to 1 or 2",
    "deepcompile": "compile.deepcompile",
    "clips twice": "this would clip twice",
    "clips by default": "1.0 where it is left out",
    "reference and torch": "igascale.AdamW(..., use_reference=True), or attach(..., second_moment='adam')",
    "reference, clipped there": "clipped together",
    "another optimizer": "the optimizer it was built with",
    "a factor is missing": "does not hold model.layers.0.self_attn.q_proj.lora_A",
    "a factor is missing, zero0": "does not hold model.layers.0.self_attn.q_proj.lora_A",
    "parallel": "data parallelism only",
    "pipeline": "data parallelism only",
    "no optimizer": "give one to deepspeed.initialize",
    "muon": "use another optimizer",
    "another wrapper": "use plain ZeRO-1 or ZeRO-2",
}


@pytest.fixture(scope="module")
def deepspeed_messages(tmp_path_factory):
    out = tmp_path_factory.mktemp("refusals") / "messages.pt"
    launch("torchrun", 1, "../attach/worker_refusals.py", str(out))
    return torch.load(out)


@pytest.mark.parametrize("name", DEEPSPEED)
def test_deepspeed_settings(deepspeed_messages, name):
    if name not in deepspeed_messages:
        pytest.skip(f"DeepSpeed has no {name} on this processor")
    message = deepspeed_messages[name]
    assert DEEPSPEED[name] in message
    assert bool(message) == bool(DEEPSPEED[name])
    assert "\n" not in message


def trained(model):
    return [p for p in model.parameters() if p.requires_grad]


def sgd(model):
    return torch.optim.SGD(trained(model), lr=0.1)


def with_head():
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    return get_peft_model(tiny_llama(), config)


class Wrapped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.module = tiny_peft()


def renamed(name):
    return type(name, (Wrapped,), {})()


@pytest.mark.parametrize(
    ("model", "optimizer", "options", "message"),
    [
        (tiny_peft, lambda m: None, {}, "pass the optimizer as well"),
        (tiny_peft, lambda m: torch.optim.LBFGS(trained(m)), {}, "first-order"),
        (tiny_peft, lambda m: torch.optim.SGD(trained(m)[1:], lr=1.0), {}, "does not hold model.layers.0"),
        (
            tiny_peft,
            lambda m: torch.optim.SGD([*trained(m), torch.nn.Parameter(torch.ones(2))], lr=1.0),
            {},
            "an optimizer of their own",
        ),
        (tiny_llama, sgd, {}, "PEFT model with LoRA adapters"),
        (with_head, sgd, {}, "modules_to_save"),
        (lambda: renamed("DistributedDataParallel"), sgd, {}, "pass model.module"),
        (lambda: renamed("FullyShardedDataParallel"), sgd, {}, "use DeepSpeed ZeRO-2"),
        (lambda: renamed("OptimizedModule"), sgd, {}, "without torch.compile"),
        (lambda: "model", lambda m: None, {}, "needs a DeepSpeed engine or a PEFT model, not str"),
        (tiny_peft, sgd, {"hook": "iga"}, "torch's SGD does not take; use igascale.AdamW(..., use_reference=True)"),
        (tiny_peft, lambda m: igascale.AdamW(trained(m), lr=1.0), {"hook": "iga"}, "AdamW without use_reference"),
        (tiny_peft, sgd, {"hook": "pcgard"}, "did you mean 'pcgrad'"),
        (tiny_peft, sgd, {"hook": "iga", "tua": 1.0}, "did you mean 'tau'"),
        (tiny_peft, sgd, {"hook": hooks.build("mean", {}), "tau": 1.0}, "a name with options"),
        (tiny_peft, sgd, {"hook": GradientHook}, "a name with options"),
        (tiny_peft, sgd, {"domains": "maths"}, "different names"),
        (tiny_peft, sgd, {"domains": ["a", "a"]}, "different names"),
        (tiny_peft, sgd, {"domains": []}, "different names"),
        (tiny_peft, sgd, {"hook": "pcgrad", "domains": ["a"]}, "at least 2"),
        (tiny_peft, sgd, {"loss_reduction": "mean"}, "loss_reduction must be"),
        (tiny_peft, sgd, {"on_missing": "ignore"}, "on_missing must be"),
    ],
)
def test_attach(model, optimizer, options, message):
    model = model()
    with pytest.raises(UserError) as error:
        igascale.attach(model, optimizer(model), **({"hook": "mean", "domains": DOMAINS} | options))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_has_one_surgery():
    model = tiny_peft()
    surgery = igascale.attach(model, sgd(model), hook="mean", domains=DOMAINS)
    optimizer = sgd(model)
    with pytest.raises(UserError, match="detach"):
        igascale.attach(model, optimizer, hook="mean", domains=DOMAINS)
    surgery.detach()
    optimizer.step()  # nothing was left on it
    igascale.attach(model, optimizer, hook="mean", domains=DOMAINS)


@pytest.fixture
def loop():
    class Loop:
        model = tiny_peft()
        optimizer = torch.optim.AdamW(trained(model), lr=1e-3)
        surgery = igascale.attach(model, optimizer, hook="mean", domains=DOMAINS)
        batch = make_batches(1)[0]

        def loss(self):
            logits = self.model(input_ids=self.batch["input_ids"]).logits
            return self.surgery.loss(logits, self.batch["labels"])

        def micro_batch(self):
            with self.surgery.rows(self.batch["domain"]):
                self.loss().backward()

    return Loop()


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        (["maths", "lew", "law"], "unknown domain 'lew'; did you mean 'law'"),
        ([0, 1, 3], "domain 3 is not in 0 .. 2"),
        (torch.tensor([-1, 0]), "domain -1"),
        (torch.tensor([0.0, 1.0]), "one number or name per row"),
        (torch.tensor([[0, 1]]), "one number or name per row"),
        (torch.tensor(1), "one number or name per row"),
        ("maths", "one number or name per row"),
    ],
)
def test_domains_of_rows(loop, domain, message):
    with pytest.raises(UserError) as error, loop.surgery.rows(domain):
        pass
    assert message in str(error.value)


def test_where_things_belong(loop):
    with pytest.raises(UserError, match="the loss belongs inside"):
        loop.loss()
    with pytest.raises(UserError, match="outside of surgery"), loop.surgery.rows(loop.batch["domain"]):
        loop.surgery.step()
    loop.surgery.reset()
    with loop.surgery.rows(loop.batch["domain"]):
        loss = loop.loss()
    with pytest.raises(UserError, match="the backward pass belongs inside"):
        loss.backward()
    rows = loop.surgery.rows
    with pytest.raises(UserError, match="inside of surgery"), rows(loop.batch["domain"]), rows(loop.batch["domain"]):
        pass
    loop.surgery.reset()
    with pytest.raises(UserError, match="two losses"), loop.surgery.rows(loop.batch["domain"]):
        loop.loss(), loop.loss()
    loop.surgery.reset()
    with pytest.raises(UserError, match="no graph"), loop.surgery.rows(loop.batch["domain"]):
        loop.surgery.loss(torch.zeros(6, 9, 128), loop.batch["labels"])
    loop.surgery.reset()
    loop.micro_batch()
    with pytest.raises(UserError, match=r"call surgery.step\(\) in its place"):
        loop.optimizer.step()
    with pytest.raises(UserError, match="middle of an accumulation"):
        loop.surgery.state_dict()
    assert loop.surgery.step().skipped == ""


def test_shapes(loop):
    logits = loop.model(input_ids=loop.batch["input_ids"]).logits
    wrong = [
        lambda s: s.loss(logits, loop.batch["labels"][:, :-1]),
        lambda s: s.loss(logits[:3], loop.batch["labels"][:3]),
        lambda s: s.loss_from(logits.mean()),
        lambda s: s.loss_from(logits.mean((1, 2))[:4]),
        lambda s: s.loss_from(logits.mean((1, 2)), torch.ones(6, 2)),
        lambda s: s.loss_from(logits.mean((1, 2)), domain=[0, 1]),
    ]
    for call in wrong:
        with pytest.raises(UserError, match=r"surgery.loss"), loop.surgery.rows(loop.batch["domain"]):
            call(loop.surgery)


def test_a_loss_scaler_and_other_factors(loop):
    for factor in (65536.0, -1.0, 0.0, float("inf")):
        with pytest.raises(UserError, match="multiplied by"), loop.surgery.rows(loop.batch["domain"]):
            (factor * loop.loss()).backward()
        with pytest.raises(UserError, match="interrupted"):
            loop.surgery.step()
        loop.surgery.reset()
    loop.micro_batch()
    assert loop.surgery.step().skipped == ""


def test_a_step_without_a_domain(loop):
    with pytest.raises(UserError, match="was back-propagated since the last step"):
        loop.surgery.step()
    loop.batch["labels"][1::3] = -100
    loop.micro_batch()
    with pytest.raises(UserError, match="nothing of domain law in this step"):
        loop.surgery.step()
    loop.batch = make_batches(1)[0]
    loop.micro_batch()  # more rows mend it
    assert loop.surgery.step().skipped == ""


class NeedsLogits(GradientHook):
    @staticmethod
    def auxiliary(logits, labels):
        return logits[:, 0]

    def combine(self, grads, adapters, ctx):
        return {fqn: FactorGrads(g.a.mean(0), g.b.mean(0)) for fqn, g in grads.items()}


def test_an_auxiliary_hook_needs_logits_and_every_backward_pass():
    model, batch = tiny_peft(), make_batches(1)[0]
    surgery = igascale.attach(model, sgd(model), hook=NeedsLogits(), domains=DOMAINS)
    with pytest.raises(UserError, match=r"use surgery\.loss\("), surgery.rows(batch["domain"]):
        surgery.loss_from(model(input_ids=batch["input_ids"]).logits.mean((1, 2)))
    surgery.reset()
    with surgery.rows(batch["domain"]):
        surgery.loss(model(input_ids=batch["input_ids"]).logits, batch["labels"])
    with pytest.raises(UserError, match="before its backward pass"):
        surgery.step()


def test_a_state_of_another_surgery(loop):
    state = loop.surgery.state_dict()
    with pytest.raises(UserError, match="the state is of hook"):
        loop.surgery.load_state_dict(state | {"hook": "PCGrad"})
    with pytest.raises(UserError, match="the state is of domains"):
        loop.surgery.load_state_dict(state | {"domains": ["a", "b", "c"]})
    loop.surgery.load_state_dict(state)


@pytest.mark.parametrize("value", [-1.0, 0, float("nan"), "1"])
def test_a_clipping_norm_that_would_turn_or_stop_the_step(value):
    model = tiny_peft()
    optimizer = torch.optim.SGD(trained(model), lr=0.1)
    with pytest.raises(UserError, match="max_grad_norm must be a number > 0"):
        igascale.attach(model, optimizer, hook="mean", domains=DOMAINS, max_grad_norm=value)


def test_ranks_that_were_told_different_things():
    """Compared once at attach: a domain order of its own would swap that rank's domains in silence."""
    from igascale.surgery import _differs

    ours = {"hook": "iga", "domains": ("up", "down"), "tau": 1.0}
    assert _differs([ours, dict(ours)]) == ""
    assert "domains is ('up', 'down') on rank 0 but ('down', 'up') on rank 1" in _differs(
        [ours, ours | {"domains": ("down", "up")}]
    )
    assert "tau is 1.0 on rank 0 but 2.0 on rank 2" in _differs([ours, ours, ours | {"tau": 2.0}])
