"""What Invariant Gradient Alignment says of its options and of a step, each with a measurement or a remedy."""

from __future__ import annotations

import math
from typing import Any

from igascale.hooks._auto_tau import AutoTau


def warnings(chosen: dict[str, Any]) -> list[str]:
    """One line for each choice that was measured to fail or to do nothing, with the measurement."""
    tau, weight = chosen["tau"], chosen["space"] == "weight"
    told = [
        (
            chosen["mask"] == "exp" and chosen["variance_norm"] == "none" and tau not in (0, "auto"),
            "variance_norm='none': the raw variance has the square of the gradient's scale. On an LLM (elements ~1e-5) "
            "tau*V is ~1e-10 and the mask is exactly 1: plain averaging. Use 'relative' or tau='auto'.",
        ),
        (
            chosen["variance_norm"] == "mean",
            "variance_norm='mean': V/mean(V) masks large gradients rather than conflicting ones; measured: -.035 "
            "out-of-distribution accuracy. Use 'relative'.",
        ),
        (
            chosen["mask"] == "sand" and chosen["threshold"] >= 1,
            "threshold=1 with mask='sand': the mask is zero everywhere, nothing is learnt. Use 0.5.",
        ),
        (
            weight and chosen["extraction"] == "paper",
            "extraction='paper': Eq. 10 does not define a gradient (any rotation between the factors satisfies it); "
            "under AdamW it diverged in every testbed. Use 'anchored'.",
        ),
        (
            weight and chosen["extraction"] == "aligned",
            "extraction='aligned': it descends, but slowly: measured, a loss of .98 where the mean reached .027. Use "
            "'anchored'.",
        ),
        (
            weight and chosen["extraction"] == "pullback",
            "extraction='pullback': the chain rule applies the LoRA kernel twice and is not the mean gradient at tau=0. "
            "Use 'anchored'.",
        ),
        (
            weight and chosen["projection"] == "svd" and chosen["rank"] != "2R",
            f"rank={chosen['rank']!r}: even without a mask the gradient has rank 2R; measured: cutting it to R changed "
            "the factor gradients by 27-30%. Use '2R' or projection='none'.",
        ),
    ]
    return [text for applies, text in told if applies]


def strengthen(chosen: dict[str, Any]) -> str:
    """What makes an inactive mask stronger."""
    if chosen["mask"] != "exp":
        return "Raise threshold."
    if chosen["remove_noise"]:
        return "Where all of the variance is noise, remove_noise leaves nothing to mask; else raise tau."
    return "Raise tau." if chosen["variance_norm"] != "none" else "Use variance_norm='relative', or tau='auto'."


def alarms(
    told: dict[str, str], chosen: dict[str, Any], value: dict[str, float], auto: AutoTau | None
) -> dict[str, str]:
    """With what the projection, the extraction and the search for tau have to say about a step, and the remedy.

    Args:
        told: what is said of any mask. While the search goes on the mask's strength is nobody's choice.
        chosen: the hook's choices.
        value: the figures of the step.
        auto: the search.
    """
    if auto is not None and not auto.held:
        told = {name: text for name, text in told.items() if name not in ("inactive mask", "starving mask")}
    tail, ratio = value.get("tail_energy", 0.0), max(value.get("alpha_ratio", 0.0), value.get("beta_ratio", 0.0))
    remedy = "Raise rho: B is very small." if chosen["extraction"] == "anchored" else "Use extraction='anchored'."
    if tail > 0.25:
        told["truncated"] = (
            f"the projection drops {tail:.0%} of the masked gradient's energy. Raise rank or use projection='none'."
        )
    if ratio > 1:
        told["extraction far from the mean"] = (
            f"the extraction moves a factor's gradient by {'at least ' if ratio >= 1e6 else ''}{ratio:.2g} times the plain "
            f"mean. {remedy}"
        )
    if chosen["remove_noise"] and math.isnan(value.get("noise_share", 0.0)):
        told["noise unknown"] = (
            "remove_noise has no effect: the step has one micro-batch, whose noise cannot be told. Raise "
            "train.gradient_accumulation_steps, or lower train.micro_batch_size."
        )
    if chosen["warm_start"] and value.get("subspace_overlap", 1.0) < 0.9:
        told["warm start"] = (
            f"the projection's subspace turns fast: only {value['subspace_overlap']:.0%} of its energy lies in the last step's, so "
            "warm_start is of little use. Use power_iters of 1 or more."
        )
    if auto is not None and auto.found:
        told["tau found"] = (
            f"tau='auto' holds {auto.tau:.4g} from here on (relative change {chosen['target_change']:g}; it drifts later)."
        )
    return told
