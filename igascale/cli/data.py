"""``igascale data generate`` and ``igascale data validate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from igascale.isomers.dataset import Summary


@click.group("data")
def command() -> None:
    """Make and check isomer groups: one problem told in several domains (docs/data.md)."""


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if value else None


@command.command("generate")
@click.option("--out", required=True, type=click.Path(), help="Folder to write; must be new or empty.")
@click.option("--groups", default=2000, show_default=True, help="Training groups.")
@click.option("--validation-groups", default=200, show_default=True, help="Held-out groups of the same domains.")
@click.option("--ood-groups", default=200, show_default=True, help="Groups told in unseen domains.")
@click.option(
    "--domains",
    callback=_names,
    help="Training domains, comma-separated [default: maths, medicine, law, science].",
)
@click.option("--ood-domains", callback=_names, help="Unseen domains [default: finance, engineering].")
@click.option("--kinds", callback=_names, help="Reasoning kinds, comma-separated [default: all].")
@click.option("--steps", nargs=2, type=click.IntRange(1, 4), help="Fewest and most reasoning steps.")
@click.option(
    "--shortcut",
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Plant a cue that tells the answer with probability P.",
)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--leaky",
    is_flag=True,
    help="Validation and ood tell TRAINING problems again (the ablation without a seed-level split).",
)
def generate_command(
    out: str,
    groups: int,
    validation_groups: int,
    ood_groups: int,
    domains: tuple[str, ...] | None,
    ood_domains: tuple[str, ...] | None,
    kinds: tuple[str, ...] | None,
    steps: tuple[int, int] | None,
    shortcut: float | None,
    seed: int,
    leaky: bool,
) -> None:
    """Generate a data set without a teacher: train, validation (ID) and ood files and a manifest.

    \b
    Examples:
      igascale data generate --out data/demo
      igascale data generate --out data/cue --groups 500 --shortcut 0.9 --kinds ordering,selection
    """
    from igascale.isomers.dataset import generate_dataset
    from igascale.isomers.generator import STEPS
    from igascale.isomers.kinds import KINDS
    from igascale.isomers.kinds.vocabulary import OOD_DOMAINS, TRAINING_DOMAINS

    manifest = generate_dataset(
        out,
        groups=groups,
        validation_groups=validation_groups,
        ood_groups=ood_groups,
        domains=domains or TRAINING_DOMAINS,
        ood_domains=ood_domains or OOD_DOMAINS,
        kinds=kinds or tuple(KINDS),
        seed=seed,
        shortcut_probability=shortcut,
        steps=steps or STEPS,
        leaky=leaky,
    )
    for name, record in manifest.files.items():
        _print_summary(f"{out}/{name}", record.summary)


@command.command("validate")
@click.argument("files", nargs=-1, required=True, type=click.Path())
def validate_command(files: tuple[str, ...]) -> None:
    """Check JSONL files line by line and summarise them; the first problem is named with its file, line and field.

    \b
    Example:
      igascale data validate data/demo/train.jsonl data/demo/ood.jsonl
    """
    from igascale.isomers.dataset import validate_file

    for path in files:
        _print_summary(path, validate_file(path))


def _print_summary(path: str, summary: Summary) -> None:
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
