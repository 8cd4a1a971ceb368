"""Run on every rank: the runs of a plan, one after the other; rank 0 saves each one's optimizer state, or its refusal."""

import json
import sys
from pathlib import Path

import torch

from igascale.engine.deepspeed import init_distributed
from igascale.errors import UserError

import runs


def main() -> None:
    base, out, plan = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    torch.set_num_threads(1)
    device = init_distributed()
    for name, action in plan.items():
        overrides = [f"output_dir={out / name}", "engine.name=deepspeed", *action["overrides"]]
        config = runs.load(base, *overrides)
        resume = action.get("resume") and str(out / action["resume"])
        try:
            state = runs.train(config, device, resume, action.get("stop_after"), action.get("allow", ()))
            saved = {"steps": state.steps, **state.tensors}
        except UserError as error:
            saved = {"error": str(error)}
        if torch.distributed.get_rank() == 0:
            torch.save(saved, out / f"{name}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
