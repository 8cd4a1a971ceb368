"""What the hooks that use TorchJD's weightings have in common: finding the package, and the Gramian's scale.

Shape legend: D domains.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata

import torch
from torch import Tensor

from igascale.hooks.base import HookContext, WeightedHook

#: The versions whose interface this is written for; pyproject.toml has the same range.
SERIES = "0.18."

Weighting = Callable[[Tensor], Tensor]


class TorchJDHook(WeightedHook):
    """Weights from a weighting of TorchJD, computed from the Gramian divided by its trace.

    TorchJD takes a Gramian with a trace below 1e-4 for zero, a gradient norm of .01; gradients of LoRA factors are often
    smaller. The rules here have weights that do not depend on the scale, so the division changes nothing else.

    Args:
        build: makes the weighting; the place for ``import torchjd``.

    Raises:
        ValueError: TorchJD, or the part of it that a rule needs, is missing or of another version.
    """

    min_domains: int = 2

    def __init__(self, build: Callable[[], Weighting]) -> None:
        try:
            found = metadata.version("torchjd")
            self.weighting = build()
        except (ImportError, metadata.PackageNotFoundError) as error:
            raise ValueError(f"needs TorchJD and its solvers ({error}): pip install 'igascale[torchjd]'") from None
        if not found.startswith(SERIES):
            raise ValueError(f"needs TorchJD {SERIES}x, found {found}: pip install 'igascale[torchjd]'")

    def weights(self, gram: Tensor, ctx: HookContext) -> Tensor:
        """See the class; all gradients zero: the mean, of zeros."""
        trace = gram.diagonal().sum()
        if not trace > 0:
            return torch.full((len(gram),), 1 / len(gram), dtype=torch.float64)
        return self.weighting(gram / trace)
