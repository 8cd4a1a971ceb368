"""A build in this process against a server, and what came of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from igascale.isomers.factory.build import Build
from igascale.isomers.factory.options import load_options

#: What a rerun must reproduce to the byte.
FILES = ("groups.jsonl", "train.jsonl", "validation.jsonl", "rejected.jsonl", "README.md", "manifest.json")


class Told:
    """What a build said; `result` and `manifest`."""

    def __init__(self, result, text: str):
        self.result, self.text, self.manifest = result, text, result.manifest


def build(seeds: Path, out: Path, server=None, **options) -> Told:
    given = {"seeds": str(seeds), "out": str(out), "model": "teacher", "timeout": 120.0} | options
    if server is not None:
        given |= {"base_url": server.url}
    text = io.StringIO()
    result = Build(load_options(given), Console(file=text, width=200)).run()
    return Told(result, text.getvalue())


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES if (out / name).exists()}
