"""The learning rate of each step."""

from __future__ import annotations

import math


def learning_rate(step: int, total_steps: int, peak: float, warmup_ratio: float) -> float:
    r"""Linear warm-up, then cosine decay to zero.

    .. math::

        \eta_t = \eta \min\!\left(\frac{t+1}{w},\; \tfrac12\Big(1 + \cos\pi\frac{t-w}{T-w}\Big)\right),
        \qquad w = \lceil \rho T \rceil

    Reference: `SGDR <https://arxiv.org/abs/1608.03983>`_, Eq. 5, without restarts.

    Args:
        step: t, optimizer steps taken before this one.
        total_steps: T.
        peak: the highest rate.
        warmup_ratio: share of the steps that warm up.

    Example:
        >>> [round(learning_rate(t, 4, 1.0, 0.25), 3) for t in range(4)]
        [1.0, 1.0, 0.75, 0.25]
    """
    warmup = math.ceil(warmup_ratio * total_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))
