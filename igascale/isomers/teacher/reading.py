"""Whether an answer can be used: it ended by itself, holds one JSON object, and that is what was asked for. Of plain text little is asked."""

from __future__ import annotations

import json

from pydantic import BaseModel, ValidationError

from igascale.errors import UserError
from igascale.isomers.teacher.endpoint import BadAnswer, Reply
from igascale.isomers.teacher.json_text import NotJson, parse_object
from igascale.isomers.teacher.request import Request, reply_schema

# How servers say that the model came to its end. Some say nothing at all: then it is the object that tells, one that was cut is no JSON.
_ENDED = ("", "stop", "eos", "eos_token", "end_turn", "stop_sequence")
CUT_OFF = ("length", "max_tokens", "model_length")
_FILTERED = ("content_filter", "safety", "recitation", "blocklist", "prohibited_content")


def read(request: Request, text: str, reply: Reply | None = None) -> BaseModel | str:
    """The validated answer.

    Args:
        request: what was asked.
        text: of the answer.
        reply: what else the server said; ``None`` for a stored answer, where that was looked at.

    Raises:
        BadAnswer: it is not usable.
    """
    if reply is not None:
        _check_end(reply, plain=request.reply is None)
    if request.reply is None:
        return text.encode("utf-8", "replace").decode()
    if not text.strip():
        raise BadAnswer("empty", "the answer has no text")
    try:
        text.encode()
        value = parse_object(text)
    except UnicodeEncodeError:
        raise BadAnswer("not_json", "half a surrogate pair in the text") from None
    except NotJson as error:
        raise BadAnswer("not_json", str(error)) from None
    try:
        return request.reply.model_validate_json(json.dumps(value))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the object"
        raise BadAnswer("schema", f"{where}: {first['msg']} ({error.error_count()} in all)") from None


def _check_end(reply: Reply, plain: bool) -> None:
    if reply.malformed:
        raise BadAnswer("schema", f"the server's reply is no completion: {reply.malformed}")
    if reply.refusal or reply.finish_reason in _FILTERED:
        raise BadAnswer("filtered", reply.refusal or "the server's content filter stopped the answer")
    if reply.finish_reason in CUT_OFF:
        if plain:
            return
        raise BadAnswer("length", "the answer was cut off at max_tokens")
    if reply.finish_reason not in _ENDED:
        raise BadAnswer("schema", f"the answer ended for another reason than its end: {reply.finish_reason[:40]!r}")


def size_of(request: Request) -> int:
    """Bytes of both messages and of the schema, which the server adds to them or we do."""
    return sum(len(text.encode()) for text in (request.system, request.user, reply_schema(request.reply)))


def check_encodable(request: Request) -> None:
    """Text that can be sent.

    Raises:
        UserError: it cannot.
    """
    try:
        request.system.encode(), request.user.encode()
    except UnicodeEncodeError as error:
        around = error.object[max(0, error.start - 20) : error.start]
        raise UserError(
            f"{request.stage}: half a surrogate pair in the prompt, after {around!r}; mend that text"
        ) from None
