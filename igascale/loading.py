"""From the ``data`` section to what a run trains on: tokens in the cache, arranged, checked, and never all in memory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from igascale.config import DataConfig, RunConfig
from igascale.errors import UserError
from igascale.isomers import pools
from igascale.isomers.batches import GroupSchedule
from igascale.isomers.cache import Listener, Variant, known_tokens, open_tokens
from igascale.isomers.rows import Groups, Rows
from igascale.isomers.schema import IsomerGroup, iter_groups
from igascale.isomers.tokens import Encoded, Seeds, Tokens

if TYPE_CHECKING:
    from torch import nn

    from igascale.hooks.base import GradientHook


@dataclass
class Split:
    """The encoded groups of one file.

    Attributes:
        source: the file.
        domains: what an example's domain counts in; of a pool of single instances there is only one.
        groups: per group, one example per domain, or a pool's unit of as many; read from the cache when asked for.
        truncated: how many examples lost tokens to ``data.max_length``.
        seeds: the seed problem of each group of the file.
        sha256: of the file.
    """

    source: str
    domains: tuple[str, ...]
    groups: Groups
    truncated: int
    seeds: Iterable[str]
    sha256: str

    @property
    def width(self) -> int:
        """Instances of a group."""
        return len(self.groups[0])

    def lengths(self) -> np.ndarray:
        """Tokens of each example; ``[groups, width]``."""
        return Rows.of(self.groups).lengths()


@dataclass
class Data:
    """The data of a run.

    Attributes:
        train: what is trained on, arranged by ``data.pairing`` and ``data.pool``.
        validation: held-out groups as they are, in the training domains.
        ood: groups of other domains.
        schedule: which groups each step takes.
        total_steps: of the run.
        domains: the domains that the training texts come from; ``train.domains`` unless the groups are dissolved.
        warnings: to be said before the run starts.
    """

    train: Split
    validation: Split | None
    ood: Split | None
    schedule: GroupSchedule
    total_steps: int
    domains: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def load_data(config: RunConfig, tokenizer: Any, listener: Listener | None = None) -> Data:
    """Check every file of the ``data`` section, and tokenize those whose tokens are not in the cache.

    Args:
        config: the run's.
        tokenizer: its model's.
        listener: hears what takes its time, and what cannot be kept.

    Raises:
        UserError: a file breaks the schema, lacks a domain, shares seeds with another, or does not fill one step.
    """
    section = config.data
    train, domains = _load_training(config, tokenizer, listener)
    validation = _load_split(section.validation, domains, tokenizer, section.max_length, listener)
    ood = _load_split(section.ood, None, tokenizer, section.max_length, listener)
    warnings = check_seeds(section, train.seeds, {s.source: frozenset(s.seeds) for s in (validation, ood) if s})
    if len(train.groups) < config.groups_per_step:
        raise UserError(
            f"{section.train}: {len(train.groups)} groups, but one optimizer step takes {config.groups_per_step} "
            "(train.groups_per_batch * train.gradient_accumulation_steps); lower one of them"
        )
    schedule = GroupSchedule(len(train.groups), config.groups_per_step, config.seed)
    steps = config.train.max_steps or max(1, math.floor(config.train.epochs * schedule.steps_per_epoch))
    if config.train.schedule_steps is not None and config.train.schedule_steps < steps:
        raise UserError(
            f"train.schedule_steps: {config.train.schedule_steps}, but train.epochs makes {steps} steps; a schedule is as long as "
            "the run or longer"
        )
    return Data(train, validation, ood, schedule, steps, domains, warnings)


@dataclass(frozen=True)
class Contents:
    """What a file of groups holds, texts aside.

    Attributes:
        domains: of every group, in order.
        seeds: the seed problems.
        groups: how many.
    """

    domains: tuple[str, ...]
    seeds: frozenset[str]
    groups: int


def look_over(source: str | Path) -> Contents:
    """Check a file line by line, unless it was when its tokens were made, and keep of it only its :class:`Contents`.

    Raises:
        UserError: as of :func:`igascale.isomers.schema.read_groups`.
    """
    tokens = known_tokens(source)
    if tokens is not None:
        return Contents(tokens.domains, frozenset(tokens.seeds()), tokens.num_groups)
    domains: tuple[str, ...] = ()
    seeds, count = set(), 0
    for _, group in iter_groups(source):
        domains = domains or tuple(instance.domain for instance in group.instances)
        seeds.add(group.seed_id)
        count += 1
    if not count:
        raise UserError(f"{source}: no groups in it; expected one JSON object a line (docs/data.md)")
    return Contents(domains, frozenset(seeds), count)


def check_seeds(section: DataConfig, training: Iterable[str], held_out: Mapping[str, Set[str]]) -> tuple[str, ...]:
    """Held-out files share no seed problem with training, unless ``data.allow_leakage`` says so; then one of them must.

    Args:
        section: the ``data`` section.
        training: seed problems of the training file; gone through once for each held-out file.
        held_out: the same of each held-out file, by its path.

    Returns:
        What the user must be told: which figures are not to be believed.

    Raises:
        UserError: names the file and a seed problem, or says how to make leaky data.
    """
    shared = {source: sorted({seed for seed in training if seed in seeds}) for source, seeds in held_out.items()}
    leaks = {source: seeds for source, seeds in shared.items() if seeds}
    if section.allow_leakage and not leaks:
        raise UserError(
            f"data.allow_leakage: no held-out file shares a seed problem with {section.train}, so nothing would leak; make "
            "such data with `igascale data generate --leaky` and name its data.validation and data.ood, or set it to false"
        )
    for source, seeds in leaks.items():
        if not section.allow_leakage:
            raise UserError(
                f"{source}: seed '{seeds[0]}' (of {len(seeds)}) is also in {section.train}; held-out data must share no seed "
                "problem with training (`igascale data generate` sees to it)"
            )
    return tuple(
        f"LEAKAGE: {source} shares {len(seeds)} of its {len(held_out[source])} seed problems with training "
        "(data.allow_leakage); accuracy on it is no measure of generalisation"
        for source, seeds in leaks.items()
    )


def training_domains(section: DataConfig, present: Sequence[str]) -> tuple[str, ...]:
    """The domains that are trained on, in order.

    Args:
        section: the ``data`` section.
        present: the domains of the training file.

    Raises:
        UserError: the file lacks one, or there are fewer than ``data.num_domains``.
    """
    _check_domains_exist(section.train, section.domains or (), present)
    wanted = tuple(section.domains or present)
    if section.num_domains is not None and section.num_domains > len(wanted):
        raise UserError(f"data.num_domains: {section.num_domains}, but there are {len(wanted)}: {', '.join(wanted)}")
    return wanted[: section.num_domains]


def check_domains(config: RunConfig, hook: GradientHook, domains: Sequence[str]) -> None:
    """Refuse a rule, or a pairing, that means nothing for so few domains.

    Args:
        config: the run's configuration.
        hook: its rule.
        domains: what is trained on, from :func:`training_domains`.

    Raises:
        UserError: names the rule and the keys that decide.
    """
    name, section = config.hook.name, config.data
    if section.pool != "groups" and hook.min_domains > 1:
        raise UserError(
            f"hook '{name}' needs {hook.min_domains} domains or more, but data.pool: {section.pool} puts all instances into "
            "one; set data.pool: groups, or hook.name: mean"
        )
    if len(domains) < hook.min_domains:
        raise UserError(
            f"hook '{name}' needs {hook.min_domains} domains or more, but there is {len(domains)} to train on "
            f"({', '.join(domains)}); see data.domains and data.num_domains, or set hook.name: mean"
        )
    if config.lora.full_rank and getattr(hook, "chosen", {}).get("space") == "weight":
        raise UserError(
            "lora.full_rank has no factors to extract gradients for: set hook.space=factor (--method full-rank)"
        )
    if len(domains) < 2 and section.pairing != "isomers":
        raise UserError(f"data.pairing: {section.pairing} needs two domains or more; there is only {domains[0]}")


def check_room(data: Data, model: nn.Module) -> None:
    """Refuse texts that are longer than the model has positions for.

    Raises:
        UserError: names the file and the largest ``data.max_length`` that fits.
    """
    room = getattr(model.config, "max_position_embeddings", None)
    for split in (data.train, data.validation, data.ood):
        longest = int(split.lengths().max(initial=0)) if split else 0
        if split and room is not None and longest > room:
            raise UserError(
                f"{split.source}: a text of {longest} tokens, the model has {room} positions; set data.max_length={room} "
                "(longer texts are then cut, and counted)"
            )


def _load_training(config: RunConfig, tokenizer: Any, listener: Listener | None) -> tuple[Split, tuple[str, ...]]:
    """The training data as ``data.pool`` and ``data.pairing`` arrange it, and the domains that its texts come from."""
    section, seed = config.data, config.seed
    tokens, sha256 = open_tokens(section.train, tokenizer, listener)
    domains = training_domains(section, tokens.domains)
    width = len(section.domains or tokens.domains)  # as many instances in a unit as without num_domains
    if section.pool == "groups":
        rows = _rows(section.train, tokens, domains, section.max_length)
        if section.pairing == "random":
            rows = pools.pair_randomly(rows, seed)
        elif section.pairing == "mixed":
            rows = pools.mix_labels(rows, seed)
        return _split(section.train, tokens, domains, rows, sha256), domains
    if section.pool == "instances":
        rows = _rows(section.train, tokens, domains, section.max_length)
        store, places = rows.store, rows.places.ravel()
    else:
        chosen = pools.choose_tellings(tokens.seeds(), len(domains), seed)
        store, places = Encoded(tokens, section.max_length), _places(tokens, domains, chosen)
        if section.augment is not None:
            variant = _augmented(domains, chosen, width - 1, section.augment, seed)
            store = Encoded(open_tokens(section.train, tokenizer, listener, variant)[0], section.max_length)
            places = _augmented_places([group for group, _ in chosen], width - 1)
        store.check_supervised(section.train, places)
    rows = pools.units(store, tokens.num_groups, width, seed, places)
    return _split(section.train, tokens, pools.ONE_DOMAIN, rows, sha256), domains


def _load_split(
    source: str | None, domains: tuple[str, ...] | None, tokenizer: Any, max_length: int, listener: Listener | None
) -> Split | None:
    if source is None:
        return None
    tokens, sha256 = open_tokens(source, tokenizer, listener)
    _check_domains_exist(source, domains or (), tokens.domains)
    domains = domains or tokens.domains
    return _split(source, tokens, domains, _rows(source, tokens, domains, max_length), sha256)


def _rows(source: str, tokens: Tokens, domains: Sequence[str], max_length: int) -> Rows:
    """Per group of a file its instances of ``domains``, in that order; each has something to learn."""
    store = Encoded(tokens, max_length)
    places = np.arange(len(store)).reshape(tokens.num_groups, -1)[:, [tokens.domains.index(d) for d in domains]]
    store.check_supervised(source, places.ravel())
    return Rows(store, places)


def _places(tokens: Tokens, domains: Sequence[str], chosen: Sequence[tuple[int, int]]) -> np.ndarray:
    columns = [tokens.domains.index(domain) for domain in domains]
    return np.array([group * len(tokens.domains) + columns[domain] for group, domain in chosen], np.int64)


def _augmented(
    domains: Sequence[str], chosen: Sequence[tuple[int, int]], copies: int, share: float, seed: int
) -> Variant:
    """The chosen tellings and their augmented copies, which stand one after the other, in the order of the file."""
    domain_of = {group: domains[domain] for group, domain in chosen}

    def tell(place: int, group: IsomerGroup) -> Iterator[IsomerGroup]:
        if place in domain_of:
            problem = pools.only(group, domain_of[place])
            yield from (pools.augmented(problem, number, share, seed) for number in range(copies + 1))

    return Variant({"augment": share, "copies": copies, "seed": seed, "domains": list(domains)}, tell)


def _augmented_places(groups: Sequence[int], copies: int) -> np.ndarray:
    """Where the tellings stand, and then every first copy, every second, and so on, in the order of ``groups``."""
    rank = {group: place for place, group in enumerate(sorted(groups))}
    first = np.array([rank[group] * (copies + 1) for group in groups], np.int64)
    return np.concatenate([first + number for number in range(copies + 1)])


def _check_domains_exist(source: str, wanted: Sequence[str], present: Sequence[str]) -> None:
    for domain in wanted:
        if domain not in present:
            raise UserError(f"{source}: no instance of domain '{domain}'; it has {', '.join(present)}")


def _split(source: str, tokens: Tokens, domains: tuple[str, ...], rows: Rows, sha256: str) -> Split:
    store = rows.store
    assert isinstance(store, Encoded)
    truncated = int(store.truncated()[rows.places].sum())
    return Split(source, domains, rows, truncated, Seeds(tokens), sha256)
