"""Run folders for the report's tests: made up, but of the form that training and evaluation write."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import yaml

from igascale.evaluation.accuracy import Sample, breakdown
from igascale.evaluation.results import Consistency, EvaluationResult, SplitResult, SuiteResult, write_result

TRAINED = ("mathematics", "medicine", "law", "science")
UNSEEN = ("finance", "engineering")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
#: What a model may write to attack the page that shows it.
HOSTILE = (
    "</script><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>{{title}} \u202eevil"
)


def made_up_run(
    folder: Path,
    *,
    hook: str = "iga",
    method: str | None = None,
    seed: int = 0,
    steps: int = 400,
    every: int = 1,
    layers: int = 4,
    skill: float = 0.5,
    evaluated: bool = True,
    groups: int = 40,
    mixed: bool = False,
    selection: dict[str, Any] | None = None,
    train_sha256: str = "a" * 64,
    hostile: bool = False,
) -> Path:
    """Write a finished run; numbers follow from ``seed`` alone."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    config = {
        "output_dir": str(folder),
        "seed": seed,
        "model": {"path": "models/llama-7b"},
        "lora": {"r": 16, "alpha": 32.0},
        "data": {"train": "data/train.jsonl", "pairing": "mixed" if mixed else "isomers"},
        "hook": {"name": hook},
        "optimizer": {"lr": 0.0002},
        "train": {"max_steps": steps},
        "selection": selection,
    }
    text = yaml.safe_dump(config, sort_keys=False)
    (folder / "config.yaml").write_text((f"# method: {method}\n" if method else "") + text)
    data = {
        name: {"path": f"data/{name}.jsonl", "sha256": train_sha256 if name == "train" else name[0] * 64}
        for name in ("train", "validation", "ood")
    }
    environment = {
        "started": "2026-11-29T10:00:00+00:00",
        "world_size": 8,
        "ranks": [{"rank": r, "host": "node1", "gpu": {"name": "H100", "memory_bytes": 80 * 2**30}} for r in range(8)],
        "model": {"path": "models/llama-7b", "files": {"config.json": "c" * 64}},
        "seed": seed,
        "versions": {"igascale": "0.1.0"},
        "data": data,
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    process = {
        "state": "finished",
        "step": steps,
        "total": steps,
        "message": "",
        "updated": "2026-11-29T12:00:00+00:00",
        "ran_seconds": 3.2 * steps,
    }
    (folder / "status.json").write_text(json.dumps(process))
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text("{}")
    write_metrics(folder, rng, hook, steps, every)
    write_adapters(folder, rng, hook, steps, every, layers)
    if evaluated:
        write_result(made_up_evaluation(rng, skill, layers, groups, hostile), folder / "evaluation")
    return folder


def write_metrics(folder: Path, rng: random.Random, hook: str, steps: int, every: int) -> None:
    """``metrics.jsonl``: losses that fall, norms, cosines that drop as training goes on."""
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(every, steps + 1, every):
            done = step / steps
            losses = {d: 0.8 + 1.6 * math.exp(-5 * done) + 0.1 * i + rng.gauss(0, 0.06) for i, d in enumerate(TRAINED)}
            before = 1.4 * math.exp(-done) * math.exp(rng.gauss(0, 0.25))
            after = before * (1 if hook == "mean" else 0.62 + 0.1 * rng.random())
            cosines = {
                f"{a}/{b}": 0.75 - 0.5 * done - 0.05 * (i + j) + rng.gauss(0, 0.05)
                for i, a in enumerate(TRAINED)
                for j, b in enumerate(TRAINED)
                if j > i
            }
            record = {
                "kind": "train", "step": step, "loss": sum(losses.values()) / len(losses), "grad_norm_before": before,
                "grad_norm_after": after, "clip": min(1.0, 1 / after), "gir": 0.4 + 2 * done, "lr": 2e-4 * (1 - done), "tokens": 32000 + rng.randrange(500),
                "seconds": 3.2 + rng.gauss(0, 0.1), "losses": losses, "hook": {} if hook == "mean" else {"mean_mask": 0.7 - 0.25 * done, "gir": 0.5 + 2 * done, "relative_change": 0.3},
                "cosines": cosines, "skipped": "", "peak_memory_bytes": 42 * 2**30,
            }  # fmt: skip
            file.write(json.dumps(record) + "\n")
            if step % max(every, steps // 10 // every * every) == 0:
                drift = 0.25 * max(0.0, done - 0.5)
                validation = {
                    "id": {d: losses[d] + 0.08 for d in TRAINED},
                    "ood": {d: 1.3 + 1.3 * math.exp(-4 * done) + drift for d in UNSEEN},
                }
                file.write(json.dumps({"kind": "validation", "step": step, **validation}) + "\n")


def write_adapters(folder: Path, rng: random.Random, hook: str, steps: int, every: int, layers: int) -> None:
    """``adapter_metrics.jsonl``: conflict that grows in the middle layers, mostly in q and k."""
    with (folder / "adapter_metrics.jsonl").open("w") as file:
        for step in range(every, steps + 1, every):
            done, adapters = step / steps, {}
            for layer in range(layers):
                middle = math.exp(-(((layer / max(1, layers - 1)) - 0.55) ** 2) / 0.06)
                for p, projection in enumerate(PROJECTIONS):
                    gir = (0.15 + done * (3 - 0.6 * p) * middle) * math.exp(rng.gauss(0, 0.15))
                    cosine = round(1 / (1 + gir) - 0.1 * done, 6)
                    figures: dict[str, Any] = {
                        "cosines": [[1.0 if m == n else cosine for n in range(4)] for m in range(4)]
                    }
                    if hook != "mean":
                        figures |= {"gir": round(gir, 6), "mean_mask": round(math.exp(-0.35 * gir), 6)}
                    adapters[f"model.layers.{layer}.self_attn.{projection}"] = figures
            file.write(json.dumps({"step": step, "domains": list(TRAINED), "adapters": adapters}) + "\n")


def made_up_evaluation(
    rng: random.Random, skill: float, layers: int, groups: int, hostile: bool = False
) -> EvaluationResult:
    """Accuracy about ``skill`` in distribution and less out of it; LCS that falls towards the last layers."""
    samples: list[Sample] = []
    splits = {}
    for split, domains, right in (("id", TRAINED, skill + 0.1), ("ood", UNSEEN, skill - 0.08)):
        mine = [sample for g in range(groups) for sample in _group(rng, split, g, domains, right, hostile)]
        samples += mine
        parts = breakdown(mine)
        lcs = [_consistency(layer, layers, skill - 0.3 * (split == "ood"), domains, groups) for layer in range(layers)]
        splits[split] = SplitResult(parts.overall, parts.per_domain, parts.per_kind, lcs[-2], 0.01, 12.5, lcs)
    suites = {"isomers": SuiteResult.of(splits["id"], splits["ood"])}
    settings = {
        "decoding": "greedy",
        "max_new_tokens": 512,
        "lcs_text": "prompt",
        "lcs_layer": layers - 2,
        "notes": None,
    }
    return EvaluationResult(suites, settings, samples)


def _consistency(layer: int, layers: int, skill: float, domains: tuple[str, ...], groups: int) -> Consistency:
    done = (layer + 1) / layers
    lcs = (0.02 + 0.09 * done * math.exp(-2.2 * done * done)) * (1.4 - skill)
    pairs = {
        f"{a}/{b}": lcs * (0.7 + 0.2 * (i + j) / 2)
        for i, a in enumerate(domains)
        for j, b in enumerate(domains)
        if j > i
    }
    return Consistency(
        lcs,
        lcs / 2.5,
        2.5,
        0.3,
        False,
        layer,
        groups,
        **({"pairs": pairs} if "pairs" in Consistency.__dataclass_fields__ else {}),
    )


def _group(
    rng: random.Random, split: str, g: int, domains: tuple[str, ...], right: float, hostile: bool
) -> list[Sample]:
    made = []
    for d, domain in enumerate(domains):
        correct = rng.random() < right - 0.06 * d
        expected = str((7 * g) % 12)
        predicted = expected if correct else str((7 * g + 1 + d) % 12)
        problem = (
            f"In {domain}, {g + 3} cases are settled a day and {g % 5} are withdrawn. How many remain after two days?"
        )
        text = f"Each day {g + 3} cases are settled.\nOf these {g % 5} are withdrawn.\nAnswer: {predicted}"
        if hostile and g == 0:
            problem, text, predicted = (f"{HOSTILE} {part}" for part in (problem, text, predicted))
        kind = ("arithmetic", "rules", "ordering")[g % 3]
        made.append(
            Sample(
                split,
                f"{split}-{g:04}",
                f"{split}-{g:04}/{domain}",
                domain,
                kind,
                problem,
                text,
                predicted,
                expected,
                correct,
                40,
                True,
            )
        )
    return made
