"""One seed's way through the factory: extract, tell in every domain, verify, compare; refused answers are asked for again.

    seed ─► extract ─► gate ─┬► instantiate ─► gate ─┬► copies? ─┬► verify ─► gate (─► votes) ─┬► step counts, structure ─► group
                             └► ... every domain ... ─┘           └► ... every domain at once ... ─┘

A refusal is quoted to the teacher and the piece told again, at most `regenerate` times. A teacher that cannot be reached is no
outcome: `Unavailable`, `TeacherDown` and `BudgetSpent` pass through, and the seed is tried again by the next run.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel

from igascale.isomers.factory.domains import Domain
from igascale.isomers.factory.gates import (
    GateSettings,
    Issue,
    check_copies,
    check_dag,
    check_group,
    check_telling,
    check_verdict,
    check_votes,
    dag_of,
)
from igascale.isomers.factory.prompts import PromptSet
from igascale.isomers.factory.replies import (
    REPLIES,
    ExtractReply,
    InstantiateReply,
    SolveReply,
    VerifyReply,
)
from igascale.isomers.schema import Instance, IsomerGroup, to_record
from igascale.isomers.seeds import Seed
from igascale.isomers.teacher.request import Request
from igascale.isomers.teacher.teacher import Answer, BadAnswer

ACCEPTED, REJECTED = "accepted", "rejected"
#: The stages that can reject a seed, in their order.
STAGES = ("extract", "instantiate", "verify", "votes", "group")
T = TypeVar("T")


class Asks(Protocol):
    """What the pipeline needs of a teacher."""

    async def ask(self, request: Request) -> Answer:
        """The answer, from the store or from the model."""


@dataclass(frozen=True)
class Outcome:
    """What became of a seed. `record` holds the group, or detail, domain and draft of the rejection; and what it took.

    `record["scores"]` are the verifier's scores of every telling, `record["usage"]` counts answers and their tokens.
    """

    seed_id: str
    status: str
    record: dict[str, Any]
    stage: str = ""
    reason: str = ""


@dataclass(frozen=True)
class _Refusal:
    """Why a piece was refused, and the answer that was."""

    stage: str
    issue: Issue
    draft: BaseModel | None = None
    domain: str | None = None


class Unavailable(Exception):
    """The teacher failed on one of a seed's requests while it answers others: the seed has no outcome yet."""


class _Rejected(Exception):
    def __init__(self, refusal: _Refusal) -> None:
        super().__init__(refusal.issue.detail)
        self.refusal = refusal


@dataclass(frozen=True)
class _Told:
    """A telling that passed by itself."""

    reply: InstantiateReply
    score: float


@dataclass
class _Ledger:
    """What a seed took, and may take: so many `attempts`. Scores are kept by (domain, attempt), because the order of arrival is chance."""

    attempts: int
    scores: dict[tuple[int, int], float] = field(default_factory=dict)
    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def add(self, answer: Answer) -> None:
        self.answers += 1
        self.input_tokens += answer.input_tokens
        self.output_tokens += answer.output_tokens

    def record(self) -> dict[str, Any]:
        return {
            "attempts": self.attempts,
            "scores": [score for _, score in sorted(self.scores.items())],
            "usage": {
                "answers": self.answers,
                "input_tokens": self.input_tokens,
                "output_tokens": self.output_tokens,
            },
        }


class Pipeline:
    """Makes outcomes of seeds.

    Args:
        teacher: who is asked.
        prompts: the prompts.
        domains: the domains, in the order of a group's instances.
        gates: what is asked for.
        recipe: id of the recipe, for the group's `meta`.
        model: the teacher's name, likewise.
    """

    def __init__(
        self,
        teacher: Asks,
        prompts: PromptSet,
        domains: Sequence[Domain],
        gates: GateSettings,
        recipe: str,
        model: str,
    ) -> None:
        self.teacher, self.prompts, self.domains, self.gates = teacher, prompts, tuple(domains), gates
        self.recipe, self.model = recipe, model
        self.attempts = 1 + gates.regenerate

    async def run(self, seed: Seed, attempts: int | None = None) -> Outcome:
        """Take a seed to its outcome.

        Args:
            seed: the seed.
            attempts: for each piece, in place of `self.attempts`. With more than an earlier run had, that run's answers come
                from the store and are refused as they were; then the teacher is asked.

        Raises:
            Unavailable, TeacherDown, BudgetSpent: no outcome yet. The answers so far are in the store.
        """
        ledger = _Ledger(attempts or self.attempts)
        try:
            structure = await self._extract(seed, ledger)
            told = await self._tell(seed, structure, ledger)
        except _Rejected as rejected:
            refusal = rejected.refusal
            record: dict[str, Any] = {"domain": refusal.domain, "detail": refusal.issue.detail}
            if refusal.draft is not None:
                record["draft"] = refusal.draft.model_dump(mode="json", by_alias=True)
            record |= ledger.record()
            return Outcome(seed.id, REJECTED, record, refusal.stage, refusal.issue.reason)
        group = self._group(seed, structure, told)
        return Outcome(seed.id, ACCEPTED, {"group": to_record(group), **ledger.record()})

    async def _extract(self, seed: Seed, ledger: _Ledger) -> ExtractReply:
        refusal: _Refusal | None = None
        for attempt in range(ledger.attempts):
            reply = await self._ask("extract", {"problem": seed.problem}, ledger, attempt, refusal)
            if isinstance(reply, Issue):
                refusal = _Refusal("extract", reply)
                continue
            assert isinstance(reply, ExtractReply)
            issue = check_dag(reply)
            if issue is None:
                return reply
            refusal = _Refusal("extract", issue, reply)
        assert refusal is not None
        raise _Rejected(refusal)

    async def _tell(self, seed: Seed, structure: ExtractReply, ledger: _Ledger) -> dict[str, _Told]:
        """Every domain's telling, each verified and all of one shape. All domains are told at once, round by round."""
        form = json.dumps(structure.model_dump(mode="json", by_alias=True), ensure_ascii=False)
        told: dict[str, _Told] = {}
        refusals: dict[str, _Refusal] = {}
        for attempt in range(ledger.attempts):
            missing = [domain for domain in self.domains if domain.name not in told]
            written = await self._write_all(form, missing, attempt, refusals, told, ledger)
            checked = await _all(
                self._check(seed, form, domain, (self.domains.index(domain), attempt), reply, ledger)
                for domain, reply in zip(missing, written)
            )
            results = {domain.name: result for domain, result in zip(missing, checked)}
            told |= {name: result for name, result in results.items() if isinstance(result, _Told)}
            refusals = {name: result for name, result in results.items() if isinstance(result, _Refusal)}
            if not refusals:
                in_order = {domain.name: told[domain.name] for domain in self.domains}
                for name, issue in check_group({n: t.reply for n, t in in_order.items()}, self.gates).items():
                    refusals[name] = _Refusal("group", issue, told.pop(name).reply, name)
                if not refusals:
                    return in_order
        raise _Rejected(next(refusals[domain.name] for domain in self.domains if domain.name in refusals))

    async def _write_all(
        self,
        form: str,
        missing: Sequence[Domain],
        attempt: int,
        refusals: Mapping[str, _Refusal],
        told: Mapping[str, _Told],
        ledger: _Ledger,
    ) -> list[InstantiateReply | _Refusal]:
        """The structure told in the missing domains. What is wrong by itself, or a copy, is not worth a verdict."""
        written = await _all(
            self._write(form, domain, attempt, refusals.get(domain.name), ledger) for domain in missing
        )
        new = {
            domain.name: reply.problem for domain, reply in zip(missing, written) if isinstance(reply, InstantiateReply)
        }
        copies = check_copies({name: telling.reply.problem for name, telling in told.items()}, new)
        return [
            _Refusal("instantiate", copies[domain.name], reply, domain.name)
            if domain.name in copies and isinstance(reply, InstantiateReply)
            else reply
            for domain, reply in zip(missing, written)
        ]

    async def _write(
        self, form: str, domain: Domain, attempt: int, refused: _Refusal | None, ledger: _Ledger
    ) -> InstantiateReply | _Refusal:
        """The structure told in a domain once."""
        fields = {"structure": form, "domain": domain.name, "description": domain.text}
        reply = await self._ask("instantiate", fields, ledger, attempt, refused)
        if isinstance(reply, Issue):
            return _Refusal("instantiate", reply, domain=domain.name)
        assert isinstance(reply, InstantiateReply)
        issue = check_telling(reply)
        return reply if issue is None else _Refusal("instantiate", issue, reply, domain.name)

    async def _check(
        self,
        seed: Seed,
        form: str,
        domain: Domain,
        at: tuple[int, int],
        reply: InstantiateReply | _Refusal,
        ledger: _Ledger,
    ) -> _Told | _Refusal:
        """A telling's verdict and votes; `at`: the domain's place, and the attempt."""
        if isinstance(reply, _Refusal):
            return reply
        verdict = await self._verify(seed, form, domain, reply, ledger)
        if isinstance(verdict, Issue):
            return _Refusal("verify", verdict, reply, domain.name)
        ledger.scores[at] = verdict.alignment_score
        if issue := check_verdict(verdict, self.gates):
            return _Refusal("verify", issue, reply, domain.name)
        if issue := await self._votes(reply, ledger):
            return _Refusal("votes", issue, reply, domain.name)
        return _Told(reply, verdict.alignment_score)

    async def _verify(
        self, seed: Seed, form: str, domain: Domain, reply: InstantiateReply, ledger: _Ledger
    ) -> VerifyReply | Issue:
        """The verdict; an answer that is none is asked for again, the telling is not to blame."""
        fields = {
            "seed": seed.problem,
            "problem": reply.problem.strip(),
            "solution": _numbered(reply),
            "domain": domain.name,
            "description": domain.text,
            "structure": form,
        }
        verdict: BaseModel | Issue = Issue("", "")
        for sample in range(ledger.attempts):
            verdict = await self._ask("verify", fields, ledger, sample)
            if isinstance(verdict, VerifyReply):
                return verdict
        assert isinstance(verdict, Issue)
        return verdict

    async def _votes(self, reply: InstantiateReply, ledger: _Ledger) -> Issue | None:
        """Independent solutions against the stated answer; an answer that is none is a vote for nothing."""
        if not self.gates.votes:
            return None
        fields = {"problem": reply.problem.strip()}
        solved = await _all(self._ask("solve", fields, ledger, sample) for sample in range(self.gates.votes))
        return check_votes(reply.answer, [vote.answer if isinstance(vote, SolveReply) else "" for vote in solved])

    async def _ask(
        self,
        stage: str,
        fields: Mapping[str, str],
        ledger: _Ledger,
        sample: int,
        refused: _Refusal | None = None,
    ) -> BaseModel | Issue:
        """One answer, or why there is none that can be used."""
        prompt = self.prompts[stage]
        system, user = prompt.fill(fields, issues=refused.issue.detail if refused else "")
        try:
            answer = await self.teacher.ask(Request(stage, system, user, REPLIES[stage], sample, prompt.version))
        except BadAnswer as error:
            if error.reason == "unavailable" and not error.declined:
                raise Unavailable(f"{stage}: {error.detail}") from None
            if error.reason == "unavailable":  # run after run: telling it anew would take as many runs again
                raise _Rejected(_Refusal(stage, Issue("reply_unavailable", error.detail))) from None
            return Issue(f"reply_{error.reason}", f"the answer could not be used ({error.reason}): {error.detail}")
        ledger.add(answer)
        value: BaseModel = answer.value
        return value

    def _group(self, seed: Seed, structure: ExtractReply, told: Mapping[str, _Told]) -> IsomerGroup:
        steps = {name: len(telling.reply.cot_solution) for name, telling in told.items()}
        same = set(steps.values())
        meta: dict[str, Any] = {
            "teacher": self.model,
            "recipe": self.recipe,
            "alignment": {name: telling.score for name, telling in told.items()},
            "claimed_alignment": {name: telling.reply.alignment_score for name, telling in told.items()},
            "steps": steps,
            "stated_steps": structure.step_count,
        }
        return IsomerGroup(
            id=seed.id,
            seed_id=seed.id,
            instances=tuple(
                Instance(
                    name,
                    telling.reply.problem.strip(),
                    "\n".join(_lines(telling.reply)),
                    telling.reply.answer.strip(),
                )
                for name, telling in told.items()
            ),
            dag=dag_of(structure, same.pop() if len(same) == 1 else None),
            meta=meta,
        )


def _lines(reply: InstantiateReply) -> list[str]:
    """The steps, each on one line: so they are verified, and so they stand in the data."""
    return [" ".join(step.step.split()) for step in reply.cot_solution]


def _numbered(reply: InstantiateReply) -> str:
    """The solution for the verifier, with what each step claims to use."""
    lines = [
        f"{number}. {line} (uses {', '.join(map(str, step.depends_on)) or 'the problem alone'})"
        for number, (line, step) in enumerate(zip(_lines(reply), reply.cot_solution), start=1)
    ]
    return "\n".join([*lines, f"Answer: {reply.answer.strip()}"])


async def _all(waiting: Iterable[Awaitable[T]]) -> list[T]:
    """Everything at once. If some fail the rest is still waited for, because its answers are paid; then the first failure counts."""
    results = await asyncio.gather(*waiting, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]
