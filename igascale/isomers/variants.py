"""The paper's data ablations as files: what training would make of a file by a key, written down (docs/leakage.md)."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from igascale.errors import UserError, did_you_mean
from igascale.isomers.dataset import FileRecord, summarise
from igascale.isomers.leakage import sha256_of
from igascale.isomers.schema import Instance, IsomerGroup, domains_of, iter_groups, read_groups, write_groups
from igascale.isomers.split_file import MANIFEST, new_folder

TRAIN, LEAKY = "train.jsonl", "ood.jsonl"


@dataclass(frozen=True)
class VariantOptions:
    """What a variant can be told; what its kind does not know must stay None.

    Attributes:
        domain: ``single-domain``: the one that stays [the first]; ``leaky``: the one that is held out [the last].
        domains: ``n-domains``: those that stay, in this order.
        num_domains: ``n-domains``: how many of them, or of the file's, stay.
        fraction: ``leaky``: share of the groups whose telling is held out [0.2].
        seed: ``random-pairing`` and ``leaky`` [0].
    """

    domain: str | None = None
    domains: tuple[str, ...] | None = None
    num_domains: int | None = None
    fraction: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class VariantManifest:
    """What :func:`write_variant` wrote: its kind, the file it was made from and how; also ``manifest.json``."""

    variant: str
    parent: str
    parent_sha256: str
    options: dict[str, Any]
    use: str  # which keys train the same on the parent, or what the files need
    leaky: bool
    files: dict[str, FileRecord]


def write_variant(path: str | Path, out_dir: str | Path, kind: str, options: VariantOptions) -> VariantManifest:
    """Write ``train.jsonl`` (of ``leaky`` also ``ood.jsonl``) and a manifest into a new folder.

    Args:
        path: JSONL of groups.
        out_dir: folder to write; must be new or empty.
        kind: one of `VARIANTS`.
        options: see :class:`VariantOptions`.

    Raises:
        UserError: an unknown kind, an option that the kind does not know or the file cannot meet, or as `new_folder`.
    """
    if kind not in VARIANTS:
        raise UserError(f"no variant '{kind}'; there are {', '.join(VARIANTS)}" + did_you_mean(kind, VARIANTS))
    variant = VARIANTS[kind]
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name in given:
        if name not in variant.defaults:
            raise UserError(f"{name}: the variant {kind} does not know it; it takes {', '.join(variant.defaults)}")
    present = domains_of(group for _, group in _first(path))
    settled = {**variant.defaults, **given}
    with new_folder(out_dir) as folder:
        sha256 = sha256_of(path)
        sets, settled, use = variant.make(Path(path), present, settled)
        files = {}
        for name, groups in sets.items():
            write_groups(folder / name, groups)
            files[name] = FileRecord(
                sha256_of(folder / name), summarise(group for _, group in iter_groups(folder / name))
            )
        if sha256_of(path) != sha256:
            raise UserError(f"{path}: changed while it was being read; nothing was written. Try again")
        manifest = VariantManifest(kind, Path(path).name, sha256, settled, use, kind == "leaky", files)
        text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return manifest


_Made = tuple[dict[str, Iterator[IsomerGroup]], dict[str, Any], str]


def _random_pairing(path: Path, domains: Sequence[str], options: dict[str, Any]) -> _Made:
    """Every domain's instances permuted by themselves, in the orders of ``data.pairing: random`` and the run's seed."""
    _at_least_two(path, domains, "random-pairing pairs instances of")
    seed = options["seed"]
    return {TRAIN: _paired(path, domains, seed)}, options, _like(f"data.pairing=random seed={seed}")


def _paired(path: Path, domains: Sequence[str], seed: int) -> Iterator[IsomerGroup]:
    groups = [
        replace(group, dag=None, meta={name: value for name, value in group.meta.items() if name == "variant"})
        for group in read_groups(path)
    ]
    columns = []
    for index, domain in enumerate(domains):
        order = list(range(len(groups)))
        random.Random(f"igascale pairing {seed}/{index}").shuffle(order)
        columns.append([(groups[place], *_instance(path, groups[place], domain)) for place in order])
    for number, row in enumerate(zip(*columns)):
        kinds = {group.kind for group, _, _ in row}
        yield IsomerGroup(
            id=f"pair-{number:05d}",
            seed_id=row[0][2],  # over the file every seed comes up as often as before
            instances=tuple(instance for _, instance, _ in row),
            kind=kinds.pop() if len(kinds) == 1 else None,
            meta={"variant": {"kind": "random-pairing", "seeds": [seed_id for _, _, seed_id in row]}},
        )


def _n_domains(path: Path, domains: Sequence[str], options: dict[str, Any]) -> _Made:
    """Groups without their other domains."""
    if options["domains"] is None and options["num_domains"] is None:
        raise UserError("n-domains needs num_domains, or domains, or both")
    wanted = tuple(options["domains"] or domains)
    _check_present(path, wanted, domains)
    count = len(wanted) if options["num_domains"] is None else options["num_domains"]
    if not 1 <= count <= len(wanted):
        raise UserError(f"num_domains: must be from 1 to {len(wanted)} ({', '.join(wanted)}), not {count}")
    kept = wanted[:count]
    keys = [f"data.domains=[{','.join(wanted)}]"] * (options["domains"] is not None)
    keys += [f"data.num_domains={count}"] * (options["num_domains"] is not None)
    settled = {"domains": list(kept), "num_domains": count}
    return {TRAIN: _told_in(path, kept, "n-domains")}, settled, _like(" ".join(keys))


def _single_domain(path: Path, domains: Sequence[str], options: dict[str, Any]) -> _Made:
    """Groups of one instance. A run on the parent deals each instance D times an epoch, in units of D."""
    domain = options["domain"] or domains[0]
    _check_present(path, (domain,), domains)
    keys = f"data.domains=[{domain}]" if options["domain"] else "data.num_domains=1"
    use = _like(f"hook.name=mean data.pool=instances {keys}")
    if not options["domain"]:
        use += f", where an epoch has every instance {len(domains)} times and a unit {len(domains)} of them"
    return {TRAIN: _told_in(path, (domain,), "single-domain")}, {"domain": domain}, use


def _leaky(path: Path, domains: Sequence[str], options: dict[str, Any]) -> _Made:
    """An instance-level split: all groups train without one domain, and that telling of some of them is held out."""
    _at_least_two(path, domains, "leaky holds out the tellings of one of")
    domain = options["domain"] or domains[-1]
    _check_present(path, (domain,), domains)
    if not 0.0 < options["fraction"] <= 1.0:
        raise UserError(f"fraction: must be above 0 and at most 1, not {options['fraction']}")
    ids = sorted(group.id for _, group in iter_groups(path))
    count = max(1, round(options["fraction"] * len(ids)))
    chosen = set(random.Random(f"igascale leaky variant {options['seed']}").sample(ids, count))
    rest = tuple(name for name in domains if name != domain)
    sets = {TRAIN: _told_in(path, rest, "leaky"), LEAKY: _retold(path, domain, chosen)}
    return (
        sets,
        {**options, "domain": domain},
        "train with data.ood=ood.jsonl and data.allow_leakage=true (--method leakage)",
    )


def _retold(path: Path, domain: str, chosen: set[str]) -> Iterator[IsomerGroup]:
    for group in _told_in(path, (domain,), "leaky"):
        if group.id in chosen:
            yield replace(group, id=f"{group.id}-again", meta={**group.meta, "retells": group.id})


def _like(keys: str) -> str:
    return f"training on train.jsonl is training on its parent with {keys}"


def _told_in(path: Path, domains: Sequence[str], kind: str) -> Iterator[IsomerGroup]:
    for _, group in iter_groups(path):
        told = [_instance(path, group, domain) for domain in domains]
        seeds = [seed_id for _, seed_id in told]
        variant: dict[str, Any] = {"kind": kind}
        if len(set(seeds)) > 1:
            variant["seeds"] = seeds
        yield replace(
            group,
            seed_id=seeds[0],  # of a random pairing the domain that it came from may be gone
            instances=tuple(instance for instance, _ in told),
            meta={**group.meta, "variant": variant},
        )


def _instance(path: Path, group: IsomerGroup, domain: str) -> tuple[Instance, str]:
    """A group's telling in a domain, and the seed problem that it tells: of a random pairing its own."""
    index, instance = next(item for item in enumerate(group.instances) if item[1].domain == domain)
    variant = group.meta.get("variant")
    seeds = variant.get("seeds") if isinstance(variant, dict) else None
    if seeds is None:
        return instance, group.seed_id
    if not isinstance(seeds, list) or len(seeds) != len(group.instances) or not all(isinstance(s, str) for s in seeds):
        raise UserError(
            f"{path}: group '{group.id}': meta.variant.seeds must name a seed for each of its {len(group.instances)} instances, in "
            "their order; make the variant from the file that this one was made from"
        )
    return instance, seeds[index]


def _first(path: str | Path) -> Iterator[tuple[int, IsomerGroup]]:
    """The first group alone: all others have its domains, or reading them fails."""
    groups = iter_groups(path)
    first = next(groups, None)
    if first is None:
        raise UserError(f"{path}: no groups in it; expected one JSON object a line (docs/data.md)")
    yield first


def _check_present(path: Path, wanted: Sequence[str], present: Sequence[str]) -> None:
    for domain in wanted:
        if domain not in present:
            raise UserError(
                f"{path}: no instance of domain '{domain}'; it has {', '.join(present)}" + did_you_mean(domain, present)
            )
    if len(set(wanted)) != len(wanted):
        raise UserError(f"domains names one twice: {', '.join(wanted)}")


def _at_least_two(path: Path, domains: Sequence[str], what: str) -> None:
    if len(domains) < 2:
        raise UserError(f"{path}: {what} two domains or more; there is only {domains[0]}")


@dataclass(frozen=True)
class _Variant:
    make: Callable[[Path, Sequence[str], dict[str, Any]], _Made]
    defaults: dict[str, Any]


#: Name -> how it is made, and the options that it takes.
VARIANTS: dict[str, _Variant] = {
    "random-pairing": _Variant(_random_pairing, {"seed": 0}),
    "single-domain": _Variant(_single_domain, {"domain": None}),
    "n-domains": _Variant(_n_domains, {"domains": None, "num_domains": None}),
    "leaky": _Variant(_leaky, {"domain": None, "fraction": 0.2, "seed": 0}),
}
