"""What a trial is scored on: a training domain that it never saw, or held-out groups of the domains that it was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from igascale.config import RunConfig
from igascale.errors import UserError
from igascale.files import write_atomically
from igascale.isomers.schema import iter_groups, to_record
from igascale.loading import Contents, check_seeds, look_over, training_domains

LEAVE_ONE_OUT, IN_DOMAIN = "leave_one_domain_out", "in_domain"
#: Domains that leave-one-domain-out needs: two to train on, of which a rule may tell what they agree in, and one to leave out.
FEWEST = 3


@dataclass(frozen=True)
class Fold:
    """One training run of a trial.

    Attributes:
        name: the domain that is left out, or ``in-domain``.
        split: under which name a run's metrics hold its score: ``ood`` or ``id``.
        domains: what it is trained on.
        settings: keys of the configuration that make it, as they are written behind CONFIG.
    """

    name: str
    split: str
    domains: tuple[str, ...]
    settings: tuple[str, ...]

    def score(self, record: Mapping[str, Any]) -> float | None:
        """The mean loss over the domains of a validation record; ``None`` where it is not finite or is not there."""
        losses = list((record.get(self.split) or {}).values())
        if not losses or any(loss is None for loss in losses):
            return None
        return float(sum(losses) / len(losses))


def plan_folds(
    config: RunConfig,
    by: str,
    count: int | None,
    folder: Path,
    name: str,
    look: Callable[[str], Contents] = look_over,
) -> list[Fold]:
    """The folds of a configuration.

    Args:
        config: one method's.
        by: :data:`LEAVE_ONE_OUT` or :data:`IN_DOMAIN`.
        count: how many domains are left out in turn, the first ones; all by default.
        folder: where :func:`write_files` puts the left-out domains' groups.
        name: of the method, for messages.
        look: what a file of groups holds.

    Raises:
        UserError: no validation file, or one that shares seed problems with training; too few domains to leave one out.
    """
    section = config.data
    if section.validation is None:
        raise UserError("data.validation: nothing to select by; name a file of held-out groups of the training domains")
    if section.allow_leakage:
        raise UserError(
            f"{name} (data.allow_leakage): its held-out groups were trained on, so they can select nothing; tune it without the leak "
            "and take over the settings"
        )
    training, held_out = look(section.train), look(section.validation)
    check_seeds(section, training.seeds, {section.validation: held_out.seeds})
    domains = training_domains(section, training.domains)
    for domain in domains:
        if domain not in held_out.domains:
            raise UserError(
                f"{section.validation}: no instance of domain '{domain}'; it has {', '.join(held_out.domains)}"
            )
    if by == IN_DOMAIN:
        return [Fold("in-domain", "id", domains, ("data.ood=null",))]
    if len(domains) < FEWEST:
        raise UserError(
            f"{name}: {len(domains)} training domain(s) ({', '.join(domains)}); leaving one out takes {FEWEST} or more. With so few "
            "there is only --by in-domain, which favours runs that fitted what holds in these domains alone"
        )
    if count is not None and count > len(domains):
        raise UserError(
            f"--folds {count}: there are {len(domains)} training domains to leave out: {', '.join(domains)}"
        )
    return [_without(domain, domains, folder) for domain in domains[:count]]


def _without(domain: str, domains: Sequence[str], folder: Path) -> Fold:
    others = tuple(each for each in domains if each != domain)
    settings = (
        f"data.domains={json.dumps(others)}",
        "data.num_domains=null",
        f"data.ood={json.dumps(str(_file(domain, folder).absolute()))}",
    )
    return Fold(domain, "ood", others, settings)


def _file(domain: str, folder: Path) -> Path:
    """A name that any domain can have."""
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in domain)
    told = plain if plain == domain else f"{plain}-{hashlib.sha256(domain.encode()).hexdigest()[:6]}"
    return folder / f"left-out-{told}.jsonl"


def folder_name(fold: Fold) -> str:
    """The fold's name as a folder."""
    return _file(fold.name, Path()).stem.removeprefix("left-out-")


def write_files(validation: str, folds: Sequence[Fold], folder: Path) -> None:
    """For each left-out domain a file with its instances of the held-out groups, as ``data.ood`` of the fold's run.

    Args:
        validation: the held-out groups.
        folds: from :func:`plan_folds`.
        folder: as there.

    Raises:
        UserError: a file of another content is there.
    """
    left_out = [fold.name for fold in folds if fold.split == "ood"]
    if not left_out:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for domain in left_out:
        text = "".join(_lines(validation, domain))
        path = _file(domain, folder)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise UserError(f"{path} does not hold the groups of {validation}, which has changed: take another --out")
        write_atomically(path, text)


def _lines(source: str, domain: str) -> Iterator[str]:
    for _, group in iter_groups(source):
        one = replace(group, instances=tuple(each for each in group.instances if each.domain == domain))
        yield json.dumps(to_record(one), ensure_ascii=False) + "\n"
