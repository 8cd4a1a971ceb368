"""``igascale data seeds``."""

from __future__ import annotations

import click

from igascale.cli.data.problem_options import problem_options


@click.command("seeds")
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="JSONL file to write; must not exist.")
@click.option("--count", default=100, show_default=True, help="Seed problems.")
@problem_options
@click.option("--domain", default="general", show_default=True, help="Domain whose words they are told in.")
@click.option("--seed", default=0, show_default=True)
def command(
    out: str,
    count: int,
    kinds: tuple[str, ...] | None,
    domain: str,
    steps: tuple[int, int] | None,
    width: int,
    paraphrase: str | None,
    seed: int,
) -> None:
    """Write seed problems with known answers, solutions and logical forms: a bank to try the isomer factory on.

    \b
    Examples:
      igascale data seeds --out seeds.jsonl --count 200
      igascale data seeds --out hard.jsonl --kinds all --depth 3 4 --width 2 --paraphrase full
    """
    from collections import Counter
    from contextlib import suppress
    from pathlib import Path

    from igascale.errors import UserError
    from igascale.files import exists
    from igascale.isomers.generated_seeds import generate_with_seeds
    from igascale.isomers.generator import STEPS
    from igascale.isomers.kinds import KINDS, kinds_named
    from igascale.isomers.kinds.wording import PLAIN, Wording
    from igascale.isomers.seeds import write_seeds

    if exists(out):
        raise UserError(f"{out}: already exists; choose another name or delete it")
    pairs = generate_with_seeds(
        count,
        (domain,),
        tuple(KINDS) if kinds is None else kinds_named(kinds),
        seed,
        seed_domain=domain,
        steps=steps or STEPS,
        width=width,
        wording=Wording.parse(paraphrase) if paraphrase is not None else PLAIN,
    )
    seeds = [problem for problem, _ in pairs]
    try:
        write_seeds(out, seeds)
    except OSError as error:
        with suppress(OSError):
            Path(out).unlink(missing_ok=True)
        raise UserError(f"{out}: cannot write this file ({error.strerror}); check the path") from None
    kinds_made = Counter(str(problem.kind) for problem in seeds)
    click.echo(f"{out}: {len(seeds)} seeds; kinds {', '.join(f'{kind} {n}' for kind, n in kinds_made.items())}")
