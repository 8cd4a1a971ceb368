"""``igascale eval``."""

from __future__ import annotations

import sys
from typing import Any

import click


@click.command("eval")
@click.argument("model", metavar="MODEL_OR_ADAPTER_OR_RUN")
@click.option("--id", "id_file", metavar="FILE", help="Held-out groups of the training domains (JSONL).")
@click.option("--ood", "ood_file", metavar="FILE", help="Groups of domains that training never saw (JSONL).")
@click.option("--limit-groups", type=click.IntRange(min=1), help="Only the first N groups of each file.")
@click.option(
    "--benchmark",
    "benchmarks",
    multiple=True,
    metavar="NAME=SOURCE",
    help="A public benchmark and its file, folder or Hub id (igascale data benchmark NAME says how to get it); repeatable. "
    "The run's own files are then left out, unless --id names them.",
)
@click.option("--subset", "subsets", multiple=True, metavar="NAME=SPLIT", help="Only this published split; repeatable.")
@click.option(
    "--benchmark-split",
    default="sides",
    show_default=True,
    type=click.Choice(["sides", "all"]),
    help="ID and OOD apart, as far as the public files allow it, or all problems together.",
)
@click.option(
    "--held-out",
    multiple=True,
    metavar="NAME=LABEL",
    help="Make this subject or reasoning type the OOD side instead, and all others ID; repeatable.",
)
@click.option("--limit-problems", type=click.IntRange(min=1), help="At most N problems of each side of a benchmark.")
@click.option("--password", help="Of an encrypted zip archive (ReClor).")
@click.option("--base", metavar="PATH", help="Base model of an adapter.  [default: the one the adapter names]")
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(min=1), help="Sequences at a time.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    help="Limit per answer.  [default: 512, or what the model has room for]",
)
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
@click.option(
    "--num-processes",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Share the answering between so many processes on this machine; on GPUs one each.",
)
@click.option(
    "--endpoint", metavar="URL", help="Let an OpenAI-compatible server answer (key: IGASCALE_EVAL_KEY); no LCS."
)
@click.option("--served-model", metavar="NAME", help="What the server calls the model.  [default: as given first]")
@click.option("--concurrency", default=32, show_default=True, type=click.IntRange(min=1), help="Requests at a time.")
@click.option(
    "--timeout",
    default=600.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds for one request to the server.",
)
@click.option("--sampled", is_flag=True, help="Leave the temperature to the server, for models that take none.")
@click.option(
    "--generator",
    default="local",
    show_default=True,
    type=click.Choice(["local", "vllm"]),
    help="What answers: this package, or vLLM in this process (no LCS).",
)
@click.option("--checkpoint", metavar="STEP|latest|best|all", help="Checkpoints of a run instead of its final adapter.")
@click.option("--watch", is_flag=True, help="Each checkpoint of a run as it is written, until the run ends.")
@click.option("--out", metavar="DIR", help="Where the result goes.  [default: RUN/evaluation, or evaluation/]")
@click.option("--overwrite", is_flag=True, help="Replace an earlier evaluation in the output folder.")
def command(model: str, **options: Any) -> None:
    """Measure accuracy in and out of distribution, the gap between them, and LCS.

    MODEL_OR_ADAPTER_OR_RUN is a model folder or Hub id, a PEFT adapter folder, or a run folder, whose final
    adapter and data files are then the defaults. Answers are decoded greedily; chance (always giving the most
    frequent answer) and 95% intervals stand beside every accuracy.

    \b
    Examples:
      igascale eval runs/iga
      igascale eval runs/iga/adapter --id data/validation.jsonl --ood data/ood.jsonl --out results/iga
      igascale eval meta-llama/Llama-3.2-1B --id data/validation.jsonl --limit-groups 50
      igascale eval runs/iga --benchmark math=MATH/test --benchmark logiqa2=LogiQA2.0 --out results/public
      igascale eval runs/iga --layers table5 --gir
      igascale eval runs/iga --endpoint http://localhost:8000/v1 --served-model iga
      igascale eval runs/iga --checkpoint all
      igascale eval runs/iga --watch                        beside the training, until it ends

    Writes evaluation.json (the numbers) and samples.jsonl (every answer); of checkpoints, into a folder each
    (step-00000120). Interrupted, even by kill -9, the same command goes on. docs/evaluation.md says more.
    """
    from igascale.cli.eval_options import given_options
    from igascale.cli.eval_run import evaluate, evaluate_checkpoints

    options["given"] = given_options(click.get_current_context())
    try:
        (evaluate_checkpoints if options["watch"] or options["checkpoint"] else evaluate)(model, options)
    except KeyboardInterrupt:
        click.echo("stopped; what was answered is kept: the same command goes on", err=True)
        sys.exit(0 if options["watch"] else 130)
