"""Problems on which two evaluations differ, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, zip_longest

from igascale.comparing.reading import Evaluation, Key
from igascale.evaluation.accuracy import Sample
from igascale.tables.table import clean

_LONGEST = 700  # characters of a text that are shown: its end, where the answer is


def choose_examples(reference: Evaluation, other: Evaluation, keys: Sequence[Key], count: int) -> list[Key]:
    """Problems that exactly one has right: by turns only this one and only the reference, in the order of the data."""
    gained = [key for key in keys if other.samples[key].correct and not reference.samples[key].correct]
    lost = [key for key in keys if reference.samples[key].correct and not other.samples[key].correct]
    turns = chain.from_iterable(zip_longest(gained, lost))
    return [key for key in turns if key is not None][:count]


def print_example(reference: Evaluation, other: Evaluation, key: Key) -> None:
    """The problem, then what both wrote, on the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    mine, yours = reference.samples[key], other.samples[key]
    where = f"{mine.suite} {mine.split.upper()} · {mine.domain or '–'} · {mine.instance_id}"
    table = Table(title=Text(clean(where)), show_header=True, expand=True)
    for evaluation, sample in ((reference, mine), (other, yours)):
        table.add_column(Text(f"{evaluation.name}: {_verdict(sample)}"), ratio=1, overflow="fold")
    table.add_row(*(Text(shown(sample.generated)) for sample in (mine, yours)))
    console = Console()
    console.print(Text(f"\n{clean(mine.problem)}\nexpected: {clean(mine.expected)}"), soft_wrap=True)
    console.print(table)


def shown(text: str) -> str:
    """The end of a text, without control characters."""
    text = clean(text.strip())
    return text if len(text) <= _LONGEST else f"… {text[-_LONGEST:]}"


def _verdict(sample: Sample) -> str:
    answer = "no answer" if sample.predicted is None else clean(sample.predicted)
    return f"{'right' if sample.correct else 'wrong'} ({answer}{'' if sample.finished else ', cut off'})"
