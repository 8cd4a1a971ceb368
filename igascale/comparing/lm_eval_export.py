"""An evaluation in the files that lm-evaluation-harness writes: ``results_DATE.json`` and ``samples_TASK_DATE.jsonl``."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from igascale.comparing.reading import Evaluation
from igascale.errors import UserError
from igascale.evaluation.accuracy import Sample
from igascale.files import write_atomically
from igascale.version import __version__

_METRIC = "exact_match"


def export_lm_eval(evaluation: Evaluation, out: Path, at: datetime | None = None) -> list[Path]:
    """Write them into ``OUT/MODEL/``; a task per suite and side, called ``igascale_math_ood`` and so on.

    Args:
        evaluation: to export.
        out: as ``--output_path`` of lm_eval.
        at: the date in the names; now by default.

    Returns:
        the files, the results first.

    Raises:
        UserError: they cannot be written.
    """
    settings = evaluation.result.settings
    model = str(settings.get("model") or evaluation.name)
    safe = re.sub(r'["<>:/|\\?*\[\]]+', "__", model)  # as lm_eval makes a folder of a model's name
    date = (at or datetime.now()).isoformat().replace(":", "-")
    folder = out / safe
    by_task: dict[str, list[Sample]] = {}
    for sample in evaluation.samples.values():
        by_task.setdefault(re.sub(r"\W", "_", f"igascale_{sample.suite}_{sample.split}"), []).append(sample)
    records = {task: [_record(i, s, settings) for i, s in enumerate(samples)] for task, samples in by_task.items()}
    written = [folder / f"results_{date}.json"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for task, lines in records.items():
            written.append(folder / f"samples_{task}_{date}.jsonl")
            write_atomically(written[-1], "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        results = _results(evaluation, model, safe, by_task, records)
        write_atomically(written[0], json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); give another folder") from None
    return written


def _record(number: int, sample: Sample, settings: dict[str, Any]) -> dict[str, Any]:
    doc = {
        "id": sample.instance_id,
        "group": sample.group_id,
        "domain": sample.domain,
        "kind": sample.kind,
        "problem": sample.problem,
        "answer": sample.expected,
    }
    asked: dict[str, Any] = {
        "until": [],
        "do_sample": False,
        "temperature": 0.0,
        "max_gen_toks": settings.get("max_new_tokens"),
    }
    return {
        "doc_id": number,
        "doc": doc,
        "target": sample.expected,
        "arguments": {"gen_args_0": {"arg_0": sample.problem, "arg_1": asked}},
        "resps": [[sample.generated]],
        "filtered_resps": ["[invalid]" if sample.predicted is None else sample.predicted],
        "filter": "none",
        "metrics": [_METRIC],
        "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": _hash(sample.problem),
        "target_hash": _hash(sample.expected),
        _METRIC: float(sample.correct),
    }


def _results(
    evaluation: Evaluation,
    model: str,
    safe: str,
    by_task: dict[str, list[Sample]],
    records: dict[str, list[dict[str, Any]]],
) -> dict[str, Any]:
    settings = evaluation.result.settings
    versions = {task: settings.get(f"{samples[0].suite}.task_version", 1) for task, samples in by_task.items()}
    return {
        "results": {
            task: {"alias": task, "sample_len": len(samples)} | _scores(samples) for task, samples in by_task.items()
        },
        "group_subtasks": {task: [] for task in by_task},
        "configs": {task: _config(task, samples, versions[task], settings) for task, samples in by_task.items()},
        "versions": versions,
        "n-shot": dict.fromkeys(by_task, 0),
        "higher_is_better": {task: {_METRIC: True} for task in by_task},
        "n-samples": {task: {"original": len(s), "effective": len(s)} for task, s in by_task.items()},
        "config": {"model": "igascale", "model_args": {"pretrained": model}, "igascale": settings},
        "igascale_version": __version__,
        "task_hashes": {
            task: _hash("".join(r["doc_hash"] + r["prompt_hash"] + r["target_hash"] for r in lines))
            for task, lines in records.items()
        },
        "model_source": "igascale",
        "model_name": model,
        "model_name_sanitized": safe,
    }


def _scores(samples: Sequence[Sample]) -> dict[str, float]:
    """With their standard error: of independent samples, which instances of one group are not."""
    n, mean = len(samples), sum(sample.correct for sample in samples) / len(samples)
    return {f"{_METRIC},none": mean, f"{_METRIC}_stderr,none": math.sqrt(mean * (1 - mean) / max(1, n - 1))}


def _config(task: str, samples: Sequence[Sample], version: Any, settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "task": task,
        "output_type": "generate_until",
        "num_fewshot": 0,
        "metric_list": [{"metric": _METRIC, "aggregation": "mean", "higher_is_better": True}],
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": settings.get("max_new_tokens")},
        "description": "arg_0 is the problem; what igascale asks around it is not part of its samples",
        "metadata": {"version": version, "suite": samples[0].suite, "side": samples[0].split},
    }


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
