"""What a large set costs: tokenizing it once, the cache on disk, and then every start and the memory of a rank.

    python -m benchmarks.loading                   # 39,000 groups in 4 domains: 156,000 pairs of prompt and completion
    python -m benchmarks.loading --groups 3000     # quicker

The texts are several of the procedural generator's problems told one after the other, so that a pair has the length of a worked
problem; the tokenizer is a byte-level BPE trained on a part of them. Everything is measured in a process of its own, on the whole set
and on a tenth of it: "memory" is what anonymous memory grows by from before the data is loaded to after it is, and 200 steps of
32 groups have been read in random order. Pages of the cache that are mapped are counted apart: the system takes them back when it needs
them. Ratios of time are of CPU seconds, which another load on the machine disturbs less. Beside it, on the tenth, the same with all groups read and encoded into lists, as without a cache.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

DOMAINS = ("mathematics", "medicine", "law", "science")
_DISTINCT = 2000  # problems of the generator that the texts are put together from
_PARTS = 8  # problems of a text
_STEPS, _PER_STEP = 200, 32
_MAX_LENGTH = 1024


def make_files(folder: Path, count: int) -> None:
    """``whole.jsonl``, ``tenth.jsonl`` (its first tenth), ``validation.jsonl`` and a tokenizer."""
    from igascale.isomers.generator import generate
    from igascale.isomers.schema import write_groups

    drawn = generate(_DISTINCT, DOMAINS, seed=0, steps=(2, 3))

    def groups(number: int, prefix: str) -> Any:
        rng = random.Random(prefix)
        for index in range(number):
            parts = rng.sample(drawn, _PARTS)
            told = tuple(
                replace(
                    last,
                    problem=" ".join(p.instances[d].problem for p in parts),
                    cot="\n".join(p.instances[d].cot for p in parts),
                    id=f"{prefix}{index}/{last.domain}",
                )
                for d, last in enumerate(parts[-1].instances)
            )
            yield replace(parts[-1], id=f"{prefix}{index}", seed_id=f"seed-{prefix}{index}", instances=told)

    write_groups(folder / "whole.jsonl", groups(count, "g"))
    with (folder / "whole.jsonl").open() as whole, (folder / "tenth.jsonl").open("w") as tenth:
        tenth.writelines(next(whole) for _ in range(count // 10))
    write_groups(folder / "validation.jsonl", groups(256, "v"))
    _train_tokenizer(
        folder, [i.problem for g in drawn for i in g.instances] + [i.cot for g in drawn for i in g.instances]
    )


def _train_tokenizer(folder: Path, texts: list[str]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=4096, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.save_pretrained(folder / "model")


def memory() -> dict[str, float]:
    """MiB of this process: anonymous and mapped."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("Rss", "VmHWM"))}
    return {
        "anonymous": int(fields["RssAnon"]) / 1024,
        "mapped": int(fields["RssFile"]) / 1024,
        "peak": int(fields["VmHWM"]) / 1024,
    }


def child(folder: Path, name: str, way: str) -> dict[str, float]:
    """Load one set in this process, read 200 steps of it, and say what that took."""
    from igascale.config import load_config
    from igascale.isomers.encode import encode_groups
    from igascale.isomers.schema import read_groups
    from igascale.loading import load_data
    from igascale.model import load_tokenizer

    tokenizer = load_tokenizer(folder / "model")
    config_file = folder / "run.yaml"
    config_file.write_text(
        json.dumps(
            {
                "model": {"path": str(folder / "model")},
                "data": {"train": "x", "max_length": _MAX_LENGTH},
                "output_dir": "x",
            }
        )
    )
    config = load_config(
        config_file, [f"data.train={folder / name}.jsonl", f"data.validation={folder}/validation.jsonl"]
    )
    tokenizer(["warm"])
    before, started, busy = memory(), time.perf_counter(), time.process_time()
    if way == "lists":
        groups: Any = encode_groups(read_groups(config.data.train), tokenizer, DOMAINS, _MAX_LENGTH, name)
        loaded = time.perf_counter() - started
    else:
        data = load_data(config, tokenizer)
        loaded = time.perf_counter() - started
        groups = data.train.groups
    busy = time.process_time() - busy
    peak = memory()["peak"] - sum(before[k] for k in ("anonymous", "mapped"))
    started, tokens = time.perf_counter(), 0
    rng = random.Random(0)
    for _ in range(_STEPS):
        tokens += sum(len(e.input_ids) for g in rng.sample(range(len(groups)), _PER_STEP) for e in groups[g])
    after = memory()
    return {
        "seconds": loaded,
        "cpu_seconds": busy,
        "anonymous_mib": after["anonymous"] - before["anonymous"],
        "mapped_mib": after["mapped"] - before["mapped"],
        "peak_mib": peak,
        "read_ms_per_step": (time.perf_counter() - started) / _STEPS * 1000,
        "tokens_read": tokens,
    }


def measure(folder: Path, name: str, way: str) -> dict[str, float]:
    """:func:`child` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.loading", "--child", str(folder), name, way]
    environ = os.environ | {"IGASCALE_CACHE": str(folder / "cache"), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def run(folder: Path, count: int) -> dict[str, Any]:
    """Every figure."""
    make_files(folder, count)
    result: dict[str, Any] = {"groups": count, "pairs": count * len(DOMAINS), "max_length": _MAX_LENGTH}
    for name in ("tenth", "whole"):
        text = (folder / f"{name}.jsonl").stat().st_size
        made = measure(folder, name, "tokenize")
        cached = [measure(folder, name, "cache") for _ in range(3)]
        result[name] = {
            "text_mib": text / 2**20,
            "tokenizing": made,
            "cached": min(cached, key=lambda one: one["seconds"]),
        }
    result["tenth"]["lists"] = measure(folder, "tenth", "lists")
    header = [json.loads(path.read_text()) for path in (folder / "cache").glob("tokens/*/header.json")]
    largest = max(header, key=lambda one: one["groups"])
    result["cache_mib"] = sum(size for size, _ in largest["files"].values()) / 2**20
    result["tokens"] = int((largest["files"]["ids.npy"][0] - 128) / 2)  # of 2 bytes, behind NumPy's header
    whole, tenth = result["whole"], result["tenth"]
    result["ratios"] = {
        "bytes of memory for each further pair": (whole["cached"]["anonymous_mib"] - tenth["cached"]["anonymous_mib"])
        * 2**20
        / (result["pairs"] * 0.9),
        "memory, whole / tenth": whole["cached"]["anonymous_mib"] / tenth["cached"]["anonymous_mib"],
        "peak while tokenizing, whole / tenth": whole["tokenizing"]["peak_mib"] / tenth["tokenizing"]["peak_mib"],
        "start with / without the cache": whole["cached"]["cpu_seconds"] / whole["tokenizing"]["cpu_seconds"],
        "memory of a tenth, cache / lists": tenth["cached"]["anonymous_mib"] / tenth["lists"]["anonymous_mib"],
        "cache / text on disk": result["cache_mib"] / whole["text_mib"],
    }
    return result


def table(result: dict[str, Any]) -> Table:
    """For the terminal."""
    shown = Table(title=f"{result['pairs']:,} pairs, {result['tokens']:,} tokens, cache {result['cache_mib']:.0f} MiB")
    for column in ("", "start s", "CPU s", "memory MiB", "mapped MiB", "peak MiB", "read ms/step"):
        shown.add_column(column, justify="left" if not column else "right")
    for name in ("tenth", "whole"):
        for way, row in result[name].items():
            if isinstance(row, dict):
                keys = ("seconds", "cpu_seconds", "anonymous_mib", "mapped_mib", "peak_mib", "read_ms_per_step")
                shown.add_row(f"{name}, {way}", *(f"{row[key]:.1f}" for key in keys))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, default=39_000, help="of the whole set, told in 4 domains")
    parser.add_argument("--child", nargs=3, metavar=("FOLDER", "SET", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        folder, name, way = arguments.child
        print(json.dumps(child(Path(folder), name, way)))
        return
    from benchmarks.record import save

    with tempfile.TemporaryDirectory(prefix="igascale-loading-") as folder:
        result = run(Path(folder), arguments.groups)
    console = Console()
    console.print(table(result))
    for name, value in result["ratios"].items():
        console.print(f"{name}: {value:.3f}", highlight=False)
    if arguments.groups == parser.get_default("groups"):
        console.print(f"written: {save('loading', 'cpu', result)}", highlight=False)


if __name__ == "__main__":
    main()
