"""Scenarios of a teacher against a server: each with a new teacher, on the same store.

Nothing here depends on how busy the machine is. The teacher waits a minute for an answer, which no answer takes; where all that is
under way hangs, its clock is put forward by that minute, so that it loses patience at once.
"""

import asyncio
import json
import time

from pydantic import BaseModel, ConfigDict

from igascale.errors import UserError
from igascale.isomers.teacher.request import Request
from igascale.isomers.teacher.store import Store
from igascale.isomers.teacher.teacher import Answer, Teacher, TeacherSettings

KEY = "sk-very-secret-0815"


class Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    answer: str


def echo(messages, body):
    return json.dumps({"answer": messages[-1]["content"]})


def question(i=0, stage="extract", **changes):
    return Request(stage, "Answer.", f"question {i}", Reply, **changes)


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose clock can be put forward."""

    skipped = 0.0

    def time(self):
        return super().time() + self.skipped


async def until(holds, seconds=120):
    """Wait for something to be so; the clock may be put forward meanwhile."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        await asyncio.sleep(0.001)


class Rig:
    """Runs a scenario with a new teacher on the same store."""

    def __init__(self, path):
        self.path, self.said = path, []

    def ask(self, server, *requests, **settings):
        """Answers and exceptions, in the order of the requests, which are asked at once."""
        return self.run(
            server, lambda teacher: asyncio.gather(*map(teacher.ask, requests), return_exceptions=True), **settings
        )

    def run(self, server, scenario, full_disk=False, **settings):
        quick = {
            "model": server.model,
            "base_url": server.url,
            "timeout": 60,
            "backoff": 0.02,
            "backoff_cap": 0.1,
            "concurrency": 8,
        }

        async def main():
            with Store.open(self.path) as store:
                self.teacher = teacher = Teacher(TeacherSettings(**(quick | settings)), store, self.said.append)
                clock = asyncio.create_task(lose_patience(teacher, server.hung, asyncio.current_task()))
                try:
                    return await scenario(teacher)
                finally:
                    clock.cancel()
                    await teacher.close()
                    assert teacher.in_flight == 0
                    self.spending, self.failures = store.spending(), store.count_failures()
                    self.answers = store.count_answers()
                    self.unsettled = store._db.execute("SELECT count(*) FROM sent").fetchone()[0]

        async def lose_patience(teacher, hung_before, scenario):
            patience, end = teacher.settings.timeout + 1, time.monotonic() + 300
            while True:
                await asyncio.sleep(0.005)
                if time.monotonic() > end:
                    scenario.cancel("it does not end")
                hanging = server.hung - hung_before - teacher.retries["timeout"]
                if hanging > 0 and hanging == teacher.in_flight:  # of the others, none could run out of time
                    asyncio.get_running_loop().skipped += patience

        self.said.clear()
        with asyncio.Runner(loop_factory=Clock) as runner:
            result = runner.run(main())
        assert full_disk or not self.unsettled
        return result


def texts(answers):
    return [answer.value.answer if isinstance(answer, Answer) else answer for answer in answers]


def one_line(error, *words):
    assert isinstance(error, UserError), error
    for word in words:
        assert word in str(error)
    assert "\n" not in str(error) and KEY not in str(error)
