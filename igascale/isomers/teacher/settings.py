"""How the teacher is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from igascale.errors import UserError

MOST_AT_ONCE = 1000  # connections that the openai client opens


@dataclass(frozen=True)
class TeacherSettings:
    """How the teacher is asked. Its key comes from the environment alone.

    Attributes:
        model: as the server calls it.
        base_url: of the server, usually ending in /v1; ``None``: OPENAI_BASE_URL, or OpenAI's own.
        temperature: ``None`` leaves it to the server (some models take none).
        seed: the one sent is ``seed + sample``, and another one for each new attempt; ``None`` sends none.
        max_tokens: of an answer. One that is cut off there is asked for once more with twice as many.
        timeout: seconds for a whole request.
        concurrency: requests under way at most.
        max_retries: tries after the first, for failures that may pass. A 429 counts only while the teacher answers nobody.
        outage: seconds for which a teacher that has answered may answer nobody, before the build ends.
        structured: how JSON is asked for; ``auto`` takes the strictest that the server does not refuse.
        input_price: US dollars per million tokens; 0 is unknown.
        output_price: likewise.
        budget: US dollars over the life of the store.
        max_requests: requests over the life of the store.
        attempts: answers to one request, until a usable one.
        backoff: seconds, the most before the second try; doubles with each.
        backoff_cap: seconds, the most before any try.
        key_names: variables of the environment that may hold the key; the first that is set counts.
        must_take: ``temperature`` or ``seed``, where a server that does not take it is refused rather than asked without.
    """

    model: str
    base_url: str | None = None
    temperature: float | None = 0.7
    seed: int | None = 0
    max_tokens: int = 4096
    timeout: float = 300.0
    concurrency: int = 32
    max_retries: int = 12
    outage: float = 2700.0
    structured: Literal["auto", "json_schema", "json_object", "none"] = "auto"
    input_price: float = 0.0
    output_price: float = 0.0
    budget: float | None = None
    max_requests: int | None = None
    attempts: int = 3
    backoff: float = 0.5
    backoff_cap: float = 60.0
    key_names: tuple[str, ...] = ("IGASCALE_TEACHER_KEY", "OPENAI_API_KEY")
    must_take: tuple[str, ...] = ()


def check_settings(settings: TeacherSettings) -> None:
    """Settings in range.

    Raises:
        UserError: names the setting.
    """
    if not settings.model:
        raise UserError("the teacher needs a model: give its name as the server calls it")
    for name in ("max_tokens", "timeout", "concurrency", "attempts"):
        if not getattr(settings, name) > 0:
            raise UserError(f"{name} must be above 0, not {getattr(settings, name)}")
    for name in (
        "max_retries",
        "outage",
        "input_price",
        "output_price",
        "budget",
        "max_requests",
        "temperature",
        "backoff",
        "backoff_cap",
    ):
        value = getattr(settings, name)
        if value is not None and not value >= 0:
            raise UserError(f"{name} must be 0 or above, not {value}")
    if settings.concurrency > MOST_AT_ONCE:
        raise UserError(
            f"concurrency must be at most {MOST_AT_ONCE} (connections of the openai client), not {settings.concurrency}"
        )
