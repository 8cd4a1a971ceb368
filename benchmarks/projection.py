"""Time and memory of the masked projection of one adapter: naive dense against streamed, interleaved in one run.

    python -m benchmarks.projection --threads 2

Naive: D dense reconstructions, their variance, the mask, then ``torch.svd_lowrank`` (two power iterations, as by
default). Streamed: ``igascale.linalg`` with the masked matrix kept between passes (cached), or regenerated under
a tight budget (uncached). With ``--kernel triton`` also the fused GPU kernel, for one adapter and for ``--adapters`` of them
at once, and one product of its own, whose floor is in ``igascale/linalg/fused_kernels.py``. All at the same rank, oversampling and mask. Times are the best of ``--repeats``;
memory is the peak of live tensor bytes beyond the inputs, measured alike for all, in a run of its own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.record import save
from igascale.linalg.contrasts import build_contrasts
from igascale.linalg.fused import FusedMaskedMean, fused_available
from igascale.linalg.masks import RELATIVE_EPS
from igascale.linalg.projection import LowRank, TilePasses, sketch_width, streaming_svd
from igascale.linalg.tile_masks import ExpMask
from igascale.linalg.tiles import MaskedMean, Workspace, plan_tiles

TAU, OVERSAMPLING = 0.5, 10
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def make_inputs(size: int, rank: int, domains: int, device: str) -> Inputs:
    """Factors and per-domain factor gradients with a common part and noise of half its size."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    A, B = normal(rank, size) / size**0.5, 0.01 * normal(size, rank)
    a = normal(rank, size) + 0.5 * normal(domains, rank, size)
    b = normal(size, rank) + 0.5 * normal(domains, size, rank)
    return a.to(device), b.to(device), A.to(device), B.to(device)


def dense_masked(inputs: Inputs) -> Tensor:
    a, b, A, B = inputs
    ghat = torch.stack([b[n] @ A + B @ a[n] for n in range(len(a))])
    mean = ghat.mean(0)
    variance = ((ghat - mean) ** 2).mean(0)
    mask = torch.exp(-TAU * variance / (mean**2 + RELATIVE_EPS * variance.mean()))
    return mean * mask


def naive(inputs: Inputs, kept: int) -> LowRank:
    U, S, V = torch.svd_lowrank(dense_masked(inputs), q=kept + OVERSAMPLING, niter=2)
    return LowRank(U[None, :, :kept], S[None, :kept], V.mT[None, :kept])


def streamed(inputs: Inputs, kept: int, memory_mb: float, power_iters: int) -> LowRank:
    contrasts = build_contrasts(*(x[None] for x in inputs))
    shape = (inputs[1].shape[1], inputs[0].shape[2])
    plan = plan_tiles(1, shape, inputs[0].dtype, inputs[0].device, memory_mb * 2**20)
    workspace = Workspace([plan], inputs[0].device)
    source = MaskedMean(contrasts, ExpMask(contrasts, TAU, "relative"), plan.rows, workspace)
    cache = workspace.take(source.shape, source.dtype) if plan.cached else None
    sketch = torch.randn(shape[1], sketch_width(kept, OVERSAMPLING, shape), device=inputs[0].device)
    return streaming_svd(TilePasses(source, cache), kept, sketch, power_iters)


def fused_source(inputs: Inputs, adapters: int) -> FusedMaskedMean:
    """As many copies of the adapter, for the GPU kernel."""
    contrasts = build_contrasts(*(x.expand(adapters, *x.shape) for x in inputs))
    return FusedMaskedMean(contrasts, ExpMask(contrasts, TAU, "relative"))


def fused(inputs: Inputs, kept: int, power_iters: int, adapters: int = 1) -> LowRank:
    source = fused_source(inputs, adapters)
    _, *shape = source.shape
    sketch = torch.randn(shape[1], sketch_width(kept, OVERSAMPLING, (shape[0], shape[1])), device=source.device)
    return streaming_svd(source, kept, sketch, power_iters)


def best_times(cases: dict[str, Callable[[], object]], repeats: int, device: str) -> dict[str, float]:
    best = dict.fromkeys(cases, float("inf"))
    for repeat in range(repeats + 1):  # the first round warms up
        for name, run in cases.items():
            start = time.perf_counter()
            run()
            if device == "cuda":
                torch.cuda.synchronize()
            if repeat:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def peak_extra_bytes(run: Callable[[], object], device: str) -> int:
    """Largest sum of live allocations during ``run``, temporaries inside operators included."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        run()
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def error_over_optimal(inputs: Inputs, projected: LowRank, kept: int) -> float:
    """``||g - projection|| / (optimal tail)``, the latter from an exact SVD of the dense matrix."""
    dense = dense_masked(inputs)
    optimal = torch.linalg.svdvals(dense)[kept:].double().norm()
    scale = build_contrasts(*(x[None] for x in inputs)).scale_N
    low_rank = (projected.U_NOK * (projected.S_NK * scale[:, None])[:, None]) @ projected.Vh_NKI
    return float((dense - low_rank[0]).double().norm() / optimal)


def batched_times(inputs: Inputs, kept: int, args: argparse.Namespace) -> dict[str, float]:
    """The fused projection of many adapters, and one of its products."""
    source, N = fused_source(inputs, args.adapters), args.adapters
    X = torch.randn(args.size, kept + OVERSAMPLING, device=args.device)
    cases: dict[str, Callable[[], object]] = {
        f"fused x{N}": lambda: fused(inputs, kept, args.power_iters, N),
        f"one product x{N}": lambda: source.times(X),
    }
    seconds = best_times(cases, args.repeats, args.device)
    for name, value in seconds.items():
        print(f"{name:>17}: {value * 1e3:8.1f} ms")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096, help="O and I of the adapter")
    parser.add_argument("--rank", type=int, default=16, help="LoRA rank R; the projection keeps 2R, as by default")
    parser.add_argument("--domains", type=int, default=4)
    parser.add_argument("--power-iters", type=int, default=1, help="of the streamed projection")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tight-mb", type=float, default=8.0, help="budget of the uncached case")
    parser.add_argument("--accuracy-size", type=int, default=1024, help="adapter of the exact SVD; 0 skips it")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves PyTorch's choice")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--kernel", choices=["torch", "triton"], default="torch", help="triton: the fused kernel as well"
    )
    parser.add_argument("--adapters", type=int, default=128, help="taken at once by the fused kernel")
    args = parser.parse_args()
    if args.kernel == "triton" and (reason := fused_available(torch.device(args.device), torch.float32, "exp")):
        parser.error(f"--kernel triton: {reason}")
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    kept = 2 * args.rank
    inputs = make_inputs(args.size, args.rank, args.domains, args.device)
    budget = {"cached": 2.0**20, "uncached": args.tight_mb}
    cases: dict[str, Callable[[], LowRank]] = {
        "naive": lambda: naive(inputs, kept),
        "cached": lambda: streamed(inputs, kept, budget["cached"], args.power_iters),
        "uncached": lambda: streamed(inputs, kept, budget["uncached"], args.power_iters),
    }
    if args.kernel == "triton":
        cases["fused"] = lambda: fused(inputs, kept, args.power_iters)
    seconds = best_times(cases, args.repeats, args.device)
    memory = {name: peak_extra_bytes(run, args.device) for name, run in cases.items()}
    accuracy = {}
    if args.accuracy_size:
        small = make_inputs(args.accuracy_size, args.rank, args.domains, args.device)
        accuracy["cached"] = error_over_optimal(small, streamed(small, kept, 2.0**20, args.power_iters), kept)
        scaled = naive(small, kept)
        scale = build_contrasts(*(x[None] for x in small)).scale_N
        accuracy["naive"] = error_over_optimal(
            small, LowRank(scaled.U_NOK, scaled.S_NK / scale[:, None], scaled.Vh_NKI), kept
        )
        if args.kernel == "triton":
            accuracy["fused"] = error_over_optimal(small, fused(small, kept, args.power_iters), kept)

    print(f"{args.size}x{args.size}, R={args.rank}, D={args.domains}, rank kept {kept}, {args.device}")
    for name in cases:
        print(
            f"{name:>9}: {seconds[name] * 1e3:8.1f} ms  ({seconds['naive'] / seconds[name]:5.1f}x faster)   "
            f"{memory[name] / 2**20:8.1f} MiB  ({memory[name] / memory['naive']:.3f} of naive)"
        )
    for name, ratio in accuracy.items():
        size = args.accuracy_size
        print(f"{name:>9}: error / optimal tail error = {ratio:.4f} at {size}x{size}")
    if args.kernel == "triton":
        seconds |= batched_times(inputs, kept, args)
    result = {"options": vars(args), "seconds": seconds, "peak_extra_bytes": memory, "error_over_optimal": accuracy}
    result["speedup"] = {name: seconds["naive"] / seconds[name] for name in cases}
    result["memory_ratio"] = {name: memory[name] / memory["naive"] for name in cases}
    print(save("projection", args.device, result))


if __name__ == "__main__":
    main()
