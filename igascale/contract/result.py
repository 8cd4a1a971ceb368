"""What a hook must return, checked without a look at the numbers: cheap enough for every step of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from igascale.hooks.base import DomainFactorGrads, FactorGrads, GradientHook
from igascale.linalg.histogram import WIDTH


def find_fault(combined: Any, given: Mapping[str, DomainFactorGrads], hook: GradientHook) -> str:
    """What is wrong with a result, in one line that names the adapter; "" if nothing is.

    Args:
        combined: what ``hook.combine`` returned.
        given: the gradients it was called with.
        hook: the hook.
    """
    if not isinstance(combined, Mapping):
        return f"combine returned {_kind(combined)}, not a dict of adapter -> FactorGrads"
    missing, extra = [k for k in given if k not in combined], [k for k in combined if k not in given]
    if missing or extra:
        told = [
            f"{len(names)} {what}: {_some(names)}" for names, what in ((missing, "missing"), (extra, "extra")) if names
        ]
        return f"combine must return exactly the adapters it was given; {', '.join(told)}"
    for fqn, grad in combined.items():
        if not isinstance(grad, FactorGrads):
            return f"{fqn} must be FactorGrads(a, b), not {_kind(grad)}"
        if fault := _tensor_fault(grad, given[fqn], hook) or _stats_fault(grad, hook) or _histogram_fault(grad, hook):
            return f"{fqn}.{fault}"
    return ""


def _tensor_fault(grad: FactorGrads, given: DomainFactorGrads, hook: GradientHook) -> str:
    wanted = {"a": given.a, "b": given.b, "reference_a": given.a, "reference_b": given.b}
    for part, template in wanted.items():
        tensor = getattr(grad, part)
        if part.startswith("reference") and not hook.uses_reference:
            if tensor is None:
                continue
            return f"{part} is set, but uses_reference is False: nobody would read it; set uses_reference = True"
        expected = f"{part} must be {list(template.shape[1:])} {torch.float32} on {template.device}"
        if tensor is None:
            return f"{expected}, not None" + ("; uses_reference is True" if part.startswith("reference") else "")
        if not isinstance(tensor, Tensor):
            return f"{expected}, not {_kind(tensor)}"
        if (tensor.shape, tensor.dtype, tensor.device) != (template.shape[1:], torch.float32, template.device):
            return f"{expected}, not {list(tensor.shape)} {tensor.dtype} on {tensor.device}"
    return ""


def _stats_fault(grad: FactorGrads, hook: GradientHook) -> str:
    if not isinstance(grad.stats, Mapping) or set(grad.stats) != set(hook.statistics):
        names = str(sorted(map(str, grad.stats))) if isinstance(grad.stats, Mapping) else _kind(grad.stats)
        return f"stats must hold exactly what `statistics` names, {sorted(hook.statistics)}, not {names}"
    for name, value in grad.stats.items():
        if not isinstance(value, Tensor) or value.dim() != 0:
            found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else _kind(value)
            return f"stats['{name}'] must be a 0-d tensor, not {found}"
    return ""


def _histogram_fault(grad: FactorGrads, hook: GradientHook) -> str:
    found = grad.mask_histogram
    if found is None:
        return ""
    if not hook.draws_mask:
        return "mask_histogram is set, but draws_mask is False: nobody would read it; set draws_mask = True"
    if not isinstance(found, Tensor) or found.shape != (WIDTH,):
        told = list(found.shape) if isinstance(found, Tensor) else _kind(found)
        return f"mask_histogram must be [{WIDTH}] (igascale.linalg.histogram), not {told}"
    return ""


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _some(names: list[Any]) -> str:
    return ", ".join(map(str, names[:2])) + (", ..." if len(names) > 2 else "")
