"""Split a file of groups without holding it in memory, and prove that nothing is on two sides."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.files import exists
from igascale.isomers.leakage import CATEGORIES, Proof, prove, sha256_of
from igascale.isomers.schema import iter_groups
from igascale.isomers.similarity import THRESHOLD
from igascale.isomers.split import TRAIN, Clusters, Cost, assign, check_fractions

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class SplitResult:
    """What :func:`split_file` wrote; also its manifest.

    Attributes:
        source: the file that was split, and its `sha256`.
        options: fractions, seed, threshold, ignored categories.
        groups: part -> number of groups.
        files: file name -> SHA-256.
        cost: what keeping alike problems together has cost.
        proofs: training against every other part, and validation against test.
    """

    source: str
    sha256: str
    options: dict[str, Any]
    groups: dict[str, int]
    files: dict[str, str]
    cost: Cost
    proofs: tuple[Proof, ...]

    def record(self) -> dict[str, Any]:
        """The manifest as JSON."""
        record = {key: value for key, value in vars(self).items() if key not in ("cost", "proofs")}
        return {**record, "cost": asdict(self.cost), "proofs": [proof.record() for proof in self.proofs]}


def split_file(
    path: str | Path,
    out_dir: str | Path,
    fractions: Mapping[str, float],
    seed: int,
    *,
    threshold: float = THRESHOLD,
    ignore: Collection[str] = (),
) -> SplitResult:
    """Write ``train.jsonl`` and a file for each part into a new folder, lines as they are and in their order.

    The first reading checks the file and finds what must stay together, the second copies lines, the third proves the
    result. The folder appears when all of it is done.

    Args:
        path: JSONL of groups.
        out_dir: folder to write; must be new or empty.
        fractions: part (``validation``, ``test``) -> share of the seeds.
        seed: chooses which seeds.
        threshold: similarity from which problems are near-duplicates.
        ignore: categories (docs/leakage.md) that tie nothing and prove nothing.

    Raises:
        UserError: the folder is not empty, the file breaks the schema or changes meanwhile, or as
            :func:`igascale.isomers.split.assign`.
    """
    path = Path(path)
    check_fractions(fractions)
    with new_folder(out_dir) as folder:
        sha256 = _sha256_of_source(path)
        clusters = Clusters(threshold, ignore)
        seeds = []
        for _, group in iter_groups(path):
            clusters.add(group)
            seeds.append(group.seed_id)
        if not seeds:
            raise UserError(f"{path}: no groups in it; expected one JSON object a line (docs/data.md)")
        part_of, cost = assign(clusters, fractions, seed)
        del clusters
        groups = _copy(path, folder, [part_of[seed_id] for seed_id in seeds], (TRAIN, *fractions))
        if _sha256_of_source(path) != sha256:
            raise UserError(f"{path}: changed while it was being split; nothing was written. Split it again")
        files = {part: folder / f"{part}.jsonl" for part in (TRAIN, *fractions)}
        proofs = _prove(files, threshold, ignore)
        options = {
            "fractions": dict(fractions),
            "seed": seed,
            "threshold": threshold,
            "ignore": sorted(ignore),
        }
        hashes = {file.name: sha256_of(file) for file in files.values()}
        result = SplitResult(path.name, sha256, options, groups, hashes, cost, proofs)
        text = json.dumps(result.record(), indent=2, ensure_ascii=False)
        (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return result


@contextmanager
def new_folder(out_dir: str | Path) -> Iterator[Path]:
    """A folder to fill that takes its place and name when all went well, and else leaves nothing behind.

    Raises:
        UserError: there is something at its place already, or it cannot be written.
    """
    out = Path(out_dir)
    if exists(out) and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: already exists and is not empty; choose another folder or delete it")
    temporary = out.absolute().parent / f".{out.absolute().name}.{os.getpid()}.tmp"
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        temporary.replace(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); nothing was") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sha256_of_source(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _copy(path: Path, folder: Path, parts: list[str], names: tuple[str, ...]) -> dict[str, int]:
    """Copy each line that is not blank to its part; returns how many each has."""
    groups = dict.fromkeys(names, 0)
    with ExitStack() as stack:
        files = {name: stack.enter_context((folder / f"{name}.jsonl").open("wb")) for name in names}
        lines = (line.strip() for line in stack.enter_context(path.open("rb")))
        for part, line in zip(parts, (line.removeprefix(b"\xef\xbb\xbf") for line in lines if line)):
            files[part].write(line + b"\n")
            groups[part] += 1
    return groups


def _prove(files: Mapping[str, Path], threshold: float, ignore: Collection[str]) -> tuple[Proof, ...]:
    order = list(files.values())
    proofs = tuple(
        prove(first, order[index + 1 :], threshold=threshold, ignore=ignore) for index, first in enumerate(order[:-1])
    )
    for proof in proofs:
        for found, finding in proof.leaks:  # the clusters make this impossible
            raise UserError(
                f"{proof.training} and {found.file} of this split would share: {CATEGORIES[finding.category]} "
                f"({finding.groups} groups, e.g. {finding.worst}); nothing was written. This is an error of igascale's, please report it"
            )
    return proofs
