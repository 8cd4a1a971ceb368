"""Run on every rank: what a user has without igascale. PEFT under DeepSpeed ZeRO-2 with torch's AdamW, saved by DeepSpeed.

Usage: worker_plain_deepspeed.py RUN_YAML OUT DTYPE...; a folder each in OUT; rank 0 also saves what DeepSpeed itself says the state is.
"""

import sys
from pathlib import Path

import torch

from igascale import assemble
from igascale.engine.deepspeed import _import_deepspeed, init_distributed

import runs


def main() -> None:
    torch.set_num_threads(1)
    device = init_distributed()
    for dtype in sys.argv[3:]:
        train(Path(sys.argv[1]), Path(sys.argv[2]) / dtype, dtype, device)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def train(base: Path, out: Path, dtype: str, device: torch.device) -> None:
    deepspeed = _import_deepspeed()
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    model = assemble.build_student(runs.load(base, f"model.dtype={dtype}"), device).model
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    ds_config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 2},
        "bf16": {"enabled": dtype == "bfloat16"},
    }
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-3)
    engine = deepspeed.initialize(model=model, optimizer=optimizer, config=ds_config)[0]
    generator = torch.Generator().manual_seed(torch.distributed.get_rank())
    for _ in range(3):
        ids = torch.randint(6, 100, (2, 12), generator=generator)
        engine.backward(engine(input_ids=ids, labels=ids).loss)
        engine.step()
    engine.save_checkpoint(str(out), tag="global_step3", exclude_frozen_parameters=True)
    truth = {}
    for name, p in trained.items():
        ours = name.removeprefix("base_model.model.").removesuffix(".default.weight")
        truth[f"{ours}.master"] = safe_get_full_fp32_param(p).clone()
        for moment in ("exp_avg", "exp_avg_sq"):
            truth[f"{ours}.{moment}"] = safe_get_full_optimizer_state(p, moment).clone()
    if torch.distributed.get_rank() == 0:
        torch.save(truth, out / "truth.pt")


if __name__ == "__main__":
    main()
