"""What ``igascale eval`` does with its options."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from igascale.cli.eval_display import Display
from igascale.cli.eval_options import check_options
from igascale.errors import UserError
from igascale.evaluation import checkpoints
from igascale.evaluation.answering import Progress, Share
from igascale.evaluation.layer_names import parse_layers
from igascale.evaluation.perform import check_output, perform
from igascale.evaluation.ranks import perform_on_ranks
from igascale.evaluation.request import Request, parse_benchmarks, read_suites, split_option
from igascale.evaluation.results import RESULT_FILE, SAMPLES_FILE, EvaluationResult
from igascale.evaluation.store import ANSWERS
from igascale.evaluation.watching import Trail
from igascale.locate import Located, locate, locate_run


def evaluate(model: str, options: dict[str, Any]) -> None:
    """One model, adapter, or run's final adapter."""
    share = _share(options)
    served = options["endpoint"] and not Path(model).exists()
    request = _request(model, Located(model) if served else locate(model), options)
    if share.rank == 0:
        check_output(Path(request.out), options["overwrite"])
    with Display() as display:
        result = _perform(request, options, share, display.update, display.say_once)
    if result is None:
        return
    if share.world == 1:  # else another process may still be on its way to them
        shutil.rmtree(Path(request.out) / ANSWERS, ignore_errors=True)
    _show(result, request, display.said)


def evaluate_checkpoints(model: str, options: dict[str, Any]) -> None:
    """``--checkpoint`` and ``--watch``."""
    if options["watch"] and options["checkpoint"]:
        raise UserError("--watch evaluates every checkpoint; leave --checkpoint out")
    if _share(options).world > 1:
        raise UserError("--checkpoint and --watch start their own processes (--num-processes); do without a launcher")
    located = locate_run(model)
    assert located.run is not None
    steps = [] if options["watch"] else checkpoints.choose(located.run, options["checkpoint"])
    request = _request(model, located, options)
    request = replace(request, base=request.base or located.setting("model.path"))
    read_suites(request)  # a broken file is told before anything is waited for
    with Display() as display:

        def perform_one(one: Request, progress: Progress | None) -> EvaluationResult:
            display.restart(f"{one.shown}: ")
            result = _perform(one, options, Share(), progress, display.say_once)
            assert result is not None
            return result

        def row(step: int, result: EvaluationResult) -> None:
            display.show_above(_trail(trail))
            if not display.live:
                display.say(_line(step, result))

        trail = Trail(
            located.run, request, perform_one, options["overwrite"], display.say, row, display.update, options["watch"]
        )
        try:
            state = trail.watch() if options["watch"] else None
            trail.evaluate(steps)
        finally:
            display.close()
            if trail.results:
                _console().print(_trail(trail))
    if options["watch"]:
        click.echo(f"the run is {state}; `igascale eval {model}` evaluates its final adapter")


def _perform(
    request: Request, options: dict[str, Any], share: Share, progress: Progress | None, say: Callable[[str], None]
) -> EvaluationResult | None:
    if options["num_processes"] > 1:
        for note in read_suites(request)[1]:
            say(note)
        return perform_on_ranks(request, options["num_processes"], progress)
    if share.world > 1:
        from igascale.evaluation.loading import device_of_rank

        local = int(os.environ.get("LOCAL_RANK", share.rank))
        request = replace(request, device=device_of_rank(request.device, local))
    return perform(request, share, progress if share.rank == 0 else None, say)


def _share(options: dict[str, Any]) -> Share:
    """This process's part, where torchrun or deepspeed has started several."""
    share = Share(int(os.environ["RANK"]), int(os.environ.get("WORLD_SIZE", 1))) if "RANK" in os.environ else Share()
    if share.world > 1 and options["num_processes"] > 1:
        raise UserError("--num-processes starts processes itself; under torchrun or deepspeed leave it out")
    return share


def _request(model: str, located: Located, options: dict[str, Any]) -> Request:
    chosen = parse_benchmarks(options["benchmarks"], options["subsets"])
    id_file, ood_file, own = options["id_file"], options["ood_file"], located.setting("data.validation")
    if not chosen or id_file or ood_file:
        id_file, ood_file = id_file or own, ood_file or located.setting("data.ood")
        if id_file is None:
            hint = " (the run names none)" if located.run else ""
            hint = hint or ("" if Path(model).exists() else f" (there is no folder {model})")
            raise UserError(f"no groups to evaluate on; give --id FILE or --benchmark NAME=SOURCE{hint}")
    held_out: dict[str, tuple[str, ...]] = {}
    for text in options["held_out"]:
        name, label = split_option("--held-out", text, "LABEL")
        if name not in {choice.name for choice in chosen}:
            raise UserError(f"--held-out {text}: there is no --benchmark {name}=SOURCE")
        held_out[name] = (*held_out.get(name, ()), label)
    if held_out and options["benchmark_split"] == "all":
        raise UserError(
            "--held-out chooses the OOD side, but --benchmark-split all has no sides; leave one of them out"
        )
    generator = "endpoint" if options["endpoint"] else options["generator"]
    check_options(generator, options, isomers=id_file is not None, benchmarks=bool(chosen))
    parse_layers(options["layers"])
    same: tuple[str, ...] = (
        "base",
        "limit_groups",
        "benchmark_split",
        "limit_problems",
        "password",
        "batch_size",
        "max_new_tokens",
    )
    same = (*same, "lcs_text", "dtype", "device", "endpoint", "served_model", "concurrency", "timeout", "sampled")
    return Request(
        model=model,
        shown=model,
        out=str(Path(options["out"]) if options["out"] else (located.run or Path()) / "evaluation"),
        id_file=id_file,
        ood_file=ood_file,
        run=str(located.run) if located.run else None,
        run_data=dict(located.run_config.get("data") or {}),
        own_validation=id_file is not None and id_file == own,
        benchmarks=chosen,
        held_out=held_out,
        lcs_layers=options["layers"],
        generator=generator,
        gir_groups=options["gir_groups"] if options["gir"] else None,
        **{name: options[name] for name in same},
    )


def _show(result: EvaluationResult, request: Request, said: Collection[str]) -> None:
    from igascale.evaluation.tables import evaluation_table

    console = _console()
    console.print(evaluation_table(result, title=request.shown))
    for note in [line for line in str(result.settings["notes"] or "").splitlines() if line not in said]:
        console.print(note, style="bold yellow", soft_wrap=True, highlight=False, markup=False)
    written = f"Written: {Path(request.out) / RESULT_FILE}, {Path(request.out) / SAMPLES_FILE}"
    console.print(written, soft_wrap=True, highlight=False, markup=False)


def _trail(trail: Trail) -> Any:
    from igascale.evaluation.trail_table import trail_table
    from igascale.tables import to_rich

    return to_rich(trail_table(trail.results, f"{trail.run}: checkpoints"))


def _line(step: int, result: EvaluationResult) -> str:
    """A row where there is no terminal: the table comes at the end."""
    sides = [
        f"{name} {side.upper()} {split.accuracy.value:.1%}"
        for name, suite in result.suites.items()
        for side, split in suite.splits.items()
    ]
    return f"step {step}: {', '.join(sides)}"


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(console.width, 120))
