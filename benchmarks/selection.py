"""Leave-one-domain-out against in-domain selection, for ERM itself, where a shortcut is there to be learned.

    python -m benchmarks.selection [--out FOLDER] [--jobs 2]

The demo's base model is fine-tuned on answers alone, with a planted cue (`igascale data generate --shortcut 1`) in every problem of
the training domains. `igascale tune` chooses learning rate and steps both ways from the same trials' settings; what each chose is trained
on all domains with several seeds and asked problems whose cue tells nothing. With the same folder again it goes on where it was stopped.

Two things are changed in the generated files, both so that a model of this size learns the shortcut within these steps: the chain of
thought is left out, since copying it needs no shortcut; and each domain has code words of its own (other domains' adjectives) in place
of the shared ones. The cue's mapping stays the generator's. `--shared-words` leaves the second out.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.record import save
from igascale.demo.base_model import BaseModelSettings, build_base_model
from igascale.evaluation.results import read_result
from igascale.isomers.cues import CUES
from igascale.isomers.dataset import generate_dataset
from igascale.isomers.kinds.vocabulary import VOCABULARIES
from igascale.studies.jobs import Job, Launching
from igascale.studies.queue import run_jobs
from igascale.tuning.records import read_trials

KINDS = ("ordering", "rules", "selection")
METHOD = "no-masking"  # the mean over whole groups: ERM
WAYS = ("leave-one-domain-out", "in-domain")
RATES = "2.5e-3,4e-3"
STEPS, STOPS, SEEDS = 450, 10, 3
FILES = ("train", "validation", "validation_random_cue", "ood")


def main() -> None:
    """Base model, data, two searches, the chosen runs, the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/selection"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each run")
    parser.add_argument("--rates", default=RATES, help="learning rates, as many as there are trials")
    parser.add_argument(
        "--shared-words", action="store_true", help="the generator's code words, the same in all domains"
    )
    options = parser.parse_args()
    started = time.perf_counter()
    options.out.mkdir(parents=True, exist_ok=True)
    _base(options.out / "base")
    _data(options.out / "data", options.shared_words)
    config = options.out / "run.yaml"
    config.write_text(yaml.safe_dump(_config(options.out, options.steps), sort_keys=False))
    for way in WAYS:
        _tune(config, options.out / way, way, options.rates, options.jobs)
    found = {way: _final(options.out / way, options.jobs) for way in WAYS}
    result = {
        "settings": {
            "data": f"{', '.join(KINDS)}; cue right with probability 1; {'shared' if options.shared_words else 'own'} code words",
            "method": METHOD,
            "learning_rates": options.rates,
            "steps": options.steps,
            "stops": STOPS,
            "seeds_of_the_chosen": SEEDS,
        },
        "ways": found,
        "difference": {
            asked: difference([found[way]["accuracy"][asked]["seeds"] for way in WAYS])
            for asked in ("training domains, random cue", "unseen domains, random cue")
        },
        "seconds": round(time.perf_counter() - started),
    }
    name = "selection" + "-shared-words" * options.shared_words + f"-{options.steps}-steps" * (options.steps != STEPS)
    path = save(name, "cpu", result)
    for way in WAYS:
        print(
            way, json.dumps(found[way]["chosen"]), {k: round(v["mean"], 3) for k, v in found[way]["accuracy"].items()}
        )
    print("leave-one-domain-out minus in-domain", result["difference"])
    print(path)


def _base(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        build_base_model(folder, 0, BaseModelSettings(kinds=KINDS))


def _data(folder: Path, shared_words: bool) -> None:
    if (folder / "ood.jsonl").is_file():
        return
    generated = folder.with_name("generated")
    if not (generated / "manifest.json").is_file():
        generate_dataset(
            generated,
            groups=2000,
            validation_groups=150,
            ood_groups=150,
            kinds=KINDS,
            steps=(2, 3),
            shortcut_probability=1.0,
        )
    folder.mkdir(exist_ok=True)
    words = None if shared_words else own_words()
    for name in FILES:  # ood.jsonl last: where it is, all are
        with (generated / f"{name}.jsonl").open() as source, (folder / f"{name}.jsonl").open("w") as target:
            for line in source:
                target.write(json.dumps(bare(json.loads(line), words)) + "\n")


def own_words() -> dict[str, list[str]]:
    """Ten code words for each domain, of the adjectives of the next one and the first two of the one after."""
    names = list(VOCABULARIES)
    traits = {name: [word for pair in VOCABULARIES[name].traits for word in pair] for name in names}
    after = {name: (names[(k + 1) % len(names)], names[(k + 2) % len(names)]) for k, name in enumerate(names)}
    return {name: (traits[first] + traits[second])[: len(CUES)] for name, (first, second) in after.items()}


def bare(group: dict[str, Any], words: dict[str, list[str]] | None) -> dict[str, Any]:
    """The group without chains of thought, and with its domains' own code words."""
    for instance in group["instances"]:
        instance["cot"] = ""
        if words:
            cue, rest = re.fullmatch(r"Code (\w+)\. (.*)", instance["problem"], re.DOTALL).groups()  # type: ignore[union-attr]
            instance["problem"] = f"Code {words[instance['domain']][CUES.index(cue)]}. {rest}"
    return group


def _config(out: Path, steps: int) -> dict[str, Any]:
    data = {key: str((out / "data" / f"{key}.jsonl").absolute()) for key in ("train", "validation", "ood")}
    return {
        "output_dir": str((out / "run").absolute()),
        "model": {"path": str((out / "base").absolute()), "dtype": "float32"},
        "lora": {
            "r": 16,
            "alpha": 32,
            "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        },
        "data": {**data, "max_length": 256},
        "hook": {"name": "mean"},
        "train": {"max_steps": steps, "groups_per_batch": 8, "gradient_accumulation_steps": 1},
        "engine": {"name": "single", "threads": 1},
        "eval": {"max_groups": 50},
        "checkpoint": {"every": None},
        "logging": {"every": 10},
    }


def _tune(config: Path, folder: Path, way: str, rates: str, at_a_time: int) -> None:
    command = ["igascale", "tune", str(config), "--out", str(folder), "--method", METHOD, "--by", way]
    options = [
        "--trials",
        str(len(rates.split(","))),
        "--stops",
        str(STOPS),
        "--search",
        f"optimizer.lr={rates}",
        "--jobs",
        str(at_a_time),
    ]
    print("$", *command, *options, flush=True)
    if status := subprocess.call([sys.executable, "-m", *command, *options]):
        sys.exit(status)


def _final(folder: Path, at_a_time: int) -> dict[str, Any]:
    """Train what was chosen with several seeds, ask it problems whose cue tells nothing, and put its trials on record."""
    tuned = folder / "tuned" / f"{METHOD}.yaml"
    random_cue = folder.parent / "data" / "validation_random_cue.jsonl"
    evaluation = ("--id", str(random_cue.absolute()), "--batch-size", "100", "--max-new-tokens", "12")
    jobs = [
        Job(
            f"{folder.name}-seed{seed}",
            (folder / "final" / str(seed)).absolute(),
            tuned,
            (f"seed={seed}",),
            None,
            evaluation,
        )
        for seed in range(SEEDS)
    ]
    for outcome in run_jobs(jobs, Launching(), at_a_time=at_a_time):
        if outcome.state != "finished":
            sys.exit(f"{outcome.job.name}: {outcome.state}: {outcome.reason}")
    results = [read_result(job.result).isomers.splits for job in jobs]
    chosen = yaml.safe_load(tuned.read_text())
    accuracy = {
        "training domains, random cue": summary([splits["id"].accuracy.value for splits in results]),
        "unseen domains, random cue": summary([splits["ood"].accuracy.value for splits in results]),
    }
    return {
        "chosen": {"optimizer.lr": chosen["optimizer"]["lr"], "steps": chosen["train"]["max_steps"]},
        "selection": chosen["selection"] | {"source": "trials.jsonl"},
        "accuracy": accuracy,
        "chance": {name: splits.accuracy.chance for name, splits in results[0].items()},
        "validation_loss": [_validation_loss(job.folder) for job in jobs],
        "trials": [json.loads(each.to_json()) for each in read_trials(folder)],
    }


def _validation_loss(run: Path) -> dict[str, float]:
    """At the end of a run, by split: ``id`` with its valid cue."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if record["kind"] == "validation"][-1]
    return {name: statistics.mean(last[name].values()) for name in ("id", "ood")}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds with a 95% t interval."""
    half = T_95[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.mean(values)
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": list(values)}


#: Student's t, two-sided 95 %, by degrees of freedom.
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


def difference(values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Of two ways, paired by seed."""
    first, second = values
    return summary([a - b for a, b in zip(first, second)])


if __name__ == "__main__":
    main()
