"""The adaptive limit, the backoff, and the gate in front of the budget."""

import asyncio
import random
import time

import pytest

from igascale.errors import UserError
from igascale.isomers.teacher.limits import AdaptiveLimit, backoff
from igascale.isomers.teacher.spending import BudgetSpent, Prices, Spending
from igascale.isomers.teacher.store import Spent, Store


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store.sqlite") as store:
        yield store


async def acquired(limit):
    await limit.acquire()
    return time.monotonic()


def test_the_limit_halves_once_per_window_and_grows_by_one_per_window():
    async def scenario():
        limit = AdaptiveLimit(64)
        sent = [await acquired(limit) for _ in range(64)]
        assert limit.in_flight == 64
        assert limit.refused(sent[0], None) and limit.limit == 32
        for at in sent[1:]:
            assert not limit.refused(at, None), "sent before the cut: nothing new"
        for _ in sent:
            limit.release()
        assert limit.limit == 32 and limit.cuts == 1
        late = await acquired(limit)
        assert limit.refused(late, None) and limit.limit == 16
        before = limit.limit
        for _ in range(16):
            limit.succeeded()
        assert before + 0.9 < limit.limit <= before + 1
        for _ in range(10_000):
            limit.succeeded()
        assert limit.limit == 64, "never above the ceiling"

    asyncio.run(scenario())


def test_one_request_always_may_go():
    async def scenario():
        limit = AdaptiveLimit(4)
        for _ in range(10):
            limit.refused(await acquired(limit), None)
            limit.release()
        assert limit.limit == 1.0
        await asyncio.wait_for(limit.acquire(), 60)

    asyncio.run(scenario())


def test_nobody_passes_the_limit_and_all_get_their_turn_in_order():
    async def scenario():
        limit, most, order = AdaptiveLimit(8), 0, []

        async def worker(i):
            nonlocal most
            at = await acquired(limit)
            order.append(i)
            most = max(most, limit.in_flight)
            assert limit.in_flight <= 8
            await asyncio.sleep(random.random() / 1000)
            if i % 17 == 0:
                limit.refused(at, None)
            else:
                limit.succeeded()
            limit.release()

        await asyncio.gather(*(worker(i) for i in range(400)))
        assert most == 8 and order == list(range(400)) and limit.in_flight == 0

    asyncio.run(scenario())


def test_those_who_are_cancelled_keep_no_turn():
    async def scenario():
        limit, chance = AdaptiveLimit(3), random.Random(5)

        async def worker():
            await limit.acquire()
            try:
                await asyncio.sleep(chance.random() / 500)
            finally:
                limit.release()

        tasks = [asyncio.create_task(worker()) for _ in range(300)]
        for task in chance.sample(tasks, 150):
            await asyncio.sleep(chance.random() / 2000)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limit.in_flight == 0
        for _ in range(3):
            await asyncio.wait_for(limit.acquire(), 60)

    asyncio.run(scenario())


def test_retry_after_silences_everybody():
    async def scenario():
        limit = AdaptiveLimit(4)
        at = await acquired(limit)
        limit.refused(at, 0.3)
        limit.release()
        assert limit.paused <= 0.3
        await asyncio.gather(limit.acquire(), limit.acquire())
        assert time.monotonic() - at >= 0.3
        limit.refused(at, 900)
        assert 600 < limit.paused <= 900

    asyncio.run(scenario())


def test_backoff_is_jittered_and_bounded():
    for tries, most in ((1, 0.5), (2, 1.0), (5, 8.0), (20, 60.0), (5000, 60.0)):
        waits = [backoff(tries, 0.5, 60.0) for _ in range(500)]
        assert 0.0 <= min(waits) < 0.1 * most and 0.9 * most < max(waits) <= most


PRICES = Prices(input=1.0, output=10.0)  # dollars per million


def test_the_budget_holds_what_is_spent_and_what_is_under_way(store):
    async def scenario():
        spending = Spending(store, PRICES, budget=0.025)
        # 2984 bytes are 995 tokens and 16: 1011 in, 900 out
        first = await spending.reserve("a", "s", 2984, 900)
        assert first.reserved == pytest.approx(0.010011)
        second = await spending.reserve("b", "s", 2984, 900)
        waiting = asyncio.create_task(spending.reserve("c", "s", 2984, 900))
        await asyncio.sleep(0.01)
        assert not waiting.done(), "what is under way may leave something over"
        paid = spending.paid(1000, 100, usable=True)
        assert paid == Spent(1, 1, input_tokens=1000, output_tokens=100, cost=0.002)
        store.settle("s", paid, first.number)
        spending.settled(first, paid)
        third = await asyncio.wait_for(waiting, 60)
        for ticket in (second, third):
            lost = Spent(1, lost=1, lost_cost=ticket.reserved)
            store.settle("s", lost, ticket.number)
            spending.settled(ticket, lost)
        with pytest.raises(
            BudgetSpent,
            match=r"budget \$0\.025 is spent.*3 requests, 1,000 \+ 100 tokens, \$0\.0020, up to \$0\.0200 for 2",
        ):
            await spending.reserve("d", "s", 2984, 900)
        assert spending.reserved == pytest.approx(0.0)

    asyncio.run(scenario())
    again = Spending(store, PRICES, budget=0.025)
    assert again.total.requests == 3 and again.total.lost_cost == pytest.approx(0.020022), "across restarts"


def test_a_budget_without_prices_is_refused(store):
    with pytest.raises(UserError, match="input_price and output_price"):
        Spending(store, Prices(), budget=1.0)


def test_max_requests_counts_over_the_life_of_the_store(store):
    async def scenario(most):
        spending = Spending(store, Prices(), max_requests=most)
        for _ in range(2):
            ticket = await spending.reserve("k", "s", 10, 10)
            paid = spending.paid(1, 1, usable=True)
            store.settle("s", paid, ticket.number)
            spending.settled(ticket, paid)

    asyncio.run(scenario(2))
    with pytest.raises(BudgetSpent, match=r"max_requests 3 is reached \(3 requests"):
        asyncio.run(scenario(3))


def test_a_reservation_grows_with_the_longest_answer(store):
    async def scenario():
        spending = Spending(store, PRICES, budget=1.0)
        first = await spending.reserve("a", "s", 30, 100)
        paid = spending.paid(26, 5000, usable=True)
        store.settle("s", paid, first.number)
        spending.settled(first, paid)
        second = await spending.reserve("b", "s", 30, 100)
        assert spending.longest == 5000 and second.reserved == pytest.approx(PRICES.cost(26, 5000))

    asyncio.run(scenario())
