"""A builder to kill: asks ``COUNT`` questions, ``CONCURRENCY`` at once, with the store at ``PATH``.

``python asking_process.py URL PATH COUNT CONCURRENCY`` prints how many answers it got; exit code 0 when it has them all.
"""

import asyncio
import sys

from pydantic import BaseModel, ConfigDict

from igascale.isomers.teacher.store import Store
from igascale.isomers.teacher.teacher import Request, Teacher, TeacherSettings


class Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    answer: str


async def main(url: str, path: str, count: int, concurrency: int) -> None:
    settings = TeacherSettings("teacher", url, concurrency=concurrency, backoff=0.01, backoff_cap=0.05, attempts=5)
    with Store.open(path) as store:
        teacher = Teacher(settings, store)
        questions = [Request(("extract", "verify")[i % 2], "Answer.", f"question {i}", Reply) for i in range(count)]
        answers = await asyncio.gather(*map(teacher.ask, questions))
        await teacher.close()
    assert [answer.value.answer for answer in answers] == [f"question {i}" for i in range(count)]
    print(len(answers))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
