"""GPU tests and one optimizer step at 7B shapes, where there is a CUDA GPU; says so where there is none.

    python -m benchmarks.gpu_check

The model is a Llama-2-7B by shape (random weights, bfloat16), LoRA r=16 on q, k, v, o: 128 adapters of 4096x4096. One step is
16 instances of 512 tokens in 4 domains, one process, activation checkpointing on. mean and iga take turns.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from benchmarks.record import save
from igascale import hooks
from igascale.adapters import find_adapters
from igascale.capture import GradientCapture
from igascale.engine.adamw import AdamW
from igascale.engine.single import SingleEngine
from igascale.loss import domain_token_losses
from igascale.step import take_step

DOMAINS = ("mathematics", "medicine", "law", "science")


def build_model(layers: int, hidden: int, device: torch.device) -> Any:
    """Llama by shape, with LoRA whose B is not zero."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from igascale.model import set_activation_checkpointing

    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=hidden,
        intermediate_size=hidden * 43 // 16,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 128,
        num_key_value_heads=hidden // 128,
        use_cache=False,
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with device:
        model = LlamaForCausalLM(config)
        lora = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
        peft = get_peft_model(model, lora, autocast_adapter_dtype=False)
        for name, p in peft.named_parameters():
            if "lora_B" in name:
                p.data.normal_(std=0.01)
    torch.set_default_dtype(torch.float32)
    set_activation_checkpointing(peft, "non-reentrant")
    return peft.to(device).train()


def one_step(model: Any, hook_name: str, rows: int, length: int, device: torch.device) -> Callable[[int], None]:
    """A function that takes one optimizer step."""
    hook = hooks.build(hook_name, {})
    adapters = find_adapters(model)
    engine = SingleEngine(model, adapters, lambda ps: AdamW(ps, lr=1e-4, use_reference=hook.uses_reference), device)
    domain = torch.arange(rows, device=device) % len(DOMAINS)
    weights = torch.ones(rows, length, device=device)
    denominators = torch.full((len(DOMAINS),), rows * (length - 1) / len(DOMAINS), dtype=torch.float64)

    def step(number: int) -> None:
        ids = torch.randint(0, 32000, (rows, length), device=device)
        capture = GradientCapture(adapters, len(DOMAINS))
        with capture, engine.accumulate(), capture.rows(domain):
            losses = domain_token_losses(engine.forward(input_ids=ids).logits, ids, weights, domain, len(DOMAINS))
            engine.backward(losses.sum())
        report = take_step(
            engine, hook, capture.sums(), losses, denominators,
            domains=DOMAINS, step=number, seed=0, lr=1e-4, max_grad_norm=1.0,
        )  # fmt: skip
        if report.skipped:
            raise RuntimeError(f"{hook_name}: step skipped: {report.skipped}")

    return step


def time_steps(layers: int, hidden: int, rows: int, length: int, repeats: int, device: torch.device) -> dict[str, Any]:
    """Median seconds and peak bytes of each hook, taking turns."""
    model = build_model(layers, hidden, device)
    steps = {name: one_step(model, name, rows, length, device) for name in ("mean", "iga")}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    memory: dict[str, int] = {}
    for number in range(repeats + 1):
        for name, step in steps.items():
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            started = time.perf_counter()
            step(number)
            if device.type == "cuda":
                torch.cuda.synchronize()
                memory[name] = torch.cuda.max_memory_allocated()
            if number:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: median(values) for name, values in seconds.items()}
    return {
        "shape": {"layers": layers, "hidden": hidden, "rows": rows, "length": length, "adapters": 4 * layers},
        "seconds": medians,
        "peak_bytes": memory,
        "iga / mean": medians["iga"] / medians["mean"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-tests", action="store_true", help="only the 7B-shape step")
    parser.add_argument(
        "--cpu-shape", action="store_true", help="run the step on the CPU with 2 layers of 256: a rehearsal"
    )
    args = parser.parse_args()
    if args.cpu_shape:
        print(time_steps(2, 256, 8, 32, args.repeats, torch.device("cpu")))
        return
    if not torch.cuda.is_available():
        print("gpu-check: no CUDA GPU here, so no GPU test and no 7B-shape step was run")
        return
    if not args.no_tests:
        import pytest

        status = pytest.main(["-m", "gpu", "-q", "tests"])
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            sys.exit(int(status))
    result = time_steps(32, 4096, 16, 512, args.repeats, torch.device("cuda"))
    for name, value in result["seconds"].items():
        print(f"{name:>6}: {value * 1e3:8.1f} ms, peak {result['peak_bytes'][name] / 2**30:.1f} GiB")
    print(f"iga / mean = {result['iga / mean']:.3f}")
    print(save("gpu_check", "cuda", result))


if __name__ == "__main__":
    main()
