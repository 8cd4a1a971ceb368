"""``igascale data benchmark``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from igascale.evaluation.benchmarks import Benchmark, BenchmarkItem, Loaded


@click.command("benchmark")
@click.argument("name", required=False)
@click.argument("source", required=False, metavar="[PATH|HUB_ID]")
@click.option("--info", is_flag=True, help="Print the description even if there is a path.")
@click.option(
    "--split",
    type=click.Choice(["all", "id", "ood"]),
    default="all",
    show_default=True,
    help="Side of the paper's split, as far as the public files allow it (--info says how far).",
)
@click.option(
    "--held-out",
    multiple=True,
    metavar="LABEL",
    help="Make these subjects or reasoning types the ood side instead; may be repeated.",
)
@click.option(
    "--subset", multiple=True, metavar="NAME", help="Only the publisher's split NAME, e.g. train; may be repeated."
)
@click.option(
    "--seeds", type=click.Path(), metavar="OUT", help="Write the problems as seeds for `igascale data build` (JSONL)."
)
@click.option(
    "--texts", type=click.Path(), metavar="OUT", help="Write {name, id, text} lines to look for contamination."
)
@click.option("--password", help="Of an encrypted zip archive; --info says where ReClor's is printed.")
@click.option(
    "--skip-bad", is_flag=True, help="Leave out records that break the format, and list them, instead of stopping."
)
@click.option(
    "--show-prompt", type=int, metavar="N", help="Print the prompt of the N-th selected problem, counted from 1."
)
@click.option(
    "--score",
    type=click.Path(),
    metavar="FILE",
    help="With --show-prompt: what the scorer makes of the text in FILE as an answer to it; - is standard input.",
)
@click.option("--expect", metavar="SHA256", help="Refuse files whose sha256 (of the whole) is another.")
@click.option("--predictions", type=click.Path(), help="ReClor: JSON lines {id, prediction} for --npy.")
@click.option("--npy", type=click.Path(), metavar="OUT", help="ReClor: write the challenge server's test_preds.npy.")
@click.option(
    "--unanswered", type=click.Choice(list("ABCD")), help="ReClor: what to send where the prediction is null."
)
def command(name: str | None, source: str | None, info: bool, **options: Any) -> None:
    """Read a public benchmark: ARB, LogiQA 2.0, ReClor, MATH (docs/benchmarks.md).

    Without a path: its licence, how to get it, and which of the paper's splits its public files allow. With one: what is in
    it, beside what is published. Nothing is downloaded, but for a Hub id. What is odd or left out is printed as a warning.

    \b
    Examples:
      igascale data benchmark                                  the names
      igascale data benchmark reclor                           licence, how to get it, what the split can be
      igascale data benchmark reclor reclor_data.zip --password ...
      igascale data benchmark logiqa2 LogiQA2.0                counts, duplicates, checksums
      igascale data benchmark math MATH --split id --subset train --seeds seeds.jsonl
      igascale data benchmark math EleutherAI/hendrycks_math
      igascale data benchmark logiqa2 dev.txt --show-prompt 3
      echo "Answer: (B)" | igascale data benchmark logiqa2 dev.txt --show-prompt 3 --score -
      igascale data benchmark reclor reclor_data/test.json --predictions answers.jsonl --npy test_preds.npy
    """
    from igascale.errors import UserError
    from igascale.evaluation.benchmarks import available, find

    if name is None:
        for known in available():
            click.echo(f"{known:<10}{find(known).facts.title}")
        return
    benchmark = find(name)
    needing = [f"--{option.replace('_', '-')}" for option, value in options.items() if value and option != "split"]
    if source is None and (needing or options["split"] != "all"):
        raise UserError(f"{(needing or ['--split'])[0]} needs a path or a Hub id after '{name}'")
    if source is None or info:
        _print_facts(benchmark)
    if source is not None:
        _with_source(benchmark, source, options)


def _with_source(benchmark: Benchmark, source: str, options: dict[str, Any]) -> None:
    from igascale.errors import UserError
    from igascale.evaluation.benchmarks import _summary, seeds, texts_of
    from igascale.isomers.seeds import to_record

    outputs = _outputs(options)
    _check_challenge_options(benchmark, options)
    if options["held_out"] and options["split"] == "all":
        raise UserError("--held-out goes with --split id or --split ood")
    if options["score"] and options["show_prompt"] is None:
        raise UserError("--score goes with --show-prompt: the number of the problem that the text answers")
    loaded = benchmark.load(source, password=options["password"], skip_bad=options["skip_bad"])
    if options["expect"] and options["expect"].strip().lower() != loaded.sha256:
        raise UserError(f"{source}: sha256 of the whole is {loaded.sha256}, not the expected {options['expect']}")
    for line in _summary.lines(benchmark, loaded):
        click.echo(line)
    for line in _summary.warnings(benchmark, loaded):
        click.secho(f"note: {line}", fg="yellow")
    items = _selected(benchmark, loaded, options)
    if outputs and not options["npy"] and not items:
        raise UserError("nothing is selected; no file is written")
    if options["show_prompt"] is not None:
        _show_prompt(benchmark, items, options["show_prompt"], options["score"])
    if options["seeds"]:
        _write_lines(options["seeds"], (to_record(seed) for seed in seeds(benchmark, items)))
        click.echo(f"{options['seeds']}: {len(items)} seeds. {_seed_warning(items)}")
    if options["texts"]:
        _write_lines(options["texts"], ({"name": n, "id": i, "text": t} for n, i, t in texts_of(items)))
        click.echo(f"{options['texts']}: {len(items)} texts")
    if options["npy"]:
        _write_challenge(loaded, options)


def _show_prompt(benchmark: Benchmark, items: list[BenchmarkItem], number: int, answered: str | None) -> None:
    """The prompt between two rules; then what the task says of a text."""
    from igascale.errors import UserError
    from igascale.evaluation.tasks import find

    task = find(benchmark.name)
    if not 1 <= number <= len(items):
        raise UserError(f"--show-prompt {number}: {len(items)} problems are selected; the first is 1")
    item, text = items[number - 1], None if answered is None else _read_text(answered)
    click.echo(f"--- prompt of {item.id} (task {task.name}, version {task.version})")
    click.echo(task.prompt(item))
    click.echo("---")
    left_out = task.left_out(item)
    click.echo(f"expected: {item.answer} ({item.answer_kind})" if left_out is None else f"not scored: {left_out}")
    if text is None:
        return
    predicted = task.extract(text, item)
    if predicted is None:
        click.echo("read from the text: no answer, which is a parse failure and wrong")
        return
    click.echo(f"read from the text: {predicted}")
    if left_out is None:
        click.echo("right" if task.is_correct(predicted, item) else "wrong")


def _read_text(path: str) -> str:
    from igascale.errors import UserError

    try:
        with click.open_file(path, encoding="utf-8") as file:
            return str(file.read())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--score {path}: {getattr(error, 'strerror', None) or 'is not UTF-8 text'}") from None


def _outputs(options: dict[str, Any]) -> list[str]:
    """The files to write, all different and none there; looked at before anything is read."""
    from os.path import realpath
    from pathlib import Path

    from igascale.errors import UserError

    given = {f"--{key}": options[key] for key in ("seeds", "texts", "npy") if options[key]}
    places: dict[Path, str] = {}
    for option, out in given.items():
        try:
            place = Path(realpath(out))
            if place.exists():
                raise UserError(f"{out}: exists already; name another file or delete it")
        except (OSError, ValueError) as error:  # too long a name, no permission, a NUL in it
            raise UserError(
                f"{option} {out[:200]}: cannot be written: {getattr(error, 'strerror', None) or error}"
            ) from None
        if place in places:
            raise UserError(f"{places[place]} and {option} both name {out}; give each its own file")
        places[place] = option
    return list(given.values())


def _selected(benchmark: Benchmark, loaded: Loaded, options: dict[str, Any]) -> list[BenchmarkItem]:
    from igascale.errors import UserError, did_you_mean

    items, there = loaded.items, dict.fromkeys(file.split for file in loaded.files)
    for subset in options["subset"]:
        if subset not in there:
            hint = did_you_mean(subset, there) or f"; there are {', '.join(there)}"
            raise UserError(f"--subset {subset}: not there{hint}")
    if options["subset"]:
        items = [item for item in items if item.split in options["subset"]]
    if options["split"] != "all":
        sides = {side: benchmark.select(items, side, options["held_out"]) for side in ("id", "ood")}
        if not options["held_out"]:
            click.secho(f"note: is this the paper's split? {benchmark.facts.public_split}", fg="yellow")
        neither = len(items) - len(sides["id"]) - len(sides["ood"])
        click.echo(
            f"sides: id {len(sides['id'])}, ood {len(sides['ood'])}, neither {neither}; {options['split']} is selected"
        )
        items = sides[options["split"]]
    if len(items) < len(loaded.items):
        click.echo(f"selected: {len(items)} of {len(loaded.items)} problems")
    return items


def _seed_warning(items: list[BenchmarkItem]) -> str:
    tests = sorted({item.split for item in items if "train" not in item.split})
    hidden = sum(item.answer is None for item in items)
    said = [f"They are from {', '.join(tests)}: what is trained on them cannot be evaluated on that."] if tests else []
    said += [f"{hidden} have no known answer."] if hidden else []
    return " ".join([*said, "The benchmark's licence goes with them (meta.licence)."])


def _check_challenge_options(benchmark: Benchmark, options: dict[str, Any]) -> None:
    from igascale.errors import UserError

    given = [option for option in ("npy", "predictions", "unanswered") if options[option]]
    if given and benchmark.name != "reclor":
        raise UserError(f"--{given[0]} is for reclor: no other benchmark here has a challenge server")
    if bool(options["npy"]) != bool(options["predictions"]):
        raise UserError("--npy and --predictions go together: the file to write, and the answers")
    if options["unanswered"] and not options["npy"]:
        raise UserError("--unanswered goes with --npy")


def _write_challenge(loaded: Loaded, options: dict[str, Any]) -> None:
    from igascale.evaluation.benchmarks.reclor import challenge_file, read_predictions

    content, notes = challenge_file(loaded.items, read_predictions(options["predictions"]), options["unanswered"])
    _write(options["npy"], content)
    for note in notes:
        click.secho(f"note: {note}", fg="yellow")
    click.echo(f"{options['npy']}: labels of the test questions in the order of their ids, for EvalAI challenge 503")


def _write_lines(path: str, records: Any) -> None:
    import json

    _write(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode())


def _write(path: str, content: bytes) -> None:
    """A file that was not there, whole or not at all."""
    from contextlib import suppress
    from pathlib import Path

    from igascale.errors import UserError

    out = Path(path)
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(out)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def _print_facts(benchmark: Benchmark) -> None:
    from textwrap import TextWrapper

    facts = benchmark.facts
    click.echo(f"{facts.title} ({benchmark.name})")
    counts = ", ".join(f"{split} {count}" for split, count in facts.published.items())
    for title, text in (
        ("homepage", facts.homepage),
        ("paper", facts.citation),
        ("licence", facts.licence),
        ("how to get it", facts.obtain),
        ("what is read", facts.files),
        ("copies on the Hub", ", ".join(facts.hub) or "none that igascale reads"),
        ("published counts", counts),
        ("split of arXiv 2606.05025", facts.paper_split),
        ("what the public files allow", facts.public_split),
    ):
        wrapper = TextWrapper(110, "  ", "    ", break_on_hyphens=False, break_long_words=False)  # addresses stay whole
        click.echo(wrapper.fill(f"{title}: {text}"))
