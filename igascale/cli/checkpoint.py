"""``igascale checkpoint ls|verify|show|import``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from igascale.cli import checkpoint_import

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

    from igascale.checkpoints.inspect import Row
    from igascale.checkpoints.manifest import Damaged


@click.group("checkpoint")
def command() -> None:
    """Look at checkpoints: list a run's, verify every file, show what one holds; or bring one in from DeepSpeed."""


command.add_command(checkpoint_import.command)


@command.command("ls")
@click.argument("run", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def ls(run: str, as_json: bool) -> None:
    """List a run's checkpoints; every file is read and compared with the manifest.

    \b
    Example:
      igascale checkpoint ls runs/first
    """
    from igascale.checkpoints import names
    from igascale.checkpoints.inspect import checkpoints_root, examine_path

    root = checkpoints_root(Path(run))
    rows, problems = examine_path(root)
    pointers = {which: names.read_pointer(root, which) for which in (names.LATEST, names.BEST)}
    marks = {row.folder.name: {which: name == row.folder.name for which, name in pointers.items()} for row in rows}
    aside = sorted(p.name for p in root.glob("step-*.damaged*"))
    unfinished = sorted(p.name for p in root.glob(".step-*.tmp") if not p.name.endswith(".old.tmp"))
    if as_json:
        told = {
            "checkpoints": [row.to_dict() | marks[row.folder.name] for row in rows],
            "problems": _faults(problems),
            "set_aside": aside,
            "unfinished": unfinished,
        }
        click.echo(json.dumps(told, indent=1))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    console.print(_table(rows, marks) if rows else f"no checkpoint in {root}")
    for problem in [*problems, *(p for row in rows for p in row.problems)]:
        console.print(f"damaged: {problem}", style="red", markup=False)
    for name in aside:
        console.print(f"set aside as damaged: {root / name}", markup=False)
    for name in unfinished:
        console.print(f"unfinished: {root / name} (a save that is under way, or died there)", markup=False)


def _table(rows: list[Row], marks: dict[str, dict[str, bool]]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("step", "age", "size", "ranks", "in-domain loss", "state", ""):
        table.add_column(title, justify="left" if title in ("state", "") else "right")
    for row in rows:
        table.add_row(
            str(row.step),
            "" if row.age_seconds is None else _age(row.age_seconds),
            "" if row.bytes is None else _size(row.bytes),
            str(row.world_size or ""),
            "" if row.validation_loss is None else f"{row.validation_loss:.4f}",
            "[green]valid[/]" if not row.problems else "[red]damaged[/]",
            ", ".join(which for which, marked in marks[row.folder.name].items() if marked),
        )
    return table


@command.command("verify")
@click.argument("paths", nargs=-1, required=True, type=click.Path(), metavar="RUN_OR_CHECKPOINT...")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def verify(paths: tuple[str, ...], as_json: bool) -> None:
    """Compare every file with the manifest: 0 if all are as written, 1 if any is damaged, missing or too many.

    \b
    Examples:
      igascale checkpoint verify runs/first
      igascale checkpoint verify runs/first/checkpoints/step-00000200 --json
    """
    from igascale.checkpoints.inspect import examine_path

    rows: list[Row] = []
    problems = []
    for path in paths:
        some, faults = examine_path(Path(path))
        rows += some
        problems += faults
    if as_json:
        told = {"checkpoints": [row.to_dict() for row in rows], "problems": _faults(problems)}
        click.echo(json.dumps(told, indent=1))
    else:
        for row in rows:
            if not row.problems:
                click.secho(f"valid    {row.folder}: {row.files} files, {_size(row.bytes or 0)}", fg="green")
        for problem in [*problems, *(p for row in rows for p in row.problems)]:
            click.secho(f"damaged  {problem}", fg="red")
        if not rows:
            click.echo("no checkpoint there")
    if problems or any(row.problems for row in rows):
        sys.exit(1)


@command.command("show")
@click.argument("checkpoint", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show(checkpoint: str, as_json: bool) -> None:
    """Say what a checkpoint holds: step, counters, sizes, the hook's state, how its configuration differs from the run's.

    \b
    Example:
      igascale checkpoint show runs/first/checkpoints/latest
    """
    from igascale.checkpoints.find import resolve
    from igascale.checkpoints.inspect import facts

    folder = resolve(Path(checkpoint))
    told = facts(folder)
    if as_json:
        click.echo(json.dumps(told, indent=1))
        return
    click.echo(f"{folder}")
    for line in _lines(told):
        click.echo(f"  {line}")


def _lines(told: dict[str, Any]) -> list[str]:
    hook, differences = told["hook_state"], told["differs_from_run"]
    parts = [f"{told['trained_tensors']} trained tensors of {told['trainable_parameters']:,} parameters in all"]
    if told["bytes_per_parameter"] is not None:
        parts.append(f"{told['bytes_per_parameter']:.2f} bytes per trainable parameter, the hook's state not counted")
    loss = told["validation_loss"]
    lines = [
        f"step {told['step']}, {told['optimizer_steps']} optimizer steps taken, written by {told['world_size']} rank(s)",
        "in-domain loss: " + ("not validated at this step" if loss is None else f"{loss:.6f}"),
        "counters: " + ", ".join(f"{key} {value}" for key, value in told["counters"].items()),
        f"{_size(told['bytes'])} in {len(told['files'])} files: {', '.join(parts)}",
        *(f"  {name}: {size:,} bytes" for name, size in told["files"].items()),
        f"hook {(told['hook'] or {}).get('name')}: "
        + (
            f"state {', '.join(hook['keys'])} ({_size(hook['tensor_bytes'])} of tensors)"
            if hook["keys"]
            else "no state"
        ),
        f"training data SHA-256 {told['data_sha256']}",
    ]
    if differences is None:
        lines.append("no run's config.yaml beside it to compare with")
    else:
        lines.append(
            "configuration: " + ("that of the run" if not differences else "differs from the run's config.yaml:")
        )
        lines += [f"  {key}: {before!r} here, {now!r} in the run" for key, (before, now) in differences.items()]
    return lines


def _faults(problems: Iterable[Damaged]) -> list[dict[str, str]]:
    return [{"file": str(p.file), "reason": p.reason} for p in problems]


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"
