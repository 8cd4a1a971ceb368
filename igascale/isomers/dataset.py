"""Write and check whole data sets: the files behind `igascale data generate` and `igascale data validate`."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.isomers.generator import STEPS, generate, logical_form
from igascale.isomers.kinds import KINDS
from igascale.isomers.kinds.vocabulary import OOD_DOMAINS, TRAINING_DOMAINS
from igascale.isomers.schema import IsomerGroup, iter_groups, write_groups
from igascale.isomers.shortcut import Shortcut, plant
from igascale.isomers.split import split_groups


@dataclass(frozen=True)
class Summary:
    """What a file of groups holds. Counts are of groups, except `answers` (instances)."""

    groups: int
    instances: int
    domains: dict[str, int]
    kinds: dict[str, int]
    steps: dict[str, int]
    answers: dict[str, int]
    chance: float  # share of the most frequent answer: what always saying it would score
    words_min: int  # of a problem
    words_mean: float
    words_max: int
    leaky: int = 0  # groups that tell a training problem again


@dataclass(frozen=True)
class FileRecord:
    """One written file: how to know it again, and what is in it."""

    sha256: str
    summary: Summary


@dataclass(frozen=True)
class Manifest:
    """What `generate_dataset` wrote and with which options; also `manifest.json`."""

    options: dict[str, Any]
    files: dict[str, FileRecord]
    shortcut_mapping: dict[str, dict[str, str]] = field(default_factory=dict)  # domain -> cue -> answers


def generate_dataset(
    out_dir: str | Path,
    *,
    groups: int,
    validation_groups: int,
    ood_groups: int,
    domains: Sequence[str] = TRAINING_DOMAINS,
    ood_domains: Sequence[str] = OOD_DOMAINS,
    kinds: Sequence[str] = tuple(KINDS),
    seed: int = 0,
    shortcut_probability: float | None = None,
    steps: tuple[int, int] = STEPS,
    leaky: bool = False,
) -> Manifest:
    """Write train, validation (same domains, other seeds), ood (other domains and seeds) and a manifest.

    No problem's logical form is in two files. With a shortcut there is also
    `validation_random_cue.jsonl`: the validation problems with cues that tell nothing.

    Args:
        out_dir: folder to write; created if need be.
        groups: number of training groups.
        validation_groups: number of in-domain held-out groups.
        ood_groups: number of out-of-domain groups.
        domains: training domains.
        ood_domains: domains kept for out-of-distribution testing.
        kinds: reasoning kinds.
        seed: of everything.
        shortcut_probability: how often the cue is right in the training domains; None plants no cue.
        steps: fewest and most reasoning steps.
        leaky: for the ablation without a seed-level split: validation and ood tell training problems again (validation
            in the training domains with the words drawn anew, ood in its own domains), under the same `seed_id`. The
            training file is the one without it.

    Raises:
        UserError: the folder is not empty, a domain is on both sides, leaky sets are to be larger than the training set,
            or `generate` refuses its arguments.
    """
    out = Path(out_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: already exists and is not empty; choose another folder or delete it")
    options = {
        "groups": groups,
        "validation_groups": validation_groups,
        "ood_groups": ood_groups,
        "domains": list(domains),
        "ood_domains": list(ood_domains),
        "kinds": list(kinds),
        "seed": seed,
        "shortcut_probability": shortcut_probability,
        "steps": list(steps),
        "leaky": leaky,
    }
    _check_options(options)
    shortcut = Shortcut(shortcut_probability, tuple(domains), seed) if shortcut_probability is not None else None
    # Every set is drawn before the first file is written, so that a refusal leaves nothing behind.
    sets = _draw(options)
    mapping: dict[str, dict[str, str]] = {}
    if shortcut is not None:
        sets["validation_random_cue"] = plant(sets["validation"], replace(shortcut, informative=False))
        for name in ("train", "validation", "ood"):
            sets[name] = plant(sets[name], shortcut)
        mapping = {domain: shortcut.mapping(domain) for domain in domains}
    return _write(out, sets, options, mapping)


def _draw(options: dict[str, Any]) -> dict[str, list[IsomerGroup]]:
    kinds, seed, steps = options["kinds"], options["seed"], tuple(options["steps"])
    count, ood_count, ood_domains = options["validation_groups"], options["ood_groups"], options["ood_domains"]
    in_domain = generate(options["groups"] + count, options["domains"], kinds, seed, steps=steps)
    training, validation = split_groups(in_domain, count / len(in_domain), seed)
    if options["leaky"]:
        validation = _retell(training, count, options["domains"], options)
        ood = _retell(training, ood_count, ood_domains, options)
    else:
        drawn = {logical_form(group) for group in in_domain}
        ood = generate(ood_count, ood_domains, kinds, seed + 1, steps=steps, exclude=drawn)
    return {"train": training, "validation": validation, "ood": ood}


def _retell(
    training: list[IsomerGroup], count: int, domains: Sequence[str], options: dict[str, Any]
) -> list[IsomerGroup]:
    """`count` of the training problems, told in `domains` in other words; `meta["retells"]` names the training group."""
    training_ids = {group.seed_id: group.id for group in training}
    chosen = set(random.Random(f"igascale leak {options['seed']}").sample(sorted(training_ids), count))
    drawn = options["groups"] + options["validation_groups"]
    again = generate(drawn, domains, options["kinds"], options["seed"], steps=tuple(options["steps"]), retold=True)
    return [replace(group, meta={"retells": training_ids[group.seed_id]}) for group in again if group.seed_id in chosen]


def validate_file(path: str | Path) -> Summary:
    """Check a file line by line and summarise it.

    Raises:
        UserError: as `read_groups`.
    """
    summary = summarise(group for _, group in iter_groups(path))
    if not summary.groups:
        raise UserError(f"{path}: no groups in it; expected one JSON object a line (docs/data.md)")
    return summary


def summarise(groups: Iterable[IsomerGroup]) -> Summary:
    """Count domains, kinds, steps, answers and words."""
    domains: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    words: list[int] = []
    total = leaky = 0
    for group in groups:
        total += 1
        leaky += "retells" in group.meta
        kinds[group.kind or "(none)"] += 1
        known_steps = group.dag is not None and group.dag.steps is not None
        steps[str(group.dag.steps) if group.dag is not None and known_steps else "(none)"] += 1
        for instance in group.instances:
            domains[instance.domain] += 1
            answers[instance.answer] += 1
            words.append(len(instance.problem.split()))
    return Summary(
        groups=total,
        instances=len(words),
        domains=dict(domains),
        kinds=dict(kinds),
        steps=dict(sorted(steps.items())),
        answers=dict(answers.most_common()),
        chance=max(answers.values()) / len(words) if words else 0.0,
        words_min=min(words, default=0),
        words_mean=sum(words) / len(words) if words else 0.0,
        words_max=max(words, default=0),
        leaky=leaky,
    )


def _check_options(options: dict[str, Any]) -> None:
    for name in ("groups", "validation_groups", "ood_groups"):
        if options[name] < 1:
            raise UserError(f"{name} must be at least 1, not {options[name]}")
    for name in ("validation_groups", "ood_groups") if options["leaky"] else ():
        if options[name] > options["groups"]:
            raise UserError(
                f"leaky: {name}={options[name]} tells training problems again; there are {options['groups']}"
            )
    both = [domain for domain in options["ood_domains"] if domain in options["domains"]]
    if both:
        raise UserError(
            f"domain '{both[0]}' is in domains and in ood_domains; out-of-distribution domains must be unseen"
        )


def _write(
    out: Path, sets: dict[str, list[IsomerGroup]], options: dict[str, Any], mapping: dict[str, dict[str, str]]
) -> Manifest:
    out.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, groups in sets.items():
        path = out / f"{name}.jsonl"
        write_groups(path, groups)
        files[path.name] = FileRecord(hashlib.sha256(path.read_bytes()).hexdigest(), summarise(groups))
    manifest = Manifest(options, files, mapping)
    (out / "manifest.json").write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
    return manifest
