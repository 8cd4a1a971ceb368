"""``tau: auto``: search for the strength of a mask that changes the gradient by a target share, then hold it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class AutoTau:
    r"""Multiplies tau by ``target / change`` while that is far from one, by a power of it when near, then never again.

    For a weak mask the change is proportional to tau, so that the first is a secant step. Batches differ, so near the
    target a step is short, and tau is held once the errors of some steps average out.

    Args:
        target: the relative change to reach, :math:`\|g - \bar g\| / \|\bar g\|` averaged over adapters, in (0, 1).
        start: the first tau, > 0.

    Attributes:
        tau: in force now.
        held: whether the search is over.
    """

    FAR = math.log(2.0)
    #: One step changes tau by this factor at most: a single odd batch must not throw it away.
    LARGEST = math.log(10.0)
    #: Near the target: the power of a step, the memory of the average error, and when that is small enough.
    POWER, MEMORY, CLOSE, LEAST_STEPS = 0.3, 0.8, math.log(1.1), 10

    def __init__(self, target: float, start: float) -> None:
        self.target, self.tau, self.held = target, start, False
        self._near, self._error = 0, 0.0

    def observe(self, change: float) -> None:
        """Learn the relative change that the current tau made; one that is zero or not finite teaches nothing."""
        if self.held or not math.isfinite(change) or change <= 0:
            return
        error = math.log(self.target / change)
        if abs(error) > self.FAR:
            self._near, self._error = 0, 0.0
            self.tau *= math.exp(min(max(error, -self.LARGEST), self.LARGEST))
            return
        self._near += 1
        self._error = self.MEMORY * self._error + (1 - self.MEMORY) * error
        self.held = self._near >= self.LEAST_STEPS and abs(self._error) < self.CLOSE
        if not self.held:
            self.tau *= math.exp(self.POWER * error)

    def state_dict(self) -> dict[str, Any]:
        """The search's state, the same on every rank."""
        return {"tau": self.tau, "held": self.held, "near": self._near, "error": self._error}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint stopped."""
        self.tau, self.held = float(state["tau"]), bool(state["held"])
        self._near, self._error = int(state["near"]), float(state["error"])
