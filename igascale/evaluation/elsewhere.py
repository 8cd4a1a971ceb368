"""Carry a request out with a generator that is no model of ours: a server, or vLLM. Accuracy only: LCS needs the hidden states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igascale.evaluation.answering import Progress
from igascale.evaluation.generator import Generator
from igascale.evaluation.request import Request, read_suites
from igascale.evaluation.results import EvaluationResult
from igascale.evaluation.store import ANSWERS, AnswerStore

DEFAULT_MAX_NEW_TOKENS = 512


@dataclass(frozen=True)
class Elsewhere:
    """Who answers.

    Attributes:
        endpoint: URL of an OpenAI-compatible server; ``None``: vLLM in this process.
        served_model: as the server calls it; ``None``: as the request's model.
        concurrency: requests at once.
        timeout: seconds for a request.
        sampled: see :class:`igascale.evaluation.endpoint.ServerSettings`.
    """

    endpoint: str | None = None
    served_model: str | None = None
    concurrency: int = 32
    timeout: float = 300.0
    sampled: bool = False


def perform_elsewhere(
    request: Request, who: Elsewhere, say: Callable[[str], None], progress: Progress | None = None
) -> EvaluationResult:
    """:func:`igascale.evaluation.perform.perform` without a model of ours.

    Args:
        request: what to do; its batch size, precision and device say nothing here.
        who: answers.
        say: told what the user should know on the way.
        progress: called with (stage, done, in all).

    Raises:
        UserError: bad input, a server that cannot be asked, vLLM is missing, or an output that cannot be written.
    """
    from igascale.evaluation.evaluate import evaluate
    from igascale.evaluation.perform import finish

    suites, notes = read_suites(request)  # before anything is asked or loaded
    answers = Path(request.out) / ANSWERS
    generator, identity = _generator(request, who, answers, say)
    store = AnswerStore(generator.settings() | {"identity": dict(identity)}, answers)
    try:
        result = evaluate(generator, suites, store, progress=progress)
    finally:
        store.close()
    assert result is not None
    if any(suite.groups(side) for suite in suites for side in suite.sides):
        notes.append("no LCS: it needs the hidden states of a model in this process")
    return finish(request, result, notes)


def _generator(
    request: Request, who: Elsewhere, answers: Path, say: Callable[[str], None]
) -> tuple[Generator, Mapping[str, Any]]:
    limit = request.max_new_tokens or DEFAULT_MAX_NEW_TOKENS
    if who.endpoint is not None:
        from igascale.evaluation.endpoint import STORE, EndpointGenerator, ServerSettings

        server = ServerSettings(
            who.endpoint, who.served_model or request.model, limit, who.concurrency, who.timeout, who.sampled
        )
        return EndpointGenerator(server, answers / STORE, say), {}
    from igascale.evaluation.identity import identity
    from igascale.evaluation.vllm_offline import VllmGenerator
    from igascale.locate import base_of, locate

    located = locate(request.model)
    base = request.model if located.adapter is None else base_of(located, request.base)
    return VllmGenerator(base, located.adapter, limit, request.dtype), identity(request.model, request.base)
