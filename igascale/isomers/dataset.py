"""Write and check whole data sets: the files behind `igascale data generate` and `igascale data validate`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.files import exists
from igascale.isomers.generator import STEPS, Forms, Recipe, check, generate_stream
from igascale.isomers.kinds import KINDS
from igascale.isomers.kinds.vocabulary import OOD_DOMAINS, TRAINING_DOMAINS
from igascale.isomers.kinds.wording import PLAIN, Wording
from igascale.isomers.schema import IsomerGroup, iter_groups, to_record
from igascale.isomers.shortcut import Shortcut, plant_one
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
    # `chance` within each kind: half, where answers are yes and no. Empty where all kinds are of the first six.
    chance_of_kind: dict[str, float] = field(default_factory=dict)


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
    width: int = 0,
    paraphrase: str | None = None,
    shortcut_kind: str = "lexical",
    shortcut_mapping: str = "domain",
) -> Manifest:
    """Write train, validation (same domains, other seeds), ood (other domains and seeds) and a manifest.

    No problem's logical form is in two files. With a shortcut there is also
    `validation_random_cue.jsonl`: the validation problems with cues that tell nothing. Groups are written as they
    are made, so memory does not grow with the set but for 8 bytes a problem; a folder that fails is left as it was.

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
        width: facts that no step uses, beyond the kind's own.
        paraphrase: how many sentence patterns (`Wording.parse`); None is the plain wording.
        shortcut_kind: what the cue is, one of `CUE_KINDS`.
        shortcut_mapping: ``domain`` (no value stands for the same answer in two domains) or ``shared``.

    Raises:
        UserError: the folder is not empty, a domain is on both sides, leaky sets are to be larger than the training set,
            or `generate` refuses its arguments.
    """
    out = Path(out_dir)
    if exists(out) and (not out.is_dir() or any(out.iterdir())):
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
        # Those below came later, and are left out where they are not used: the manifests of old sets stay as they were.
        **({"width": width} if width else {}),
        **({"paraphrase": paraphrase} if paraphrase is not None else {}),
        **({"shortcut_kind": shortcut_kind} if shortcut_kind != "lexical" else {}),
        **({"shortcut_mapping": shortcut_mapping} if shortcut_mapping != "domain" else {}),
    }
    _check_options(options)
    shortcut = None
    if shortcut_probability is not None:
        shared = shortcut_mapping == "shared"
        shortcut = Shortcut(shortcut_probability, tuple(domains), seed, kind=shortcut_kind, shared=shared)
    plan = _Plan(options, Wording.parse(paraphrase) if paraphrase is not None else PLAIN)
    with _folder(out, ["train", "validation", "ood", *(["validation_random_cue"] if shortcut else [])]) as files:
        for name, group in plan.groups():
            files[name].write(plant_one(group, shortcut) if shortcut else group)
            if shortcut and name == "validation":
                files["validation_random_cue"].write(plant_one(group, replace(shortcut, informative=False)))
        manifest = Manifest(
            options,
            {file.name: file.record() for file in files.values()},
            {domain: shortcut.mapping(domain) for domain in domains} if shortcut else {},
        )
        (out / "manifest.json").write_text(json.dumps(_record(manifest), indent=2) + "\n", encoding="utf-8")
    return manifest


def _record(manifest: Manifest) -> dict[str, Any]:
    """What the manifest's file holds; an empty `chance_of_kind` is left out, as it is newer than many manifests."""
    record = asdict(manifest)
    for file in record["files"].values():
        if not file["summary"]["chance_of_kind"]:
            del file["summary"]["chance_of_kind"]
    return record


class _Plan:
    """Which groups go into which file, one at a time."""

    def __init__(self, options: dict[str, Any], wording: Wording) -> None:
        self.options, self.wording = options, wording
        self.kinds, self.steps, self.width = options["kinds"], tuple(options["steps"]), options.get("width", 0)
        self.drawn = options["groups"] + options["validation_groups"]
        recipes = [Recipe("", options["seed"], index).name for index in range(self.drawn)]
        # The split needs nothing of a group but its seed.
        stubs = [IsomerGroup(name, f"seed-{name}", ()) for name in recipes]
        training, held_out = split_groups(stubs, options["validation_groups"] / self.drawn, options["seed"])
        self.training = {group.seed_id: group.id for group in training}
        self.held_out = {group.seed_id for group in held_out}
        # Refuse the second set before the first is made.
        check(self.drawn, options["domains"], self.kinds, self.steps, self.width)
        check(options["ood_groups"], options["ood_domains"], self.kinds, self.steps, self.width)
        if not options["leaky"]:
            check(self.drawn + options["ood_groups"], options["domains"], self.kinds, self.steps, self.width)

    def groups(self) -> Iterator[tuple[str, IsomerGroup]]:
        """(file, group) in the order they are made; the order within a file is that of the set."""
        options, taken = self.options, Forms()
        for group in self._stream(self.drawn, options["domains"], options["seed"], exclude=taken):
            if group.seed_id not in self.held_out:
                yield "train", group
            elif not options["leaky"]:
                yield "validation", group
        if options["leaky"]:
            yield from self._retell("validation", options["validation_groups"], options["domains"])
            yield from self._retell("ood", options["ood_groups"], options["ood_domains"])
        else:
            unseen = self._stream(options["ood_groups"], options["ood_domains"], options["seed"] + 1, exclude=taken)
            yield from (("ood", group) for group in unseen)

    def _retell(self, file: str, count: int, domains: Sequence[str]) -> Iterator[tuple[str, IsomerGroup]]:
        """`count` training problems, told in `domains` in other words; `meta["retells"]` names the training group."""
        seed = self.options["seed"]
        chosen = set(random.Random(f"igascale leak {seed}").sample(sorted(self.training), count))
        for group in self._stream(self.drawn, domains, seed, retold=True):
            if group.seed_id in chosen:
                yield file, replace(group, meta={**group.meta, "retells": self.training[group.seed_id]})

    def _stream(self, count: int, domains: Sequence[str], seed: int, **how: Any) -> Iterator[IsomerGroup]:
        return generate_stream(
            count, domains, self.kinds, seed, steps=self.steps, width=self.width, wording=self.wording, **how
        )


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
    counts = _Counts()
    for group in groups:
        counts.add(group)
    return counts.summary()


class _Counts:
    """Counts groups as they go by."""

    def __init__(self) -> None:
        self.domains: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.answers_of: dict[str, Counter[str]] = {}  # by kind
        self.lengths: Counter[int] = Counter()  # words of a problem
        self.total = self.leaky = 0

    def add(self, group: IsomerGroup) -> None:
        self.total += 1
        self.leaky += "retells" in group.meta
        self.kinds[group.kind or "(none)"] += 1
        known_steps = group.dag is not None and group.dag.steps is not None
        self.steps[str(group.dag.steps) if group.dag is not None and known_steps else "(none)"] += 1
        for instance in group.instances:
            self.domains[instance.domain] += 1
            self.answers[instance.answer] += 1
            self.answers_of.setdefault(group.kind or "(none)", Counter())[instance.answer] += 1
            self.lengths[len(instance.problem.split())] += 1

    def summary(self) -> Summary:
        instances = sum(self.lengths.values())
        return Summary(
            groups=self.total,
            instances=instances,
            domains=dict(self.domains),
            kinds=dict(self.kinds),
            steps=dict(sorted(self.steps.items())),
            answers=dict(self.answers.most_common()),
            chance=max(self.answers.values()) / instances if instances else 0.0,
            words_min=min(self.lengths, default=0),
            words_mean=sum(words * count for words, count in self.lengths.items()) / instances if instances else 0.0,
            words_max=max(self.lengths, default=0),
            leaky=self.leaky,
            chance_of_kind=(
                {kind: max(counts.values()) / counts.total() for kind, counts in self.answers_of.items()}
                if set(self.answers_of) - set(KINDS)
                else {}
            ),
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
    if options.get("shortcut_mapping", "domain") not in ("domain", "shared"):
        raise UserError(f"shortcut_mapping is '{options['shortcut_mapping']}'; it is 'domain' or 'shared'")
    if options["shortcut_probability"] is None:
        for name in ("shortcut_kind", "shortcut_mapping"):
            if name in options:
                raise UserError(f"{name} is {options[name]}, but no shortcut is planted; give its probability too")
    both = [domain for domain in options["ood_domains"] if domain in options["domains"]]
    if both:
        raise UserError(
            f"domain '{both[0]}' is in domains and in ood_domains; out-of-distribution domains must be unseen"
        )


class _File:
    """A file of groups that has another name until it is whole."""

    def __init__(self, path: Path) -> None:
        self.name, self._path, self._part = path.name, path, path.with_name(f"{path.name}.part")
        self._counts, self._hash = _Counts(), hashlib.sha256()
        self._file = self._part.open("wb")

    def write(self, group: IsomerGroup) -> None:
        line = (json.dumps(to_record(group), ensure_ascii=False) + "\n").encode()
        self._file.write(line)
        self._hash.update(line)
        self._counts.add(group)

    def record(self) -> FileRecord:
        return FileRecord(self._hash.hexdigest(), self._counts.summary())

    def keep(self) -> None:
        self._file.close()
        self._part.replace(self._path)

    def drop(self) -> None:
        with contextlib.suppress(OSError):  # a full disk refuses what is still in the buffer, too
            self._file.close()
        for path in (self._part, self._path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _folder(out: Path, names: Sequence[str]) -> Iterator[dict[str, _File]]:
    """Files to write; whatever goes wrong inside, the folder is left as it was."""
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot make this folder ({error.strerror}); choose another") from None
    files: dict[str, _File] = {}
    try:
        for name in names:
            files[name] = _File(out / f"{name}.jsonl")
        yield files
        for file in files.values():
            file.keep()
    except BaseException as error:
        for file in files.values():
            file.drop()
        with contextlib.suppress(OSError):  # the reason why we are here is what is to be said
            (out / "manifest.json").unlink(missing_ok=True)
            if new:
                out.rmdir()
        if isinstance(error, OSError):
            raise UserError(f"{out}: cannot write there ({error.strerror}); nothing is left of it") from None
        raise
