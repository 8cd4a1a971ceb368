"""What answers problems: a model in this process, or a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

#: The paper's limit per answer.
DEFAULT_MAX_NEW_TOKENS = 512


@dataclass(frozen=True)
class Answered:
    """The text after one problem.

    Attributes:
        text: without the end token.
        new_tokens: that were generated.
        finished: the text came to its own end, rather than to the token limit.
    """

    text: str
    new_tokens: int
    finished: bool


class Generator(Protocol):
    """Writes an answer to each problem, greedily."""

    def settings(self) -> dict[str, str | int | float | bool | None]:
        """What decides the answers (model, decoding, token limit, dtype, ...): kept with the result, compared on a resume."""

    def answer(self, problems: Sequence[str]) -> Iterator[tuple[int, Answered]]:
        """Yield ``(index into problems, answer)`` as answers come, in any order, each once.

        Args:
            problems: what the user's turn says; the template around it is the generator's business.

        Raises:
            UserError: a problem leaves no room for an answer, or the server cannot be asked.
        """
