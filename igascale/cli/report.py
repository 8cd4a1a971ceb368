"""``igascale report``."""

from __future__ import annotations

from pathlib import Path

import click

_FORMATS = "html,png,csv,md,tex"


@click.command("report")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where to.  [default: RUN/report, or report/ for several]",
)
@click.option(
    "--formats", metavar="LIST", default=_FORMATS, show_default=True, help="What to write, with commas between."
)
@click.option("--overwrite", is_flag=True, help="Replace an earlier report in the output folder.")
def command(runs: tuple[Path, ...], out: Path | None, formats: str, overwrite: bool) -> None:
    """Show what runs did and how well they answer: one page, and files for a paper.

    The page needs no network and no other file. It begins with accuracy, its intervals and what must be known before believing
    it; then come consistency, losses, what the hook did to the gradient, the conflict atlas (layer × projection, by step), cosines between
    domains, and samples side by side. Every figure is also a PNG (which takes a Chrome or Chromium) and a CSV. What a run lacks is said
    in its place, with the command that makes it; runs may still be going on.

    \b
    Examples:
      igascale report runs/iga
      igascale report runs/mean runs/iga runs/iga-mixed --out reports/first
      igascale report runs/iga --formats html --overwrite

    Writes report.html, figures/*.png, data/*.csv, and tables/ as CSV, Markdown and LaTeX.
    """
    from igascale.errors import UserError, did_you_mean
    from igascale.isomers.inspection.side_by_side import visible
    from igascale.report.write import FORMATS, PAGE, write_report

    wanted = [name.strip().lower() for name in formats.split(",") if name.strip()]
    for name in wanted:
        if name not in FORMATS:
            raise UserError(
                f"--formats: unknown format '{name}'; known: {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}"
            )
    if not wanted:
        raise UserError(f"--formats names nothing to write; known: {', '.join(FORMATS)}")
    folder = out or (runs[0] / "report" if len(runs) == 1 else Path("report"))
    written = write_report(runs, folder, wanted, overwrite)
    for note in written.notes:
        click.secho(f"warning: {note}", err=True, fg="yellow")
    for line in written.missing:
        click.echo(f"not shown: {visible(line)}")
    counts = {kind: sum(name.endswith(f".{kind}") for name in written.files) for kind in FORMATS}
    told = ", ".join(f"{count} {kind.upper()}" for kind, count in counts.items() if count and kind != "html")
    where = folder / PAGE if counts["html"] else folder
    click.echo(f"Written: {where}" + (f" ({told} beside it)" if told else ""))
