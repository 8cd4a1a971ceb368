"""Choosing groups from a file that is read once, line by line, and saying how many of how many were chosen."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igascale.errors import UserError, did_you_mean
from igascale.files import exists
from igascale.isomers.inspection.side_by_side import counted
from igascale.isomers.schema import IsomerGroup, iter_groups

GROUPS, REJECTED, MANIFEST = "groups.jsonl", "rejected.jsonl", "manifest.json"


@dataclass(frozen=True)
class Source:
    """What a path holds: a file of groups, or a build folder.

    Attributes:
        path: as it was given.
        groups: the file of groups.
        rejected: the build's file of rejections, where there is one.
        manifest: the build's manifest, where there is one.
        warnings: what could not be used or is not what it claims to be, in words.
    """

    path: Path
    groups: Path
    rejected: Path | None = None
    manifest: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()


def find_source(path: Path) -> Source:
    """What there is to look at.

    Raises:
        UserError: the folder holds no groups and no rejections; it says what it holds instead.
    """
    there = exists(path)
    if not path.is_dir():
        if there and not path.is_file():
            raise UserError(f"{path}: is no regular file; write the groups to one first, it may be read more than once")
        return Source(path, path)  # reading it complains if it is not there
    groups, rejected = path / GROUPS, path / REJECTED
    if not groups.exists() and not rejected.exists():
        others = ", ".join(sorted(other.name for other in path.glob("*.jsonl")))
        hint = (
            f"name one of its files: {others}" if others else "give a file of groups, or the folder of a finished build"
        )
        raise UserError(f"{path}: no {GROUPS} in this folder; {hint}")
    manifest, *warnings = _manifest(path / MANIFEST)
    present = tuple(file for file in (groups, rejected) if file.exists())
    if manifest is not None:
        if manifest.get("complete") is False:
            left = manifest.get("unfinished", "some")
            warnings.append(f"{path}: this build is not complete ({left} seeds unfinished); run it again to go on")
        warnings += _changed(manifest, present)
    return Source(path, groups, rejected if rejected in present else None, manifest, tuple(warnings))


def _manifest(path: Path) -> tuple[Any, ...]:
    """The manifest; or None, and why it cannot be used: groups can be looked at without it."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return (None,)
    except (OSError, ValueError) as error:
        return None, f"{path}: not shown, it cannot be read ({error})"
    return (manifest,) if isinstance(manifest, dict) else (None, f"{path}: not shown, it is no JSON object")


def _changed(manifest: dict[str, Any], files: tuple[Path, ...]) -> list[str]:
    """Which of the files are not those that the manifest describes by their SHA-256."""
    described = manifest.get("files")
    warnings = []
    for file in files:
        about = described.get(file.name) if isinstance(described, dict) else None
        expected = about.get("sha256") if isinstance(about, dict) else None
        if expected is None:
            continue
        with file.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != expected:
                warnings.append(
                    f"{file}: is not the file that {MANIFEST} describes (another SHA-256); it was changed since"
                )
    return warnings


@dataclass(frozen=True)
class Wanted:
    """Which groups of a file: those that meet all of it.

    Attributes:
        groups: ids; all when empty. `limit` does not cut what is asked for by id.
        seeds: seed ids; all when empty.
        kinds: kinds; all when empty.
        domains: the tellings to show, and to search; all when empty.
        text: what some telling or node of the graph holds, in whatever case.
        limit: stop after so many.
        sample: instead of the first `limit`, so many drawn at random from the whole file.
        seed: of the draw.
    """

    groups: tuple[str, ...] = ()
    seeds: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()
    text: str | None = None
    limit: int = 5
    sample: int | None = None
    seed: int = 0

    @property
    def everything(self) -> bool:
        """Whether every group meets it."""
        return not (self.groups or self.seeds or self.kinds or self.text)

    def meets(self, group: IsomerGroup) -> bool:
        """Whether a group is one of those wanted, whatever the limit."""
        return (
            (not self.groups or group.id in self.groups)
            and (not self.seeds or group.seed_id in self.seeds)
            and (not self.kinds or group.kind in self.kinds)
            and (self.text is None or self._has_text(group, self.text.casefold()))
        )

    def _has_text(self, group: IsomerGroup, text: str) -> bool:
        shown = [instance for instance in group.instances if not self.domains or instance.domain in self.domains]
        texts = [text for instance in shown for text in (instance.problem, instance.cot, instance.answer)]
        texts += [node.text for node in group.dag.nodes] if group.dag is not None else []
        return any(text in other.casefold() for other in texts)


class Selection:
    """The wanted groups of a file, to be iterated over once; only a sample is ever held in memory.

    Reading stops when nothing more is wanted; the lines after that are counted and not checked.

    Args:
        path: a file of groups.
        wanted: which of them.
    """

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self.path, self.wanted = path, wanted
        self.read = 0  # groups
        self.matching = 0  # of those read
        self.shown = 0
        self.total = 0  # groups in the file
        # What the file has, in its order, to suggest a name for one that it has not.
        self._ids: dict[str, None] = {}
        self._kinds: dict[str, None] = {}
        self._seeds: dict[str, None] = {}

    def __iter__(self) -> Iterator[IsomerGroup]:
        """Yield the groups in the order of the file.

        Raises:
            UserError: the file breaks the schema, something wanted is not there, or nothing meets it all.
        """
        for group in self._sample() if self.wanted.sample is not None else self._first():
            self.shown += 1
            yield group
        self.total = self.read if self._ended else _count_lines(self.path)
        self._complain()

    def summary(self) -> str:
        """How many of how many were shown, once all were."""
        file, of = self.path.name, f"of the {self.total:,} groups"
        if self.wanted.sample is not None:
            among = of if self.wanted.everything else f"of the {self.matching:,} that match, {of}"
            return f"{counted(self.shown, 'group')} drawn at random (seed {self.wanted.seed}), {among} in {file}"
        if self.wanted.everything and self.shown < self.total:
            return f"the first {self.shown:,} {of} in {file}"
        if self.wanted.everything:
            return f"the only group in {file}" if self.total == 1 else f"all {self.total:,} groups in {file}"
        if self._ended or self.wanted.groups:
            return f"all {self.shown:,} that match, {of} in {file}" if self.shown > 1 else f"1 {of} in {file} matches"
        first = "first that matches" if self.shown == 1 else f"first {self.shown:,} that match"
        return f"the {first}, found in the first {self.read:,} {of} in {file}"

    def _matches(self) -> Iterator[IsomerGroup]:
        self._ended = False
        for _, group in iter_groups(self.path):
            if not self.read:
                self._check_domains(group)
            self.read += 1
            self._ids |= {group.id: None} if self.wanted.groups else {}
            self._kinds |= {group.kind: None} if group.kind is not None else {}
            self._seeds |= {group.seed_id: None} if self.wanted.seeds else {}
            if self.wanted.meets(group):
                self.matching += 1
                yield group
        self._ended = True

    def _first(self) -> Iterator[IsomerGroup]:
        """Up to the limit, or to the last that was asked for by id."""
        limit = len(set(self.wanted.groups)) or self.wanted.limit
        for number, group in enumerate(self._matches(), start=1):
            yield group
            if number == limit:
                return

    def _sample(self) -> Iterator[IsomerGroup]:
        """Reservoir sampling (Vitter's algorithm R)."""
        size, rng = self.wanted.sample or 0, random.Random(f"igascale inspect {self.wanted.seed}")
        kept: list[tuple[int, IsomerGroup]] = []
        for number, group in enumerate(self._matches()):
            if number < size:
                kept.append((number, group))
            elif (place := rng.randrange(number + 1)) < size:
                kept[place] = (number, group)
        yield from (group for _, group in sorted(kept, key=lambda one: one[0]))

    def _check_domains(self, group: IsomerGroup) -> None:
        known = [instance.domain for instance in group.instances]
        for domain in self.wanted.domains:
            if domain not in known:
                hint = did_you_mean(domain, known)
                raise UserError(f"{self.path}: no domain '{domain}'; its domains are {', '.join(known)}{hint}")

    def _complain(self) -> None:
        """About what is not in the file; where reading stopped early, all of it was found."""
        if not self.total:
            raise UserError(f"{self.path}: no groups in it; expected one JSON object a line (docs/data.md)")
        if not self._ended:
            return
        for what, wanted, known in (
            ("group", self.wanted.groups, self._ids),
            ("seed", self.wanted.seeds, self._seeds),
            ("kind", self.wanted.kinds, self._kinds),
        ):
            for name in wanted:
                if name not in known:
                    raise UserError(
                        f"{self.path}: no {what} '{name}' in its {self.total:,} groups{did_you_mean(name, known)}"
                    )
        if not self.shown:
            raise UserError(f"{self.path}: none of its {self.total:,} groups meets all of what was asked for")


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())
