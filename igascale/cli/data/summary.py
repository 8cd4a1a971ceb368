"""What is in a file of groups, as one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from igascale.isomers.dataset import Summary


def print_summary(path: str, summary: Summary) -> None:
    """Print the counts of a file, and whether it leaks."""
    click.echo(
        f"{path}: {summary.groups} groups, {summary.instances} instances; "
        f"domains {', '.join(summary.domains)}; kinds {', '.join(f'{k} {n}' for k, n in summary.kinds.items())}; "
        f"steps {', '.join(f'{k}: {n}' for k, n in summary.steps.items())}; "
        f"{summary.words_min}-{summary.words_max} words a problem; "
        f"{len(summary.answers)} different answers, chance {summary.chance:.1%}"
    )
    if summary.leaky:
        click.secho(
            f"LEAKY: {summary.leaky} OF THE {summary.groups} GROUPS OF {path} TELL TRAINING PROBLEMS AGAIN. "
            "Accuracy on them is inflated; they are for the ablation without a seed-level split (--method leakage) alone.",
            fg="yellow",
        )
