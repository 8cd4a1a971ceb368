"""Carry a request out in this process: read, load, ask, measure, write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from igascale.errors import UserError
from igascale.evaluation.answering import ALONE, Progress, Share
from igascale.evaluation.request import Request, read_suites
from igascale.evaluation.results import RESULT_FILE, SAMPLES_FILE, EvaluationResult, write_result
from igascale.evaluation.store import ANSWERS

LOADING = "loading the model"  # the stage that progress names


def check_output(folder: Path, overwrite: bool) -> None:
    """Refuse to replace an evaluation, but not to go on with one that was interrupted.

    Raises:
        UserError: the folder holds a result, or cannot be written.
    """
    unfinished = (folder / ANSWERS).is_dir() and not (folder / RESULT_FILE).exists()
    for name in (RESULT_FILE, SAMPLES_FILE) if not (overwrite or unfinished) else ():
        if (folder / name).exists():
            raise UserError(f"{folder / name} exists; choose another --out, or pass --overwrite")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "no permission" if there.is_dir() else f"{there} is a file"
        raise UserError(f"{folder}: cannot be written ({reason}); choose another --out")


def perform(request: Request, share: Share = ALONE, progress: Progress | None = None) -> EvaluationResult | None:
    """Evaluate, and write the result; the answers that were kept on the way stay for the caller to remove.

    Args:
        request: what to do.
        share: this process's part of the questions.
        progress: called with (stage, done, in all).

    Returns:
        The result; ``None`` on all processes but the first.

    Raises:
        UserError: bad input, no memory, or an output that cannot be written.
    """
    suites, notes = read_suites(request)  # before the model: a broken file should not cost minutes
    if progress is not None:
        progress(LOADING, 0, 0)
    from igascale.evaluation.evaluate import evaluate_suites
    from igascale.evaluation.identity import identity
    from igascale.evaluation.loading import load_for_evaluation

    model, tokenizer = load_for_evaluation(request.model, base=request.base, dtype=request.dtype, device=request.device)
    result = evaluate_suites(
        model,
        tokenizer,
        suites,
        batch_size=request.batch_size,
        max_new_tokens=request.max_new_tokens,
        lcs_text=request.lcs_text,
        answers=Path(request.out) / ANSWERS,
        identity=identity(request.model, request.base),
        share=share,
        progress=progress,
    )
    if result is None:
        return None
    notes += _notes_of(result)
    result.settings.update(
        {
            "model": request.shown,
            "id_file": request.id_file,
            "ood_file": request.ood_file,
            "limit_groups": request.limit_groups,
            "request": request.digest(),
            "adapter_sha256": request.adapter_sha256,
            "notes": "\n".join(notes) or None,
        }
    )
    write_result(result, Path(request.out))
    return result


def _notes_of(result: EvaluationResult) -> Sequence[str]:
    """What the user must be told of the answers."""
    notes, settings = [], result.settings
    if not str(settings["template"]).startswith("chat"):
        notes.append("the tokenizer has no chat template: a prompt is the problem and a newline, as in training")
    empty = sum(not sample.generated.strip() for sample in result.samples)
    if empty:
        notes.append(f"{empty} of {len(result.samples)} answers are empty; each counts as no answer")
    if settings["dtype"] != "float32":
        notes.append(
            f"computed in {settings['dtype']}: another --batch-size rounds otherwise and can change single answers; the number "
            "of processes and interruptions cannot (docs/evaluation.md)"
        )
    return notes
