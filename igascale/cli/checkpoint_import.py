"""``igascale checkpoint import``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("import")
@click.argument("folder", type=click.Path(), metavar="DEEPSPEED_UNIVERSAL_FOLDER")
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1)
@click.option("--method", metavar="NAME", help="As in `igascale train`.")
@click.option("--hook", metavar="NAME", help="As in `igascale train`.")
@click.option(
    "--step", type=click.IntRange(min=0), metavar="N", help="Place in this run [default: the optimizer's steps]."
)
@click.option("--optimizer-steps", type=click.IntRange(min=0), metavar="N", help="Where the files do not say it.")
def command(
    folder: str,
    config: str,
    overrides: tuple[str, ...],
    method: str | None,
    hook: str | None,
    step: int | None,
    optimizer_steps: int | None,
) -> None:
    """Begin a run from a LoRA training under DeepSpeed: its masters and both moments, from a universal checkpoint.

    Writes the run folder of CONFIG with one checkpoint, from which `--resume auto` goes on. Learning rate and data continue at
    --step of CONFIG's own schedule; a hook with a state begins without one. The files are pickles and are read by PyTorch's
    restricted reader only.

    \b
    Example:
      python -m deepspeed.checkpoint.ds_to_universal --input_folder out/global_step500 \\
          --output_folder out/universal --inject_missing_state
      igascale checkpoint import out/universal run.yaml
      igascale launch run.yaml --num-processes 8 --resume auto
    """
    from igascale.config import load_config
    from igascale.resuming.importing import import_universal

    run_config = load_config(config, overrides, method, hook)
    written = import_universal(Path(folder), run_config, step, optimizer_steps, click.echo)
    click.echo(f"imported step {written}; go on with --resume auto")
