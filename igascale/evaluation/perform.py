"""Carry a request out in this process: read, load, ask, measure, write."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.evaluation.answering import ALONE, Progress, Share
from igascale.evaluation.generator import DEFAULT_MAX_NEW_TOKENS, Generator
from igascale.evaluation.of_run import other_base_note
from igascale.evaluation.request import Request, read_suites
from igascale.evaluation.results import RESULT_FILE, SAMPLES_FILE, EvaluationResult, write_result
from igascale.evaluation.store import ANSWERS, AnswerStore
from igascale.evaluation.suites import Suite
from igascale.locate import base_of, locate

_ANSWER_LINE = re.compile(r"^[^\w\n]*(?:final\s+)?answer\W{0,4}[:：]", re.IGNORECASE | re.MULTILINE)
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


def perform(
    request: Request,
    share: Share = ALONE,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> EvaluationResult | None:
    """Evaluate, and write the result; the answers that were kept on the way stay for the caller to remove.

    Args:
        request: what to do.
        share: this process's part of the questions.
        progress: called with (stage, done, in all).
        say: hears at once of what was left out of the problems, and of what goes on meanwhile: a server that is slow, say.

    Returns:
        The result; ``None`` on all processes but the first.

    Raises:
        UserError: bad input, no memory, or an output that cannot be written.
    """
    suites, notes = read_suites(request)  # before the model: a broken file should not cost minutes
    if say is not None and share.rank == 0:
        for note in notes:  # now, not after hours
            say(note)
    if progress is not None:
        progress(LOADING, 0, 0)
    if request.generator == "local":
        result = _by_model(request, suites, share, progress)
    else:
        result = _by_generator(request, suites, progress, say)
        notes.append("LCS needs the model in this process; it was not measured")
    if result is None:
        return None
    notes += _notes_of(result)
    if request.generator == "local":
        from igascale.evaluation.consistency import lcs_remarks
        from igascale.evaluation.residual import gir_remarks

        notes += lcs_remarks(result) + gir_remarks(result)
        if request.run is not None:
            notes += other_base_note(request.run, base_of(locate(request.model), request.base))
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


def _by_model(
    request: Request, suites: list[Suite], share: Share, progress: Progress | None
) -> EvaluationResult | None:
    from igascale.evaluation.evaluate import evaluate_suites
    from igascale.evaluation.identity import identity
    from igascale.evaluation.loading import load_for_evaluation

    model, tokenizer = load_for_evaluation(request.model, base=request.base, dtype=request.dtype, device=request.device)
    return evaluate_suites(
        model,
        tokenizer,
        suites,
        batch_size=request.batch_size,
        max_new_tokens=request.max_new_tokens,
        lcs_text=request.lcs_text,
        lcs_layers=request.lcs_layers,
        gir_groups=request.gir_groups,
        answers=Path(request.out) / ANSWERS,
        identity=identity(request.model, request.base),
        share=share,
        progress=progress,
    )


def _by_generator(
    request: Request, suites: list[Suite], progress: Progress | None, say: Callable[[str], None] | None
) -> EvaluationResult | None:
    """Accuracy alone, by a server or by vLLM."""
    from igascale.evaluation.evaluate import evaluate

    answers = Path(request.out) / ANSWERS
    generator, identity = _generator(request, answers, say)
    store = AnswerStore(generator.settings() | {"identity": identity}, answers)
    try:
        return evaluate(generator, suites, store, progress=progress)
    finally:
        store.close()


def _generator(request: Request, answers: Path, say: Callable[[str], None] | None) -> tuple[Generator, dict[str, Any]]:
    limit = request.max_new_tokens or DEFAULT_MAX_NEW_TOKENS
    if request.generator == "endpoint":
        from igascale.evaluation.endpoint import STORE, EndpointGenerator, ServerSettings

        assert request.endpoint is not None
        served = request.served_model or request.model
        server = ServerSettings(request.endpoint, served, limit, request.concurrency, request.timeout, request.sampled)
        answers.mkdir(parents=True, exist_ok=True)
        return EndpointGenerator(server, answers / STORE, say), {}
    from igascale.evaluation.identity import identity
    from igascale.evaluation.vllm_offline import VllmGenerator

    located = locate(request.model)
    base = request.model if located.adapter is None else base_of(located, request.base)
    return VllmGenerator(base, located.adapter, limit, request.dtype), identity(request.model, request.base)


def _notes_of(result: EvaluationResult) -> list[str]:
    """What the user must be told of the answers."""
    notes, settings = [], result.settings
    if not str(settings["template"]).startswith("chat"):
        notes.append(
            "the tokenizer has no chat template: a prompt is the BOS token if there is one, the problem and a newline, as in training"
        )
    empty = sum(not sample.generated.strip() for sample in result.samples)
    if empty:
        notes.append(f"{empty} of {len(result.samples)} answers are empty; each counts as no answer")
    running_on = sum(not s.finished and len(_ANSWER_LINE.findall(s.generated)) > 1 for s in result.samples)
    if running_on > 0.02 * len(result.samples):
        notes.append(
            f"{running_on} of {len(result.samples)} texts wrote several lines `Answer:` and ran into the token limit; the last one "
            "counts, which a model that runs on may have given to a problem of its own making (a base model? fewer "
            "--max-new-tokens)"
        )
    if settings.get("dtype", "float32") not in ("float32", "auto"):
        notes.append(
            f"computed in {settings['dtype']}: another --batch-size rounds otherwise, which changes some answers; the number "
            "of processes and interruptions cannot (docs/evaluation.md)"
        )
    return notes
