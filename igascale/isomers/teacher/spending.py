"""Counting tokens and money, and stopping before the budget is overrun.

Before a request is sent, the most that it can cost is reserved: its prompt's tokens as estimated from its length, and ``max_tokens`` of
output, or as much as the longest answer had, where a server ignores ``max_tokens``. What is spent and what is reserved together never exceed
the budget, so an overrun is at most the error of the prompts' estimates, and what such a server wrote before the first answer told.
A request that timed out or was cut may or may not have been paid for: its whole reservation stays counted, as ``lost_cost``. Counters,
budget and the limit on requests hold for the life of the store, not of the process.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from igascale.errors import UserError
from igascale.isomers.teacher.store import Spent, Store

BYTES_PER_TOKEN = 3.0  # of a prompt's UTF-8; English has about 4, so that the estimate errs on the dear side
_TOKENS_AROUND = 16  # roles and the chat template


class BudgetSpent(UserError):
    """The next request might exceed the budget. Everything paid for is stored; a higher budget goes on from here."""


@dataclass(frozen=True)
class Ticket:
    """A request about to be sent: its number in the store, its stage, and what it can cost at most (US dollars)."""

    number: int
    stage: str
    reserved: float


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens; 0 is unknown. Discounts, for cached prompts say, are not known here: a cost is an upper bound."""

    input: float = 0.0
    output: float = 0.0

    def cost(self, input_tokens: int, output_tokens: int) -> float:
        """US dollars."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6


class Spending:
    """The counters of a store, and the gate in front of every request.

    Args:
        store: where they are kept; the requests that a killed builder had under way are counted as lost.
        prices: of the teacher.
        budget: US dollars over the life of the store.
        max_requests: requests over the life of the store.

    Raises:
        UserError: a budget without prices.

    Attributes:
        lost_before: what a killed builder had under way.
        reserved: US dollars for the requests under way.
        longest: output tokens of the longest answer so far.
    """

    def __init__(self, store: Store, prices: Prices, budget: float | None = None, max_requests: int | None = None):
        if budget is not None and not (prices.input or prices.output):
            raise UserError(
                "a budget needs prices: give input_price and output_price, in US dollars per million tokens"
            )
        self.store, self.prices, self.budget, self.max_requests = store, prices, budget, max_requests
        self.lost_before = store.settle_lost()
        self._stages = store.spending()
        self._total = sum(self._stages.values(), Spent())
        self.reserved, self._under_way = 0.0, 0
        self._settled = asyncio.Event()
        self.longest = 0

    @property
    def by_stage(self) -> dict[str, Spent]:
        """Since the store was made."""
        return dict(self._stages)

    @property
    def total(self) -> Spent:
        """Over all stages, since the store was made."""
        return self._total

    async def reserve(self, key: str, stage: str, prompt_bytes: int, max_tokens: int) -> Ticket:
        """Set aside what a request can cost; waits for others to come back where they hold too much.

        Args:
            key: of the request.
            stage: of the request.
            prompt_bytes: of both messages, UTF-8.
            max_tokens: that the answer may have.

        Raises:
            BudgetSpent: it does not fit, and nothing is under way that could leave something over.
        """
        prompt = math.ceil(prompt_bytes / BYTES_PER_TOKEN) + _TOKENS_AROUND
        # Anew after each wait: an answer that came meanwhile may have been longer than any before.
        while obstacle := self._obstacle(reserved := self.prices.cost(prompt, max(max_tokens, self.longest))):
            if not self._under_way:
                raise BudgetSpent(obstacle)
            self._settled.clear()
            await self._settled.wait()
        ticket = Ticket(self.store.log_sent(key, stage, reserved), stage, reserved)
        self.reserved += reserved
        self._under_way += 1
        return ticket

    def settled(self, ticket: Ticket, spent: Spent) -> None:
        """The store has noted what became of a request: free its reservation."""
        self._stages[ticket.stage] = self._stages.get(ticket.stage, Spent()) + spent
        self._total += spent
        self.release(ticket)

    def release(self, ticket: Ticket) -> None:
        """Free a reservation without an account of it (the store failed)."""
        self.reserved -= ticket.reserved
        self._under_way -= 1
        self._settled.set()

    def paid(self, input_tokens: int, output_tokens: int, usable: bool) -> Spent:
        """What an answer adds to the counters."""
        self.longest = max(self.longest, output_tokens)
        cost = self.prices.cost(input_tokens, output_tokens)
        return Spent(1, int(usable), int(not usable), 0, 0, input_tokens, output_tokens, cost)

    def _obstacle(self, reserved: float) -> str:
        """Why a request cannot be sent now; empty where it can."""
        total = self.total
        requests = total.requests + self._under_way
        if self.max_requests is not None and requests >= self.max_requests:
            return (
                f"max_requests {self.max_requests} is reached ({self.said()}). Everything paid for is stored: "
                "run the same command with a higher --max-requests to go on"
            )
        spent = total.cost + total.lost_cost
        if self.budget is not None and spent + self.reserved + reserved > self.budget + 1e-12:
            return (
                f"budget ${self.budget:g} is spent: the next request may cost ${reserved:.4f} ({self.said()}). "
                "Everything paid for is stored: run the same command with a higher --budget to go on"
            )
        return ""

    def said(self) -> str:
        """One line on what was spent: ``1,204 requests, 812,000 + 240,113 tokens, $3.41``."""
        total = self.total
        parts = [f"{total.requests:,} requests", f"{total.input_tokens:,} + {total.output_tokens:,} tokens"]
        if self.prices.input or self.prices.output or total.cost:
            parts.append(f"${total.cost:.4f}")
        if total.lost_cost:
            parts.append(f"up to ${total.lost_cost:.4f} for {total.lost:,} requests that were cut off")
        return ", ".join(parts)
