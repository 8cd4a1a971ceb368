"""The GPU tests and every GPU benchmark, where there is a CUDA GPU; says so where there is none.

    python -m benchmarks.gpu_check                 # tests, then the 7B shapes: projection, capture, step
    python -m benchmarks.gpu_check --shapes 7b,13b,70b-layers

One process: a Llama by shape (random weights, bfloat16) with LoRA r=16 on q, k, v, o; for 7b that is 128 adapters of 4096x4096. The
results are written to `benchmarks/results/*-cuda.json`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="7b", help="of benchmarks/shapes.py, with commas")
    parser.add_argument("--no-tests", action="store_true", help="only the benchmarks")
    parser.add_argument(
        "--rehearse", action="store_true", help="the step benchmark at a tiny shape, also without a GPU"
    )
    args = parser.parse_args()
    if args.rehearse:
        _run("benchmarks.step", "--shape", "tiny", "--steps", "2", "--processes", "1")
        return
    if not torch.cuda.is_available():
        print("gpu-check: no CUDA GPU here, so no GPU test and no 7B-shape step was run")
        return
    if not args.no_tests:
        import pytest

        status = pytest.main(["-m", "gpu", "-q", "tests"])
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            sys.exit(int(status))
    _run("benchmarks.projection", "--device", "cuda", "--kernel", "triton")
    _run("benchmarks.scaling", "--device", "cuda")
    for shape in args.shapes.split(","):
        _run("benchmarks.capture", "--shape", shape, "--repeats", "3")
        _run("benchmarks.step", "--shape", shape, "--steps", "3")


def _run(module: str, *options: str) -> None:
    print(f"\n$ python -m {module} {' '.join(options)}", flush=True)
    if status := subprocess.call([sys.executable, "-m", module, *options]):
        sys.exit(status)


if __name__ == "__main__":
    main()
