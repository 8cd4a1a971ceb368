"""Run on every rank: six steps at once, and three plus resume plus three; rank 0 saves both outcomes."""

import sys
from pathlib import Path

import torch

from igascale.engine.deepspeed import init_distributed

import runs


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    device = init_distributed()

    sys.path.insert(0, str(Path(__file__).parent))  # for hook.name=stateful_hook:Momentum

    def go(name: str, resume: str | None = None, stop_after: int | None = None) -> dict[str, torch.Tensor]:
        config = runs.load(folder / "run.yaml", f"output_dir={out / name}", "engine.name=deepspeed", *sys.argv[3:])
        return runs.train(config, device, resume, stop_after).tensors

    whole = go("whole")
    go("parts", stop_after=3)
    parts = go("parts", resume="auto")
    if torch.distributed.get_rank() == 0:
        torch.save({"whole": whole, "parts": parts}, out / "resume.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
