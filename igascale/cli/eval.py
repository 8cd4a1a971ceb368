"""``igascale eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from igascale.isomers.schema import IsomerGroup


@click.command("eval")
@click.argument("model", metavar="MODEL_OR_ADAPTER_OR_RUN")
@click.option("--id", "id_file", metavar="FILE", help="Held-out groups of the training domains (JSONL).")
@click.option("--ood", "ood_file", metavar="FILE", help="Groups of domains that training never saw (JSONL).")
@click.option("--base", metavar="PATH", help="Base model of an adapter.  [default: the one the adapter names]")
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(min=1), help="Sequences at a time.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    help="Limit per answer.  [default: 512, or what the model has room for]",
)
@click.option("--limit-groups", type=click.IntRange(min=1), help="Only the first N groups of each file.")
@click.option(
    "--lcs-text",
    default="prompt",
    show_default=True,
    type=click.Choice(["prompt", "full"]),
    help="Whose tokens LCS averages: the problem, or problem and reference solution.",
)
@click.option(
    "--layers",
    default="penultimate",
    show_default=True,
    metavar="LIST",
    help="Where LCS is measured, in one pass: penultimate, last, all, table5 (layers 8, 16, 24 and 31 of 32, as deep in other "
    "models), numbers from 0 (embeddings) on, or shares of the depth (0.5), with commas between.",
)
@click.option(
    "--gir", is_flag=True, help="Also how much the domains' gradients of the adapter disagree (docs/consistency.md)."
)
@click.option(
    "--gir-groups",
    default=32,
    show_default=True,
    type=click.IntRange(min=1),
    help="Groups of each set that --gir averages; of few, most of it is sampling noise, whose share is shown.",
)
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    help="Precision to compute in; auto is the stored one.",
)
@click.option("--device", help="cpu, cuda, cuda:1, ...  [default: a CUDA GPU where there is one]")
@click.option("--out", metavar="DIR", help="Where the result goes.  [default: RUN/evaluation, or evaluation/]")
@click.option("--overwrite", is_flag=True, help="Replace an earlier evaluation in the output folder.")
def command(
    model: str,
    id_file: str | None,
    ood_file: str | None,
    base: str | None,
    batch_size: int,
    max_new_tokens: int | None,
    limit_groups: int | None,
    lcs_text: str,
    layers: str,
    gir: bool,
    gir_groups: int,
    dtype: str,
    device: str | None,
    out: str | None,
    overwrite: bool,
) -> None:
    """Measure accuracy in and out of distribution, the gap between them, and LCS.

    MODEL_OR_ADAPTER_OR_RUN is a model folder or Hub id, a PEFT adapter folder, or a run folder, whose final
    adapter and data files are then the defaults. Answers are decoded greedily; chance (always giving the most
    frequent answer) and 95% intervals stand beside every accuracy.

    \b
    Examples:
      igascale eval runs/iga
      igascale eval runs/iga/adapter --id data/validation.jsonl --ood data/ood.jsonl --out results/iga
      igascale eval meta-llama/Llama-3.2-1B --id data/validation.jsonl --limit-groups 50
      igascale eval runs/iga --layers table5 --lcs-text full

    Writes evaluation.json (the numbers) and samples.jsonl (every answer).
    """
    from igascale.errors import UserError
    from igascale.evaluation.layer_names import parse_layers
    from igascale.evaluation.results import RESULT_FILE, SAMPLES_FILE, write_result
    from igascale.locate import locate

    parse_layers(layers)
    located = locate(model)
    id_file = id_file or located.setting("data.validation")
    ood_file = ood_file or located.setting("data.ood")
    if id_file is None:
        hint = (
            " (the run names none)" if located.run else "" if Path(model).exists() else f" (there is no folder {model})"
        )
        raise UserError(f"no groups to evaluate on; give --id FILE{hint}")
    folder = Path(out) if out else (located.run / "evaluation" if located.run else Path("evaluation"))
    if not overwrite:
        for name in (RESULT_FILE, SAMPLES_FILE):
            if (folder / name).exists():
                raise UserError(f"{folder / name} exists; choose another --out, or pass --overwrite")
    # Read before the model is loaded: a broken file should not cost minutes.
    id_groups, ood_groups = _read(id_file, limit_groups), _read(ood_file, limit_groups) if ood_file else None
    notes: list[str] = []
    if located.run:
        from igascale.evaluation.of_run import in_distribution, leakage_note

        section = located.run_config.get("data", {})
        if id_file == located.setting("data.validation"):
            id_groups, notes = in_distribution(id_groups, section)
        notes += leakage_note(section)

    from igascale.evaluation.consistency import lcs_remarks
    from igascale.evaluation.evaluate import evaluate_model, load_for_evaluation
    from igascale.evaluation.residual import gir_remarks
    from igascale.evaluation.tables import evaluation_table

    loaded, tokenizer = load_for_evaluation(model, base=base, dtype=dtype, device=device)
    from rich.console import Console

    console = Console()
    with _Bar() as bar:
        result = evaluate_model(
            loaded,
            tokenizer,
            id_groups,
            ood_groups,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            lcs_text=lcs_text,
            lcs_layers=layers,
            gir_groups=gir_groups if gir else None,
            progress=bar.update,
        )
    result.settings.update({"model": model, "id_file": id_file, "ood_file": ood_file, "limit_groups": limit_groups})
    result.settings["notes"] = "; ".join(notes) or None
    write_result(result, folder)
    console.print(evaluation_table(result, title=model))
    for note in notes + lcs_remarks(result) + gir_remarks(result):
        console.print(note, style="bold yellow", soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"Written: {folder / RESULT_FILE}, {folder / SAMPLES_FILE}", soft_wrap=True, highlight=False, markup=False
    )


def _read(file: str, limit: int | None) -> list[IsomerGroup]:
    from igascale.isomers.schema import read_groups

    return read_groups(Path(file))[:limit]


class _Bar:
    """A progress bar on stderr with one line per stage."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, TaskID

        self._progress = Progress(console=Console(stderr=True), transient=True)
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done)
