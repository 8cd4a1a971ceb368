"""What Invariant Gradient Alignment says of its options and of a step, each with a measurement or a remedy."""

from __future__ import annotations

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
    return "Raise tau." if chosen["variance_norm"] != "none" else "Use variance_norm='relative', or tau='auto'."


def alarms(chosen: dict[str, Any], value: dict[str, float], auto: AutoTau | None) -> dict[str, str]:
    """What the projection, the extraction and the search for tau have to say about a step, with the remedy."""
    tail, ratio = value.get("tail_energy", 0.0), max(value.get("alpha_ratio", 0.0), value.get("beta_ratio", 0.0))
    anchored, remedy = chosen["extraction"] == "anchored", "Use extraction='anchored'."
    told = [
        (
            "truncated",
            tail > 0.25,
            f"the projection drops {tail:.0%} of the masked gradient's energy. Raise rank or use projection='none'.",
        ),
        (
            "extraction far from the mean",
            ratio > 1,
            f"the extraction moves a factor's gradient by {'at least ' if ratio >= 1e6 else ''}{ratio:.2g} times the plain "
            f"mean. {'Raise rho: B is very small.' if anchored else remedy}",
        ),
        (
            "tau found",
            auto is not None and auto.held,
            f"tau='auto' holds {auto.tau if auto else 0:.4g} from here on (relative change {chosen['target_change']:g}).",
        ),
    ]
    return {name: text for name, applies, text in told if applies}
