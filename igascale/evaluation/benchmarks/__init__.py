"""Public benchmarks as data: one file each; the file name is the name on the command line (docs/benchmarks.md).

A benchmark reads what its publisher ships into `BenchmarkItem`s, says what it left out and why, and which of the
paper's splits the public files allow. It neither prompts nor scores: that is for whoever holds the items.

>>> available()
['arb', 'logiqa2', 'math', 'reclor']
"""

from igascale.evaluation.benchmarks._lookup import available, find, installed
from igascale.evaluation.benchmarks._seeds import seeds, texts, texts_of
from igascale.evaluation.benchmarks.base import (
    AnswerKind,
    Benchmark,
    BenchmarkItem,
    Facts,
    Loaded,
    Part,
    ReadFile,
)

__all__ = [
    "AnswerKind",
    "Benchmark",
    "BenchmarkItem",
    "Facts",
    "Loaded",
    "Part",
    "ReadFile",
    "available",
    "find",
    "installed",
    "seeds",
    "texts",
    "texts_of",
]
