"""One HTTP request to an OpenAI-compatible server, and what its failures mean.

How the JSON is asked for is settled here: by ``response_format`` with the schema, by ``response_format`` without it, or by words alone. With
``auto`` the first that the server does not refuse is kept for the life of the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from igascale.errors import TRY_AGAIN, UserError, did_you_mean
from igascale.isomers.teacher.request import Request, reply_schema
from igascale.isomers.teacher.settings import TeacherSettings

DEFAULT_URL = "https://api.openai.com/v1"
LONGEST_WAIT = 3600.0  # seconds: a server that asks for more has a quota to wait for, not a rush
_WAYS = ("json_schema", "json_object", "none")
_ABOUT_STRUCTURE = re.compile(
    r"response_?format|json_?schema|json_?object|structured|guided|grammar|\bschema\b", re.IGNORECASE
)
_TOO_LONG = re.compile(
    r"context.{0,10}(length|window|size)|maximum context|too (long|many tokens|large)", re.IGNORECASE
)
_WROTE_NO_JSON = "json_validate_failed"  # a 400, but of an answer: another seed may do
_NOTHING_ON_PURPOSE = ("length", "max_tokens", "model_length", "content_filter", "safety")  # a reason for no text
_ENDED_AT_ONCE = ("stop", "eos", "eos_token", "end_turn")  # and one where any text is an answer
_NOT_TAKEN = re.compile(
    r"unsupported|(not|n't) (support|permit|allow|accept|recogni)|extra|forbidden|unknown|unrecogni|unexpected",
    re.IGNORECASE,
)
_WITHOUT_PASSWORD = re.compile(r"//[^/]*@")
_FILTERED = re.compile(r"content.?(filter|policy|management)|usage polic|moderation", re.IGNORECASE)


class TeacherDown(UserError):
    """No use in asking on: a wrong URL, key or model, or a server that stopped answering (then trying again may do)."""

    def __init__(self, message: str, again: bool = False):
        super().__init__(message)
        if again:
            self.exit_code = TRY_AGAIN


class BadAnswer(Exception):
    """The teacher answered, but unusably, as often as it was allowed to. The build goes on without this answer.

    Attributes:
        reason: ``length``, ``not_json``, ``schema``, ``empty`` or ``filtered``; ``refused`` by the server, while it answers others; ``unavailable`` where the server fails at this one request
            (it times out, or 500) while it answers others: no verdict on the request, so worth asking again another day.
        detail: what exactly.
        declined: asking again would end the same: the server refused the request itself (its length, say), at no cost, or failed at it in
            run after run.
    """

    def __init__(self, reason: str, detail: str, declined: bool = False):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail, self.declined = reason, detail, declined


class TurnedAway(Exception):
    """A failure that may pass: worth another try.

    Attributes:
        cause: ``429``, ``5xx``, ``timeout``, ``cut`` or ``connection``.
        detail: what exactly.
        retry_after: seconds that the server asks to wait.
        lost: the server may have done, and charged for, the work.
    """

    def __init__(self, cause: str, detail: str, retry_after: float | None = None, lost: bool = False):
        super().__init__(f"{cause}: {detail}")
        self.cause, self.detail, self.retry_after, self.lost = cause, detail, retry_after, lost


@dataclass(frozen=True)
class Reply:
    """What came back. Tokens are ``None`` where the server does not count them."""

    text: str
    finish_reason: str
    refusal: str
    input_tokens: int | None
    output_tokens: int | None
    model: str
    fingerprint: str
    malformed: str = ""  # what is wrong with the shape of the reply, if anything


def _address(url: str) -> SplitResult:
    """The URL's parts.

    Raises:
        UserError: it is none that something could be sent to.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        if parts.scheme in ("http", "https") and host and url.isprintable() and " " not in url:
            host.encode("idna").decode("idna")
            return parts
    except ValueError:  # brackets, port or name of the host
        pass
    shown = _WITHOUT_PASSWORD.sub("//", url.encode("utf-8", "backslashreplace").decode())
    raise UserError(
        f"teacher URL {shown!r} is no http(s) address; give one such as http://localhost:8000/v1 (OPENAI_BASE_URL)"
    )


def _key_for(url: str, names: tuple[str, ...]) -> str:
    """The key as it goes into a header: files and `echo` like to end it with a line break."""
    for name in names:
        key = os.environ.get(name, "").strip()
        if not key:
            continue
        if not (key.isascii() and key.isprintable()):
            raise UserError(
                f"{name} is no key: a line break, or a character that is not ASCII, within it; copy the key once more"
            )
        return key
    raise UserError(f"no key for the teacher at {url}: set OPENAI_API_KEY (any word, for a server that asks for none)")


class Endpoint:
    """A server, and the way it is asked.

    Args:
        settings: of the teacher.
        say: told, in one line, when the way of asking changes.

    Raises:
        UserError: no key in the environment, or a URL that is none.

    Attributes:
        left_out: ``seed`` or ``temperature``, where the server named them as something that it does not take.
    """

    def __init__(self, settings: TeacherSettings, say: Callable[[str], None]):
        self._settings, self._say = settings, say
        url = settings.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
        parts = _address(url)
        #: For messages: without a password that the URL may carry.
        self.url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
        self._key = _key_for(self.url, settings.key_names)
        try:
            from openai import AsyncOpenAI, DefaultAsyncHttpxClient, Timeout
        except ImportError:
            raise UserError("the teacher needs the openai package: pip install 'igascale[data]'") from None
        patience = Timeout(settings.timeout, connect=min(10.0, settings.timeout))
        # A proxy of the environment (HTTP_PROXY) is no way to a server on this very machine.
        direct = DefaultAsyncHttpxClient(trust_env=False) if _is_here(parts.hostname or "") else None
        self._client = AsyncOpenAI(api_key=self._key, base_url=url, max_retries=0, timeout=patience, http_client=direct)
        self._way = _WAYS[0] if settings.structured == "auto" else settings.structured
        self._limit_name = "max_tokens"
        self.left_out: set[str] = set()
        self._accepted: set[tuple[str, type | None]] = set()  # ways of asking, and what for, that were answered

    async def close(self) -> None:
        """Close its connections."""
        await self._client.close()

    @property
    def way(self) -> str:
        """How JSON is asked for now: ``json_schema``, ``json_object`` or ``none``."""
        return self._way

    async def send(self, request: Request, seed: int | None, max_tokens: int, attempt: int) -> Reply:
        """Ask once. A server that refuses the way of asking is asked in the next simpler way at once; refusals cost nothing.

        Args:
            request: the question.
            seed: to send, if any.
            max_tokens: that the answer may have.
            attempt: how many unusable answers there were before; then the schema is spelled out in any case.

        Raises:
            TurnedAway: worth another try.
            BadAnswer: this request is at fault (too long for the model, or filtered), or ``refused`` for whatever reason.
            TeacherDown: no request will do better.
        """
        while True:
            way = self._way if request.reply is not None else "none"
            body = self._body(request, way, seed, max_tokens, attempt)
            try:
                async with asyncio.timeout(self._settings.timeout):
                    completion = await self._client.chat.completions.create(**body)
                reply = self._reply(completion, plain=request.reply is None)
                self._accepted.add((way, request.reply))
                return reply
            except (TeacherDown, TurnedAway):
                raise
            except TimeoutError:
                raise TurnedAway("timeout", f"no answer within {self._settings.timeout:g} s", lost=True) from None
            except Exception as error:
                if not self._asks_differently(error, body, way, request.reply):
                    raise await self._meaning(error) from None

    def _body(self, request: Request, way: str, seed: int | None, max_tokens: int, attempt: int) -> dict[str, Any]:
        schema, system = reply_schema(request.reply), request.system
        if schema and (way != "json_schema" or attempt):
            system += f"\n\nReply with one JSON object and nothing else. It must match this JSON schema:\n{schema}"
        body: dict[str, Any] = {
            "model": self._settings.model,
            "messages": [
                *([{"role": "system", "content": system}] if system else []),
                {"role": "user", "content": request.user},
            ],
            self._limit_name: max_tokens,
        }
        if self._settings.temperature is not None and "temperature" not in self.left_out:
            body["temperature"] = self._settings.temperature
        if seed is not None and "seed" not in self.left_out:
            body["seed"] = seed
        # As extra_body: as an argument, the client would walk through the whole schema for every request, a third of its CPU time.
        if way == "json_schema" and request.reply is not None:
            name = re.sub(r"[^A-Za-z0-9_-]", "_", request.reply.__name__)
            described = {"name": name, "strict": True, "schema": json.loads(schema)}
            body["extra_body"] = {"response_format": {"type": "json_schema", "json_schema": described}}
        elif way == "json_object":
            body["extra_body"] = {"response_format": {"type": "json_object"}}
        return body

    def _reply(self, completion: Any, plain: bool) -> Reply:
        """What came back, of whatever shape. Nothing that may have been paid for is an exception here.

        Raises:
            TurnedAway: the server is in trouble, although it says 200.
            TeacherDown: it has never answered, and this is no completion.
        """
        if error := getattr(completion, "error", None):
            raise TurnedAway("5xx", self._redacted(" ".join(str(error).split())[:300]))
        choices = getattr(completion, "choices", None)
        if not isinstance(choices, list):
            if self._accepted:
                raise TurnedAway("5xx", "HTTP 200, but no completion")
            raise TeacherDown(
                f"{self.url} does not answer with a completion; is the URL right? Most end in /v1 (OPENAI_BASE_URL)"
            )
        first = choices[0] if choices else None
        message, usage = _part(first, "message"), _part(completion, "usage")
        text = _text(_part(message, "content"))
        reply = Reply(
            text=text or "",
            finish_reason=str(_part(first, "finish_reason") or "").lower(),
            refusal=str(_part(message, "refusal") or ""),
            input_tokens=_count(_part(usage, "prompt_tokens")),
            output_tokens=_count(_part(usage, "completion_tokens")),
            model=str(_part(completion, "model") or ""),
            fingerprint=str(_part(completion, "system_fingerprint") or ""),
            malformed="choices[0].message is missing"
            if message is None
            else "content is no text"
            if text is None
            else "",
        )
        nothing = not choices or not (reply.text or reply.refusal or reply.malformed or reply.output_tokens)
        on_purpose = _NOTHING_ON_PURPOSE + (_ENDED_AT_ONCE if plain else ())
        if reply.finish_reason == "error" or (nothing and reply.finish_reason not in on_purpose):
            detail = f"HTTP 200, but nothing was written (finish_reason {reply.finish_reason or 'none'})"
            raise TurnedAway("5xx", detail, lost=bool(reply.output_tokens))
        return reply

    def _asks_differently(self, error: Exception, body: dict[str, Any], way: str, reply: type | None) -> bool:
        """Whether a refusal was about the way of asking, and there is another one."""
        if getattr(error, "status_code", None) not in (400, 422):
            return False
        text = self._told(error)
        if "max_completion_tokens" in text and "max_tokens" in body:
            if self._limit_name == "max_tokens":
                self._limit_name = "max_completion_tokens"
                self._say("the teacher wants max_completion_tokens in place of max_tokens; it gets it from now on")
            return True
        if self._leaves_out(text, body):
            return True
        if self._settings.structured != "auto" or way == "none" or not _ABOUT_STRUCTURE.search(text):
            return False
        if (way, reply) in self._accepted or getattr(error, "code", None) == _WROTE_NO_JSON:
            return False  # so it is not about the way
        if self._way == way:  # the first of those under way to be refused
            self._way = _WAYS[_WAYS.index(way) + 1]
            how = "the schema in the prompt" if self._way == "none" else f"response_format {self._way}"
            self._say(f"the teacher refuses response_format {way} ({text}); from now on: {how}")
        return True

    def _leaves_out(self, text: str, body: dict[str, Any]) -> bool:
        """Whether a parameter is not taken, and is left out from now on. One that was taken before is not what the refusal is about."""
        named = [name for name in ("seed", "temperature") if name in body and re.search(rf"\b{name}\b", text)]
        if not named or not _NOT_TAKEN.search(text):
            return False
        for name in named:
            if name not in self.left_out and not self._accepted:
                if name in self._settings.must_take:
                    raise TeacherDown(f"the teacher at {self.url} takes no {name} ({text}), which was asked for")
                self.left_out.add(name)
                self._say(f"the teacher takes no {name} ({text}); it is left out from now on")
        return any(name in self.left_out for name in named)

    async def _meaning(self, error: Exception) -> Exception:
        """What to do about a failure."""
        import openai

        cause = error.__cause__
        if isinstance(error, UnicodeEncodeError) or type(cause).__name__ in (
            "LocalProtocolError",
            "UnsupportedProtocol",
        ):
            why = self._redacted(" ".join(str(cause or error).split()))
            return TeacherDown(f"a request cannot even be sent to {self.url} ({why}); check URL and key")
        if isinstance(error, openai.APIConnectionError) and type(cause).__name__.startswith("Connect"):
            return TurnedAway("connection", self._redacted(f"no connection ({cause})"))
        if isinstance(error, openai.APITimeoutError):
            return TurnedAway("timeout", f"no answer within {self._settings.timeout:g} s", lost=True)
        if isinstance(error, openai.APIStatusError):
            return await self._meaning_of_status(error, error.status_code)
        if isinstance(error, openai.APIConnectionError):
            return TurnedAway("cut", self._redacted(str(cause or error)), lost=True)
        if isinstance(error, (ValueError, openai.APIError)):  # a body that is no JSON: it was cut
            return TurnedAway("cut", f"the reply is cut off: {self._redacted(str(error))}", lost=True)
        return error

    async def _meaning_of_status(self, error: Any, status: int) -> Exception:
        text, model = self._told(error), self._settings.model
        code = str(getattr(error, "code", "") or "")
        if status == 429 and code == "insufficient_quota":
            return TeacherDown(
                f"the teacher at {self.url} has no quota left for this key ({text}); top it up and run the same command again"
            )
        if status == 429 or (status == 503 and _retry_after(error) is not None):
            wait = _retry_after(error)
            if wait is not None and wait > LONGEST_WAIT:
                return TeacherDown(
                    f"the teacher at {self.url} asks to wait {wait / 3600:.1f} hours ({text}); run the same command again then",
                    again=True,
                )
            return TurnedAway("429", text, wait)
        if status in (408, 504, 524):  # a gateway lost patience; the model may have gone on
            return TurnedAway("timeout", f"HTTP {status}: {text}", lost=True)
        if status >= 500 or status in (409, 425):
            return TurnedAway("5xx", f"HTTP {status}: {text}", _retry_after(error))
        if status == 401:
            return TeacherDown(
                f"the teacher at {self.url} refuses the key (HTTP {status}: {text}); set OPENAI_API_KEY to one that it knows"
            )
        if status == 404:
            return TeacherDown(await self._what_is_missing(text))
        if status in (400, 403, 413, 422):
            if code == _WROTE_NO_JSON:
                return BadAnswer("not_json", text)
            if code == "context_length_exceeded" or status == 413 or _TOO_LONG.search(text):
                return BadAnswer("length", f"the request is too long for {model}: {text}", declined=True)
            if "content_filter" in code or _FILTERED.search(text):
                return BadAnswer("filtered", text, declined=True)
            return BadAnswer("refused", f"HTTP {status}: {text}", declined=True)
        return TeacherDown(
            f"the teacher at {self.url} refuses the request (HTTP {status}: {text}); check model {model!r} and the settings of the teacher"
        )

    async def _what_is_missing(self, text: str) -> str:
        """A 404 is a wrong model or a wrong URL: the list of models tells."""
        try:
            async with asyncio.timeout(min(10.0, self._settings.timeout)):
                known = [model.id for model in (await self._client.models.list()).data]
        except Exception:
            return f"{self.url} is not a teacher's address (HTTP 404: {text}); most end in /v1 (OPENAI_BASE_URL)"
        model = self._settings.model
        if model in known:
            return f"the teacher at {self.url} lists model {model!r} but does not serve it (HTTP 404: {text}); check the server"
        some = f"it has {', '.join(known[:5])}{', ...' if len(known) > 5 else ''}" if known else "it has none"
        return f"the teacher at {self.url} has no model {model!r} ({some}){did_you_mean(model, known)}"

    def _told(self, error: Exception) -> str:
        """The server's own words, on one line."""
        body = getattr(error, "body", None)
        message = body.get("message") or body.get("detail") if isinstance(body, dict) else None
        words = " ".join(str(message or getattr(error, "message", "") or error).split())
        param = getattr(error, "param", None)
        return self._redacted(words[:300] + (f" [{param}]" if param and str(param) not in words else ""))

    def _redacted(self, text: str) -> str:
        text = text.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair could not be printed
        if len(self._key) > 5:
            for written in (self._key, repr(self._key)[1:-1]):
                text = text.replace(written, "***")
        return text


def _part(whole: Any, name: str) -> Any:
    """A field of what should be an object; the client does not check what servers send."""
    return whole.get(name) if isinstance(whole, dict) else getattr(whole, name, None)


def _text(content: Any) -> str | None:
    """The text of a message: a string, or parts of which some are text (others are thoughts). ``None`` if it is something else."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    parts = [_part(part, "text") for part in content if _part(part, "type") in ("text", "output_text")]
    return "".join(parts) if parts and all(isinstance(part, str) for part in parts) else None


def _count(tokens: Any) -> int | None:
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0 else None


def _is_here(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _retry_after(error: Any) -> float | None:
    """Seconds, from ``retry-after-ms`` or ``Retry-After`` (a number or a date)."""
    headers = error.response.headers
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            wait = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if wait >= 0:
            return wait
    try:
        return max(0.0, (parsedate_to_datetime(headers["retry-after"]) - datetime.now(UTC)).total_seconds())
    except (KeyError, TypeError, ValueError):
        return None
