"""The presets of Invariant Gradient Alignment and the checks of its options."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from igascale.hooks._options import flag, number, one_of, whole
from igascale.linalg.alignment import Extraction, Mask, Projection
from igascale.linalg.fused import Kernel
from igascale.linalg.masks import VarianceNorm, and_mask, exp_mask, sand_mask

Preset = Literal["default", "paper", "paper-stable"]
Space = Literal["weight", "factor"]

_DEFAULT: dict[str, Any] = {
    "space": "weight",
    "mask": "exp",
    "variance_norm": "relative",
    "tau": 0.5,
    "target_change": 0.3,
    "threshold": None,
    "sharpness": None,
    "remove_noise": False,
    "projection": "svd",
    "rank": "2R",
    "oversampling": 10,
    "power_iters": None,
    "warm_start": False,
    "extraction": "anchored",
    "rho": 0.1,
    "second_moment": "max",
    "shuffled": False,
}
PRESETS: dict[str, dict[str, Any]] = {
    "default": _DEFAULT,
    "paper": _DEFAULT | {"variance_norm": "none", "rank": "R", "extraction": "paper", "second_moment": "adam"},
    "paper-stable": _DEFAULT | {"variance_norm": "none", "second_moment": "adam"},
}
#: The published thresholds: AND-mask asks for unanimity; SAND-mask's published 1 would be dead.
THRESHOLDS = {"exp": 1.0, "and": 1.0, "sand": 0.5}


def choose(preset: Preset, given: dict[str, Any]) -> dict[str, Any]:
    """The preset's values with the given ones (those that are not ``None``) in their place, each checked by itself."""
    chosen = PRESETS[one_of("preset", preset, Preset)] | {k: v for k, v in given.items() if v is not None}
    for name, allowed in _NAMES.items():
        one_of(name, chosen[name], allowed)
    if chosen["threshold"] is None:
        chosen["threshold"] = THRESHOLDS[chosen["mask"]]
    if chosen["sharpness"] is None:
        chosen["sharpness"] = 10.0 if chosen["variance_norm"] == "none" else 1.0
    if chosen["power_iters"] is None:
        chosen["power_iters"] = 1 if chosen["rank"] == "2R" else 2
    if chosen["tau"] != "auto":
        chosen["tau"] = number("tau", chosen["tau"])
    number("target_change", chosen["target_change"], positive=True, most=0.95)
    number("threshold", chosen["threshold"], most=1.0)
    number("sharpness", chosen["sharpness"], positive=True)
    number("rho", chosen["rho"], positive=True)
    if chosen["rank"] not in ("R", "2R"):
        whole("rank", chosen["rank"], 1, ", 'R' or '2R'")
    for name in ("oversampling", "power_iters"):
        whole(name, chosen[name], 0)
    for name in ("remove_noise", "shuffled", "warm_start"):
        flag(name, chosen[name])
    _check_together(chosen)
    _check_used(chosen, {k for k, v in given.items() if v is not None})
    return chosen


_NAMES: dict[str, Any] = {
    "space": Space,
    "mask": Mask,
    "variance_norm": VarianceNorm,
    "projection": Projection,
    "extraction": Extraction,
}


def _check_together(chosen: dict[str, Any]) -> None:
    """Refuse options that contradict each other or that would be ignored."""
    if chosen["space"] == "weight" and chosen["extraction"] in ("paper", "aligned"):
        name = chosen["extraction"]
        if chosen["projection"] == "none":
            raise ValueError(f"extraction={name!r} splits singular values: it needs projection='svd', not 'none'")
        if chosen["rank"] == "2R":
            raise ValueError(f"extraction={name!r} fills factors of rank R: it needs rank='R' or a number, not '2R'")
    if chosen["mask"] == "sand" and chosen["variance_norm"] not in ("none", "relative"):
        raise ValueError(f"variance_norm={chosen['variance_norm']!r}: mask='sand' takes 'none' or 'relative'")
    if chosen["remove_noise"] and chosen["variance_norm"] == "mean":
        raise ValueError("remove_noise has no effect with variance_norm='mean': a share of V cancels in V / mean V")


def _check_used(chosen: dict[str, Any], given: set[str]) -> None:
    """Refuse what was given and would be ignored with these choices."""
    weight_only = "projection rank oversampling power_iters warm_start extraction rho remove_noise"
    unused = [
        (chosen["space"] == "factor", weight_only, "belongs to space='weight'"),
        (chosen["projection"] == "none", "rank oversampling power_iters warm_start", "belongs to projection='svd'"),
        (chosen["extraction"] != "anchored", "rho", "belongs to extraction='anchored'"),
        (chosen["mask"] != "exp", "tau target_change remove_noise", "belongs to mask='exp'"),
        (chosen["mask"] == "exp", "threshold sharpness", "belongs to mask='and' or 'sand'"),
        (chosen["mask"] == "and", "variance_norm sharpness", "has no part in mask='and'"),
        (chosen["tau"] != "auto", "target_change", "belongs to tau='auto'"),
    ]
    for applies, names, why in unused:
        for name in sorted(given & set(names.split())) if applies else ():
            raise ValueError(f"{name}={chosen[name]!r} {why} and would be ignored")


def check_kernel(kernel: Kernel, chosen: dict[str, Any]) -> Kernel:
    """``kernel``, unless it asks for what these choices have no use for; the device is looked at in a step."""
    one_of("kernel", kernel, Kernel)
    unfit = [
        (chosen["space"] == "factor", "masks the products of space='weight'"),
        (chosen["mask"] != "exp", "knows mask='exp' only"),
        (chosen["shuffled"], "has no shuffled mask"),
    ]
    for applies, why in unfit:
        if kernel == "triton" and applies:
            raise ValueError(f"kernel='triton' {why}; use kernel='auto' or 'torch'")
    return kernel


def factor_mask(x_DXX: Tensor, chosen: dict[str, Any], tau: float) -> Tensor:
    """The mask of one factor's per-domain gradients, for ``space: factor``."""
    if chosen["mask"] == "exp":
        return exp_mask(x_DXX, tau, chosen["variance_norm"])
    if chosen["mask"] == "and":
        return and_mask(x_DXX, chosen["threshold"])
    return sand_mask(x_DXX, chosen["threshold"], chosen["sharpness"], chosen["variance_norm"])


def is_off(chosen: dict[str, Any]) -> bool:
    """Whether these choices ask for plain averaging."""
    return chosen["tau"] == 0 if chosen["mask"] == "exp" else chosen["mask"] == "and" and chosen["threshold"] == 0


def statistics(chosen: dict[str, Any]) -> tuple[str, ...]:
    """The figures that a hook with these choices reports of each adapter."""
    names = ["mean_mask", "relative_change", "gir", "noise_share", "grad_cosine"]
    if chosen["space"] == "weight":
        names += ["tail_energy", "alpha_ratio", "beta_ratio"]
        if chosen["mask"] == "exp" and chosen["variance_norm"] == "none":
            names.append("mask_bound")
        if chosen["warm_start"]:
            names.append("subspace_overlap")
    return (*names, "tau") if chosen["tau"] == "auto" else tuple(names)
