"""The demo: every part of igascale in a row, each as a user would run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from rich.console import Console

from igascale.errors import UserError

MARKER = "demo.json"
#: Name in the table -> keys of the hook section.
METHODS: dict[str, dict[str, Any]] = {
    "mean": {"name": "mean"},
    "iga": {"name": "iga"},
    "iga-paper": {"name": "iga", "preset": "paper"},
}


@dataclass(frozen=True)
class DemoSettings:
    """Sizes that take about four minutes on two CPU cores."""

    groups: int = 2000
    validation_groups: int = 100
    ood_groups: int = 100
    processes: int = 2
    kinds: tuple[str, ...] = ("ordering", "rules", "selection")
    steps: tuple[int, int] = (2, 2)
    base_steps: int | None = None
    train_steps: int = 450
    groups_per_batch: int = 8
    r: int = 16
    lr: float = 4e-3


def run_demo(out: Path, settings: DemoSettings, seed: int, fresh: bool) -> None:
    """Generate, pre-train, train with three hooks, evaluate, merge, report; prints one table.

    Args:
        out: folder for everything.
        settings: sizes.
        seed: of everything.
        fresh: remove an earlier demo in ``out`` first.

    Raises:
        UserError: ``out`` holds something; a training run failed.
    """
    started = time.perf_counter()
    console = Console(highlight=False, soft_wrap=True)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # the demo stays on the CPU
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    _prepare(out, fresh)
    _generate(console, out, settings, seed)
    _pretrain(console, out, settings, seed)
    for name, hook in METHODS.items():
        _train(console, out, settings, seed, name, hook)
    rows = _evaluate(console, out)
    _merge(console, out)
    _report(console, out)
    _conclude(console, out, rows, time.perf_counter() - started)


def _prepare(out: Path, fresh: bool) -> None:
    if out.exists() and any(out.iterdir()):
        if not (fresh and (out / MARKER).is_file()):
            remedy = "--fresh removes it first" if (out / MARKER).is_file() else "choose another folder"
            raise UserError(f"{out}: already exists; {remedy}")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text("{}\n")


def _headline(console: Console, number: int, text: str) -> float:
    console.rule(f"[bold]{number}/7 {text}", align="left")
    return time.perf_counter()


def _generate(console: Console, out: Path, settings: DemoSettings, seed: int) -> None:
    from igascale.isomers.dataset import generate_dataset
    from igascale.isomers.schema import read_groups

    started = _headline(console, 1, "isomer groups: one problem, several domains")
    manifest = generate_dataset(
        out / "data",
        groups=settings.groups,
        validation_groups=settings.validation_groups,
        ood_groups=settings.ood_groups,
        kinds=settings.kinds,
        steps=settings.steps,
        seed=seed,
    )
    for name, record in manifest.files.items():
        s = record.summary
        console.print(f"{name}: {s.groups} groups in {', '.join(s.domains)}; chance {s.chance:.1%}")
    group = read_groups(out / "data" / "train.jsonl")[0]
    for instance in group.instances[:2]:
        console.print(
            f"\n[bold]{instance.domain}[/]: {instance.problem}\n  [dim]{instance.cot}[/] -> {instance.answer}"
        )
    console.print(f"({time.perf_counter() - started:.0f} s)")


def _pretrain(console: Console, out: Path, settings: DemoSettings, seed: int) -> None:
    from igascale.demo.base_model import BaseModelSettings, build_base_model

    started = _headline(console, 2, "a base model: BPE tokenizer and a small Llama")
    base = BaseModelSettings(kinds=settings.kinds)
    if settings.base_steps:
        base = replace(base, steps=settings.base_steps)

    def progress(step: int, total: int, loss: float) -> None:
        if step % max(1, total // 5) == 0:
            console.print(f"step {step}/{total} loss {loss:.3f}")

    report = build_base_model(out / "base", seed, base, progress)
    console.print(f"{report.parameters:,} parameters, loss {report.first_loss:.2f} -> {report.last_loss:.2f}")
    console.print(f"({time.perf_counter() - started:.0f} s)")


def demo_config(out: Path, settings: DemoSettings, seed: int, name: str, hook: dict[str, Any]) -> dict[str, Any]:
    """The configuration of one method's run; all of them differ in the hook only."""
    data = {split: str(out / "data" / f"{split}.jsonl") for split in ("train", "validation", "ood")}
    return {
        "output_dir": str(out / name),
        "seed": seed,
        "model": {"path": str(out / "base"), "dtype": "float32"},
        "lora": {"r": settings.r, "alpha": 2 * settings.r},
        "data": {**data, "max_length": 256},
        "hook": hook,
        "train": {
            "max_steps": settings.train_steps,
            "groups_per_batch": settings.groups_per_batch,
            "gradient_accumulation_steps": 1,
        },
        "optimizer": {"lr": settings.lr},
        "engine": {"name": "deepspeed", "ds_config": "zero2"},
        "eval": {"every": settings.train_steps, "max_groups": 50},
        "checkpoint": {"every": None},
    }


def _train(console: Console, out: Path, settings: DemoSettings, seed: int, name: str, hook: dict[str, Any]) -> None:
    started = _headline(console, 3, f"LoRA with hook '{name}' under deepspeed, {settings.processes} processes, ZeRO-2")
    path = out / f"{name}.yaml"
    path.write_text(yaml.safe_dump(demo_config(out, settings, seed, name, hook), sort_keys=False))
    command = ["igascale", "launch", str(path), "--num-processes", str(settings.processes)]
    console.print(f"$ {' '.join(command)}", style="dim")
    status = subprocess.run([sys.executable, "-m", *command], check=False).returncode
    if status:
        raise UserError(f"training with '{name}' ended with status {status}; its output is above")
    console.print(f"({time.perf_counter() - started:.0f} s)")


def _evaluate(console: Console, out: Path) -> list[Any]:
    from igascale.evaluation.evaluate import evaluate_model, load_for_evaluation
    from igascale.evaluation.results import write_result
    from igascale.evaluation.tables import MethodResult
    from igascale.isomers.schema import read_groups

    started = _headline(console, 4, "evaluation: held-out groups (ID), unseen domains (OOD)")
    id_groups, ood_groups = (read_groups(out / "data" / f"{split}.jsonl") for split in ("validation", "ood"))
    rows = []
    for name in ("base", *METHODS):
        model, tokenizer = load_for_evaluation(out / name if name == "base" else out / name / "adapter")
        result = evaluate_model(
            model, tokenizer, id_groups, ood_groups, batch_size=100, max_new_tokens=96, lcs_layers="all"
        )
        steps = _train_records(out / name) if name != "base" else []
        rows.append(
            MethodResult(
                "base (no LoRA)" if name == "base" else name,
                result,
                median(r["seconds"] for r in steps) if steps else None,
                max(r["peak_memory_bytes"] for r in steps) if steps else None,
            )
        )
        write_result(result, out / name / "evaluation")
        console.print(f"{name}: ID {result.isomers.splits['id'].accuracy.value:.1%}")
    console.print(f"({time.perf_counter() - started:.0f} s)")
    return rows


def _train_records(run: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [r for r in records if r["kind"] == "train"]


def _merge(console: Console, out: Path) -> None:
    from igascale.merge import merge_adapter

    started = _headline(console, 5, "merge the 'iga' adapter into the base weights, and check the logits")
    report = merge_adapter(out / "base", out / "iga" / "adapter", out / "merged")
    console.print(report.describe())
    console.print(f"({time.perf_counter() - started:.0f} s)")


def _report(console: Console, out: Path) -> None:
    from igascale.report.write import write_report

    started = _headline(console, 6, "a report: one page of what the runs did")
    try:
        written = write_report([out / name for name in METHODS], out / "report")
    except UserError as error:  # plotly is an extra; the demo's other results are there
        console.print(f"left out: {error}")
        return
    console.print(f"{out / 'report' / 'report.html'} and {len(written.files) - 1} files: figures, their data, tables")
    for note in written.notes:
        console.print(note)
    console.print(f"({time.perf_counter() - started:.0f} s)")


def _conclude(console: Console, out: Path, rows: list[Any], seconds: float) -> None:
    from igascale.evaluation.tables import comparison_table

    _headline(console, 7, "result")
    Console(highlight=False, width=max(120, console.width)).print(comparison_table(rows, "igascale demo"))
    console.print(f"\n{_verdict({row.method: row.result for row in rows})}")
    console.print(f"\nEverything is in {out} ({seconds:.0f} s in all):")
    for name, what in (
        ("data/", "isomer groups, JSONL"),
        ("base/", "the base model, a normal Hugging Face folder"),
        ("mean/ iga/ iga-paper/", "run folders: config.yaml, metrics.jsonl, checkpoints/, adapter/ (PEFT)"),
        ("report/", "report.html, to open in a browser; its figures as PNG and CSV, its tables"),
        ("merged/", "base + iga adapter, a normal Hugging Face folder"),
    ):
        console.print(f"  {name:24}{what}")


def _verdict(results: dict[str, Any]) -> str:
    """IGA beside ERM out of distribution, problem by problem."""
    from igascale.evaluation.significance import compare_paired

    right = {
        name: {(s.group_id, s.instance_id): s.correct for s in results[name].samples if s.split == "ood"}
        for name in ("iga", "mean")
    }
    groups: dict[Hashable, list[tuple[bool, bool]]] = {}
    for key, correct in right["iga"].items():
        groups.setdefault(key[0], []).append((correct, right["mean"][key]))
    found = compare_paired(groups)
    what = "is above" if found.difference > 0 else "is below"
    told = what if found.p < 0.05 else "cannot be told from"
    low, difference, high = (100 * value for value in (found.low, found.difference, found.high))
    return (
        f"Out of distribution IGA {told} ERM (mean): {difference:+.1f} points [{low:.1f}, {high:.1f}], p = {found.p:.2f}. "
        "One seed, one learning rate, a small model: no evidence either way."
    )
