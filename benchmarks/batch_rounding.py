"""How many greedy texts another batch size changes, by precision: rounding alone, since nothing else differs.

python -m benchmarks.batch_rounding                        # a random Llama of four layers, whose next token depends on all before
python -m benchmarks.batch_rounding MODEL --file data/validation.jsonl --device cuda
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import save
from igascale.evaluation.generation import generate
from igascale.evaluation.loading import load_for_evaluation
from igascale.isomers.encode import encode_prompt
from igascale.isomers.schema import read_groups

SIZES = (1, 8, 32)


def random_model(dtype: torch.dtype, device: str) -> Any:
    """Weights large enough that the next token depends on the context."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 8}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1000, max_position_embeddings=1024, **sizes))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    return model.to(device, dtype).eval()


def prompts_of(args: argparse.Namespace, tokenizer: Any) -> list[list[int]]:
    """The problems of a file, or random ids."""
    if args.file is not None:
        problems = [instance.problem for group in read_groups(args.file) for instance in group.instances]
        return [encode_prompt(tokenizer, problem) for problem in problems[: args.prompts]]
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(10, 80, (args.prompts,), generator=generator).tolist()
    return [torch.randint(3, 1000, (length,), generator=generator).tolist() for length in lengths]


def main() -> None:
    """Print, and keep in results/, how many texts differ between each two batch sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="model, adapter or run; needs --file")
    parser.add_argument("--file", type=Path, help="isomer groups (JSONL)")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-save", action="store_true", help="print only")
    args = parser.parse_args()
    if (args.model is None) != (args.file is None):
        parser.error("a model goes with --file, and a file with a model")

    found: dict[str, dict[str, float]] = {}
    for dtype in ("float32", "bfloat16"):
        if args.model is None:
            model, tokenizer = random_model(getattr(torch, dtype), args.device), None
        else:
            model, tokenizer = load_for_evaluation(args.model, dtype=dtype, device=args.device)
        prompts, texts = prompts_of(args, tokenizer), {}
        for size in SIZES:
            began = time.perf_counter()
            done = generate(model, prompts, eos_ids={2}, max_new_tokens=args.new_tokens, batch_size=size)
            texts[size] = [generation.tokens for generation in done]
            print(f"{dtype} batch {size}: {time.perf_counter() - began:.1f} s", flush=True)
        found[dtype] = {}
        for one, other in itertools.combinations(SIZES, 2):
            share = sum(a != b for a, b in zip(texts[one], texts[other])) / len(prompts)
            found[dtype][f"{one} and {other}"] = share
            print(f"{dtype}: batch sizes {one} and {other}: {share:.1%} of {len(prompts)} texts differ", flush=True)
    if not args.no_save:
        options = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
        print(save("batch_rounding", args.device, {"options": options, "differing": found}))


if __name__ == "__main__":
    main()
