"""Run on every rank: train each case by igascale, and one by a plain DeepSpeed + PEFT loop; rank 0 saves what happened."""

import json
import sys
from pathlib import Path

import torch

from igascale import assemble
from igascale.engine.deepspeed import _import_deepspeed, init_distributed
from igascale.hooks.base import DomainFactorGrads, FactorGrads, GradientHook
from igascale.isomers.batches import collate, domain_denominators, micro_batches, shard_groups
from igascale.schedule import learning_rate

import runs


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    cases = json.loads(Path(sys.argv[3]).read_text())
    torch.set_num_threads(1)
    device = init_distributed()
    rank = torch.distributed.get_rank()
    for name, overrides in cases.items():
        config = runs.load(folder / "run.yaml", f"output_dir={out / name}-run", "engine.name=deepspeed", *overrides)
        if name.startswith("plain"):
            recorded = plain_loop(config, device)
        else:
            wrap = combine_per_rank_then_average if name.startswith("wrong") else None
            recorded = runs.run(config, device, wrap)
        if rank == 0:
            torch.save(recorded.to_dict(), out / f"{name}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def plain_loop(config, device) -> runs.Recorded:
    """What a user writes without igascale: ordinary backward passes, DeepSpeed's own reduction, torch's AdamW."""
    deepspeed = _import_deepspeed()
    from deepspeed.utils import safe_get_full_fp32_param

    student = assemble.build_student(config, device)
    generator = torch.Generator().manual_seed(99)
    for adapter in student.adapters.values():
        adapter.B.data.copy_(0.02 * torch.randn(adapter.B.shape, generator=generator))
    data = assemble.load_data(config, student.tokenizer)
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    steps = config.train.gradient_accumulation_steps
    parameters = [p for p in student.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.optimizer.lr, weight_decay=config.optimizer.weight_decay)
    ds_config = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": steps,
        "gradient_clipping": config.optimizer.max_grad_norm,
        "zero_optimization": {"stage": 2},
    }
    engine = deepspeed.initialize(model=student.model, optimizer=optimizer, config=ds_config)[0]
    names = len(data.train.domains)
    for step in range(data.total_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, data.total_steps, config.optimizer.lr, config.optimizer.warmup_ratio)
        everything = data.schedule.groups_of_step(step)
        denominators = domain_denominators([e for g in everything for e in data.train.groups[g]], names, "token")
        mine = [e for g in shard_groups(everything, rank, world) for e in data.train.groups[g]]
        for rows in micro_batches(mine, len(mine) // steps):
            batch = collate(rows, 0, "token")
            logits = engine(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.float()
            token = torch.nn.functional.cross_entropy(
                logits[:, :-1].transpose(1, 2), batch.labels[:, 1:], ignore_index=-100, reduction="none"
            )
            share = 1.0 / (names * denominators[batch.domain])
            # DeepSpeed divides by the number of ranks and of accumulation steps.
            engine.backward((token * share[:, None].float()).sum() * world * steps)
            engine.step()
    recorded = runs.Recorded()
    for fqn, adapter in student.adapters.items():
        for factor, p in (("lora_A", adapter.A), ("lora_B", adapter.B)):
            recorded.masters[f"{fqn}.{factor}.master"] = safe_get_full_fp32_param(p).detach().clone()
    return recorded


def combine_per_rank_then_average(engine, hook) -> GradientHook:
    """The classic mistake: the nonlinear rule sees each rank's own gradients, and its results are averaged."""

    class Wrong(type(hook)):
        def combine(self, grads, adapters, ctx):
            return self._spoiled

    wrong = hook
    wrong.__class__ = Wrong
    reduce, new_sums = engine.reduce, engine.new_sums

    def watched_sums(*arguments):
        sums = new_sums(*arguments)
        send, wrong._local = sums.send, {}

        def watched_send():  # what this rank alone has, before it is added to the others'
            if not wrong._local:
                wrong._local = {fqn: (g.a.clone(), g.b.clone()) for fqn, g in sums.items()}
            send()

        sums.send = watched_send
        return sums

    def spoiled_reduce(sums, denominator_D):
        world = engine.comm.world_size
        local = {
            fqn: DomainFactorGrads(*(t / denominator_D[:, None, None].float() * world for t in pair))
            for fqn, pair in wrong._local.items()
        }
        from igascale.hooks.base import HookContext

        context = HookContext(domains=tuple("abcd"), losses=torch.zeros(4), seed=0)
        result = super(Wrong, wrong).combine(local, engine.factors(list(local)), context)
        wrong._spoiled = {
            fqn: FactorGrads(
                *(None if t is None else engine.comm.sum(t) / world for t in (g.a, g.b, g.reference_a, g.reference_b)),
                stats=g.stats,
            )
            for fqn, g in result.items()
        }
        wrong._spoiled = {fqn: wrong._spoiled[fqn] for fqn in engine.owned}
        return reduce(sums, denominator_D)

    engine.reduce, engine.new_sums = spoiled_reduce, watched_sums
    return wrong


if __name__ == "__main__":
    main()
