"""What counting the mask's values adds to `combine`, on a step whose figures are recorded.

    python -m benchmarks.mask_histogram
    python -m benchmarks.mask_histogram --device cuda --adapters 128 --width 4096

The same call with and without `ctx.wants_histogram`, in turns, one after the other; the ratio is the median of the turns' own ratios,
which whatever else the machine does hits least. On a CPU it is of processor time, not of the clock. A whole step also has forward and backward passes, so of it the share is smaller.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.hooks import make_inputs
from igascale import hooks
from igascale.hooks.base import AdapterFactors, DomainFactorGrads, GradientHook, HookContext

RULES: dict[str, tuple[str, dict[str, Any]]] = {
    "iga": ("iga", {}),
    "iga, projection none": ("iga", {"projection": "none"}),
    "iga, mask and": ("iga", {"mask": "and"}),
    "iga, factor space": ("iga", {"space": "factor"}),
    "gate": ("gate", {}),
    "and_mask": ("and_mask", {}),
    "sand_mask": ("sand_mask", {}),
}


def ratio(
    hook: GradientHook,
    grads: dict[str, DomainFactorGrads],
    factors: dict[str, AdapterFactors],
    ctx: HookContext,
    rounds: int,
) -> tuple[float, float]:
    """Counted over plain, and the seconds of the plain call."""
    asked = replace(ctx, wants_histogram=True)
    ratios, plain = [], []
    cuda = next(iter(grads.values())).a.is_cuda
    clock = time.perf_counter if cuda else time.process_time
    for turn in range(rounds + 1):
        seconds = {}
        for context in (ctx, asked) if turn % 2 else (asked, ctx):
            started = clock()
            hook.combine(grads, factors, context)
            if cuda:
                torch.cuda.synchronize()
            seconds[context.wants_histogram] = clock() - started
        if turn:  # the first is for warming up
            ratios.append(seconds[True] / seconds[False])
            plain.append(seconds[False])
    return median(ratios), median(plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=16)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    grads, factors, ctx = make_inputs(arguments.adapters, arguments.width, arguments.rank)
    to = torch.device(arguments.device)
    grads = {k: replace(g, a=g.a.to(to), b=g.b.to(to)) for k, g in grads.items()}
    factors = {k: replace(f, A=f.A.to(to), B=f.B.to(to)) for k, f in factors.items()}
    table = Table("rule", "with / without", "seconds without", box=None, header_style="bold")
    for label, (name, options) in RULES.items():
        found, seconds = ratio(hooks.build(name, options), grads, factors, ctx, arguments.rounds)
        table.add_row(label, f"{found:.3f}x", f"{seconds:.3f}")
    Console(highlight=False).print(table)


if __name__ == "__main__":
    main()
