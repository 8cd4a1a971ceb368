"""One question to the teacher, and the key under which its answer is kept.

The key is the SHA-256 of everything that decides the answer: model, both messages, the JSON schema of the reply, temperature, seed,
sample and prompt version. Left out, on purpose:

- ``max_tokens``: an answer that was cut off is never kept, so the limit cannot change one that was. (Of a plain text it may be cut off: there it counts.)
- the base URL: the same model behind another door. A server that moves, or a second one beside it, pays nothing twice. Two *different*
  models under one name would share answers: name them apart.
- how the structure is asked for (``response_format`` or words): it decides whether an answer is usable, and only usable ones are kept. Unusable ones
  are counted by base URL and way of asking, so another server or way gets attempts of its own.
- the API key, timeouts, prices and limits.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from igascale.isomers.teacher.settings import TeacherSettings


@dataclass(frozen=True)
class Request:
    """A question whose answer is one JSON object, or plain text.

    Attributes:
        stage: what it is for (``extract``, ``verify``, ...); counters are kept by stage. Not part of the key.
        system: the instructions; none are sent where they are empty.
        user: the question itself.
        reply: strict model of the answer; ``None``: any text is an answer, also an empty one and one that was cut off.
        sample: which of several independent answers to the same question (a regeneration, a vote); it moves the seed.
        prompt_version: of the prompt's file; an edited prompt never meets answers to the old one.
    """

    stage: str
    system: str
    user: str
    reply: type[BaseModel] | None
    sample: int = 0
    prompt_version: str = ""


def key_of(request: Request, settings: TeacherSettings) -> str:
    """The name of the answer in the store: 64 hexadecimal digits (what goes into it: see above)."""
    temperature = None if settings.temperature is None else float(settings.temperature)
    decisive = {
        "model": settings.model,
        "system": request.system,
        "user": request.user,
        "schema": reply_schema(request.reply),
        "temperature": temperature,
        "seed": settings.seed,
        "sample": request.sample,
        "prompt_version": request.prompt_version,
    }
    if request.reply is None:
        decisive["max_tokens"] = settings.max_tokens
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


@lru_cache(maxsize=256)
def reply_schema(reply: type[BaseModel] | None) -> str:
    """The JSON schema of a reply, in the strict form that structured output asks for: no other fields, every field required.

    Empty for plain text.
    """
    if reply is None:
        return ""
    return json.dumps(_strict(reply.model_json_schema()), sort_keys=True)


def _strict(schema: Any) -> Any:
    """Objects closed and their fields required; no defaults, which strict servers refuse."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": schema["$ref"]}  # strict servers want it alone, without a description beside it
    strict = {name: _strict(part) for name, part in schema.items() if name != "default"}
    if isinstance(properties := schema.get("properties"), dict):
        # A field may be called "default" or "properties" itself: names are not keywords.
        strict["properties"] = {name: _strict(part) for name, part in properties.items()}
        strict["required"] = list(properties)
        strict["additionalProperties"] = False
    return strict
