"""Block sizes of the fused kernel: one product of many adapters by each choice, on the GPU at hand.

    python -m benchmarks.blocks                    # 128 adapters of 4096x4096, R = 16, D = 4, as in a 7B model
    python -m benchmarks.blocks --rank 64

What `Blocks.by_shape` chooses comes first; every other choice is compared with its result, and one that is off by more than rounding
is shown as wrong. The choices are compiled by several processes at once, then timed one after another (median, after a warm-up).
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.projection import OVERSAMPLING, TAU, make_inputs
from benchmarks.record import save
from igascale.linalg.contrasts import build_contrasts
from igascale.linalg.fused import Blocks, FusedMaskedMean, Precision
from igascale.linalg.tile_masks import ExpMask

#: BO, BI, warps, stages.
SIZES = [
    *((128, 64, 8, 1), (128, 64, 8, 3), (128, 64, 4, 2), (128, 128, 8, 2), (128, 32, 8, 2), (128, 32, 4, 1)),
    *((128, 32, 4, 2), (128, 32, 4, 3), (128, 16, 4, 2), (128, 16, 8, 2), (64, 64, 4, 1), (64, 64, 4, 2)),
    *((64, 64, 4, 3), (64, 64, 8, 2), (64, 32, 4, 1), (64, 32, 4, 2), (64, 32, 4, 3), (64, 128, 4, 2), (64, 128, 8, 2)),
]
WRONG = 1e-2


def product(options: dict[str, Any], adapters: int, blocks: Blocks, precision: Precision) -> tuple[Any, Tensor]:
    """The source of many copies of one adapter, and the thin matrix."""
    torch.manual_seed(0)
    inputs = make_inputs(options["size"], options["rank"], options["domains"], options["device"])
    contrasts = build_contrasts(*(x.expand(adapters, *x.shape) for x in inputs))
    source = FusedMaskedMean(contrasts, ExpMask(contrasts, TAU, "relative"), precision, blocks)
    X = torch.randn(options["size"], 2 * options["rank"] + OVERSAMPLING, device=options["device"])
    return source, X


def compile_one(options: dict[str, Any], case: tuple[Blocks, Precision]) -> str:
    """Compile for one adapter, into Triton's cache on disk; why it fails, or nothing."""
    try:
        source, X = product(options, 1, *case)
        source.times(X)  # this one gathers the sums as well
        source.times(X)
        _wait(options["device"])
    except RuntimeError as failure:  # also a fault of the GPU, after which this process could not use it again
        return " ".join(str(failure).split())[:60]
    return "" if source.blocks == case[0] else "does not fit"


def measure(options: dict[str, Any], case: tuple[Blocks, Precision], repeats: int) -> tuple[float, Tensor]:
    """Median seconds of a product, and its first adapter's result."""
    source, X = product(options, options["adapters"], *case)
    seconds = []
    for turn in range(repeats + 2):
        _wait(options["device"])
        start = time.perf_counter()
        result = source.times(X)
        _wait(options["device"])
        if turn >= 2:
            seconds.append(time.perf_counter() - start)
    return median(seconds), result[0].double().cpu()


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="O and I of an adapter")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--domains", type=int, default=4)
    parser.add_argument("--adapters", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--processes", type=int, default=8, help="that compile at once")
    parser.add_argument("--device", default="cuda", help="cpu with TRITON_INTERPRET=1, to rehearse; saves nothing")
    options = vars(parser.parse_args())

    chosen = Blocks.by_shape(2 * options["rank"], 2 * options["rank"] + OVERSAMPLING)
    cases: list[tuple[Blocks, Precision]] = [(chosen, "tf32x3"), (chosen, "tf32")]
    if chosen.BK > 16:
        cases.append((replace(chosen, BK=16), "tf32x3"))
    cases += [(replace(chosen, BO=a, BI=b, warps=w, stages=s), "tf32x3") for a, b, w, s in SIZES]
    with ProcessPoolExecutor(options["processes"], get_context("spawn"), max_tasks_per_child=1) as pool:
        failures = list(pool.map(partial(compile_one, options), cases))

    table = Table("precision", "BO", "BI", "BK", "BP", "warps", "stages", "ms", "x chosen", "", box=None)
    found: list[dict[str, Any]] = []
    expected = None
    for case, failure in zip(cases, failures):
        row: dict[str, Any] = {"precision": case[1], **asdict(case[0]), "seconds": None, "note": failure}
        if not failure:
            row["seconds"], result = measure(options, case, options["repeats"])
            expected = result if expected is None else expected
            row["error"] = float((result - expected).norm() / expected.norm())
            row["note"] = "" if row["error"] <= WRONG else "wrong"
        found.append(row)
        times = ("", "") if failure else (f"{row['seconds'] * 1e3:.2f}", f"{row['seconds'] / found[0]['seconds']:.2f}")
        table.add_row(case[1], *(str(v) for v in asdict(case[0]).values()), *times, row["note"])
    Console(width=140, highlight=False).print(table)
    if options["device"] == "cuda":
        print(save("blocks", "cuda", {"options": options, "cases": found}))


if __name__ == "__main__":
    main()
