"""Scenarios of a teacher against a server: each with a new teacher, on the same store."""

import asyncio
import json

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
            "timeout": 20,
            "backoff": 0.02,
            "backoff_cap": 0.1,
            "concurrency": 8,
        }

        async def main():
            with Store.open(self.path) as store:
                self.teacher = teacher = Teacher(TeacherSettings(**(quick | settings)), store, self.said.append)
                try:
                    return await asyncio.wait_for(scenario(teacher), 30)
                finally:
                    await teacher.close()
                    assert teacher.in_flight == 0
                    self.spending, self.failures = store.spending(), store.count_failures()
                    self.answers = store.count_answers()
                    self.unsettled = store._db.execute("SELECT count(*) FROM sent").fetchone()[0]

        self.said.clear()
        result = asyncio.run(main())
        assert full_disk or not self.unsettled
        return result


def texts(answers):
    return [answer.value.answer if isinstance(answer, Answer) else answer for answer in answers]


def one_line(error, *words):
    assert isinstance(error, UserError), error
    for word in words:
        assert word in str(error)
    assert "\n" not in str(error) and KEY not in str(error)
