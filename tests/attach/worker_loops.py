"""Run on two ranks: loops around ``deepspeed.initialize`` (and a plain torch one), each with a hook attached.

Every case: 4 optimizer steps of 2 micro-batches a rank. Rank 0 saves the trained factors and the reports.
"""

import sys
import warnings

import deepspeed
import torch

import igascale
from igascale.engine.deepspeed import init_distributed

from by_hand import DOMAINS, D, make_batches, token_losses
from loop_cases import CASES, LR, MICRO, STEPS, WORLD
from tiny import tiny_peft


def factors(model):
    return [p for p in model.parameters() if p.requires_grad]


def build(case, scheduler=None):
    """What ``deepspeed.initialize`` gives for a case."""
    dtype = torch.bfloat16 if case.get("bf16") else torch.float32
    model = tiny_peft(dtype)
    kind = case["optimizer"]
    groups = factors(model)
    if case.get("groups"):
        groups = [
            {
                "params": [p for n, p in model.named_parameters() if p.requires_grad and letter in n],
                "lr": LR[kind] * times,
            }
            for letter, times in (("lora_A", 1), ("lora_B", 4))
        ]
    if kind == "sgd":
        optimizer = torch.optim.SGD(groups, lr=LR[kind])
    elif kind == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=LR[kind], weight_decay=0.01)
    else:
        optimizer = igascale.AdamW(groups, lr=LR[kind], use_reference=True)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1 if case.get("several") else MICRO,
        "gradient_clipping": case.get("ds_clip", 0.0),
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": case["stage"], "reduce_bucket_size": 100_000, "allgather_bucket_size": 100_000},
    }
    if case.get("bf16"):
        config["bf16"] = {"enabled": True}
        if case["stage"] == 2:
            config["data_types"] = {"grad_accum_dtype": "fp32"}
    make = scheduler and (lambda o: torch.optim.lr_scheduler.LambdaLR(o, scheduler))
    return deepspeed.initialize(model=model, optimizer=optimizer, config=config, lr_scheduler=make)[0]


def my_batches(step, rank, ragged=True):
    everything = make_batches(WORLD * MICRO, seed=step, ragged=ragged)
    return everything[rank * MICRO : (rank + 1) * MICRO]


def micro_step(surgery, model, batch, back):
    with surgery.rows(batch["domain"]):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        back(surgery.loss(logits, batch["labels"]))


def deepspeed_case(case, rank):
    engine = build(case)
    surgery = igascale.attach(engine, hook=case["hook"], domains=DOMAINS, max_grad_norm=case.get("clip"))
    reports = []
    for step in range(STEPS):
        for batch in my_batches(step, rank):
            back = torch.Tensor.backward if case.get("plain_backward") else engine.backward
            micro_step(surgery, engine, batch, back)
            if case.get("stale"):  # what somebody left in .grad must not catch the gradients that are handed over
                for p in factors(engine.module):
                    p.grad = torch.ones_like(p)
            if not case.get("several"):
                report = surgery.step()
        if case.get("several"):  # to DeepSpeed each of the backward passes is a boundary
            report = surgery.step()
        reports.append((report.losses, report.norm_after, report.clip))
    assert engine.global_steps == STEPS == surgery.steps
    assert engine.micro_steps == STEPS * (1 if case.get("several") else MICRO)
    surgery.detach()
    return engine.module, reports


def plain_deepspeed(case, rank):
    """The same loop as anybody writes it, without igascale: the mean of the domains' mean losses."""
    engine = build(case)
    for step in range(STEPS):
        for batch in my_batches(step, rank, ragged=False):
            losses, _ = token_losses(engine, batch)
            engine.backward(sum(losses[batch["domain"] == d].mean() for d in range(D)) / D)
            engine.step()
    attached = build(case)
    surgery = igascale.attach(attached, hook="mean", domains=DOMAINS)
    for step in range(STEPS):
        for batch in my_batches(step, rank, ragged=False):
            micro_step(surgery, attached, batch, attached.backward)
            surgery.step()
    return [{n: p.detach() for n, p in e.module.named_parameters() if p.requires_grad} for e in (engine, attached)]


def torch_case(rank):
    """No wrapper: igascale averages over the ranks."""
    model = tiny_peft()
    optimizer = torch.optim.SGD(factors(model), lr=LR["sgd"])
    surgery = igascale.attach(model, optimizer, hook="pcgrad", domains=DOMAINS)
    reports = []
    for step in range(STEPS):
        for batch in my_batches(step, rank):
            micro_step(surgery, model, batch, torch.Tensor.backward)
        report = surgery.step()
        reports.append((report.losses, report.norm_after, report.clip))
    different = tiny_peft(seed=rank)
    try:
        igascale.attach(different, torch.optim.SGD(factors(different), lr=1.0), hook="mean", domains=DOMAINS)
        refused = ""
    except igascale.UserError as error:
        refused = str(error)
    return model, reports, refused


def unlucky_case(stage, rank):
    """Rank 1 alone sees a NaN at step 1; at step 2 no rank has the last domain."""
    engine = build({"stage": stage, "optimizer": "adamw-reference"}, scheduler=lambda t: 1.0 / (1 + t))
    surgery = igascale.attach(engine, hook="iga", domains=DOMAINS, on_missing="skip")
    seen = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(STEPS):
            before = [p.detach().clone() for p in factors(engine.module)]
            moments = {
                k: v.clone()
                for s in engine.basic_optimizer.state.values()
                for k, v in s.items()
                if k != "reference_grad"
            }
            for i, batch in enumerate(my_batches(step, rank)):
                if step == 2:
                    batch["labels"][batch["domain"] == D - 1] = -100
                poison = torch.nan if (step, rank, i) == (1, 1, 0) else 1.0
                micro_step(surgery, engine, batch, lambda loss, poison=poison: engine.backward(loss * poison))
                report = surgery.step()
            same = all(torch.equal(a, b) for a, b in zip(before, factors(engine.module)))
            after = {k: v for s in engine.basic_optimizer.state.values() for k, v in s.items() if k != "reference_grad"}
            kept = all(torch.equal(moments[k], after[k]) for k in after)
            seen.append((bool(report.skipped), same, kept, round(engine.get_lr()[0] / LR["adamw-reference"], 3)))
    return {
        "seen": seen,
        "counts": (surgery.steps, surgery.skipped_steps, engine.micro_steps, engine.global_steps),
        "said": [str(w.message) for w in said if "skipped on every rank" in str(w.message)],
        "finite": all(bool(p.isfinite().all()) for p in factors(engine.module)),
    }


def resumed_case(rank, folder):
    """Stop after two steps, load into new objects, go on: to the bit what an undisturbed run gives."""
    case = {"stage": 2, "optimizer": "adamw-reference"}

    def steps(surgery, engine, numbers):
        for step in numbers:
            for batch in my_batches(step, rank):
                micro_step(surgery, engine, batch, engine.backward)
                surgery.step()

    def attached(engine):
        return igascale.attach(engine, hook="drawing_hook:Drawing", domains=DOMAINS)

    whole = build(case)
    surgery = attached(whole)
    steps(surgery, whole, range(2))
    whole.save_checkpoint(folder, tag="two")
    state = surgery.state_dict()
    gathered = [None, None]
    torch.distributed.all_gather_object(gathered, state)
    alike = {
        k: torch.equal(v["a"], gathered[1]["hook_state"]["adapters"][k]["a"])
        for k, v in gathered[0]["hook_state"]["adapters"].items()
    }
    steps(surgery, whole, range(2, 4))
    second = build(case)
    second.load_checkpoint(folder, tag="two")
    again = attached(second)
    again.load_state_dict(state)
    steps(again, second, range(2, 4))
    third = build(case)
    late = attached(third)
    third.load_checkpoint(folder, tag="two")
    try:
        steps(late, third, range(1))
        refused = ""
    except igascale.UserError as error:
        refused = str(error)
    equal = all(torch.equal(a, b) for a, b in zip(factors(whole.module), factors(second.module)))
    return {"equal": equal, "alike": alike, "calls": state["hook_state"]["calls"], "late": refused}


def misuse_case(rank):
    """``engine.step()``, or accelerate's backward, in front of ``surgery.step()``."""
    engine = build({"stage": 2, "optimizer": "sgd"})
    surgery = igascale.attach(engine, hook="mean", domains=DOMAINS)
    micro_step(surgery, engine, my_batches(0, rank)[0], engine.backward)
    engine.step()
    try:
        surgery.step()
    except igascale.UserError as error:
        return str(error)
    return ""


def main(out: str) -> None:
    torch.set_num_threads(1)
    init_distributed()
    rank = torch.distributed.get_rank()
    results = {}
    for name, case in CASES.items():
        model, reports = deepspeed_case(case, rank)
        results[name] = ({n: p.detach() for n, p in model.named_parameters() if p.requires_grad}, reports)
    for stage in (0, 1, 2):
        results[f"plain-{stage}"] = plain_deepspeed({"stage": stage, "optimizer": "adamw"}, rank)
    model, reports, refused = torch_case(rank)
    results["torch"] = ({n: p.detach() for n, p in model.named_parameters() if p.requires_grad}, reports)
    results["different"] = refused
    for stage in (0, 1, 2):
        results[f"unlucky-{stage}"] = unlucky_case(stage, rank)
    results["resumed"] = resumed_case(rank, f"{out}/checkpoint")
    results["misuse"] = misuse_case(rank)
    torch.save(results, f"{out}/rank{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
