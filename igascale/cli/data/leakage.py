"""``igascale data leakage``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from igascale.isomers.leakage import Finding, Proof


@click.command("leakage")
@click.argument("training", type=click.Path())
@click.argument("held_out", nargs=-1, required=True, type=click.Path())
@click.option(
    "--threshold",
    type=float,
    help="Similarity from which two problems are near-duplicates [default: 0.8].",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="CATEGORY",
    help="Report id, problem, near or form without counting it as a leak; may be repeated.",
)
@click.option("--report", type=click.Path(), help="Also write the proof as JSON.")
def command(
    training: str, held_out: tuple[str, ...], threshold: float | None, ignore: tuple[str, ...], report: str | None
) -> None:
    """Prove that held-out files share no seed, id, problem, near-duplicate or logical form with TRAINING; else exit 2.

    \b
    Examples:
      igascale data leakage data/demo/train.jsonl data/demo/validation.jsonl data/demo/ood.jsonl
      igascale data leakage train.jsonl test.jsonl --ignore form --report leakage.json
    """
    import json
    from pathlib import Path

    from igascale.errors import UserError
    from igascale.files import write_atomically
    from igascale.isomers.leakage import CATEGORIES, prove
    from igascale.isomers.similarity import THRESHOLD

    proof = prove(training, held_out, threshold=THRESHOLD if threshold is None else threshold, ignore=ignore)
    if report is not None:
        try:
            write_atomically(Path(report), json.dumps(proof.record(), indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{report}: cannot write the report ({error.strerror})") from None
    print_proof(proof, training, held_out)
    if proof.leaks:
        kinds = ", ".join(dict.fromkeys(CATEGORIES[finding.category] for _, finding in proof.leaks))
        leaking = [found for found, _ in proof.leaks]
        files = ", ".join(path for path, found in zip(held_out, proof.held_out) if found in leaking)
        raise UserError(f"{files}: not independent of {training} ({kinds}); `igascale data split` makes files that are")


def print_proof(proof: Proof, training: str, held_out: tuple[str, ...]) -> None:
    """Print a table per held-out file: the verdict in each category, and the worst pair by name."""
    from igascale.isomers.leakage import CATEGORIES

    for path, found in zip(held_out, proof.held_out):
        click.echo(
            f"{path}: {found.groups} groups, {found.problems} problems, against {training}: {proof.groups} groups"
        )
        for finding in found.findings:
            ignored = finding.category in proof.ignored
            verdict = "pass" if not finding.groups else "(ignored)" if ignored else "FAIL"
            color = {"pass": "green", "FAIL": "red"}.get(verdict)
            click.echo(f"  {click.style(f'{verdict:<9}', fg=color)} {CATEGORIES[finding.category]:<22} ", nl=False)
            click.echo(_told(finding, proof))


def _told(finding: Finding, proof: Proof) -> str:
    unchecked = ""
    if finding.unchecked or (finding.category == "form" and proof.unchecked):
        unchecked = f" (not compared, without a DAG: {finding.unchecked} held-out, {proof.unchecked} training groups)"
    if finding.worst is None:
        return f"none{unchecked}"
    worst = finding.worst
    shared = f": {worst.shared}" if worst.shared else f", similarity {worst.similarity:.2f}"
    return f"{finding.groups} groups, e.g. {worst.held_out} and {worst.training} of training{shared}{unchecked}"
