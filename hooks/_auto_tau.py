"""``tau: auto``: search for the strength of a mask that changes the gradient by a target share, then hold it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from igascale.hooks.base import FactorGrads, HookContext


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
        found: whether it ended in this step.
    """

    FAR = math.log(3.0)
    #: One step changes tau by this factor at most: a single odd batch must not throw it away.
    LARGEST = math.log(10.0)
    #: Near the target: the power of a step, the memory of the average error, and when that is small enough.
    POWER, MEMORY, CLOSE, LEAST_STEPS = 0.2, 0.9, math.log(1.1), 20

    def __init__(self, target: float, start: float) -> None:
        self.target, self.tau, self.held = target, start, False
        self._near, self._error = 0, 0.0
        self.found = False

    def observe(self, change: float, conflict: bool = True) -> None:
        """Learn the relative change that the current tau made; one that is not finite teaches nothing.

        Args:
            change: of the step.
            conflict: whether there was anything to mask. If so, no change at all means that the mask was rounded to one.
        """
        self.found = False
        if self.held or not math.isfinite(change) or (change <= 0 and not conflict):
            return
        error = math.log(self.target / change) if change > 0 else self.LARGEST
        if abs(error) > self.FAR:
            self._near, self._error = 0, 0.0
            self.tau *= math.exp(min(max(error, -self.LARGEST), self.LARGEST))
            return
        self._near += 1
        self._error = self.MEMORY * self._error + (1 - self.MEMORY) * error
        self.held = self.found = self._near >= self.LEAST_STEPS and abs(self._error) < self.CLOSE
        if not self.held:
            self.tau *= math.exp(self.POWER * error)

    def learn(
        self, combined: Mapping[str, FactorGrads], chosen: Mapping[str, Any], ctx: HookContext
    ) -> dict[str, FactorGrads]:
        """Learn from what the mask changed over all ranks' adapters; the results with the tau that made them."""
        total, conflict, count = ctx.sum_over_shards(search_sums(combined, chosen)).tolist()
        tau = self.tau
        self.observe(total / max(count, 1.0), conflict > 0)
        return {f: replace(g, stats={**g.stats, "tau": g.a.new_tensor(tau)}) for f, g in combined.items()}

    def state_dict(self) -> dict[str, Any]:
        """The search's state, the same on every rank."""
        return {"tau": self.tau, "held": self.held, "near": self._near, "error": self._error}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint stopped."""
        self.tau, self.held = float(state["tau"]), bool(state["held"])
        self._near, self._error = int(state["near"]), float(state["error"])


def search_sums(combined: Mapping[str, FactorGrads], chosen: Mapping[str, Any]) -> Tensor:
    """Of the adapters given: summed relative change, how many have something to mask, how many there are; ``[3]``."""
    if not combined:
        return torch.zeros(3, dtype=torch.float64)
    names = ("relative_change", "gir", "noise_share")
    figures_N3 = torch.stack([torch.stack([g.stats[n].double() for n in names]) for g in combined.values()]).cpu()
    change_N, gir_N, noise_N = figures_N3.unbind(1)
    # Where all of the variance is noise, and that is removed, there is nothing to mask whatever tau is.
    conflict_N = (gir_N > 0) & ~((noise_N >= 1) & chosen["remove_noise"])
    return torch.stack([change_N.sum(), conflict_N.double().sum(), torch.tensor(float(len(combined))).double()])
