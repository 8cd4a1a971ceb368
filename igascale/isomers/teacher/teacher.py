"""The teacher: any OpenAI-compatible server, asked so that nothing is lost and nothing is paid for twice.

::

    with Store.open("store.sqlite") as store:
        teacher = Teacher(TeacherSettings(model="..."), store, on_event=print)
        answer = await teacher.ask(Request("extract", system, user, reply=Extraction))
        await teacher.close()

An answer is looked for in the store first. Otherwise the request waits for its turn (:mod:`.limits`) and for its share of the budget
(:mod:`.spending`), is sent (:mod:`.endpoint`), read (:mod:`.reading`), and stored before anybody sees it. What may pass (429, 5xx,
timeouts, cut connections) is tried again; an unusable answer is asked for again with another seed, ``attempts`` times in all, also across restarts.

Whose fault a failure is, the others tell. A request that fails while others are answered is at fault itself, and the build goes on without it;
when nobody is answered, it is the teacher.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

from igascale.errors import UserError
from igascale.isomers.teacher.endpoint import BadAnswer, Endpoint, Reply, TeacherDown, TurnedAway
from igascale.isomers.teacher.limits import AdaptiveLimit, backoff
from igascale.isomers.teacher.reading import check_encodable, read, size_of
from igascale.isomers.teacher.request import Request, key_of
from igascale.isomers.teacher.settings import TeacherSettings, check_settings
from igascale.isomers.teacher.spending import BYTES_PER_TOKEN, BudgetSpent, Prices, Spending, Ticket
from igascale.isomers.teacher.store import Spent, Store, StoredAnswer

__all__ = ["Answer", "BadAnswer", "BudgetSpent", "Request", "Teacher", "TeacherDown", "TeacherSettings"]

UNUSABLE = ("length", "not_json", "schema", "empty", "filtered")
_LONG_PAUSE = 10.0  # seconds of silence that are said every time
_SEED_STRIDE = 1_000_003  # between attempts: far more than there are samples
_REFUSED = 20  # different requests in a row: then it is not about the requests
_RUNS = 5  # that a request failed in while others were answered: then it is no accident
_SEEDS = 2**31  # some servers take no more than 32 bits


@dataclass(frozen=True)
class Answer:
    """A usable answer.

    Attributes:
        value: an instance of the request's reply model, or the text.
        text: as it was received.
        cached: nothing was paid for it now.
        key: under which it is stored.
        input_tokens: that it cost when it was paid for.
        output_tokens: likewise.
        finish_reason: as the server put it; of plain text only, which may have been cut off.
    """

    value: Any
    text: str
    cached: bool
    key: str
    input_tokens: int
    output_tokens: int
    finish_reason: str = ""


@dataclass(frozen=True)
class _Try:
    """One request to send: the question, how many unusable answers there were, and what follows from that."""

    request: Request
    key: str
    attempt: int
    seed: int | None
    max_tokens: int


@dataclass
class _Luck:
    """How a request fares.

    Attributes:
        seen: how many requests had been answered when it failed last.
        tries: that failed.
        alone: of these, those that failed by themselves: others were answered meanwhile.
        silent: failures in a row while nobody was answered.
    """

    seen: int
    tries: int = 0
    alone: int = 0
    silent: int = 0

    def failed(self, cause: str, answered: int) -> None:
        others = answered > self.seen
        self.seen = answered
        self.silent = 0 if others else self.silent + 1
        if cause == "429" and others:  # no failure: it was their turn
            self.tries = 1
        else:
            self.tries += 1
            self.alone += others


class Teacher:
    """See the module.

    Args:
        settings: how to ask.
        store: what was paid for; open for writing.
        on_event: told in one line what the user should know (retries, a way of asking that the server refuses, ...).

    Raises:
        UserError: no key, no valid URL, a setting out of range, or a budget without prices.

    Attributes:
        spending: tokens and money by stage.
        retries: tries that had to be repeated, by cause.
    """

    def __init__(self, settings: TeacherSettings, store: Store, on_event: Callable[[str], None] | None = None):
        check_settings(settings)
        self.settings, self.store = settings, store
        self._say = on_event or (lambda line: None)
        self._endpoint = Endpoint(settings, self._say)
        prices = Prices(settings.input_price, settings.output_price)
        self.spending = Spending(store, prices, settings.budget, settings.max_requests)
        self._limit = AdaptiveLimit(settings.concurrency)
        self.retries: Counter[str] = Counter()
        self._under_way: dict[str, asyncio.Task[Answer]] = {}
        self._answered = 0  # by the server, in this process, usable or not
        self._last_answer, self._silent_since = 0.0, -1
        # Whether it ever answered, asked like this: a way that has worked is not to blame for a request that does not.
        sampling = (settings.model, settings.temperature, settings.structured, settings.max_tokens)
        self._worked = f"worked {_hash(self.url, *sampling)}"
        self._known = store.get_meta(self._worked) is not None
        self._stop: UserError | None = None
        self._stopped = asyncio.Event()
        self._probe = asyncio.Lock()  # who asks while nobody is answered
        self._refused: set[str] = set()  # questions, since the last answer
        self._held = 0  # requests that were refused, and wait to see whether others are answered
        self._told: set[str] = set()
        if lost := self.spending.lost_before.lost:
            self._say(
                f"{lost} requests were under way when the last build died: counted as lost, asked again if needed"
            )

    @property
    def url(self) -> str:
        """Of the server, for messages."""
        return self._endpoint.url

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self._limit.in_flight

    @property
    def concurrency(self) -> int:
        """Requests that may be under way now; 429s lower it, answers raise it up to the ceiling."""
        return int(self._limit.limit)

    async def ask(self, request: Request) -> Answer:
        """The answer, from the store or from the server. Identical requests at the same time are sent once.

        A caller that is cancelled leaves its request under way: it is paid for, so its answer is stored; :meth:`close` ends it.

        Args:
            request: the question.

        Raises:
            BadAnswer: unusable answers only; the build can go on without.
            TeacherDown: no use in asking on.
            BudgetSpent: the budget or max_requests is used up.
            UserError: the store cannot be written.
        """
        key = key_of(request, self.settings)
        check_encodable(request)
        task = self._under_way.get(key)
        if task is not None:
            return replace(await asyncio.shield(task), cached=True)
        if (stored := self.store.get(key)) is not None:
            try:
                value = read(request, stored.text)
                reason = stored.about.get("finish_reason", "")
                return Answer(value, stored.text, True, key, stored.input_tokens, stored.output_tokens, reason)
            except BadAnswer as bad:  # the reply model checks more than it did
                line = f"{request.stage}: a stored answer no longer passes ({bad}); asked again"
                self._say_once(f"stale {request.stage}", line)
        task = asyncio.create_task(self._obtain(request, key))
        self._under_way[key] = task
        task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    async def close(self, wait: float = 0.0) -> None:
        """End what is under way, and the connections.

        Args:
            wait: seconds for requests under way to come back first, so that what is paid for is stored.
        """
        tasks = list(self._under_way.values())
        if tasks and wait:
            self._end(UserError("the teacher is being closed"))  # nothing new is sent
            await asyncio.wait(tasks, timeout=wait)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._endpoint.close()

    def _ended(self, key: str, task: asyncio.Task[Answer]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone; asyncio need not complain

    async def _obtain(self, request: Request, key: str) -> Answer:
        """Ask until an answer is usable, at most ``attempts`` times, counting those before a restart."""
        attempt, max_tokens, last = self._so_far(key)
        while attempt < self.settings.attempts and max_tokens <= 2 * self.settings.max_tokens:
            try:
                return await self._attempt(_Try(request, key, attempt, self._seed(request.sample, attempt), max_tokens))
            except BadAnswer as bad:
                cut_off_twice = bad.reason == "length" and max_tokens > self.settings.max_tokens
                if bad.declined or bad.reason not in UNUSABLE or cut_off_twice:
                    raise
                last = bad
            self._say_once(f"{request.stage} {last.reason}", f"{request.stage}: unusable answers ({last}); asked again")
            if last.reason == "length":
                max_tokens *= 2
            else:
                attempt += 1
        raise last

    def _so_far(self, key: str) -> tuple[int, int, BadAnswer]:
        """Attempts that failed, the limit to send next, and the failure to report if there is none left."""
        attempt, max_tokens, last = 0, self.settings.max_tokens, BadAnswer("empty", "no attempt was allowed")
        for failure in self.store.failures(self._tried(key)):
            if failure.reason == "unavailable" and failure.count >= _RUNS:
                raise BadAnswer("unavailable", f"in {failure.count} runs: {failure.detail}", declined=True)
            if failure.reason == "length" and failure.max_tokens >= self.settings.max_tokens:
                max_tokens = max(max_tokens, 2 * failure.max_tokens)
            elif failure.reason in UNUSABLE and failure.reason != "length":
                attempt += failure.count
            else:
                continue
            last = BadAnswer(failure.reason, failure.detail)
        return attempt, max_tokens, last

    async def _attempt(self, this: _Try) -> Answer:
        """One answer, stored if it is usable and logged if it is not."""
        request, key = this.request, this.key
        try:
            reply, ticket = await self._send(this)
        except BadAnswer as bad:
            raise await self._blamed(this, bad) from None
        # From here to the store without a pause: the next request cannot be sent before this answer is safe.
        tokens = self._tokens(request, reply)
        if tokens[1] > this.max_tokens:
            line = f"the teacher ignores max_tokens: an answer had {tokens[1]:,}, not {this.max_tokens:,}; the budget reckons with the longest"
            self._say_once("max_tokens", line)
        try:
            value = read(request, reply.text, reply)
        except BadAnswer as bad:
            failed = (self._tried(key), request.stage, bad.reason, bad.detail, this.max_tokens)
            spent = self.spending.paid(*tokens, usable=False)
            self._record(ticket, spent, lambda: self.store.log_failure(*failed, spent, ticket.number))
            raise
        spent = self.spending.paid(*tokens, usable=True)
        text = reply.text if request.reply is not None else str(value)
        answer = StoredAnswer(text, *tokens, request.stage, self._about(this, reply))
        self._record(ticket, spent, lambda: self.store.put(key, answer, spent, ticket.number))
        if not self._known:
            self._known = True
            self.store.put_meta(self._worked, "yes")
        return Answer(value, text, False, key, *tokens, "" if request.reply else reply.finish_reason)

    async def _blamed(self, this: _Try, bad: BadAnswer) -> Exception:
        """What to make of a request that the server gave no answer to, noted in the store."""
        reason, detail = bad.reason, bad.detail
        if reason == "refused" and this.max_tokens > self.settings.max_tokens:
            # The same was answered under the lower limit, so this is about the limit.
            reason = "length"
            bad = BadAnswer(reason, f"the answer was cut off at max_tokens; twice as many are refused ({detail})", True)
        elif reason == "refused":
            await self._hold(this.request)
            if len(self._refused) >= _REFUSED or not (self._answered or self._known):
                self._check_stop()
                many = len(self._refused)
                what = f"{many} different requests in a row, the last" if many > 1 else "the request"
                down = TeacherDown(
                    f"the teacher at {self.url} refuses {what} ({detail}); check model {self.settings.model!r}, "
                    "the settings of the teacher and what the key may do"
                )
                self._end(down)
                return down
        if reason != "unavailable":
            # To decline costs nothing, so it may be asked for again; twice the limit need not be, it is known what comes of it.
            declined = bad.declined and not (reason == "length" and this.max_tokens > self.settings.max_tokens)
            noted = f"declined: {reason}" if declined else reason
            self.store.log_failure(self._tried(this.key), this.request.stage, noted, bad.detail, this.max_tokens)
        return bad

    async def _hold(self, request: Request) -> None:
        """Wait with a refusal until another request is answered, or all others are refused too."""
        self._refused.add(request.user)
        self._held += 1
        try:
            while not self._answered and len(self._refused) < _REFUSED and self._held < len(self._under_way):
                await self._sleep(0.05)
                self._check_stop()
        finally:
            self._held -= 1

    async def _send(self, this: _Try) -> tuple[Reply, Ticket]:
        """One reply of the server, through whatever passes.

        A request keeps its turn while it waits for another try, so that a server in trouble is asked by ever fewer; only "too many
        requests" gives it up, for then there are others to answer, and so does one that has waited in vain: then one asks for all.
        """
        luck = _Luck(self._answered)
        while True:
            async with self._probe if self._outage else nullcontext():
                if self._outage:
                    await self._pause(max(luck.tries, self.settings.max_retries))
                await self._limit.acquire()
                try:
                    while True:
                        sent_at = time.monotonic()
                        try:
                            return await self._send_once(this)
                        except TurnedAway as away:
                            self._bear(this, away, luck)
                            if away.cause == "429":
                                self._slow_down(away, sent_at)
                                wait = not away.retry_after and not self._outage
                                break
                            line = f"the teacher at {self.url}: {away.detail}; such failures are tried again"
                            self._say_once(away.cause, line)
                            if self._outage:
                                wait = False
                                break
                        await self._pause(luck.tries)
                finally:
                    self._limit.release()
            if wait:
                await self._pause(luck.tries)

    async def _send_once(self, this: _Try) -> tuple[Reply, Ticket]:
        """One request: reserved, sent, and accounted for if nothing came of it."""
        self._check_stop()
        try:
            ticket = await self.spending.reserve(this.key, this.request.stage, size_of(this.request), this.max_tokens)
        except UserError as error:
            self._end(error)
            raise
        if self._stop is not None:  # while it waited for its share of the budget
            self._record(ticket, Spent(), lambda: self.store.settle(ticket.stage, Spent(), ticket.number))
            self._check_stop()
        try:
            reply = await self._endpoint.send(this.request, this.seed, this.max_tokens, this.attempt)
        except TurnedAway as away:
            self.retries[away.cause] += 1
            spent = Spent(1, lost=1, lost_cost=ticket.reserved) if away.lost else Spent(1, refused=1)
            failed = (this.key, ticket.stage, away.cause, away.detail, 0, spent, ticket.number)
            self._record(ticket, spent, lambda: self.store.log_failure(*failed, durable=False))
            raise
        except BaseException as error:
            if isinstance(error, UserError):
                self._end(error)
            # A refusal by the server costs nothing; what it began, what was cancelled, or ended by a bug of ours, nobody knows.
            free = isinstance(error, UserError) or (isinstance(error, BadAnswer) and error.declined)
            spent = Spent(1, refused=1) if free else Spent(1, lost=1, lost_cost=ticket.reserved)
            self._record(ticket, spent, lambda: self.store.settle(ticket.stage, spent, ticket.number))
            raise
        self._answered += 1
        self._last_answer = time.monotonic()
        self._refused.clear()
        self._limit.succeeded()
        return reply, ticket

    def _slow_down(self, away: TurnedAway, sent_at: float) -> None:
        if self._limit.refused(sent_at, away.retry_after):
            line = f"the teacher says 429 ({away.detail}): {self.concurrency} requests at once from now on"
            if away.retry_after is not None and away.retry_after >= _LONG_PAUSE:
                self._say(f"{line}, after {away.retry_after:.0f} s of silence")
            else:  # a night has thousands
                self._say_once("429", f"{line}, more as it answers, fewer when it says so again")

    async def _pause(self, tries: int) -> None:
        wait = backoff(tries, self.settings.backoff, self.settings.backoff_cap)
        await self._sleep(max(wait, self._limit.paused))

    async def _sleep(self, seconds: float) -> None:
        """Until then, or until nothing is sent any more."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    def _end(self, error: UserError) -> None:
        """Send nothing any more; who waits for a turn hears of it now. The first reason counts."""
        self._stop = self._stop or error
        self._stopped.set()
        self._limit.wake()

    def _record(self, ticket: Ticket, spent: Spent, write: Callable[[], None]) -> None:
        """Write what became of a request. A store that cannot be written ends everything: no further answer could be kept."""
        try:
            write()
        except UserError as error:
            self._end(error)
            self.spending.release(ticket)
            raise
        self.spending.settled(ticket, spent)

    @property
    def _outage(self) -> bool:
        """Whether nobody was answered since a request used up its tries: then one asks at a time, and the others wait for that."""
        return self._silent_since == self._answered

    def _bear(self, this: _Try, away: TurnedAway, luck: _Luck) -> None:
        """Note a failure, and whether it is one of an outage.

        Few tries where a server that never answered takes no connection (most likely a wrong URL: found out soon), and for a request
        that times out (each time may have been paid for).

        Raises:
            BadAnswer: the request is at fault, or one of the last, which another run can ask as well.
            TeacherDown: nobody was answered for too long.
            UserError: nothing is sent any more; then a request that fails is not to blame, though few others are left.
        """
        self._check_stop()
        luck.failed(away.cause, self._answered)
        few = away.cause == "timeout" or (away.cause == "connection" and not self._answered)
        patience = min(4, self.settings.max_retries) if few else self.settings.max_retries
        said = f"{luck.tries} tries; {away.detail}"
        # Fewer under way than there might be: nothing is left to begin.
        last_ones = luck.silent > patience and len(self._under_way) < max(2, self.settings.concurrency)
        if luck.alone > patience or (last_ones and (self._answered or (self._known and away.cause != "connection"))):
            if away.cause not in ("429", "connection"):
                self.store.log_failure(self._tried(this.key), this.request.stage, "unavailable", away.detail)
            raise BadAnswer("unavailable", f"{luck.tries} tries: {away.detail}")
        if luck.silent <= patience and not self._outage:
            return
        if self._answered and time.monotonic() - self._last_answer < self.settings.outage:
            line = f"the teacher at {self.url} answers nobody ({said}); one request at a time until it does, for {self.settings.outage / 60:.0f} minutes at most"
            self._say_once(f"outage {self._answered}", line)
            self._silent_since = self._answered
            return
        where = (
            "check the server" if self._answered or self._known else "check the URL (OPENAI_BASE_URL) and the server"
        )
        down = TeacherDown(
            f"the teacher at {self.url} does not answer ({said}); {where}, then run the same command again", again=True
        )
        self._end(down)
        raise down

    def _check_stop(self) -> None:
        """Nothing is sent any more once it is known to be useless."""
        if self._stop is not None:
            raise self._stop.with_traceback(None)

    def _tried(self, key: str) -> str:
        """The name of a request among the failures: attempts count for one server and one way of asking, unlike answers."""
        return f"{key}@{_hash(self.url, self.settings.structured)}"

    def _seed(self, sample: int, attempt: int) -> int | None:
        return None if self.settings.seed is None else (self.settings.seed + sample + attempt * _SEED_STRIDE) % _SEEDS

    def _tokens(self, request: Request, reply: Reply) -> tuple[int, int]:
        """Of the prompt and of the answer, as the server counts them, else estimated."""
        if reply.input_tokens is not None and reply.output_tokens is not None:
            return reply.input_tokens, reply.output_tokens
        self._say_once("usage", "the teacher does not count tokens; they are estimated from the length of the texts")
        sizes = size_of(request), len(reply.text.encode("utf-8", "replace"))
        return math.ceil(sizes[0] / BYTES_PER_TOKEN), math.ceil(sizes[1] / BYTES_PER_TOKEN)

    def _about(self, this: _Try, reply: Reply) -> dict[str, Any]:
        """What is recorded beside an answer."""
        return {
            "model": self.settings.model,
            "temperature": None if "temperature" in self._endpoint.left_out else self.settings.temperature,
            "seed": None if "seed" in self._endpoint.left_out else this.seed,
            "sample": this.request.sample,
            "prompt_version": this.request.prompt_version,
            "served_by": reply.model,
            "fingerprint": reply.fingerprint,
            **({} if this.request.reply else {"finish_reason": reply.finish_reason}),
        }

    def _say_once(self, what: str, line: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._say(line)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]
