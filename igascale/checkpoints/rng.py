"""A process's random states, as tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def rng_states() -> dict[str, Tensor]:
    """This process's random states."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_rng_states(states: Mapping[str, Tensor]) -> None:
    """Restore :func:`rng_states`."""
    if "torch" in states:
        torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
