"""Run on two ranks: what must be refused on every rank, and what a rank finds; each saves its messages."""

import sys

import torch
import torch.distributed as dist
from worker_refusals import initialize

import igascale
from igascale.engine.deepspeed import init_distributed


def refusal(call):
    try:
        call()
    except igascale.UserError as error:
        return str(error)
    return ""


def main(out: str) -> None:
    torch.set_num_threads(1)
    init_distributed()
    rank = dist.get_rank()
    found = {}
    for name, mine in (
        ("seed", {"seed": rank}),
        ("domains", {"domains": ["a", "b"] if rank else ["b", "a"]}),
        ("option", {"hook": "iga", "tau": 0.5 + rank, "second_moment": "adam"}),
    ):
        options = {"hook": "mean", "domains": ["a", "b"]} | mine
        found[name] = refusal(lambda: igascale.attach(initialize({}), **options).detach())  # noqa: B023

    engine = initialize({"gradient_accumulation_steps": 2})
    surgery = igascale.attach(engine, hook="mean", domains=["a", "b"])
    ids = torch.randint(0, 64, (2, 8), generator=torch.Generator().manual_seed(rank))
    with surgery.rows([0, 1]):
        engine.backward(surgery.loss(engine(input_ids=ids).logits, ids))
    found["accumulates"] = str(surgery.step())
    found["double step"] = refusal(surgery.step)
    surgery.detach()
    torch.save(found, f"{out}.{rank}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
