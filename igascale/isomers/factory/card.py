"""`README.md` of a build: the dataset card, with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from igascale.isomers.factory.manifest import said

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def card(manifest: Mapping[str, Any]) -> str:
    """The card of a manifest."""
    teacher, split, bank = manifest["teacher"], manifest["split"], manifest["bank"]
    licence = manifest["license"]
    front = {
        "license": licence or "unknown",
        "task_categories": ["text-generation"],
        "tags": ["logical-isomers", "reasoning", "synthetic", "igascale"],
        "size_categories": [next((name for most, name in _SIZES if manifest["instances"] < most), "n>1M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [
                    {"split": side, "path": f"{side}.jsonl"}
                    for side in ("train", "validation")
                    if f"{side}.jsonl" in manifest["files"]
                ],
            }
        ],
    }
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        "# Logical isomers",
        "",
        f"{manifest['groups']:,} problems, each told in {len(manifest['domains'])} domains "
        f"({', '.join(manifest['domains'])}) with the same logic in other words: {manifest['instances']:,} pairs of problem and "
        "solution. One group a line; the format is igascale's (docs/data.md there).",
        "",
        f"- Made from {bank['source']}, {bank['seeds']:,} seed problems, by the teacher `{teacher['model']}`; "
        f"{manifest['yield']:.1%} of the seeds that it was asked for became groups.",
        f"- Alignment with the seed's structure, as the teacher's second look scores it: {_figure(teacher['mean_alignment'])} in the "
        f"mean over these groups, {_figure(teacher['mean_alignment_all'])} over everything it told.",
        f"- Split by seed: {split['train']:,} groups to train on, {split['validation']:,} held out; no seed is on both sides.",
        "" if manifest["complete"] else f"- NOT COMPLETE: {manifest['unfinished']:,} seeds have no outcome yet.",
        "",
        "| stage | seeds left | turned away |",
        "|---|---:|---|",
        *(
            f"| {row['meaning']} | {row['left']:,} | {', '.join(f'{k} {n:,}' for k, n in row['rejected'].items())} |"
            for row in manifest["stages"]
        ),
        "",
        f"The method's paper (arXiv 2606.05025): {said(manifest['paper'])}. As many at this build's yield: "
        f"{said(manifest['projection'])}.",
        "",
        "Problems, solutions and answers are a model's: checked by the gates above, not by people. "
        + (
            "The licence of the seed problems and the teacher's terms of use apply besides."
            if licence
            else "No licence was named (--license); the seed problems' licence and the teacher's terms of use decide."
        ),
        "",
        "| file | lines | SHA-256 |",
        "|---|---:|---|",
        *(f"| {name} | {about['lines']:,} | `{about['sha256']}` |" for name, about in manifest["files"].items()),
    ]
    return "\n".join(line for line, before in zip(lines, ["x", *lines]) if line or before) + "\n"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
