"""A run folder with one checkpoint, made from another program's state."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from igascale import assemble, runfolder, status
from igascale.config import EngineConfig, RunConfig
from igascale.engine.base import factor_parameters
from igascale.errors import UserError
from igascale.record import environment, rank_facts
from igascale.resuming.start import IMPORTED, TOTAL_STEPS
from igascale.resuming.universal import read_universal
from igascale.saving import Saver


class _Teller:
    """Passes on what the saver has to say."""

    def __init__(self, tell: Callable[[str], object]):
        self._tell = tell

    def say(self, message: str) -> None:
        self._tell(message)

    def warn(self, message: str) -> None:
        self._tell(f"warning: {message}")


def import_universal(
    source: Path, config: RunConfig, step: int | None, optimizer_steps: int | None, tell: Callable[[str], object]
) -> int:
    """Write the run folder of ``config`` with one checkpoint that holds the state of a universal DeepSpeed checkpoint.

    Args:
        source: what ``ds_to_universal`` wrote.
        config: the run that shall go on from it.
        step: steps of the run's own schedule that count as taken; ``None``: the optimizer's.
        optimizer_steps: ``None``: as the files say.
        tell: takes lines for the user.

    Returns:
        The checkpoint's step.

    Raises:
        UserError: the state is not that of this run's adapters, or ``output_dir`` exists.
    """
    folder = assemble.find_run_folder(config)
    runfolder.check_absent(folder)
    device = torch.device("cpu")
    hook = assemble.build_hook(config)
    student = assemble.build_student(config, device)
    shapes = {name: tuple(p.shape) for name, p in factor_parameters(student.adapters).items()}
    master = read_universal(source, shapes, optimizer_steps)
    data = assemble.load_data(config, student.tokenizer)
    step = master.steps if step is None else step
    if step > data.total_steps:
        raise UserError(
            f"{source} is of step {step}, but this run ends at step {data.total_steps}: raise train.max_steps or train.epochs, "
            "or say where in it to begin: --step N"
        )
    alone = config.model_copy(update={"engine": EngineConfig(name="single")})
    engine = assemble.build_engine(alone, student, hook, device)
    engine.set_state(master)
    counters = {"skipped_steps": 0, "skipped_in_a_row": 0, "tokens": 0}
    runfolder.record(folder, config, environment(config, [rank_facts(0)]))
    saver = Saver(
        config,
        data,
        student,
        hook,
        engine,
        _Teller(tell),
        counters | {TOTAL_STEPS: data.total_steps, IMPORTED: str(source)},
    )
    saver.save(step, last=True)
    saver.conclude(step, result=False)
    status.conclude(folder, status.INTERRUPTED, "imported, not trained yet", 0)
    return step
