"""igascale: LoRA training with pluggable per-domain gradient hooks on stock DeepSpeed ZeRO.

The first use is Invariant Gradient Alignment (arXiv 2606.05025), which is not the "IGA" of DomainBed
(Inter-environmental Gradient Alignment, arXiv 2008.01883).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from igascale.version import __version__

if TYPE_CHECKING:
    from igascale.engine.adamw import AdamW
    from igascale.errors import UserError
    from igascale.hooks.base import (
        AdapterFactors,
        DomainFactorGrads,
        FactorGrads,
        GradientHook,
        HookContext,
        WeightedHook,
    )
    from igascale.surgery import Surgery, attach

# Name -> module. Imported when first used: `igascale --help` must not wait for torch.
_EXPORTS = {
    "AdamW": "igascale.engine.adamw",
    "AdapterFactors": "igascale.hooks.base",
    "DomainFactorGrads": "igascale.hooks.base",
    "FactorGrads": "igascale.hooks.base",
    "GradientHook": "igascale.hooks.base",
    "HookContext": "igascale.hooks.base",
    "Surgery": "igascale.surgery",
    "UserError": "igascale.errors",
    "WeightedHook": "igascale.hooks.base",
    "attach": "igascale.surgery",
}

__all__ = [
    "AdamW",
    "AdapterFactors",
    "DomainFactorGrads",
    "FactorGrads",
    "GradientHook",
    "HookContext",
    "Surgery",
    "UserError",
    "WeightedHook",
    "__version__",
    "attach",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'igascale' has no attribute '{name}'")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(globals() | _EXPORTS)
