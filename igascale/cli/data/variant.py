"""``igascale data variant``."""

from __future__ import annotations

import click

from igascale.cli.data.problem_options import names

KINDS = ("random-pairing", "single-domain", "n-domains", "leaky")


@click.command("variant")
@click.argument("file", type=click.Path())
@click.option("--kind", required=True, type=click.Choice(KINDS))
@click.option("--out", required=True, type=click.Path(), help="Folder to write; must be new or empty.")
@click.option("--seed", type=int, help="random-pairing: the run's seed; leaky: chooses groups [default: 0].")
@click.option("--num-domains", type=int, help="n-domains: the first so many stay.")
@click.option("--domains", callback=names, help="n-domains: those that stay, comma-separated.")
@click.option("--domain", help="single-domain: the one that stays [default: first]; leaky: held out [default: last].")
@click.option("--fraction", type=float, help="leaky: share of the groups told again in ood.jsonl [default: 0.2].")
def command(
    file: str,
    kind: str,
    out: str,
    seed: int | None,
    num_domains: int | None,
    domains: tuple[str, ...] | None,
    domain: str | None,
    fraction: float | None,
) -> None:
    """Write an ablation of FILE as data: what data.pairing or data.num_domains would train on, or a leaky split.

    \b
    Examples:
      igascale data variant data/demo/train.jsonl --kind random-pairing --out data/paired
      igascale data variant data/demo/train.jsonl --kind n-domains --num-domains 2 --out data/two
      igascale data variant data/demo/train.jsonl --kind leaky --domain science --out data/leaky
    """
    from igascale.cli.data.summary import print_summary
    from igascale.isomers.variants import VariantOptions, write_variant

    options = VariantOptions(domain, domains, num_domains, fraction, seed)
    manifest = write_variant(file, out, kind, options)
    for name, record in manifest.files.items():
        print_summary(f"{out}/{name}", record.summary)
    click.echo(manifest.use)
