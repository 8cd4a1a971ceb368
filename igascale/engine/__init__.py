"""Engines: the only place that talks to other ranks and to DeepSpeed.

``single`` trains in one process with an ordinary optimizer; ``deepspeed`` hands gradients to ZeRO-1 or ZeRO-2. Both are
driven by :func:`igascale.step.take_step` in the same way.
"""

from __future__ import annotations

from igascale.engine.base import Engine, MasterState
from igascale.engine.collectives import Collectives

__all__ = ["Collectives", "Engine", "MasterState"]
