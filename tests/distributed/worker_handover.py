"""Run on every rank: the same gradients and references through DeepSpeed and through one process; rank 0 saves the difference."""

import sys
from pathlib import Path

import torch

from igascale.adapters import find_adapters
from igascale.engine.adamw import AdamW
from igascale.engine.deepspeed import DeepSpeedEngine, init_distributed
from igascale.engine.ds_config import load_ds_config
from igascale.engine.single import SingleEngine
from igascale.hooks import FactorGrads

from tiny import tiny_peft


def main() -> None:
    torch.set_num_threads(1)
    device = init_distributed()
    differences = {}
    for stage in (1, 2):
        for dtype in (torch.float32, torch.bfloat16):
            differences[stage, str(dtype)] = difference(stage, dtype, device)
    if torch.distributed.get_rank() == 0:
        torch.save(differences, Path(sys.argv[1]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def difference(stage: int, dtype: torch.dtype, device: torch.device) -> float:
    """Largest difference of any master or moment after four steps, one of them taken over from a saved state."""

    def make(parameters):
        return AdamW(parameters, lr=1e-2, use_reference=True)

    ours, single = tiny_peft(dtype), tiny_peft(dtype)
    config = load_ds_config(f"zero{stage}", bf16=dtype == torch.bfloat16)
    engines = (
        DeepSpeedEngine(ours, find_adapters(ours), make, device, config),
        SingleEngine(single, find_adapters(single), make, device),
    )
    for step in range(4):
        if step == 2:  # a state moves from DeepSpeed to one process without loss
            engines[1].set_state(engines[0].get_state())
        generator = torch.Generator().manual_seed(step)
        grads = {
            fqn: FactorGrads(*(torch.randn(t.shape, generator=generator) for t in (a.A, a.B, a.A, a.B)))
            for fqn, a in engines[0].adapters.items()
        }
        for engine in engines:
            with engine.accumulate():
                logits = engine.forward(input_ids=torch.arange(12).view(2, 6)).logits
                engine.backward(logits.float().logsumexp(-1).sum())
            engine.apply(grads)
            engine.step(1e-2)
    states = [engine.get_state().tensors for engine in engines]
    return max(float((states[0][k] - states[1][k]).abs().max()) for k in states[0])


if __name__ == "__main__":
    main()
