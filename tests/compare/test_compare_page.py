"""docs/compare.md: its tables are what the command prints; every option of the command that it names exists, and all are on it."""

import re
from dataclasses import replace
from pathlib import Path

from click.testing import CliRunner

from igascale.cli import main
from igascale.cli.compare import command
from igascale.comparing.lm_eval_samples import read_documents

from evaluations import grouped, sample, write

PAGE = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
FILES = Path(__file__).parent / "lm_eval_0_4_13"


def printed(*arguments):
    result = CliRunner().invoke(main, ["compare", *arguments], env={"COLUMNS": "150"})
    assert result.exit_code == 0, result.output
    return rows(result.output)


def shown(title):
    (block,) = (b for b in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL) if title in b)
    return rows(block)


def rows(text):
    """Its lines with figures, without what draws the table."""
    lines = {tuple(re.findall(r"[^\s\u2500-\u257f]+", line)) for line in text.splitlines()}
    return {line for line in lines if len(line) > 4 and any(word[-1].isdigit() for word in line)}


def test_the_comparison(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, seed, share in (("mean", 1, 0.5), ("iga", 1, 0.62)):
        inside = grouped(seed, share + 0.2, split="id", groups=60, domains=("law", "medicine"))
        outside = grouped(seed + 10, share, split="ood", groups=60, domains=("finance", "engineering"))
        write(
            tmp_path / "runs" / name / "evaluation",
            inside + [replace(s, group_id=f"o{s.group_id}") for s in outside],
        )
    assert shown("Compared with") <= printed("runs/mean", "runs/iga") and len(shown("Compared with")) == 6


def test_the_agreement(tmp_path):
    documents = read_documents(FILES / "samples_minerva_math_algebra.jsonl")
    samples = [
        sample(i, i in (0, 1, 7), suite="math", split="id", problem=d.item.problem, group=f"t/{i}")
        for i, d in enumerate(documents)
    ]
    path = write(tmp_path / "math", samples)
    found = printed(path, "--lm-eval-samples", str(FILES / "samples_minerva_math_algebra.jsonl"))
    assert shown("lm-evaluation-harness on math") <= found and len(found) >= 4


def test_options():
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    named = set(re.findall(r"igascale compare .*", PAGE))
    assert {o for line in named for o in re.findall(r"(?<![\w-])--[a-z][a-z-]+", line)} <= options
    assert options - {"--resamples"} <= set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
