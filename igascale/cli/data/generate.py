"""``igascale data generate``."""

from __future__ import annotations

import click


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if value else None


@click.command("generate")
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
def command(
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
    from igascale.cli.data.summary import print_summary
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
        print_summary(f"{out}/{name}", record.summary)
