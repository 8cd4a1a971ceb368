"""Run on two ranks: checkpoints by rank 0's clock, in the background, failing on rank 0; what each rank saw goes to a file."""

import errno
import json
import sys
from pathlib import Path

import torch

from igascale import saving
from igascale.engine.deepspeed import init_distributed
from igascale.errors import UserError

import runs


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    device = init_distributed()
    rank = torch.distributed.get_rank()
    told = {}

    def go(name: str, *overrides: str) -> None:
        config = runs.load(
            folder / "run.yaml", f"output_dir={out / name}", "engine.name=deepspeed", "eval.every=null", *overrides
        )
        try:
            runs.train(config, device)
            told[name] = ""
        except UserError as error:
            told[name] = str(error)

    class Clock:
        """Rank 0's goes 25 seconds at each question, the other's stands still."""

        now = 0.0

        def monotonic(self) -> float:
            self.now += 25.0 * (rank == 0)
            return self.now

    real_time, saving.time = saving.time, Clock()
    go("clock", "checkpoint.every=null", "checkpoint.minutes=1", "checkpoint.keep=9")
    saving.time = real_time

    runs.write_quickly()
    for name in ("sync", "async"):
        background = f"checkpoint.asynchronous={str(name == 'async').lower()}"
        go(name, "checkpoint.every=2", "checkpoint.keep=9", background)

    publish = saving.publish

    def failing(root, step, write, **keywords):
        if step == 2:
            raise OSError(errno.EDQUOT, "Disk quota exceeded", str(root))
        return publish(root, step, write, **keywords)

    saving.publish = failing
    for policy in ("stop", "continue"):
        for kind in ("false", "true"):
            extra = (f"checkpoint.on_error={policy}", f"checkpoint.asynchronous={kind}")
            go(f"{policy}-{kind}", "checkpoint.every=1", "checkpoint.keep=9", *extra)
    saving.publish = publish
    go("size", "lora.r=16", "train.max_steps=1", "hook.name=iga")
    (out / f"rank{rank}.json").write_text(json.dumps(told))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
