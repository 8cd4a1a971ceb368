"""Where the scalars of a run also go on request: TensorBoard, Weights & Biases. ``metrics.jsonl`` is written in any case."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from igascale.config import LoggingConfig, RunConfig
from igascale.errors import UserError


class Board(Protocol):
    """Shows scalars by step."""

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Show the scalars of a step; may be called again for more of the same step."""

    def close(self) -> None:
        """Nothing more will come."""


def check_boards(section: LoggingConfig) -> None:
    """Refuse a board whose package is not installed, before anything starts.

    Raises:
        UserError: names the key and what to install.
    """
    for name in ("tensorboard", "wandb"):
        if not getattr(section, name):
            continue
        found = find_spec(name)
        if found is None or found.origin is None:  # a mere folder of that name (wandb makes one) can be imported too
            raise UserError(f"logging.{name} needs it installed: pip install 'igascale[{name}]' (or set it to false)")


def open_boards(folder: Path, config: RunConfig, resume_step: int | None) -> list[Board]:
    """The boards that the ``logging`` section asks for.

    Args:
        folder: the run folder.
        config: the run; Weights & Biases shows it.
        resume_step: records of later steps will come again; ``None`` for a new run.
    """
    check_boards(config.logging)
    boards: list[Board] = []
    if config.logging.tensorboard:
        boards.append(_TensorBoard(folder, resume_step))
    if config.logging.wandb:
        from igascale.wandb_board import WandbBoard

        boards.append(WandbBoard(folder, config))
    return boards


class _TensorBoard:
    """Event files in ``tensorboard/``."""

    def __init__(self, folder: Path, resume_step: int | None):
        from torch.utils.tensorboard import SummaryWriter

        # Also at a beginning: an attempt that was lost before its first checkpoint may have left events of these steps.
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=(resume_step or 0) + 1)

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()
