"""Run on every rank: rank 1 alone sees a NaN at step 1 (and later in every step); each rank saves what it saw."""

import sys
from pathlib import Path

import torch

from igascale import assemble, runfolder
from igascale.engine.deepspeed import init_distributed
from igascale.errors import UserError
from igascale.trainer import Trainer

import runs


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    device = init_distributed()
    rank = torch.distributed.get_rank()
    config = runs.load(
        folder / "run.yaml",
        f"output_dir={out / 'nan'}",
        "engine.name=deepspeed",
        "train.max_steps=12",
        "train.max_skipped_steps=3",
    )
    hook = assemble.build_hook(config)
    student = assemble.build_student(config, device)
    data = assemble.load_data(config, student.tokenizer)
    engine = assemble.build_engine(config, student, hook, device)
    trainer = Trainer(config, data, student, hook, engine)
    backward, one_step, seen = engine.backward, trainer._one_step, []

    def poisoned(loss, **keywords):  # the loss that is reported stays finite
        backward(loss * (float("nan") if rank == 1 and (trainer.step == 1 or trainer.step >= 4) else 1.0), **keywords)

    def watched(*arguments):
        before = dict(engine.get_state().tensors.items())
        report, tokens = one_step(*arguments)
        after = engine.get_state()
        seen.append((bool(report.skipped), all(torch.equal(before[k], after.tensors[k]) for k in before), after.steps))
        return report, tokens

    engine.backward, trainer._one_step = poisoned, watched
    try:
        trainer.train(runfolder.open_run(config, None, engine.comm))
        error = ""
    except UserError as problem:
        error = str(problem)
    torch.save({"seen": seen, "error": error}, out / f"nan-{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
