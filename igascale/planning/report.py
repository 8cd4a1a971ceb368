"""The tables of ``igascale plan``."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from igascale.planning.plan import Plan

_PHASES = {
    "resident": "all the time",
    "backward": "forward and backward pass",
    "combine": "combining, after the last backward pass",
}


def print_plan(plan: Plan, console: Console) -> None:
    """Print everything: what was read, three tables, the verdict, the assumptions."""
    for line in _header(plan):
        console.print(line)
    for table in (_memory_table(plan), _wire_table(plan), _time_table(plan)):
        console.print("")
        console.print(table)
    console.print(_overhead(plan))
    console.print("")
    console.print(plan.verdict.text, style="bold green" if plan.verdict.fits else "bold red")
    if plan.verdict.remedy:
        console.print(plan.verdict.remedy)
    console.print("\nassumptions", style="bold")
    for assumption in plan.assumptions:
        console.print(f"- {assumption}")


def _header(plan: Plan) -> Iterator[str]:
    shapes, batch, cluster = plan.shapes, plan.batch, plan.cluster
    yield (
        f"model    {shapes.base_parameters / 1e9:.2f} B parameters, {shapes.layers} layers; P = "
        f"{shapes.lora_parameters / 1e6:.1f} M LoRA parameters in {len(shapes.adapters)} adapters"
    )
    network = f", {cluster.ring_gbs:g} GB/s between nodes" if cluster.nodes > 1 else f", {cluster.ring_gbs:g} GB/s"
    yield f"cluster  {cluster.nodes} x {cluster.gpus_per_node} {cluster.gpu_name} = {cluster.ranks} ranks{network}"
    yield (
        f"step     D = {batch.domains} domains; {batch.instances} instances a rank in {batch.micro_steps} x {batch.micro_batch}; "
        f"{batch.tokens:.0f} tokens each; checkpointing: {plan.checkpointing}"
    )


def _memory_table(plan: Plan) -> Table:
    table = _table("memory on each GPU, GiB", "", "now", "if weights were sharded (not available yet)")
    table.columns[2].width = 24
    for phase, title in _PHASES.items():
        table.add_row(f"[bold]{title}[/]", *(_gib(plan.memory.phase(phase, sharded)) for sharded in (False, True)))
        for line in plan.memory.lines:
            if line.phase == phase:
                table.add_row(f"  {line.name}", _gib(line.bytes), _gib(line.sharded), style="dim")
    table.add_section()
    totals = [_gib(plan.memory.total(sharded)) for sharded in (False, True)]
    table.add_row("[bold]needed: all the time + the larger of the two phases[/]", *totals)
    table.add_row("there is", *[_gib(plan.cluster.gpu.memory_bytes)] * 2)
    return table


def _wire_table(plan: Plan) -> Table:
    table = _table("on the wire, each optimizer step", "", "operations", "payload, MB", "sent by each GPU, MB")
    for name, transfers in plan.wire.items():
        total = (sum(t.calls for t in transfers), sum(t.payload for t in transfers), sum(t.sent for t in transfers))
        table.add_row(f"[bold]{name}[/]", str(total[0]), _mb(total[1]), _mb(total[2]))
        for transfer in transfers:
            table.add_row(
                f"  {transfer.name}", str(transfer.calls), _mb(transfer.payload), _mb(transfer.sent), style="dim"
            )
    return table


def _time_table(plan: Plan) -> Table:
    table = _table("time of one optimizer step, s", "", *(time.name for time in plan.times))
    for key, title in (
        ("forward", "forward"),
        ("backward", "backward"),
        ("recompute", "recomputed by activation checkpointing"),
        ("wire", "on the wire"),
        ("combine", "combining"),
        ("optimizer", "AdamW"),
        ("total", "[bold]step[/]"),
    ):
        table.add_row(title, *(_seconds(getattr(time, key)) for time in plan.times))
    batch = plan.batch
    if batch.steps_per_epoch:
        table.add_row(
            f"epoch, {batch.steps_per_epoch} steps, h", *(_hours(batch.steps_per_epoch * t.total) for t in plan.times)
        )
    if batch.steps:
        table.add_row(f"run, {batch.steps} steps, h", *(_hours(batch.steps * t.total) for t in plan.times))
    return table


def _overhead(plan: Plan) -> str:
    plain, rule = plan.times[0], plan.times[-1]
    ratios = {"plain DeepSpeed": rule.total / plain.total - 1}
    if len(plan.times) > 2:  # else the rule is the mean itself
        ratios = {"igascale's mean": plan.overhead} | ratios
    text = f"{rule.name}: " + ", ".join(f"{ratio:+.2%} of {name}" for name, ratio in ratios.items())
    if plan.batch.steps is None:
        text += "; time per epoch: data.train is not there, so the number of groups is not known"
    return text


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.2f}"


def _mb(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:.1f}" if num_bytes >= 1e5 else f"{num_bytes / 1e6:.1g}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.4f}" if seconds < 0.1 else f"{seconds:.3f}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2f}"
