"""What each rule's `combine` costs, relative to `mean`, in one run.

    python -m benchmarks.hooks

32 adapters of 1024x1024, rank 16, 4 domains, on the CPU. The rules take turns, so that whatever else the machine does hits them
alike; the ratio is that of the medians. The Gramian rules' target is 2x `mean`: they must read every gradient once more.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.record import save
from igascale import hooks
from igascale.hooks.base import AdapterFactors, DomainFactorGrads, GradientHook, HookContext, WeightedHook

DOMAINS = ("mathematics", "medicine", "law", "science")
#: Besides every rule with its defaults.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "iga, projection none": ("iga", {"projection": "none"}),
    "iga, factor space": ("iga", {"space": "factor"}),
    "iga, paper": ("iga", {"preset": "paper"}),
    "iga, mask and": ("iga", {"mask": "and"}),
    "gate, weight space": ("gate", {"space": "weight"}),
}


def make_inputs(
    adapters: int, width: int, rank: int
) -> tuple[dict[str, DomainFactorGrads], dict[str, AdapterFactors], HookContext]:
    """Gradients as training has them, with a common part, and everything a context can hold."""
    g = torch.Generator().manual_seed(0)
    grads, factors, aux = {}, {}, {}
    D = len(DOMAINS)
    for k in range(adapters):
        A, B = torch.randn(rank, width, generator=g) / width**0.5, 0.1 * torch.randn(width, rank, generator=g)
        a, b = (torch.randn(s, generator=g) + torch.randn(D, *s, generator=g) for s in ((rank, width), (width, rank)))
        noise = torch.eye(D, dtype=torch.float64).expand(2, D, D)
        grads[f"adapter{k}"], factors[f"adapter{k}"] = DomainFactorGrads(a, b, noise), AdapterFactors(A, B, 2.0)
        aux[f"adapter{k}"] = DomainFactorGrads(0.1 * a, 0.1 * b)
    shapes = dict.fromkeys(grads, (width, width, rank))
    losses = torch.tensor([1.0, 1.2, 0.9, 1.1], dtype=torch.float64)
    return grads, factors, HookContext(0, DOMAINS, losses, shapes=shapes, aux=aux, aux_values=0.1 * losses)


def time_rules(rules: dict[str, GradientHook], inputs: Any, rounds: int) -> dict[str, list[float]]:
    """Seconds of each call; the rules take turns."""
    grads, factors, ctx = inputs
    seconds: dict[str, list[float]] = {name: [] for name in rules}
    for turn in range(rounds + 1):
        for name, rule in rules.items():
            started = time.perf_counter()
            rule.combine(grads, factors, ctx)
            if turn:  # the first is for warming up
                seconds[name].append(time.perf_counter() - started)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--adapters", type=int, default=32)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    chosen = {name: (name, dict[str, Any]()) for name in hooks.available()} | VARIANTS
    rules = {label: hooks.build(name, options) for label, (name, options) in chosen.items()}
    seconds = time_rules(rules, make_inputs(arguments.adapters, arguments.width, arguments.rank), arguments.rounds)
    base = median(seconds["mean"])
    ratios = {name: median(s) / base for name, s in sorted(seconds.items(), key=lambda item: median(item[1]))}
    table = Table("rule", "kind", "combine / mean", box=None, header_style="bold")
    for name, ratio in ratios.items():
        table.add_row(name, "Gramian" if isinstance(rules[name], WeightedHook) else "", f"{ratio:.2f}x")
    console = Console(highlight=False)
    console.print(table)
    worst = max((r, n) for n, r in ratios.items() if isinstance(rules[n], WeightedHook))
    console.print(f"\nthe most expensive Gramian rule, {worst[1]}, costs {worst[0]:.2f}x mean (target 2x)")
    result = {"settings": vars(arguments), "domains": len(DOMAINS), "ratio_to_mean": ratios, "mean_seconds": base}
    console.print(f"written: {save('hooks', 'cpu', result)}")


if __name__ == "__main__":
    main()
