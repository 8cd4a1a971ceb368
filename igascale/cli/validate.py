"""``igascale validate``."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import click


@click.command("validate")
@click.argument("config", type=click.Path())
@click.argument("overrides", nargs=-1)
@click.option("--method", metavar="NAME", help="A row of the paper's tables, or a control: see `igascale methods`.")
@click.option("--hook", metavar="NAME", help="Another gradient rule with its default options: see `igascale hooks`.")
@click.option("-n", "--num-processes", type=click.IntRange(min=1), default=1, help="Ranks to do the arithmetic for.")
@click.option(
    "--no-model",
    is_flag=True,
    help="Only what needs no model folder and no data: keys, hook, DeepSpeed file.",
)
def command(
    config: str,
    overrides: tuple[str, ...],
    method: str | None,
    hook: str | None,
    num_processes: int,
    no_model: bool,
) -> None:
    """Do everything but train.

    Prints the resolved configuration, the batch arithmetic, the trainable parameters, one sample with its supervised
    tokens marked, and what the hook costs on this model.

    \b
    Examples:
      igascale validate run.yaml --num-processes 2
      igascale validate run.yaml --method lora-sft
    """
    from rich.console import Console
    from rich.syntax import Syntax

    from igascale import assemble
    from igascale.boards import check_boards
    from igascale.config import load_config
    from igascale.engine.ds_config import load_ds_config
    from igascale.tuning.claims import departures, describe_selection

    run_config = load_config(config, overrides, method, hook)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.rule("resolved configuration", align="left")
    console.print(Syntax(run_config.to_yaml(), "yaml", background_color="default"))
    chosen = run_config.selection
    told = (
        describe_selection(chosen.model_dump(), departures(run_config.model_dump()))
        if chosen
        else "not stated (docs/tune.md)"
    )
    console.print(f"selection: {told}")
    rule = assemble.build_hook(run_config)
    check_boards(run_config.logging)
    if run_config.engine.name == "deepspeed":
        load_ds_config(run_config.engine.ds_config, bf16=run_config.model.dtype == "bfloat16")
    for warning in rule.warnings():
        console.print(f"warning: {warning}", style="yellow")
    if no_model:
        console.print("the configuration is valid (model and data were not looked at, so there is no batch arithmetic)")
        return

    import torch

    from igascale.attention import attention_of

    student = assemble.build_student(run_config, torch.device("cpu"))
    data = assemble.load_data(run_config, student.tokenizer)
    assemble.check_domains(run_config, rule, data.domains)
    for warning in data.warnings:
        console.print(f"warning: {warning}", style="yellow")
    assemble.check_room(data, student.model)
    _arithmetic(console, run_config, data, num_processes)
    packing = "; train.packing is compared with separate rows when training starts" if run_config.train.packing else ""
    console.print(f"attention: {attention_of(student.model)}{packing}")
    total = sum(p.numel() for p in student.model.parameters())
    console.rule("trainable parameters", align="left")
    shapes = sorted({(a.out_features, a.in_features, a.rank) for a in student.adapters.values()})
    console.print(
        f"{student.trainable:,} of {total:,} ({student.trainable / total:.2%}) in {len(student.adapters)} adapters; "
        f"shapes (out x in, rank): {', '.join(f'{o}x{i}, {r}' for o, i, r in shapes)}"
    )
    _sample(console, student, data)
    _hook_cost(console, rule, student, data.train.domains, run_config.seed)
    console.print("everything but training works", style="green")


def _arithmetic(console: Any, run_config: Any, data: Any, num_processes: int) -> None:
    import numpy as np

    from igascale.assemble import micro_batch_size
    from igascale.isomers.batches import shard_groups

    console.rule("batch arithmetic", align="left")
    groups = run_config.groups_per_step
    share = max(len(shard_groups(list(range(groups)), rank, num_processes)) for rank in range(num_processes))
    domains = data.train.domains
    width = data.train.width
    size = micro_batch_size(run_config, share, width)
    steps = -(-share * width // size)
    console.print(f"domains: {', '.join(domains)}{_arrangement(run_config.data, data)}")
    console.print(
        f"one optimizer step = {groups} groups = {groups * width} instances; with {num_processes} process(es) "
        f"{'at most ' if groups % num_processes else ''}{share} groups each, in {steps} forward pass(es) of {size} instances"
    )
    left = len(data.train.groups) - data.schedule.steps_per_epoch * groups
    console.print(
        f"{len(data.train.groups)} training groups = {data.schedule.steps_per_epoch} steps per epoch"
        + (f" ({left} groups, other ones each epoch, are left over)" if left else "")
        + f"; {data.total_steps} steps in all"
    )
    for split in (data.train, data.validation, data.ood):
        if split is not None:
            lengths = np.sort(split.lengths(), axis=None)
            cut = f", {split.truncated} cut at data.max_length: they lose their answer" if split.truncated else ""
            console.print(
                f"{split.source}: {len(split.groups)} groups x {split.width} instances of {len(split.domains)} domain(s), "
                f"tokens median {lengths[len(lengths) // 2]}, longest {lengths[-1]}{cut}"
            )


def _arrangement(section: Any, data: Any) -> str:
    """What a training group is, where it is not a group of isomers."""
    if section.pairing != "isomers":
        return f" (data.pairing: {section.pairing})"
    if section.pool == "groups":
        return ""
    return f" (data.pool: {section.pool}, told in {', '.join(data.domains)}; a group is {data.train.width} unrelated instances)"


def _sample(console: Any, student: Any, data: Any) -> None:
    from igascale.cli.data.rendered import print_marked

    console.rule("one sample; the loss is on the marked tokens", align="left")
    print_marked(console, student.tokenizer, data.train.groups[0][0])


def _hook_cost(console: Any, hook: Any, student: Any, domains: tuple[str, ...], seed: int) -> None:
    """Time the rule on random gradients of the model's own shapes, beside the plain mean."""
    import torch

    from igascale import hooks
    from igascale.engine.base import factor_parameters, factor_tensors
    from igascale.errors import UserError
    from igascale.hooks.base import AdapterFactors, DomainFactorGrads, HookContext
    from igascale.step import check_result, run_hook

    generator = torch.Generator().manual_seed(seed)
    grads, factors = {}, {}
    for fqn, adapter in student.adapters.items():
        a, b = adapter.A.detach().float(), adapter.B.detach().float()
        factors[fqn] = AdapterFactors(a, torch.randn(b.shape, generator=generator) * 0.01, adapter.scaling)
        grads[fqn] = DomainFactorGrads(
            torch.randn(len(domains), *a.shape, generator=generator) * adapter.A.requires_grad,
            torch.randn(len(domains), *b.shape, generator=generator),
            torch.full((2, len(domains), len(domains)), torch.nan, dtype=torch.float64) if hook.uses_noise else None,
        )
    losses = torch.ones(len(domains), dtype=torch.float64)
    shapes = {fqn: (a.out_features, a.in_features, a.rank) for fqn, a in student.adapters.items()}
    trained = factor_parameters(student.adapters)
    seconds = {}
    for rule in (hook, hooks.build("mean", {})):
        times = []
        for step in range(3):
            started = time.perf_counter()
            context = HookContext(step, domains, losses, seed=seed, shapes=shapes)
            if rule.auxiliary:
                context = replace(context, aux=grads, aux_values=losses)
            result = run_hook(rule, grads, factors, context)
            check_result(result, grads, rule)
            factor_tensors(result, trained)  # refuses a gradient for a factor that is frozen
            if not all(bool(torch.isfinite(t).all()) for g in result.values() for t in (g.a, g.b)):
                raise UserError(
                    f"hook '{type(rule).__name__}' returns a gradient that is not finite for finite gradients"
                )
            times.append(time.perf_counter() - started)
        seconds[rule] = min(times)
    mean = list(seconds.values())[-1]
    console.rule("hook cost", align="left")
    console.print(
        f"combining {len(grads)} adapters on one process takes {seconds[hook]:.3f} s a step "
        f"(plain mean: {mean:.3f} s); the ranks share it"
    )
