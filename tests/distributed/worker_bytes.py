"""Run on every rank: three steps of each rule; what its optimizer holds and its second step sent; the same of plain DeepSpeed."""

import json
import sys
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from igascale.engine.deepspeed import _import_deepspeed, init_distributed

import runs
from worker_communication import Watch


def main() -> None:
    folder, out, bucket_mb = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    device = init_distributed()
    told = {}
    for rule in ("mean", "iga"):
        run = f"output_dir={folder / rule}"
        options = ["engine.name=deepspeed", f"engine.reduce_bucket_mb={bucket_mb}", "train.max_steps=3"]
        config = runs.load(folder / "run.yaml", run, f"hook.name={rule}", "eval.every=null", *options)
        watch = Watch(unused=False, fail=False)
        runs.run(config, device, watch.wrap)
        sent = {kind: [calls, num_bytes] for kind, (calls, _, num_bytes) in watch.traffic.items()}
        own = sent["all_gather"][1] // 2 // 4  # the profiler counts the numbers that a rank puts in
        gathered = [numel for name, numel in watch.profiled if "gather" in name]
        gathered.remove(own)
        told[rule] = {
            "optimizer": held(watch.engine),
            "sent": sent,
            "gathered by DeepSpeed": sum(gathered) * 4 * 2,
        }
    told["plain"] = plain_step(config, device)
    if torch.distributed.get_rank() == 0:
        out.write_text(json.dumps(told))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def held(engine) -> int:
    """Bytes of masters and states on this rank."""
    zero = engine._engine.optimizer
    tensors = list(zero.single_partition_of_fp32_groups)
    tensors += [t for state in zero.optimizer.state.values() for t in state.values() if torch.is_tensor(t)]
    return sum(t.numel() * t.element_size() for t in tensors)


def plain_step(config, device) -> dict[str, int]:
    """One optimizer step of two micro-steps, by stock DeepSpeed ZeRO-2 on the same model."""
    from igascale import assemble

    student = assemble.build_student(config, device)
    optimizer = torch.optim.AdamW([p for p in student.model.parameters() if p.requires_grad])
    options = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "zero_optimization": {"stage": 2},
        "zero_allow_untested_optimizer": True,
    }
    engine = _import_deepspeed().initialize(model=student.model, optimizer=optimizer, config=options)[0]
    counted = {}
    for _ in range(2):  # the first one sets things up
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            for _ in range(2):
                ids = torch.randint(0, 100, (1, 8))
                engine.backward(engine(input_ids=ids, labels=ids).loss)
                engine.step()
        counted = {"reduced": 0, "gathered": 0}
        for event in profiler.events():
            numel = sum(torch.Size(shape).numel() for shape in event.input_shapes)
            # Single numbers are DeepSpeed's checks for overflow and its norms.
            if event.name.startswith("gloo:") and numel > 100:
                counted["gathered" if "gather" in event.name else "reduced"] += (
                    numel * 4 * (1 + ("gather" in event.name))
                )
    return counted


if __name__ == "__main__":
    main()
