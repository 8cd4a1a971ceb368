"""The right singular vectors of the last step, from which the next one's projection may start (``warm_start``).

Shape legend: N adapters of one shape, K rank kept, I in-features.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor

from igascale.linalg.alignment import Aligned


class Subspaces:
    """``[K, I]`` per adapter; part of a checkpoint, so that a resumed run starts from the same vectors."""

    def __init__(self) -> None:
        self._right: dict[str, Tensor] = {}
        self._next: dict[str, Tensor] = {}

    def of(self, names: list[str]) -> list[Tensor | None]:
        """The vectors of each adapter; ``None`` at its first step."""
        return [self._right.get(fqn) for fqn in names]

    def update(self, names: list[str], aligned: Aligned) -> Tensor:
        r"""Take in the vectors of this step, to replace the others at :meth:`commit`.

        Returns:
            The share of the new projection's energy that lies in the last step's subspace,
            :math:`\|\Sigma V_{new}^\top V_{old}\|_F^2 / \|\Sigma\|_F^2`, ``[N]``, float64: 1 for the same subspace, about K / I for
            unrelated ones; NaN at an adapter's first step. By energy, since directions that carry next to none are noise and
            turn freely. A zero gradient leaves the vectors as they are.
        """
        overlap_N = torch.full((len(names),), torch.nan, dtype=torch.float64, device=aligned.a_NRI.device)
        if aligned.projected is None:
            return overlap_N
        projected = aligned.projected
        for n, (fqn, new_KI, energy_K) in enumerate(zip(names, projected.Vh_NKI, projected.S_NK.double().square())):
            old_KI = self._right.get(fqn)
            if old_KI is None or old_KI.shape != new_KI.shape:
                self._next[fqn] = new_KI.clone()
                continue
            old_KI = old_KI.to(new_KI)
            known = (old_KI != 0).any() & (new_KI != 0).any()
            inside_K = (new_KI @ old_KI.mT).double().square().sum(1)
            overlap_N[n] = torch.where(known, (inside_K * energy_K).sum() / energy_K.sum(), torch.nan)
            self._next[fqn] = torch.where((new_KI != 0).any(), new_KI, old_KI)
        return overlap_N

    def commit(self, owned: Container[str]) -> None:
        """The step is done, once and for all. Forget adapters that another rank owns now."""
        self._right = {fqn: right_KI for fqn, right_KI in (self._right | self._next).items() if fqn in owned}
        self._next = {}

    def state_dict(self) -> dict[str, Any]:
        """By adapter, as :meth:`igascale.hooks.base.GradientHook.state_dict` asks for."""
        return {"adapters": {fqn: {"right": right_KI.cpu()} for fqn, right_KI in self._right.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what is under ``adapters``; it may hold those of other ranks."""
        self._right = {fqn: saved["right"].clone() for fqn, saved in state.items()}
