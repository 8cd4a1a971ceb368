"""How the cost of `iga` grows: with adapters, width, rank, domains, and how it divides over ranks.

    python -m benchmarks.scaling

Time of the hook's `combine` at one size after another, everything else fixed, and the floating-point operations of its matrix products
counted by PyTorch. The exponent is the slope of a straight line through the logarithms; 1 is linear. For the ranks the work of each
is counted, as the owners are assigned, and the time of the slowest of 1 to 4 real processes (gloo; with more processes than cores
the time cannot fall any further). The order of the sizes is shuffled in every round, so that a busy moment hits no one of them.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.processes import run_module
from benchmarks.record import count_flops, save
from igascale import hooks
from igascale.hooks.base import AdapterFactors, DomainFactorGrads, HookContext

BASE = {"adapters": 4, "out": 1024, "in": 1024, "rank": 16, "domains": 4}
SWEEPS: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "adapters": (("adapters",), (2, 4, 8, 16)),
    "O and I together": (("out", "in"), (512, 1024, 2048, 4096)),
    "O alone": (("out",), (512, 1024, 2048, 4096)),
    "rank": (("rank",), (8, 16, 32, 64, 128)),
    "domains": (("domains",), (2, 4, 8, 16)),
}
#: The target: the exponent that must not be exceeded (O and I together: 2 is linear in O * I).
LINEAR = {"adapters": 1, "O and I together": 2, "O alone": 1, "rank": 1, "domains": 1}


def make_inputs(size: dict[str, int], device: torch.device) -> tuple[dict[str, Any], dict[str, Any]]:
    """Gradients with a common part, and factors."""
    g = torch.Generator().manual_seed(0)
    O, I, R, D = size["out"], size["in"], size["rank"], size["domains"]  # noqa: E741
    grads, factors = {}, {}
    for k in range(size["adapters"]):
        A, B = torch.randn(R, I, generator=g) / I**0.5, 0.01 * torch.randn(O, R, generator=g)
        a, b = (torch.randn(s, generator=g) + 0.5 * torch.randn(D, *s, generator=g) for s in ((R, I), (O, R)))
        grads[f"m{k}"] = DomainFactorGrads(a.to(device), b.to(device))
        factors[f"m{k}"] = AdapterFactors(A.to(device), B.to(device))
    return grads, factors


def sweep(rounds: int, device: torch.device) -> dict[str, Any]:
    """Seconds and FLOPs at each size of each sweep."""
    hook = hooks.build("iga", {})
    points = [(name, value) for name, (_, values) in SWEEPS.items() for value in values]
    seconds: dict[tuple[str, int], list[float]] = {point: [] for point in points}
    flops: dict[tuple[str, int], float] = {}
    shuffle = random.Random(0)
    for turn in range(rounds):
        for name, value in shuffle.sample(points, len(points)):
            inputs = make_inputs(BASE | dict.fromkeys(SWEEPS[name][0], value), device)
            if turn == 0:
                flops[name, value] = count_flops(functools.partial(hook.combine, *inputs, HookContext()))
            best = math.inf
            for _ in range(2):
                _wait(device)
                started = time.perf_counter()
                hook.combine(*inputs, HookContext())
                _wait(device)
                best = min(best, time.perf_counter() - started)
            seconds[name, value].append(best)
    found: dict[str, Any] = {}
    for name, (_, values) in SWEEPS.items():
        times, counts = [median(seconds[name, v]) for v in values], [flops[name, v] for v in values]
        found[name] = {"values": values, "seconds": times, "flops": counts}
        found[name] |= {"time exponent": slope(values, times), "FLOP exponent": slope(values, counts)}
    return found


def slope(x: tuple[int, ...], y: list[float]) -> float:
    """Least-squares slope of log y over log x."""
    u, v = [math.log(value) for value in x], [math.log(value) for value in y]
    mean_u, mean_v = sum(u) / len(u), sum(v) / len(v)
    return sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v)) / sum((a - mean_u) ** 2 for a in u)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def rank_worker(out: Path, steps: int) -> None:
    """One of several processes: the work and the time of its share of the adapters."""
    import torch.distributed as dist

    from benchmarks import variants
    from benchmarks.shapes import SHAPES
    from igascale.engine.deepspeed import init_distributed

    torch.set_num_threads(1)
    device = init_distributed()
    variant = variants.build("iga", SHAPES["cpu"], device, distributed=True)
    assert isinstance(variant, variants.Igascale)
    trainer, times = variant.trainer, []
    combine, flops = trainer.hook.combine, [0.0]

    def counted(*args: Any) -> Any:
        results = []
        flops[0] = count_flops(lambda: results.append(combine(*args)))
        return results[0]

    trainer.hook.combine = counted  # type: ignore[method-assign]
    variant.step(0)
    trainer.hook.combine = combine  # type: ignore[method-assign]
    for number in range(1, steps + 1):
        variant.clock.seconds.clear()
        variant.step(number)
        times.append(variant.clock.seconds["combine"])
    mine = {"adapters": len(trainer.engine.owned), "flops": flops[0], "seconds": median(times)}
    everyone = trainer.engine.comm.gather_objects(mine)
    if dist.get_rank() == 0:
        out.write_text(json.dumps(everyone))
    trainer.engine.close()


def over_ranks(steps: int) -> dict[str, Any]:
    """1 to 4 real processes under the deepspeed launcher, the same 16 adapters of 512x512."""
    found = {}
    for ranks in (1, 2, 3, 4):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "ranks.json"
            arguments = ("--rank-worker", str(out), "--rounds", str(steps))
            run_module(ranks, "benchmarks.scaling", *arguments, threads=1)
            found[str(ranks)] = json.loads(out.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rank-worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.rank_worker:
        rank_worker(args.rank_worker, args.rounds)
        return
    console = Console(width=110, highlight=False)
    found = sweep(args.rounds, torch.device(args.device))
    table = Table("grows", "sizes", "ms", "exponent of time", "of FLOPs", "linear is", box=None)
    for name, figures in found.items():
        shown = ", ".join(f"{1e3 * s:.0f}" for s in figures["seconds"])
        exponents = f"{figures['time exponent']:.2f}", f"{figures['FLOP exponent']:.2f}"
        table.add_row(name, ", ".join(map(str, figures["values"])), shown, *exponents, str(LINEAR[name]))
    console.print(table)
    result: dict[str, Any] = {"base": BASE, "sweeps": found}
    if args.device == "cpu":
        result["ranks"] = ranks = over_ranks(args.rounds)
        table = Table("ranks", "adapters", "most work of a rank", "ideal", "slowest rank ms", box=None)
        whole = ranks["1"][0]["flops"]
        for count, each in ranks.items():
            share = max(r["flops"] for r in each) / whole
            slowest = f"{1e3 * max(r['seconds'] for r in each):.1f}"
            table.add_row(
                count, "/".join(str(r["adapters"]) for r in each), f"{share:.3f}", f"{1 / int(count):.3f}", slowest
            )
        console.print(table)
        console.print(f"{os.cpu_count()} cores: with more processes than that the time cannot fall further")
    print(save("scaling", args.device, result))


if __name__ == "__main__":
    main()
