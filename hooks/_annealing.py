"""How a penalty's weight changes over training, as the published code of IRM and V-REx has it."""

from __future__ import annotations

from dataclasses import dataclass

from igascale.hooks._options import flag, number, whole


@dataclass(frozen=True)
class Annealing:
    """A penalty weight of at most 1 at first, then the full one; and what the whole objective is divided by.

    Attributes:
        penalty: the full weight, lambda.
        steps: optimizer steps before it applies; until then the weight is 1 (or lambda, if that is smaller).
        rescale: divide the objective by the weight where that exceeds 1.
    """

    penalty: float
    steps: int
    rescale: bool

    def __post_init__(self) -> None:
        """Refuse what is out of range, by the names of the hooks' options."""
        number("penalty", self.penalty)
        whole("anneal_steps", self.steps, 0)
        flag("rescale", self.rescale)

    def weight(self, step: int) -> float:
        """Lambda at a step, counted from 0."""
        return self.penalty if step >= self.steps else min(self.penalty, 1.0)

    def divisor(self, step: int) -> float:
        """What the whole objective is divided by, at least 1."""
        return max(self.weight(step), 1.0) if self.rescale else 1.0
