"""``igascale data generate``."""

from __future__ import annotations

import click

from igascale.cli.data.problem_options import names, problem_options


@click.command("generate")
@click.option("--out", required=True, type=click.Path(), help="Folder to write; must be new or empty.")
@click.option("--groups", default=2000, show_default=True, help="Training groups.")
@click.option("--validation-groups", default=200, show_default=True, help="Held-out groups of the same domains.")
@click.option("--ood-groups", default=200, show_default=True, help="Groups told in unseen domains.")
@click.option(
    "--domains",
    callback=names,
    help="Training domains, comma-separated [default: maths, medicine, law, science].",
)
@click.option("--ood-domains", callback=names, help="Unseen domains [default: finance, engineering].")
@problem_options
@click.option(
    "--shortcut",
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Plant a cue that tells the answer with probability P.",
)
@click.option(
    "--shortcut-kind",
    default="lexical",
    show_default=True,
    help="What the cue is: lexical (a code word), position (of the answer among options), length, name (its form).",
)
@click.option(
    "--shortcut-mapping",
    default="domain",
    show_default=True,
    help="domain: the cue means something else in every domain; shared: the same in all training domains.",
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
    width: int,
    paraphrase: str | None,
    shortcut: float | None,
    shortcut_kind: str,
    shortcut_mapping: str,
    seed: int,
    leaky: bool,
) -> None:
    """Generate a data set without a teacher: train, validation (ID) and ood files and a manifest.

    \b
    Examples:
      igascale data generate --out data/demo
      igascale data generate --out data/cue --groups 500 --shortcut 0.9 --kinds ordering,selection
      igascale data generate --out data/hard --kinds all --depth 3 4 --width 2 --paraphrase full
      igascale data generate --out data/length --shortcut 0.9 --shortcut-kind length --shortcut-mapping shared
    """
    from igascale.cli.data.summary import print_summary
    from igascale.isomers.dataset import generate_dataset
    from igascale.isomers.generator import STEPS
    from igascale.isomers.kinds import KINDS, kinds_named
    from igascale.isomers.kinds.vocabulary import OOD_DOMAINS, TRAINING_DOMAINS

    manifest = generate_dataset(
        out,
        groups=groups,
        validation_groups=validation_groups,
        ood_groups=ood_groups,
        domains=TRAINING_DOMAINS if domains is None else domains,
        ood_domains=OOD_DOMAINS if ood_domains is None else ood_domains,
        kinds=tuple(KINDS) if kinds is None else kinds_named(kinds),
        seed=seed,
        shortcut_probability=shortcut,
        steps=steps or STEPS,
        leaky=leaky,
        width=width,
        paraphrase=paraphrase,
        shortcut_kind=shortcut_kind,
        shortcut_mapping=shortcut_mapping,
    )
    for name, record in manifest.files.items():
        print_summary(f"{out}/{name}", record.summary)
