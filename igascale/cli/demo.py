"""``igascale demo``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("demo")
@click.option("--out", default="runs/demo", show_default=True, type=click.Path(path_type=Path), help="Folder to write.")
@click.option("--seed", default=0, show_default=True)
@click.option("--fresh", is_flag=True, help="Remove an earlier demo in that folder first.")
@click.option("--quick", is_flag=True, help="A minute instead of four: everything runs, nothing is learnt well.")
def command(out: Path, seed: int, fresh: bool, quick: bool) -> None:
    """Watch everything happen on a small model, on CPU cores alone, in about four minutes.

    Generates isomer groups, trains a tokenizer and a small Llama, fine-tunes it with LoRA under DeepSpeed ZeRO-2 on two
    processes with the hooks mean (ERM), iga and iga preset=paper, evaluates all of them in and out of distribution,
    merges one adapter, writes a report and prints one table.

    \b
    Example:
      igascale demo --out runs/demo --fresh
    """
    from igascale.demo.run import DemoSettings, run_demo

    small = DemoSettings(groups=200, validation_groups=20, ood_groups=20, base_steps=40, train_steps=4)
    run_demo(out, small if quick else DemoSettings(), seed, fresh)
