"""A model behind any OpenAI-compatible server as a generator of answers; ``vllm serve``, for one.

The way of asking is the isomer factory's (:mod:`igascale.isomers.teacher`): what may pass is tried again, 429s lower the number of requests at
once, every answer is stored before anybody sees it, and the key comes from the environment alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from igascale.errors import UserError
from igascale.evaluation.generator import Answered
from igascale.isomers.teacher.endpoint import BadAnswer, Endpoint
from igascale.isomers.teacher.reading import CUT_OFF
from igascale.isomers.teacher.request import Request
from igascale.isomers.teacher.settings import TeacherSettings, check_settings
from igascale.isomers.teacher.store import Store
from igascale.isomers.teacher.teacher import Teacher

KEY_NAMES = ("IGASCALE_EVAL_KEY", "OPENAI_API_KEY")
STORE = "endpoint.sqlite"
_WORDS = {
    "the settings of the teacher": "its settings",
    "the teacher": "the server",
    "a teacher's address": "a server's address",
    "teacher URL": "server URL",
    "when the last build died": "when the last evaluation died",
    " (OPENAI_BASE_URL)": " (--endpoint)",
    "which was asked for": "so its answers cannot be greedy; --sampled leaves the temperature to it",
    "run the same command again": "run the same command again: it goes on where it stopped",
}


@dataclass(frozen=True)
class ServerSettings:
    """Which server is asked, and how.

    Attributes:
        url: usually ending in ``/v1``.
        model: as the server calls it.
        max_new_tokens: limit per answer.
        concurrency: requests under way at most.
        timeout: seconds for a whole request.
        sampled: leave the temperature to the server: for models that take none. The answers are then not greedy.
        max_retries: tries after the first, for failures that may pass.
        backoff: seconds, the most before the second try; doubles with each.
        outage: seconds for which a server that has answered may answer nobody.
    """

    url: str
    model: str
    max_new_tokens: int = 512
    concurrency: int = 32
    timeout: float = 600.0
    sampled: bool = False
    max_retries: int = 12
    backoff: float = 0.5
    outage: float = 600.0


class EndpointGenerator:
    """Asks a server: one user message per problem, temperature 0, the server's own chat template around it.

    Args:
        server: which, and how.
        store: an SQLite file, made if it is missing: an answer that is in it is not paid for again.
        say: told in one line what the user should know.

    Raises:
        UserError: no key in the environment, a URL that is none, a setting out of range, or the openai package is missing.
    """

    def __init__(self, server: ServerSettings, store: Path, say: Callable[[str], None] | None = None):
        self.server, self.store = server, store
        self._say = say or (lambda line: None)
        asyncio.run(self._check())

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """See :class:`igascale.evaluation.generator.Generator`; of the URL only host and port, so nothing secret."""
        return {
            "generator": "endpoint",
            "endpoint": _host(self.server.url),
            "served_model": self.server.model,
            "decoding": "as the server samples" if self.server.sampled else "greedy",
            "max_new_tokens": self.server.max_new_tokens,
            "template": "chat template of the server",
        }

    def answer(self, problems: Sequence[str]) -> Iterator[tuple[int, Answered]]:
        """See :class:`igascale.evaluation.generator.Generator`.

        What a content filter stopped counts as an empty answer, and is said. Problems that the server has no answer to (too long for
        the model, say) are told of at the end, when all the others are answered and stored.

        Raises:
            UserError: the server cannot be asked, or has no answer to a problem.
        """
        with asyncio.Runner() as runner, _told_of_a_server(), Store.open(self.store) as store:
            came: asyncio.Queue[tuple[int, Answered | Exception]] = asyncio.Queue()
            teacher = Teacher(self._teacher_settings(), store, self._say_of_a_server)
            tasks = runner.run(_begin(teacher, problems, self.server.max_new_tokens, came))
            missing: dict[int, BadAnswer] = {}
            filtered = 0
            try:
                for _ in problems:
                    index, found = runner.run(came.get())
                    if isinstance(found, BadAnswer) and found.reason == "filtered":
                        filtered, found = filtered + 1, Answered("", 0, True)
                    if isinstance(found, BadAnswer):
                        missing[index] = found
                    elif isinstance(found, Exception):
                        raise found
                    else:
                        yield index, found
            finally:
                runner.run(_end(teacher, tasks))
            if filtered:
                self._say(
                    f"{filtered} of {len(problems)} answers were stopped by the server's content filter: counted as empty, and wrong"
                )
            if missing:
                raise UserError(self._about_missing(missing, problems))

    async def _check(self) -> None:
        with _told_of_a_server():
            check_settings(self._teacher_settings())
            await Endpoint(self._teacher_settings(), self._say).close()

    def _teacher_settings(self) -> TeacherSettings:
        server = self.server
        return TeacherSettings(
            model=server.model,
            base_url=server.url,
            temperature=None if server.sampled else 0.0,
            seed=None,
            max_tokens=server.max_new_tokens,
            timeout=server.timeout,
            concurrency=server.concurrency,
            max_retries=server.max_retries,
            backoff=server.backoff,
            outage=server.outage,
            structured="none",
            attempts=2,
            key_names=KEY_NAMES,
            must_take=("temperature",),
        )

    def _say_of_a_server(self, line: str) -> None:
        self._say(_of_a_server(line))

    def _about_missing(self, missing: dict[int, BadAnswer], problems: Sequence[str]) -> str:
        index, first = min(missing.items(), key=lambda item: item[0])
        start = " ".join(problems[index].split())[:60]
        remedy = (
            "a server with more room, or a lower --max-new-tokens"
            if first.reason == "length"
            else "the same command again asks only what has no answer yet"
        )
        return (
            f"{len(missing)} of {len(problems)} problems have no answer from {_host(self.server.url)}; the first, '{start}...': "
            f"{_of_a_server(first.detail)}. All others are stored; {remedy}"
        )


async def _begin(
    teacher: Teacher,
    problems: Sequence[str],
    max_new_tokens: int,
    came: asyncio.Queue[tuple[int, Answered | Exception]],
) -> list[asyncio.Task[None]]:
    async def ask(index: int, problem: str) -> None:
        try:
            answer = await teacher.ask(Request("eval", "", problem, None))
            # A server that does not say why an answer ended: then its length tells.
            cut = answer.finish_reason in CUT_OFF or (
                not answer.finish_reason and answer.output_tokens >= max_new_tokens
            )
            came.put_nowait((index, Answered(answer.text, answer.output_tokens, not cut)))
        except Exception as error:
            came.put_nowait((index, error))

    return [asyncio.create_task(ask(index, problem)) for index, problem in enumerate(problems)]


async def _end(teacher: Teacher, tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await teacher.close()


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _of_a_server(text: str) -> str:
    """The factory's words for whom it asks, in an evaluation."""
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    return text


@contextmanager
def _told_of_a_server() -> Iterator[None]:
    """Errors of the factory in the words of an evaluation, their exit codes kept."""
    try:
        yield
    except UserError as error:
        told = UserError(_of_a_server(str(error)))
        told.exit_code = error.exit_code
        raise told from None
