"""IGA that stops before a step until it may go on: a test that waits for a step finds the run there, however late it looks."""

from __future__ import annotations

import os
import time
from pathlib import Path

from igascale.hooks.iga import InvariantGradientAlignment


class GatedIga(InvariantGradientAlignment):
    """Computes what its base computes.

    Args:
        gate: a file with the number of the last step that may be taken (:func:`shut_after`); where there is none, all may.
        gated: the rank that waits in the hook; the others wait for it where they need what it combines.
    """

    def __init__(self, gate: str = "", gated: int = 1):
        super().__init__()
        self.gate, self.gated = gate, gated

    def combine(self, grads, adapters, ctx):
        while self.gate and int(os.environ.get("RANK", "0")) == self.gated and ctx.step + 1 > _last(Path(self.gate)):
            time.sleep(0.02)
        return super().combine(grads, adapters, ctx)


def shut_after(gate: Path, step: int) -> None:
    """Let the run take so many steps and no more, until the file is written again or removed."""
    new = gate.with_name(f"{gate.name}.new")
    new.write_text(str(step))
    new.replace(gate)


def _last(gate: Path) -> float:
    try:
        return int(gate.read_text())
    except FileNotFoundError:
        return float("inf")
