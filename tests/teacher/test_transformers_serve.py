"""A real inference server, `transformers serve`, with a tiny random model: garbage gives BadAnswer, never an answer and never a crash."""

import asyncio
import json

import pytest
from click.testing import CliRunner
from pydantic import BaseModel, ConfigDict

from igascale.cli import main
from igascale.isomers.seeds import Seed, write_seeds
from igascale.isomers.teacher.store import Store
from igascale.isomers.teacher.teacher import UNUSABLE, BadAnswer, Request, Teacher, TeacherDown, TeacherSettings

from transformers_server import transformers_server

pytestmark = pytest.mark.slow


class Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    answer: str


@pytest.fixture
def served(tmp_path):
    """(URL, model, process)."""
    with transformers_server(tmp_path) as server:
        yield server


def build_of_two(folder, model, url):
    """The rejections of a whole build, which accepts nothing."""
    write_seeds(folder / "seeds.jsonl", [Seed("one", "What is two and two?"), Seed("two", "Who is older than Ann?")])
    options = ["--max-tokens", "8", "--concurrency", "2", "--regenerate", "1", "--max-retries", "2", "--timeout", "300"]
    where = ["--out", str(folder / "built"), "--model", model, "--base-url", url]
    result = CliRunner().invoke(main, ["data", "build", str(folder / "seeds.jsonl"), *where, *options])
    print(result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert not (folder / "built" / "groups.jsonl").exists()
    return [json.loads(line) for line in (folder / "built" / "rejected.jsonl").read_text().splitlines()]


def test_garbage_is_told_from_answers(served, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    url, model, process = served
    said = []

    async def ask(store, count, **changes):
        settings = {
            "model": model,
            "base_url": url,
            "max_tokens": 8,
            "concurrency": 2,
            "timeout": 300,
            "attempts": 2,
            "max_retries": 2,
            "backoff": 0.1,
        }
        teacher = Teacher(TeacherSettings(**(settings | changes)), store, said.append)
        questions = [Request("extract", "You answer.", f"Who is {name}", Reply) for name in "abcdefgh"[:count]]
        found = await asyncio.gather(*map(teacher.ask, questions), return_exceptions=True)
        await teacher.close()
        return found

    rejected = build_of_two(tmp_path, model, url)
    assert sorted(seed["seed_id"] for seed in rejected) == ["one", "two"]
    assert {seed["reason"] for seed in rejected} <= {f"reply_{reason}" for reason in UNUSABLE}
    with Store.open(tmp_path / "store.sqlite") as store:
        bad = asyncio.run(ask(store, 4))
        assert all(isinstance(answer, BadAnswer) for answer in bad), bad
        assert {answer.reason for answer in bad} <= {"length", "not_json", "empty", "schema"}
        assert store.count_answers() == {}
        spent = store.spending()["extract"]
        assert spent.unusable == spent.requests == 8 and spent.output_tokens > 8 and spent.input_tokens > 0
        assert sum(store.count_failures().values()) == 8
        (down,) = asyncio.run(ask(store, 1, model="another"))
        assert isinstance(down, TeacherDown) and "requested 'another'" in str(down)
        process.kill()
        process.wait()
        assert all(isinstance(answer, BadAnswer) for answer in asyncio.run(ask(store, 4))), (
            "known already, nothing is sent"
        )
        (gone,) = asyncio.run(ask(store, 1, temperature=0.1))
        assert isinstance(gone, TeacherDown) and "no connection" in str(gone)
