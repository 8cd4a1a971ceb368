"""``igascale plan``."""

from __future__ import annotations

import click


@click.command("plan")
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1)
@click.option("--method", metavar="NAME", help="A row of the paper's tables, or a control: see `igascale methods`.")
@click.option("--hook", metavar="NAME", help="Another gradient rule with its default options: see `igascale hooks`.")
@click.option("--model", metavar="PATH", help="Folder with the model's config.json (no weights); else model.path.")
@click.option("--nodes", type=click.IntRange(min=1), help="Nodes (1).")
@click.option("--gpus-per-node", type=click.IntRange(min=1), help="GPUs of a node (1).")
@click.option("--gpu", metavar="NAME", help="a100-80gb, h100-80gb, h200-141gb, ...; a wrong name lists them.")
@click.option(
    "--interconnect", type=float, metavar="GB/S", help="Between nodes, per GPU and direction; else the GPU's table."
)
@click.option("--cluster", metavar="FILE", help="YAML: nodes, gpus_per_node, gpu (name or figures), interconnect_gbs.")
@click.option(
    "--tokens", type=click.IntRange(min=2), help="Of an instance; else measured on the data, or data.max_length."
)
@click.option("--mfu", type=click.FloatRange(0, 1, min_open=True), help="Share of the peak FLOPs of the passes (0.4).")
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON, in bytes and seconds.")
def command(
    config: str,
    overrides: tuple[str, ...],
    method: str | None,
    hook: str | None,
    model: str | None,
    nodes: int | None,
    gpus_per_node: int | None,
    gpu: str | None,
    interconnect: float | None,
    cluster: str | None,
    tokens: int | None,
    mfu: float | None,
    as_json: bool,
) -> None:
    """Predict memory, bytes on the wire and time of a run, and whether it fits.

    Needs the model's config.json, but no weights, no GPU and no network. docs/plan.md says what each number means and how far to
    trust it.

    \b
    Examples:
      igascale plan run.yaml --nodes 8 --gpus-per-node 8 --gpu h100-80gb --tokens 512
      igascale plan run.yaml --gpu a100-80gb model.activation_checkpointing=none
      igascale plan run.yaml --cluster ours.yaml --model configs/models/llama-2-13b --json
    """
    from igascale.config import load_config
    from igascale.planning.cluster import read_cluster

    run_config = load_config(config, overrides, method, hook)
    machines = read_cluster(cluster, nodes=nodes, gpus_per_node=gpus_per_node, gpu=gpu, interconnect_gbs=interconnect)

    import json

    from rich.console import Console

    from igascale.planning.plan import make_plan
    from igascale.planning.report import print_plan
    from igascale.planning.timing import MFU

    plan = make_plan(run_config, machines, model or run_config.model.path, tokens, MFU if mfu is None else mfu)
    if as_json:
        click.echo(json.dumps(plan.to_dict(), indent=2))
    else:
        print_plan(plan, Console(highlight=False))
