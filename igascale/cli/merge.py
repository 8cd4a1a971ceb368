"""``igascale merge``."""

from __future__ import annotations

import click


@click.command("merge")
@click.argument("adapter", metavar="ADAPTER_OR_RUN")
@click.option("--out", required=True, metavar="DIR", help="New folder for the merged model.")
@click.option("--base", metavar="PATH", help="Base model.  [default: the one the adapter names]")
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Compare the result with base + adapter; needs memory for the whole model in float32.",
)
def command(adapter: str, out: str, base: str | None, verify: bool) -> None:
    """Merge a LoRA adapter into its base model: W = W0 + s*B*A, computed in float32, rounded once.

    The result is a normal Hugging Face folder in safetensors with the base's dtype, file names, configuration
    and tokenizer; it needs neither PEFT nor igascale. One shard of the base is in memory at a time (the
    verification needs more). Nothing is written unless everything succeeds.

    \b
    Examples:
      igascale merge runs/iga --out models/iga-merged
      igascale merge runs/iga/adapter --base models/llama --out models/iga-merged --no-verify
    """
    from rich.console import Console

    from igascale.errors import UserError
    from igascale.locate import base_of, locate

    located = locate(adapter)
    if located.adapter is None:
        raise UserError(f"{adapter} is a whole model, not an adapter; there is nothing to merge")
    resolved = base_of(located, base)

    from igascale.merge import merge_adapter

    report = merge_adapter(resolved, located.adapter, out, verify=verify)
    Console().print(report.describe(), soft_wrap=True, highlight=False, markup=False)
