"""Answers from an OpenAI-compatible server: what is sent, what is kept, what is told, what is paid for."""

import math
import subprocess
import sys
import time

import pytest
from aiohttp import web

from igascale.errors import TRY_AGAIN, UserError
from igascale.evaluation.endpoint import EndpointGenerator, ServerSettings
from igascale.evaluation.generator import Answered
from igascale.isomers.teacher.store import Store

from faulty_server import Fail, FaultyServer, Plan

KEY = "sk-very-secret-0815"


def echo(messages, body):
    return f"Thus {messages[-1]['content']}. Answer: 4"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("IGASCALE_TEACHER_KEY", "sk-of-another-server")
    monkeypatch.setenv("IGASCALE_EVAL_KEY", KEY)


class Asker:
    def __init__(self, store):
        self.store, self.said = store, []

    def __call__(self, server, problems, **settings):
        quick = {"max_new_tokens": 64, "timeout": 120, "backoff": 0.02, "concurrency": 8}
        settings = ServerSettings(server.url, server.model, **(quick | settings))
        self.generator = EndpointGenerator(settings, self.store, self.said.append)
        return dict(self.generator.answer(problems))


@pytest.fixture
def ask(tmp_path):
    return Asker(tmp_path / "answers" / "endpoint.sqlite")


PROBLEMS = [f"problem {i}" for i in range(30)]


def test_what_is_sent(ask):
    with FaultyServer(echo, key=KEY) as server:
        answers = ask(server, PROBLEMS)
    assert sorted(answers) == list(range(30))
    assert answers[7].text == "Thus problem 7. Answer: 4" and answers[7].finished and answers[7].new_tokens > 0
    assert len(server.log) == 30
    for call in server.log:
        assert [message["role"] for message in call.body["messages"]] == ["user"]
        assert call.body["temperature"] == 0 and call.body["max_tokens"] == 64
        assert set(call.body) == {"model", "messages", "temperature", "max_tokens"}
        assert call.headers["authorization"] == f"Bearer {KEY}"
    assert server.most_open <= 8


def test_settings_hold_no_secret(ask):
    with FaultyServer(echo, key=KEY) as server:
        ask(server, PROBLEMS[:1])
    settings = ServerSettings("http://user:secret@127.0.0.1:81/v1?token=secret", "m", 256)
    found = EndpointGenerator(settings, ask.store).settings()
    assert found == {
        "generator": "endpoint",
        "endpoint": "127.0.0.1:81",
        "served_model": "m",
        "decoding": "greedy",
        "max_new_tokens": 256,
        "template": "chat template of the server",
    }
    assert KEY.encode() not in ask.store.read_bytes()


def test_cut_off_is_an_answer_and_not_finished(ask):
    with FaultyServer(echo, Plan(faults=["length"])) as server:
        answers = ask(server, PROBLEMS[:3], concurrency=1)
        assert [answers[i].finished for i in range(3)] == [False, True, True]
        assert answers[0].text and "Thus problem 0. Answer: 4".startswith(answers[0].text)
        assert len(server.log) == 3  # not asked for again with a higher limit
        assert ask(server, PROBLEMS[:3]) == answers  # nor when it is read from the store
        assert len(server.log) == 3
        assert ask(server, PROBLEMS[:1], max_new_tokens=128)[0].finished  # another limit is another question
        assert len(server.log) == 4


def test_nothing_written_is_an_empty_answer(ask):
    with FaultyServer(lambda messages, body: "") as server:
        assert ask(server, PROBLEMS[:2])[1].text == ""
    with FaultyServer(echo, Plan(faults=["empty"])) as server:
        found = ask(server, ["another"])
        assert found[0].text.strip() == "" and found[0].finished and len(server.log) == 1


def test_no_json_is_asked_of_anybody(ask):
    """Prose, braces and half an object are answers like any other."""
    texts = iter(["```json\n{", '{"answer": 3}', "\ud83d no pair", "plain"])
    with FaultyServer(lambda messages, body: next(texts)) as server:
        answers = ask(server, PROBLEMS[:4], concurrency=1)
    assert [answers[i].text for i in range(4)] == ["```json\n{", '{"answer": 3}', "? no pair", "plain"]


@pytest.mark.parametrize("fault", ["filtered", "refusal"])
def test_a_filter_is_an_empty_answer_and_is_said(ask, fault):
    def answer(messages, body):
        if messages[-1]["content"] in PROBLEMS[:2]:
            raise Fail(fault)
        return echo(messages, body)

    with FaultyServer(answer) as server:
        answers = ask(server, PROBLEMS[:3])
    assert answers[0] == answers[1] == Answered("", 0, True) and answers[2].text
    assert any("2 of 3 answers were stopped by the server's content filter" in line for line in ask.said)


def test_faults_pass(ask):
    plan = Plan(rates={"429": 0.2, "500": 0.1, "503": 0.05, "cut": 0.1, "cut_early": 0.05, "nothing": 0.05}, seed=3)
    with FaultyServer(echo, plan) as server:
        answers = ask(server, PROBLEMS)
        assert {i: answer.text for i, answer in answers.items()} == {
            i: f"Thus {p}. Answer: 4" for i, p in enumerate(PROBLEMS)
        }
        assert len(server.log) > 30
        asked = len(server.log)
        assert ask(server, PROBLEMS) == answers and len(server.log) == asked
    assert all("teacher" not in line for line in ask.said) and ask.said


def test_a_hanging_request_is_asked_again(ask):
    with FaultyServer(echo, Plan(faults=[None, "hang"])) as server:
        began = time.monotonic()
        answers = ask(server, PROBLEMS[:4], timeout=1.0, concurrency=2)
        assert len(answers) == 4 and time.monotonic() - began > 0.9
        assert [call.fault for call in server.log].count("hang") == 1 and len(server.log) >= 5


def test_answers_come_while_others_are_under_way(ask):
    with FaultyServer(echo, Plan(faults=["hang"])) as server:
        generator = EndpointGenerator(ServerSettings(server.url, server.model, 64, timeout=300), ask.store)
        answers = generator.answer(PROBLEMS[:5])
        assert sorted(next(answers)[0] for _ in range(4)) == [1, 2, 3, 4]
        answers.close()  # as Ctrl-C would: nothing hangs, the store is free again
        assert sorted(i for i, _ in zip(range(5), ask(server, PROBLEMS[1:5]))) == [0, 1, 2, 3]
        assert len(server.log) == 5  # the four are in the store


class Refusing(FaultyServer):
    """Answers 400 to whatever ``self.refuses(body)`` has a message for."""

    async def _respond(self, request, body, fault):
        if message := self.refuses(body):
            return web.json_response({"error": {"message": message}}, status=400)
        return await super()._respond(request, body, fault)


def test_too_long_for_the_model(ask):
    with Refusing(echo) as server:
        server.refuses = lambda body: (
            "This model's maximum context length is 512 tokens."
            if body["messages"][0]["content"] == "problem 2"
            else ""
        )
        generator = EndpointGenerator(ServerSettings(server.url, server.model), ask.store)
        found = []
        with pytest.raises(UserError) as refused:
            found.extend(index for index, _ in generator.answer(PROBLEMS[:5]))
    assert sorted(found) == [0, 1, 3, 4]
    message = str(refused.value)
    assert "1 of 5 problems have no answer" in message and "'problem 2" in message and "maximum context" in message
    assert "lower --max-new-tokens" in message and "\n" not in message


@pytest.mark.parametrize(
    "spoil, told",
    [
        ({"key": "another"}, "refuses the key"),
        ({"model": "other"}, "has no model 'teacher' (it has other)"),
    ],
)
def test_what_no_request_could_mend(ask, spoil, told):
    with FaultyServer(echo, **spoil) as server:
        server_settings = ServerSettings(server.url, "teacher")
        with pytest.raises(UserError) as refused:
            list(EndpointGenerator(server_settings, ask.store).answer(PROBLEMS))
    assert told in str(refused.value) and "\n" not in str(refused.value) and KEY not in str(refused.value)


def test_no_server(ask):
    with FaultyServer(echo) as server:
        url = server.url
    with pytest.raises(UserError) as refused:
        list(EndpointGenerator(ServerSettings(url, "m", backoff=0.01), ask.store).answer(PROBLEMS[:3]))
    assert "no connection" in str(refused.value) and refused.value.exit_code == TRY_AGAIN
    assert "--endpoint" in str(refused.value) and "teacher" not in str(refused.value)


def test_before_anything_is_asked(ask, monkeypatch, tmp_path):
    for settings, told in (
        (ServerSettings("ftp://host", "m"), "server URL 'ftp://host' is no http(s) address"),
        (ServerSettings("http://host/v1", ""), "needs a model"),
        (ServerSettings("http://host/v1", "m", concurrency=0), "concurrency must be above 0"),
    ):
        with pytest.raises(UserError) as refused:
            EndpointGenerator(settings, ask.store)
        assert told in str(refused.value)
    monkeypatch.delenv("IGASCALE_EVAL_KEY")  # the key of the factory's teacher is not sent to another server
    with pytest.raises(UserError, match="no key for the server at http://host/v1: set OPENAI_API_KEY"):
        EndpointGenerator(ServerSettings("http://host/v1", "m"), ask.store)


def test_a_model_that_takes_no_temperature_is_not_greedy(ask):
    """It is refused, unless one asks for its own sampling; nothing sampled is ever kept as greedy."""

    with Refusing(echo) as server:
        server.refuses = lambda body: (
            "Unsupported value: 'temperature' does not support 0 with this model." if "temperature" in body else ""
        )
        with pytest.raises(UserError, match="so its answers cannot be greedy; --sampled"):
            ask(server, PROBLEMS[:2])
        with Store.open(ask.store) as store:
            assert store.count_answers() == {}
        assert len(ask(server, PROBLEMS[:2], sampled=True)) == 2
        assert ask.generator.settings()["decoding"] == "as the server samples"


def test_the_same_problem_twice_is_sent_once(ask):
    with FaultyServer(echo) as server:
        answers = ask(server, ["same", "same", "other"])
    assert answers[0] == answers[1] and len(server.log) == 2


def test_no_problems(ask):
    with FaultyServer(echo) as server:
        assert ask(server, []) == {} and not server.log


def test_half_a_surrogate_pair_cannot_be_sent(ask):
    with FaultyServer(echo) as server, pytest.raises(UserError, match="half a surrogate pair"):
        ask(server, ["fine", "half \ud83d"])


_CHILD = """
import sys
from pathlib import Path
from igascale.evaluation.endpoint import EndpointGenerator, ServerSettings
generator = EndpointGenerator(ServerSettings(sys.argv[1], "teacher", 64, concurrency=4), Path(sys.argv[2]))
for index, answered in generator.answer([f"problem {i}" for i in range(30)]):
    print(index, flush=True)
"""


def test_killed_and_started_again(ask):
    """Nothing that was answered is sent again; only what was under way is."""
    with FaultyServer(echo) as server:
        server.limit = 20  # there is work left when the kill comes
        child = subprocess.Popen(
            [sys.executable, "-c", _CHILD, server.url, str(ask.store)], stdout=subprocess.PIPE, text=True
        )
        seen = [int(child.stdout.readline()) for _ in range(8)]
        child.kill()
        child.wait()
        before, server.limit = len(server.log), math.inf
        assert len(seen) == 8 and before < 30
        answers = ask(server, PROBLEMS, concurrency=4)
        assert sorted(answers) == list(range(30))
        again = [call.user for call in server.log[before:]]
        assert not set(again) & {f"problem {i}" for i in seen}
        assert len(server.log) <= 30 + 4
        assert isinstance(answers[seen[0]], Answered)
        assert any("when the last evaluation died" in line for line in ask.said)
