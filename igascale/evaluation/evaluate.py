"""Evaluate one model: accuracy in and out of distribution, their gap, and LCS, always side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from igascale.evaluation.accuracy import Sample
from igascale.evaluation.answering import ALONE, Asked, Progress, Share, answer_share, wait_for_others
from igascale.evaluation.generator import Generator
from igascale.evaluation.inside import Exchange, Inside, Measured
from igascale.evaluation.loading import load_for_evaluation
from igascale.evaluation.local import DEFAULT_MAX_NEW_TOKENS, LocalGenerator, token_limit
from igascale.evaluation.results import EvaluationResult, SplitResult, SuiteResult
from igascale.evaluation.store import AnswerStore, Kept
from igascale.evaluation.suites import IsomerSuite, Suite
from igascale.isomers.schema import IsomerGroup

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["DEFAULT_MAX_NEW_TOKENS", "evaluate", "evaluate_model", "evaluate_suites", "load_for_evaluation"]

#: What is measured of the isomer groups of a side, beside the accuracy.
Measure = Callable[[str, Sequence[IsomerGroup]], Measured]


def evaluate(
    generator: Generator,
    suites: Sequence[Suite],
    store: AnswerStore,
    *,
    share: Share = ALONE,
    measure: Measure | None = None,
    progress: Progress | None = None,
) -> EvaluationResult | None:
    """Accuracy of any generator.

    Args:
        generator: a model in this process, or a server.
        suites: what is asked.
        store: keeps the answers; those that are in it already are not asked for again.
        share: this process's part of the questions; the first process waits for the answers of the others.
        measure: what is measured of a side's groups inside of the model; needs the model itself, on every process.
        progress: called with (stage, done, in all).

    Returns:
        The result; ``None`` on all processes but the first.
    """
    asked = Asked(suites, store)
    answer_share(generator, asked, share, progress)
    inside = {
        (suite.name, side): measure(side, suite.groups(side))
        if measure is not None and suite.groups(side)
        else Measured()
        for suite, side, _, _ in asked.sides
    }
    if share.rank > 0:
        return None
    wait_for_others(asked, progress)
    results: dict[str, SuiteResult] = {}
    samples: list[Sample] = []
    for suite in suites:
        sides: dict[str, SplitResult] = {}
        for one, side, _, keys in asked.sides:
            if one is suite:
                sides[side], scored = _side(suite, side, asked.answers(keys), inside[suite.name, side])
                samples += scored
        results[suite.name] = replace(SuiteResult.of(sides.get("id"), sides.get("ood")), all=sides.get("all"))
    settings = generator.settings()
    for suite in suites:
        settings |= suite.settings()
    return EvaluationResult(results, settings, samples)


def _side(suite: Suite, side: str, kept: Sequence[Kept], inside: Measured) -> tuple[SplitResult, list[Sample]]:
    samples = suite.score(side, [each.answered for each in kept])
    parts = suite.breakdown(side, samples)
    result = SplitResult(
        accuracy=parts.overall,
        per_domain=parts.per_domain,
        per_kind=parts.per_kind,
        consistency=inside.consistency,
        unfinished=sum(not sample.finished for sample in samples) / len(samples),
        seconds=round(sum(each.seconds for each in kept), 3),
        layers=list(inside.layers),
        gir=inside.gir,
    )
    return result, samples


def evaluate_model(
    model: PreTrainedModel,
    tokenizer: Any,
    id_groups: Sequence[IsomerGroup],
    ood_groups: Sequence[IsomerGroup] | None = None,
    **options: Any,
) -> EvaluationResult:
    """Greedy chain-of-thought accuracy and LCS on held-out groups.

    Args:
        model: as in :func:`evaluate_suites`.
        tokenizer: as in training.
        id_groups: held-out groups of the training domains.
        ood_groups: groups of unseen domains.
        options: those of :func:`evaluate_suites`.

    Raises:
        UserError: a set is empty, or a prompt leaves no room for an answer.
    """
    result = evaluate_suites(model, tokenizer, [IsomerSuite(id_groups, ood_groups)], **options)
    assert result is not None
    return result


def evaluate_suites(
    model: PreTrainedModel,
    tokenizer: Any,
    suites: Sequence[Suite],
    *,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    lcs_text: str = "prompt",
    lcs_layers: str = "penultimate",
    gir_groups: int | None = None,
    answers: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    share: Share = ALONE,
    progress: Progress | None = None,
) -> EvaluationResult | None:
    """Greedy chain-of-thought accuracy, and LCS of isomer groups.

    Args:
        model: causal LM, plain or PEFT; put in evaluation mode here, and its mode restored.
        tokenizer: as in training.
        suites: what is asked.
        batch_size: sequences per forward.
        max_new_tokens: limit per answer; by default 512, or what the model's positions leave beside the
            longest prompt of all suites, if that is less.
        lcs_text: what the token average of LCS is over: ``prompt`` (the problem, before the model wrote
            anything), or ``full`` (problem and reference solution).
        lcs_layers: where LCS is measured (:func:`igascale.evaluation.layer_names.parse_layers`). The tables show the
            penultimate layer if it is among them, else the deepest.
        gir_groups: measure the gradient invariance residual too, on so many groups of each side (needs an adapter).
        answers: folder in which answers are kept as they come; an interrupted evaluation goes on from there.
        identity: tells this model's bytes from any other's, for that folder.
        share: see :func:`evaluate`.
        progress: called with (stage, done, in all).

    Returns:
        The result; ``None`` on all processes but the first.

    Raises:
        UserError: a prompt leaves no room for an answer, memory runs out, or the folder cannot be written.
    """
    inside = Inside(model, tokenizer, lcs_layers, lcs_text, batch_size, gir_groups, progress)
    prompts = [question.prompt for suite in suites for side in suite.sides for question in suite.questions(side)]
    limit = token_limit(model, tokenizer, prompts, max_new_tokens)
    generator = LocalGenerator(model, tokenizer, limit, batch_size)
    settings = generator.settings() | {"identity": dict(identity or {})}
    if answers is not None:
        inside.exchange = Exchange(answers, share, settings)
    store = AnswerStore(settings, answers, share.rank)
    try:
        with _evaluating(model):
            result = evaluate(generator, suites, store, share=share, measure=inside.measure, progress=progress)
    finally:
        store.close()
    if result is not None:
        result.settings.update(inside.settings())
        result.settings["interval"] = "95%, Wilson with the effective sample size of clustering by group"
    return result


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
