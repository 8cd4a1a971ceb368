"""Whose fault a failure is: the request's, the server's or the teacher's; told by what becomes of the others, also across restarts."""

import asyncio
import json

import pytest
from aiohttp import web

from igascale.errors import TRY_AGAIN, UserError
from igascale.isomers.factory.domains import Domain
from igascale.isomers.factory.gates import GateSettings
from igascale.isomers.factory.pipeline import Pipeline, Unavailable
from igascale.isomers.factory.prompts import load_prompts
from igascale.isomers.seeds import Seed
from igascale.isomers.teacher.store import Store
from igascale.isomers.teacher.teacher import Answer, BadAnswer, TeacherDown

from faulty_server import Fail, FaultyServer, Plan
from teacher_rig import KEY, Rig, echo, question, texts, until


@pytest.fixture(autouse=True)
def key(monkeypatch):
    for name in ("IGASCALE_TEACHER_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path / "store.sqlite")


class Choosy(FaultyServer):
    """Replies ``(status, payload)`` to the requests for which ``refuses(body)`` says so."""

    def __init__(self, refuses, status=400, payload=None, plan=None):
        super().__init__(echo, plan)
        self.refuses, self.status, self.payload = refuses, status, payload

    async def _respond(self, request, body, fault):
        if self.refuses(body):
            return web.json_response(self.payload, status=self.status)
        return await super()._respond(request, body, fault)


def asks(number):
    return lambda body: body["messages"][-1]["content"] == f"question {number}"


def error(message, **more):
    return {"error": {"message": message, **more}}


REFUSALS = [
    (400, error("Invalid prompt: it was flagged", code="invalid_prompt"), "refused"),
    (400, error("flagged as potentially violating our usage policy"), "filtered"),
    (403, error("Access to this content is denied"), "refused"),
    (422, error("`inputs` tokens + `max_new_tokens` must be <= 4096"), "refused"),
    (422, {"detail": [{"loc": ["body", "messages"], "msg": "is odd"}]}, "refused"),
]


@pytest.mark.parametrize(("status", "payload", "reason"), REFUSALS)
@pytest.mark.parametrize("place", [0, 7])
def test_a_request_that_is_refused_while_others_are_answered_ends_nothing(rig, status, payload, reason, place):
    with Choosy(asks(place), status, payload, Plan(latency=0.02)) as server:
        answers = rig.ask(server, *map(question, range(12)), concurrency=3)
        bad = answers.pop(place)
        assert isinstance(bad, BadAnswer) and (bad.reason, bad.declined) == (reason, True)
        assert all(isinstance(answer, Answer) for answer in answers)
        assert rig.spending["extract"].refused == 1 and rig.spending["extract"].lost == 0
        (bad,) = rig.ask(server, question(place))
        assert bad.reason == reason, "alone, but this way of asking is known to work"


@pytest.mark.parametrize("concurrency", [1, 4, 32])
def test_a_teacher_that_refuses_everything_is_at_fault_itself(rig, concurrency):
    with Choosy(lambda body: True, 400, error("temperature must be 1")) as server:
        downs = rig.ask(server, *map(question, range(40)), concurrency=concurrency)
        assert {str(down) for down in downs} == {str(downs[0])} and isinstance(downs[0], TeacherDown)
        assert "temperature must be 1" in str(downs[0]) and "20 different requests in a row" in str(downs[0])
        assert len(server.log) < 20 + concurrency


def test_one_refused_request_alone_is_the_settings_fault_until_they_have_worked(rig):
    with Choosy(asks(0), 400, error("no")) as server:
        assert isinstance(rig.ask(server, question(0))[0], TeacherDown)
        assert texts(rig.ask(server, question(1))) == ["question 1"]
        assert rig.ask(server, question(0))[0].reason == "refused"
        assert isinstance(rig.ask(server, question(0), temperature=1.5)[0], TeacherDown), "not known to work"


def test_refusals_in_a_row_end_a_build_that_was_answered(rig):
    with Choosy(lambda body: body["messages"][-1]["content"] > "question 2", 403, error("suspended")) as server:
        results = rig.ask(server, *map(question, range(10, 60)), concurrency=1)
        assert sum(isinstance(result, Answer) for result in results) == 10
        assert sum(isinstance(result, BadAnswer) for result in results) == 19
        assert sum(isinstance(result, TeacherDown) for result in results) == 21 and len(server.log) == 30


def test_an_answer_that_the_server_itself_finds_no_json_is_asked_for_with_another_seed(rig):
    payload = error("Failed to generate JSON that matches the schema", code="json_validate_failed")
    with Choosy(lambda body: body["seed"] == 0, 400, payload) as server:
        assert texts(rig.ask(server, question(0), question(1), concurrency=1)) == ["question 0", "question 1"]
        assert {call.body["response_format"]["type"] for call in server.log} == {"json_schema"}
        assert rig.failures == {("extract", "not_json"): 2} and rig.spending["extract"].lost == 2


def test_a_way_of_asking_that_has_worked_is_not_given_up_for_one_refusal(rig):
    with Choosy(asks(1), 400, error("this schema is beyond me")) as server:
        answers = rig.ask(server, *map(question, range(4)), concurrency=1)
        assert answers[1].reason == "refused" and len(server.paid()) == 4
        assert {call.body["response_format"]["type"] for call in server.log} == {"json_schema"}


def test_a_doubled_limit_that_is_refused_is_a_cut_off_answer(rig):
    payload = error("Invalid max_tokens value, the valid range of max_tokens is [1, 100]")
    with Choosy(lambda body: body["max_tokens"] > 100, 400, payload, Plan(["length"])) as server:
        for _ in range(2):
            (bad,) = rig.ask(server, question(0), max_tokens=100)
            assert bad.reason == "length" and "valid range" in bad.detail
            assert [call.body["max_tokens"] for call in server.log] == [100, 200], "and it is known then"
        assert texts(rig.ask(server, question(1), max_tokens=100)) == ["question 1"]


class Shaped(FaultyServer):
    """Completions changed by ``shape``."""

    def __init__(self, shape, answerer=echo):
        super().__init__(answerer)
        self.shape = shape

    def _completion(self, body, text, fault):
        completion = super()._completion(body, text, fault)
        self.shape(completion)
        return completion


def content(value):
    return lambda completion: completion["choices"][0]["message"].__setitem__("content", value(completion))


def text_of(completion):
    return completion["choices"][0]["message"]["content"]


def test_text_in_parts_is_joined_and_thoughts_are_left_out(rig):
    parts = content(
        lambda completion: [
            {"type": "thinking", "thinking": [{"type": "text", "text": '{"answer": "no"}'}]},
            {"type": "text", "text": text_of(completion)[:9]},
            {"type": "text", "text": text_of(completion)[9:]},
        ]
    )
    with Shaped(parts) as server:
        assert texts(rig.ask(server, question())) == ["question 0"]


@pytest.mark.parametrize(
    "shape",
    [
        lambda completion: completion.update(choices=[None]),
        lambda completion: completion.update(choices=["text"]),
        lambda completion: completion["choices"][0].update(message=None),
        content(lambda completion: 5),
        content(lambda completion: {"text": "x"}),
        content(lambda completion: [None, 3]),
        content(lambda completion: [{"type": "text", "text": None}]),
        lambda completion: completion["choices"][0].update(finish_reason="tool_calls"),
    ],
)
def test_a_reply_of_another_shape_is_paid_for_recorded_and_no_crash(rig, shape):
    with Shaped(shape) as server:
        for _ in range(2):
            (bad,) = rig.ask(server, question(), attempts=2)
            assert isinstance(bad, BadAnswer) and bad.reason == "schema"
            assert len(server.log) == 2 and rig.spending["extract"].unusable == 2


@pytest.mark.parametrize("reason", [None, "stop", "eos_token", "end_turn"])
def test_an_answer_that_ended_by_itself_is_taken(rig, reason):
    with Shaped(lambda completion: completion["choices"][0].update(finish_reason=reason)) as server:
        assert texts(rig.ask(server, question())) == ["question 0"]


def test_model_length_is_a_cut_off_answer(rig):
    with Shaped(lambda completion: completion["choices"][0].update(finish_reason="model_length")) as server:
        assert rig.ask(server, question())[0].reason == "length" and len(server.log) == 2


@pytest.mark.parametrize("count", [-9_000_000, 2.5, "many", None])
def test_counts_that_are_none_are_estimated_and_never_give_money_back(rig, count):
    def shape(completion):
        completion["usage"]["completion_tokens"] = count

    with Shaped(shape) as server:
        (answer,) = rig.ask(server, question(), output_price=2.0, budget=1.0)
        assert answer.output_tokens == 8 and rig.spending["extract"].cost == pytest.approx(16e-6)


def test_no_completion_is_a_wrong_url_at_first_and_trouble_later(rig):
    class Page(FaultyServer):
        async def _respond(self, request, body, fault):
            if len(self.log) in (2, 3):
                return web.json_response({"status": "warming up"})
            return await super()._respond(request, body, fault)

    with Page(echo) as server:
        assert texts(rig.ask(server, question(0), question(1), concurrency=1)) == ["question 0", "question 1"]
        assert rig.teacher.retries == {"5xx": 2}


NOT_TAKEN = [
    (
        "seed",
        422,
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
    ),
    ("seed", 400, error("Unrecognized request argument supplied: seed")),
    (
        "temperature",
        400,
        error("Unsupported parameter: 'temperature' is not supported with this model.", param="temperature"),
    ),
    (
        "temperature",
        400,
        error("Unsupported value: does not support 0.7. Only the default (1) is supported", param="temperature"),
    ),
]


@pytest.mark.parametrize(("name", "status", "payload"), NOT_TAKEN)
def test_a_parameter_that_the_server_does_not_take_is_left_out_and_that_is_said_once(rig, name, status, payload):
    with Choosy(lambda body: name in body, status, payload, Plan(latency=0.02)) as server:
        assert texts(rig.ask(server, *map(question, range(9)))) == [f"question {i}" for i in range(9)]
        assert all(name not in call.body for call in server.log if not server.refuses(call.body))
        assert sum(f"takes no {name}" in line for line in rig.said) == 1 == len(rig.said)
        assert rig.spending["extract"].requests == 9
        other = {"seed", "temperature"} - {name}
        assert other <= set(server.log[-1].body)
    with Store.open_readonly(rig.path) as store:
        about = json.loads(store._db.execute("SELECT about FROM answers").fetchone()[0])
        assert about[name] is None and about[other.pop()] is not None


def test_a_parameter_that_was_taken_is_not_what_a_later_refusal_is_about(rig):
    with Choosy(asks(1), 400, error("a seed of unrest is not allowed")) as server:
        answers = rig.ask(server, *map(question, range(3)), concurrency=1)
        assert answers[1].reason == "refused" and all("seed" in call.body for call in server.log)


# Outages


@pytest.mark.parametrize("status", [408, 504, 524])
def test_a_gateway_that_lost_patience_may_have_cost_something(rig, status):
    with Choosy(lambda body: True, status, error("Gateway Timeout")) as server:
        (down,) = rig.ask(server, question(), max_retries=12)
        assert isinstance(down, TeacherDown) and len(server.log) == 5, "few tries"
        assert rig.spending["extract"].lost == 5 and rig.teacher.retries == {"timeout": 5}


def test_an_outage_is_waited_for_with_one_request_at_a_time(rig):
    faults = [None] * 8 + ["500"] * 40
    with FaultyServer(echo, Plan(faults)) as server:
        answers = rig.ask(server, *map(question, range(40)), concurrency=4, max_retries=2, backoff_cap=0.02)
        assert texts(answers) == [f"question {i}" for i in range(40)], "nobody is blamed for it"
        assert sum("answers nobody" in line for line in rig.said) == 1


def test_an_outage_that_does_not_end_ends_the_build(rig):
    with FaultyServer(echo, Plan([None] * 8 + ["503"] * 5000)) as server:
        answers = rig.ask(server, *map(question, range(40)), concurrency=4, max_retries=2, outage=0.5, backoff_cap=0.05)
        downs = [answer for answer in answers if not isinstance(answer, Answer)]
        assert len(downs) == 32 and {type(down) for down in downs} == {TeacherDown}
        assert downs[0].exit_code == TRY_AGAIN and "check the server" in str(downs[0])
        assert len(server.log) < 8 + 4 * 3 + 60


def test_what_was_under_way_when_the_build_ended_is_not_to_blame(rig):
    async def scenario(teacher):
        await teacher.ask(question(0))
        asked = [asyncio.create_task(teacher.ask(question(i))) for i in (1, 2)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        server.limit = 3  # the other one fails when the first is gone: one of the last, as it seems
        return await asyncio.gather(*asked, return_exceptions=True)

    with FaultyServer(echo, Plan([None, "500", "500"])) as server:
        server.limit = 2
        downs = rig.run(server, scenario, concurrency=2, max_retries=0, outage=0)
        assert [type(down) for down in downs] == [TeacherDown, TeacherDown], downs
        assert rig.failures == {("extract", "5xx"): 2}


def test_requests_that_always_fail_do_not_keep_a_build_from_its_end(rig):
    def answerer(messages, body):
        if messages[-1]["content"] in ("question 0", "question 1"):
            raise Fail("500")
        return echo(messages, body)

    with FaultyServer(answerer) as server:
        quick = {"max_retries": 1, "backoff": 0.001}
        rig.ask(server, *map(question, range(2, 6)), **quick)  # the server is known to answer, whoever is the first now
        assert len(texts(rig.ask(server, *map(question, range(6)), **quick))) == 6
        for _ in range(4):
            for bad in rig.ask(server, question(0), question(1), **quick):
                assert isinstance(bad, BadAnswer) and (bad.reason, bad.declined) == ("unavailable", False)
        asked = len(server.log)
        for bad in rig.ask(server, question(0), question(1), **quick):
            assert (bad.reason, bad.declined) == ("unavailable", True) and "in 5 runs: HTTP 500" in bad.detail
        assert len(server.log) == asked, "known by now"


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_request_that_always_fails_is_no_outage_while_others_are_answered(rig, concurrency):
    def answerer(messages, body):
        if messages[-1]["content"] == "question 0":
            raise Fail("500")
        return echo(messages, body)

    with FaultyServer(answerer, Plan(latency=0.02)) as server:
        answers = rig.ask(server, *map(question, range(60)), concurrency=concurrency, max_retries=2, backoff=0.05)
        if concurrency > 1:
            assert isinstance(answers[0], BadAnswer) and answers[0].reason == "unavailable"
            assert all(isinstance(answer, Answer) for answer in answers[1:])
            assert not any("answers nobody" in line for line in rig.said)
        else:
            assert isinstance(answers[0], TeacherDown), "the first of all, and nobody else has a turn: found out soon"


@pytest.mark.parametrize("final", [False, True])
def test_a_seed_whose_request_fails_in_run_after_run_is_rejected(final):
    asked = []

    class Failing:
        async def ask(self, request):
            asked.append(request)
            raise BadAnswer("unavailable", "in 5 runs: HTTP 500", declined=final)

    domains = [Domain("law", "the law"), Domain("medicine", "medicine")]
    pipeline = Pipeline(Failing(), load_prompts(), domains, GateSettings(), "recipe", "teacher")
    seed = Seed("s1", "What is 1 + 1?")
    if not final:
        with pytest.raises(Unavailable):
            asyncio.run(pipeline.run(seed))
    else:
        outcome = asyncio.run(pipeline.run(seed))
        assert (outcome.status, outcome.stage, outcome.reason) == ("rejected", "extract", "reply_unavailable")
        assert outcome.record["detail"] == "in 5 runs: HTTP 500"
    assert len(asked) == 1


def test_a_server_that_is_down_when_a_build_goes_on_is_no_requests_fault(rig):
    with FaultyServer(echo) as server:
        assert texts(rig.ask(server, question())) == ["question 0"]
        port = server.port
    (down,) = rig.ask(server, question(1), max_retries=1)
    assert isinstance(down, TeacherDown) and "check the server" in str(down) and server.port == port


def test_closing_does_not_wait_for_a_pause(rig):
    async def scenario(teacher):
        asked = [asyncio.create_task(teacher.ask(question(i))) for i in range(12)]
        await until(lambda: teacher.retries.total() == 4)
        began = asyncio.get_running_loop().time()
        await teacher.close(wait=600)
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(result, UserError) for result in results)
        return asyncio.get_running_loop().time() - began

    with FaultyServer(echo, Plan(["429_retry"] * 100, retry_after=900)) as server:
        assert rig.run(server, scenario, concurrency=4) < 60 and len(server.log) == 4
    with FaultyServer(echo, Plan(["500"] * 100)) as server:
        assert rig.run(server, scenario, concurrency=4, backoff=1e5, backoff_cap=1e5) < 60


def test_a_server_that_ignores_max_tokens_does_not_overrun_the_budget_for_long(rig):
    def shape(completion):
        completion["usage"]["completion_tokens"] = 1000

    with Shaped(shape) as server:
        prices = {"input_price": 0.001, "output_price": 10.0, "max_tokens": 10, "budget": 0.1}
        rig.ask(server, *map(question, range(40)), concurrency=2, **prices)
        assert rig.spending["extract"].cost <= 0.101 and 8 <= len(server.log) <= 10
        assert sum("ignores max_tokens" in line for line in rig.said) == 1


def test_what_waits_for_its_share_of_the_budget_is_not_sent_by_a_build_that_is_closing(rig):
    async def scenario(teacher):
        server.limit = 0
        asked = [asyncio.create_task(teacher.ask(question(i))) for i in range(2)]
        await until(lambda: server.received == 1)
        closing = asyncio.create_task(teacher.close(wait=120))
        await asyncio.sleep(0)
        server.limit = 1
        await closing
        return await asyncio.gather(*asked, return_exceptions=True)

    with FaultyServer(echo) as server:
        prices = {"input_price": 0.001, "output_price": 10.0, "max_tokens": 100, "budget": 0.0015}
        first, second = rig.run(server, scenario, **prices)
        assert isinstance(first, Answer) and "being closed" in str(second)
        assert len(server.log) == 1 == rig.spending["extract"].requests and rig.teacher.spending.reserved == 0
