"""The teacher client against a real server that fails as planned: every answer is had, stored and paid for once."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest

from igascale.errors import TRY_AGAIN, UserError
from igascale.isomers.teacher.endpoint import _retry_after
from igascale.isomers.teacher.request import Request, key_of, reply_schema
from igascale.isomers.teacher.store import Store
from igascale.isomers.teacher.teacher import Answer, BadAnswer, BudgetSpent, TeacherDown, TeacherSettings

from faulty_server import Fail, FaultyServer, Plan
from teacher_rig import KEY, Reply, Rig, echo, one_line, question, texts, until


@pytest.fixture(autouse=True)
def key(monkeypatch):
    for name in ("IGASCALE_TEACHER_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def rig(tmp_path):
    return Rig(tmp_path / "store.sqlite")


def test_an_answer_is_had_once_and_kept(rig):
    with FaultyServer(echo) as server:
        (first,) = rig.ask(server, question())
        (again,) = rig.ask(server, question(), base_url=server.url.replace("127.0.0.1", "localhost"), max_tokens=77)
        assert first.value == Reply(answer="question 0") and first.text == '{"answer": "question 0"}'
        assert (first.cached, again.cached) == (False, True) and again.value == first.value
        assert len(server.log) == 1
        assert first.key == again.key and (again.input_tokens, again.output_tokens) == (3, 3)
    body = server.log[0].body
    assert body["response_format"]["json_schema"] == {
        "name": "Reply",
        "strict": True,
        "schema": json.loads(reply_schema(Reply)),
    }
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.7, 0, 4096)
    assert server.log[0].headers["authorization"] == f"Bearer {KEY}"
    with Store.open_readonly(rig.path) as store:
        about = store.get(first.key).about
        assert (about["model"], about["seed"], about["served_by"]) == ("teacher", 0, "teacher-2026")
        assert (about["temperature"], about["fingerprint"]) == (0.7, "fp_test")
    assert KEY.encode() not in rig.path.read_bytes()


def test_what_decides_an_answer_is_in_its_key_and_nothing_else():
    class Other(Reply):
        more: int

    settings, base = TeacherSettings("m"), question()
    changed = [
        key_of(question(**{name: value}), settings)
        for name, value in {"sample": 1, "prompt_version": "v2", "i": 1}.items()
    ]
    changed += [
        key_of(Request("extract", "Answer!", base.user, Reply), settings),
        key_of(Request("extract", "Answer.", base.user, Other), settings),
    ]
    changed += [
        key_of(base, TeacherSettings("m2")),
        key_of(base, TeacherSettings("m", temperature=0.0)),
        key_of(base, TeacherSettings("m", seed=1)),
    ]
    assert len({key_of(base, settings), *changed}) == len(changed) + 1
    others = TeacherSettings(
        "m",
        "http://x/v1",
        max_tokens=9,
        timeout=9,
        concurrency=9,
        budget=9.0,
        input_price=9,
        structured="none",
        attempts=9,
    )
    assert key_of(question(stage="verify"), others) == key_of(base, settings)
    assert key_of(base, TeacherSettings("m", temperature=1)) == key_of(base, TeacherSettings("m", temperature=1.0))


@pytest.mark.parametrize("fault", ["429", "429_retry", "500", "503", "hang", "cut", "cut_early"])
def test_what_may_pass_is_tried_again(rig, fault):
    with FaultyServer(echo, Plan([fault, None, fault, fault], retry_after=0.1)) as server:
        assert texts(rig.ask(server, question(0))) == ["question 0"]
        assert texts(rig.ask(server, question(1))) == ["question 1"]
        assert [call.fault for call in server.log] == [fault, None, fault, fault, None]
        assert len({call.body["seed"] for call in server.log}) == 1, "the same question, the same seed"
    spent, cause = (
        rig.spending["extract"],
        {"500": "5xx", "503": "5xx", "hang": "timeout", "429_retry": "429", "cut_early": "cut"}.get(fault, fault),
    )
    assert rig.teacher.retries == {cause: 2} and rig.failures == {("extract", cause): 3}
    assert (spent.requests, spent.answers, spent.unusable) == (5, 2, 0)
    assert (spent.lost, spent.refused) == ((3, 0) if cause in ("timeout", "cut") else (0, 3))


@pytest.mark.parametrize("fault", ["nothing", "no_choices"])
def test_a_server_in_trouble_that_says_200_is_waited_for_and_no_attempt_is_used_up(rig, fault):
    with FaultyServer(echo, Plan([fault] * 5)) as server:
        assert texts(rig.ask(server, question(), attempts=1)) == ["question 0"]
        assert len(server.log) == 6 and len({call.body["seed"] for call in server.log}) == 1
    assert rig.teacher.retries == {"5xx": 5} and rig.spending["extract"].unusable == 0


def test_another_way_of_asking_or_another_server_has_attempts_of_its_own(rig):
    def answerer(messages, body):
        return echo(messages, body) if "JSON schema" in messages[0]["content"] else "prose"

    with FaultyServer(answerer) as server:
        for _ in range(2):
            (bad,) = rig.ask(server, question(), attempts=1)
            assert bad.reason == "not_json" and len(server.log) == 1
        assert texts(rig.ask(server, question(), attempts=1, structured="none")) == ["question 0"]
    with FaultyServer(lambda messages, body: "prose") as server, FaultyServer(echo) as mended:
        assert rig.ask(server, question(1), attempts=1)[0].reason == "not_json"
        assert texts(rig.ask(mended, question(1), attempts=1)) == ["question 1"]


def test_attempts_that_are_forgotten_are_made_again(rig):
    with FaultyServer(lambda messages, body: "prose") as server:
        (bad,) = rig.ask(server, question(), attempts=1)
        with Store.open(rig.path) as store:
            store.put_outcome("seed", "recipe", "rejected", f"reply_{bad.reason}", "extract", "{}")
        server.answerer = echo
        assert rig.ask(server, question(), attempts=1)[0].reason == bad.reason
        with Store.open(rig.path) as store:
            assert store.forget(["reply_schema"], "recipe") == 0 == store.forget([f"reply_{bad.reason}"], "other")
            assert store.forget([f"reply_{bad.reason}"], "recipe") == 1
        assert texts(rig.ask(server, question(), attempts=1)) == ["question 0"]


UNUSABLE = {
    "truncated": "not_json",
    "schema": "schema",
    "prose": "not_json",
    "empty": "empty",
    "filtered": "filtered",
    "refusal": "filtered",
}


@pytest.mark.parametrize("fault", UNUSABLE)
def test_an_unusable_answer_is_asked_for_again_with_another_seed_and_is_paid_for(rig, fault):
    with FaultyServer(echo, Plan([fault])) as server:
        assert texts(rig.ask(server, question(sample=3))) == ["question 0"]
        seeds = [call.body["seed"] for call in server.log]
        assert seeds[0] == 3 and len(set(seeds)) == 2
        assert "must match this JSON schema" in server.log[1].system
    assert rig.failures == {("extract", UNUSABLE[fault]): 1}
    assert (rig.spending["extract"].unusable, rig.spending["extract"].answers) == (1, 1)
    assert rig.spending["extract"].output_tokens == 6, "both were paid for"
    assert any("asked again" in line for line in rig.said)


def test_after_the_allowed_attempts_the_answer_is_bad_and_a_restart_pays_for_no_more(rig):
    with FaultyServer(echo, Plan(["schema", "prose", "empty"])) as server:
        (bad,) = rig.ask(server, question(), attempts=3)
        assert isinstance(bad, BadAnswer) and bad.reason == "empty"
        assert len(server.log) == 3 and rig.answers == {}
        (bad,) = rig.ask(server, question(), attempts=3)
        assert isinstance(bad, BadAnswer) and len(server.log) == 3
        assert texts(rig.ask(server, question(), attempts=4)) == ["question 0"], "one more is allowed now"
        assert len(server.log) == 4 and len({call.body["seed"] for call in server.log}) == 4


def test_a_cut_off_answer_is_asked_for_once_more_with_twice_the_tokens(rig):
    with FaultyServer(echo, Plan(["length", None, "length", "length"])) as server:
        assert texts(rig.ask(server, question(0), max_tokens=100)) == ["question 0"]
        (bad,) = rig.ask(server, question(1), max_tokens=100)
        assert (bad.reason, rig.answers) == ("length", {"extract": 1})
        assert [call.body["max_tokens"] for call in server.log] == [100, 200, 100, 200]
        (bad,) = rig.ask(server, question(1), max_tokens=100)
        assert bad.reason == "length" and len(server.log) == 4, "known already"
        assert texts(rig.ask(server, question(1), max_tokens=300)) == ["question 1"], "a higher limit is another matter"
        assert server.log[-1].body["max_tokens"] == 300


def test_a_cut_off_answer_is_not_accepted_even_if_it_is_whole(rig):
    class Whole(FaultyServer):
        def _completion(self, body, text, fault):
            completion = super()._completion(body, text, fault)
            completion["choices"][0]["finish_reason"] = "length"
            return completion

    with Whole(echo) as server:
        (bad,) = rig.ask(server, question())
        assert bad.reason == "length" and len(server.log) == 2


def test_identical_questions_at_once_are_sent_once(rig):
    with FaultyServer(echo, Plan(latency=0.1)) as server:
        answers = rig.ask(server, *[question(i % 2) for i in range(10)])
        assert texts(answers) == [f"question {i % 2}" for i in range(10)]
        assert len(server.log) == 2 and sorted(answer.cached for answer in answers) == [False] * 2 + [True] * 8


def test_a_cancelled_caller_leaves_its_request_to_be_stored(rig):
    async def scenario(teacher):
        server.limit = 0
        first = asyncio.create_task(teacher.ask(question()))
        await until(lambda: server.received == 1)
        second = asyncio.create_task(teacher.ask(question()))
        await asyncio.sleep(0)
        first.cancel()
        server.limit = 1
        assert (await second).value.answer == "question 0"
        third = asyncio.create_task(teacher.ask(question(1)))
        await until(lambda: server.received == 2)
        third.cancel()
        closing = asyncio.create_task(teacher.close(wait=120))
        await asyncio.sleep(0)
        server.limit = 2
        await closing

    with FaultyServer(echo) as server:
        rig.run(server, scenario)
        assert len(server.log) == 2 and rig.answers == {"extract": 2}


def test_closing_ends_what_hangs_and_counts_it_as_lost(rig):
    async def scenario(teacher):
        asked = asyncio.create_task(teacher.ask(question()))
        await until(lambda: server.received == 1)
        await teacher.close()
        with pytest.raises(asyncio.CancelledError):
            await asked

    with FaultyServer(echo) as server:
        server.limit = 0
        rig.run(server, scenario)
    assert rig.spending["extract"].lost == 1


# Ways of asking


def test_a_server_without_structured_output_is_asked_in_words_and_that_is_said(rig):
    with FaultyServer(echo, Plan(refuses=("json_schema", "json_object"))) as server:
        assert texts(rig.ask(server, *map(question, range(6)))) == [f"question {i}" for i in range(6)]
        formats = [call.body.get("response_format", {}).get("type") for call in server.log]
        assert sorted(set(map(str, formats))) == ["None", "json_object", "json_schema"]
        assert formats.count(None) == 6 and len(server.paid()) == 6
        assert all('"additionalProperties": false' in call.system for call in server.paid())
        assert [line for line in rig.said if "refuses response_format" in line] == rig.said and len(rig.said) == 2
        assert rig.spending["extract"].requests == 6
    with FaultyServer(echo, Plan(refuses=("json_schema",))) as server:
        assert texts(rig.ask(server, question(7))) == ["question 7"]
        assert server.log[-1].body["response_format"] == {"type": "json_object"}


def test_a_way_of_asking_that_was_chosen_is_not_changed(rig):
    with FaultyServer(echo, Plan(refuses=("json_schema",))) as server:
        (down,) = rig.ask(server, question(), structured="json_schema")
        assert isinstance(down, TeacherDown) and "json_schema is not supported" in str(down)
        assert texts(rig.ask(server, question(), structured="none")) == ["question 0"]
        assert "response_format" not in server.log[-1].body


def test_prose_fences_and_latex_are_read(rig):
    def answerer(messages, body):
        return 'Sure:\n```json\n{"answer": "\\frac{1}{2} \\( x \\)",}\n```'

    with FaultyServer(answerer) as server:
        assert texts(rig.ask(server, question())) == ["\\frac{1}{2} \\( x \\)"]
        (again,) = rig.ask(server, question())
        assert again.cached and again.value.answer == "\\frac{1}{2} \\( x \\)"


def test_half_a_surrogate_pair_is_an_unusable_answer_not_a_crash(rig):
    with FaultyServer(lambda messages, body: '\ud800 {"answer": "x"}') as server:
        (bad,) = rig.ask(server, question())
        assert bad.reason == "not_json"
        (refused,) = rig.ask(server, Request("extract", "s", "x \ud800", Reply))
        assert isinstance(refused, UserError) and "half a surrogate pair" in str(refused)


def test_no_seed_and_no_temperature_are_left_to_the_server(rig):
    with FaultyServer(echo) as server:
        assert texts(rig.ask(server, question(), seed=None, temperature=None)) == ["question 0"]
        assert not {"seed", "temperature"} & set(server.log[0].body)


# Too many requests


def test_a_server_that_takes_few_at_once_gets_few_and_all_is_answered(rig):
    with FaultyServer(echo, Plan(latency=0.02, at_most=4)) as server:
        answers = rig.ask(server, *map(question, range(120)), concurrency=32)
        assert texts(answers) == [f"question {i}" for i in range(120)]
        assert len(server.paid()) == 120 and rig.spending["extract"].answers == 120
        refused = len(server.log) - 120
        assert 0 < refused < 120 and rig.teacher.retries["429"] == refused
        assert rig.teacher.concurrency <= 16
    assert any("says 429 (Too many requests): 16 requests at once" in line for line in rig.said)


def test_retry_after_is_honoured_by_all(rig):
    with FaultyServer(echo, Plan(["429_retry"], retry_after=0.6)) as server:
        times = []
        server.answerer = lambda messages, body: times.append(time.monotonic()) or echo(messages, body)

        async def scenario(teacher):
            began = time.monotonic()
            first = asyncio.create_task(teacher.ask(question(0)))
            await until(lambda: teacher.retries["429"] == 1)
            await asyncio.gather(first, *(teacher.ask(question(i)) for i in range(1, 6)))
            return began

        began = rig.run(server, scenario)
        assert len(times) == 6 and min(times) - began >= 0.6


def test_a_wait_of_hours_is_not_waited_for(rig):
    with FaultyServer(echo, Plan(["429_retry"], retry_after=90_000)) as server:
        (down,) = rig.ask(server, question())
        assert isinstance(down, TeacherDown) and "asks to wait 25.0 hours" in str(down) and down.exit_code == TRY_AGAIN


# What no retry mends


def test_a_wrong_key_is_one_line_without_the_key(rig):
    with FaultyServer(echo, key="another") as server:
        for down in rig.ask(server, *map(question, range(20)), concurrency=4):
            one_line(down, "refuses the key", "Incorrect API key provided: ***", "set OPENAI_API_KEY")
        assert len(server.log) <= 4, "and nothing is sent any more"
    assert KEY.encode() not in rig.path.read_bytes() and not any(KEY in line for line in rig.said)


def test_the_key_for_the_teacher_goes_first(rig, monkeypatch):
    monkeypatch.setenv("IGASCALE_TEACHER_KEY", "another")
    with FaultyServer(echo, key="another") as server:
        assert texts(rig.ask(server, question())) == ["question 0"]


def test_no_key_is_one_line(rig, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with FaultyServer(echo) as server, pytest.raises(UserError, match=r"set OPENAI_API_KEY \(any word"):
        rig.ask(server, question())


def test_a_key_with_a_line_break_at_its_end_is_the_key(rig, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\r\n")
    with FaultyServer(echo, key=KEY) as server:
        assert texts(rig.ask(server, question())) == ["question 0"]


@pytest.mark.parametrize("secret", ["sk-secret\nvalue", "sk-sécret-value", "sk-secret-\udcff"])
def test_a_key_that_no_header_can_hold_is_one_line_without_it(rig, monkeypatch, secret):
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    with FaultyServer(echo) as server, pytest.raises(UserError, match="OPENAI_API_KEY is no key") as refused:
        rig.ask(server, question())
    assert "cret" not in str(refused.value) and not server.log


def test_what_cannot_be_sent_ends_the_build_and_is_not_counted_as_lost(rig, monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "an organisation\n")
    with FaultyServer(echo) as server:
        (down,) = rig.ask(server, question())
        one_line(down, "cannot even be sent")
        assert isinstance(down, TeacherDown) and rig.spending["extract"].lost == 0 and not server.log


def test_an_unknown_model_is_one_line_with_those_there_are(rig):
    with FaultyServer(echo, model="big-teacher") as server:
        (down,) = rig.ask(server, question(), model="big-teachr")
        one_line(down, "no model 'big-teachr' (it has big-teacher); did you mean 'big-teacher'?")
        assert len(server.log) == 1


def test_a_wrong_path_is_one_line(rig):
    with FaultyServer(echo) as server:
        (down,) = rig.ask(server, question(), base_url=server.url.replace("/v1", "/v2"))
        one_line(down, "/v2 is not a teacher's address", "most end in /v1")


def test_nobody_there_is_found_out_soon(rig):
    with FaultyServer(echo) as server:
        url = server.url
    (down,) = rig.ask(server, question(), base_url=url)
    one_line(down, f"the teacher at {url} does not answer (5 tries; no connection", "check the URL")
    assert down.exit_code == TRY_AGAIN and rig.spending["extract"].lost == 0
    assert len(rig.said) == 1 and "tried again" in rig.said[0]


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1",
        "ftp://user:pw@x/v1",
        "/v1",
        "http://[::1/v1",
        "http://user:pw@localhost:abc/v1",
        "http://localhost:99999/v1",
        "http://a..b/v1",
        "http://xn--a/v1",
        f"http://{'a' * 64}.org/v1",
        "http://localhost/v1\n",
        "http://local host/v1",
        "http://\udcff/v1",
    ],
)
def test_no_url_is_one_line(rig, url):
    with FaultyServer(echo) as server, pytest.raises(UserError, match="no http") as refused:
        rig.ask(server, question(), base_url=url)
    assert "pw" not in str(refused.value)


def test_a_server_that_stops_for_good_stops_the_build(rig):
    async def scenario(teacher):
        answered = [
            await teacher.ask(question(i)) for i in range(5)
        ]  # one by one: then nobody is answered between two failures
        asked = (teacher.ask(question(i)) for i in range(5, 40))
        return answered + await asyncio.gather(*asked, return_exceptions=True)

    with FaultyServer(echo, Plan([None] * 5 + ["500"] * 1000)) as server:
        answers = rig.run(server, scenario, max_retries=3, outage=0)
        assert sum(isinstance(answer, Answer) for answer in answers) == 5
        downs = [answer for answer in answers if not isinstance(answer, Answer)]
        assert all(isinstance(down, TeacherDown) for down in downs)
        one_line(downs[0], "does not answer (", "tries; HTTP 500: Something broke)", "run the same command again")
        assert len(server.log) <= 5 + 5 * 8
        server.plan.faults = []
        answers = rig.ask(server, *map(question, range(40)))
        assert texts(answers) == [f"question {i}" for i in range(40)] and len(server.paid()) == 40


def test_one_poisonous_request_does_not_stop_the_others(rig):
    def answerer(messages, body):
        if messages[-1]["content"] == "question 3":
            raise Fail("500")
        return echo(messages, body)

    with FaultyServer(answerer, Plan(latency=0.01)) as server:
        answers = rig.ask(server, *map(question, range(200)), max_retries=2, concurrency=4)
        bad = answers.pop(3)
        assert isinstance(bad, BadAnswer) and bad.reason == "unavailable" and "500" in bad.detail
        assert all(isinstance(answer, Answer) for answer in answers)


def test_the_last_request_of_a_build_that_always_fails_is_no_end_of_the_teacher(rig):
    async def scenario(teacher):
        assert (await teacher.ask(question(0))).value.answer == "question 0"
        with pytest.raises(BadAnswer, match=r"unavailable: 2 tries: no answer within 60 s"):
            await teacher.ask(question(1))

    with FaultyServer(echo, Plan([None] + ["hang"] * 20)) as server:
        rig.run(server, scenario, max_retries=1)
        assert len(server.log) == 3 and rig.spending["extract"].lost == 2


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({}, None),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:00 GMT"}, 0.0),
    ],
)
def test_every_form_of_retry_after(headers, wait):
    error = SimpleNamespace(response=SimpleNamespace(headers=headers))
    assert _retry_after(error) == wait


def test_retry_after_as_a_date_to_come():
    to_come = format_datetime(datetime.now(UTC) + timedelta(seconds=900), usegmt=True)
    assert 600 < _retry_after(SimpleNamespace(response=SimpleNamespace(headers={"retry-after": to_come}))) <= 900


def test_a_server_on_this_machine_is_not_sought_behind_a_proxy(rig, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with FaultyServer(echo) as server:
        assert texts(rig.ask(server, question())) == ["question 0"]


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (400, {"code": "context_length_exceeded", "message": "too many"}, "length"),
        (400, {"message": "This model's maximum context length is 4096 tokens, however you requested 9000."}, "length"),
        (400, {"code": "content_filter", "message": "The response was filtered"}, "filtered"),
    ],
)
def test_a_request_that_the_server_declines_is_that_requests_fault(rig, status, error, reason):
    with Replying(status, {"error": error}) as server:
        (bad,) = rig.ask(server, question())
        assert isinstance(bad, BadAnswer) and bad.reason == reason and len(server.log) == 1
        assert rig.spending["extract"].refused == 1
        server.reply = None
        assert texts(rig.ask(server, question())) == ["question 0"], "it cost nothing, so it may be asked again"


@pytest.mark.parametrize(
    ("status", "payload", "words"),
    [
        (
            400,
            {"error": {"message": "temperature must be 1"}},
            ("HTTP 400: temperature must be 1", "check model 'teacher'"),
        ),
        (402, {"error": {"message": "no credit"}}, ("HTTP 402: no credit",)),
        (429, {"error": {"code": "insufficient_quota", "message": "quota"}}, ("no quota left", "top it up")),
        (200, {"hello": "world"}, ("does not answer with a completion", "/v1")),
        (200, "<html>Welcome</html>", ("does not answer with a completion",)),
    ],
)
def test_other_refusals_are_one_line(rig, status, payload, words):
    with Replying(status, payload) as server:
        (down,) = rig.ask(server, question())
        one_line(down, *words)
        assert len(server.log) == 1


def test_a_gateways_error_under_status_200_is_tried_again(rig):
    with Replying(200, {"error": {"code": 502, "message": "upstream"}}, times=2) as server:
        assert texts(rig.ask(server, question())) == ["question 0"]
        assert rig.teacher.retries == {"5xx": 2}


def test_max_tokens_is_renamed_for_models_that_want_it(rig):
    error = {
        "message": "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.",
        "param": "max_tokens",
    }
    with Replying(400, {"error": error}, times=1) as server:
        assert texts(rig.ask(server, question(0), question(1), concurrency=1)) == ["question 0", "question 1"]
        assert [set(call.body) & {"max_tokens", "max_completion_tokens"} for call in server.log] == [
            {"max_tokens"},
            *[{"max_completion_tokens"}] * 2,
        ]
        assert len(rig.said) == 1


def test_a_server_that_does_not_count_tokens_is_estimated_and_that_is_said(rig):
    class Uncounted(FaultyServer):
        def _completion(self, body, text, fault):
            return {k: v for k, v in super()._completion(body, text, fault).items() if k != "usage"}

    with Uncounted(echo) as server:
        (answer,) = rig.ask(server, question())
        assert answer.output_tokens == 8 and answer.input_tokens > 20
        assert rig.spending["extract"].output_tokens == 8
        assert rig.said == ["the teacher does not count tokens; they are estimated from the length of the texts"]


# Money


def test_the_budget_is_kept_and_a_higher_one_goes_on(rig):
    # The server counts 3 words in and 3 out: $3 and $30 per million make 0.000099 a question.
    prices = {"input_price": 3.0, "output_price": 30.0, "max_tokens": 10}
    with FaultyServer(echo, Plan(latency=0.01)) as server:
        answers = rig.ask(server, *map(question, range(60)), budget=0.003, **prices)
        had = [answer for answer in answers if isinstance(answer, Answer)]
        stops = [answer for answer in answers if not isinstance(answer, Answer)]
        assert stops and all(isinstance(stop, BudgetSpent) for stop in stops)
        one_line(stops[0], "budget $0.003 is spent", f"{len(had)} requests", "with a higher --budget")
        spent = rig.spending["extract"]
        assert len(had) == spent.answers == len(server.paid())
        assert spent.cost == pytest.approx(0.000099 * len(had)) and 0.003 - 0.001 < spent.cost <= 0.003
        answers = rig.ask(server, *map(question, range(60)), budget=1.0, **prices)
        assert all(isinstance(answer, Answer) for answer in answers) and len(server.paid()) == 60
        assert rig.spending["extract"].cost == pytest.approx(0.000099 * 60)


def test_max_requests_is_kept_with_faults_counted(rig):
    with FaultyServer(echo, Plan(rates={"500": 0.2, "prose": 0.2}, seed=2)) as server:
        answers = rig.ask(server, *map(question, range(60)), max_requests=25)
        assert len(server.log) == 25
        assert any(isinstance(answer, BudgetSpent) and "--max-requests" in str(answer) for answer in answers)
        assert rig.ask(server, question(99), max_requests=25)[0].__class__ is BudgetSpent and len(server.log) == 25


def test_counters_are_by_stage(rig):
    with FaultyServer(echo, Plan(["prose"])) as server:
        rig.ask(server, question(0, "extract"), concurrency=1)
        rig.ask(server, question(1, "verify"), question(2, "verify"))
        assert {stage: (spent.requests, spent.answers) for stage, spent in rig.spending.items()} == {
            "extract": (2, 1),
            "verify": (2, 2),
        }
        assert rig.teacher.spending.total.requests == 4 and rig.teacher.spending.by_stage == rig.spending


def test_a_full_disk_stops_the_sending(rig):
    async def scenario(teacher):
        pages = teacher.store._db.execute("PRAGMA page_count").fetchone()[0]
        teacher.store._db.execute(f"PRAGMA max_page_count={pages + 8}")
        return await asyncio.gather(*(teacher.ask(question(i)) for i in range(200)), return_exceptions=True)

    with FaultyServer(lambda messages, body: json.dumps({"answer": "x" * 4000}), Plan(latency=0.01)) as server:
        answers = rig.run(server, scenario, full_disk=True, concurrency=8)
        had = sum(isinstance(answer, Answer) for answer in answers)
        assert 0 < had < 20 and len(server.paid()) == had + rig.unsettled <= had + 8, "no more than were under way"
        for answer in answers:
            if not isinstance(answer, Answer):
                one_line(answer, "the disk is full")


def test_a_reply_model_that_became_stricter_asks_again(rig):
    from pydantic import field_validator

    class Strict(Reply):
        @field_validator("answer")
        @classmethod
        def not_zero(cls, value):
            if value.endswith("zero"):
                raise ValueError("no zeros")
            return value

    Strict.__name__ = Strict.__qualname__ = "Reply"
    Strict.model_json_schema = Reply.model_json_schema
    with FaultyServer(lambda messages, body: json.dumps({"answer": "one" if body["seed"] else "zero"})) as server:
        assert texts(rig.ask(server, question())) == ["zero"]
        (mended,) = rig.ask(server, Request("extract", "Answer.", "question 0", Strict))
        assert mended.value.answer == "one" and len(server.log) == 3
        assert any("a stored answer no longer passes" in line for line in rig.said)
        assert (
            texts(rig.ask(server, Request("extract", "Answer.", "question 0", Strict))) == ["one"]
            and len(server.log) == 3
        )


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": 5000}, "at most 1000"),
        ({"budget": 1.0}, "input_price"),
        ({"temperature": -1}, "temperature"),
        ({"model": ""}, "model"),
        ({"timeout": float("nan")}, "timeout"),
    ],
)
def test_settings_out_of_range_are_one_line(rig, change, word):
    with FaultyServer(echo) as server, pytest.raises(UserError, match=word):
        rig.ask(server, question(), **change)


def test_everything_at_once_and_every_answer_is_had_stored_and_counted_once(rig):
    rates = {
        "429": 0.08,
        "429_retry": 0.02,
        "500": 0.06,
        "hang": 0.012,
        "cut": 0.04,
        "cut_early": 0.03,
        "truncated": 0.04,
        "length": 0.03,
        "schema": 0.04,
        "prose": 0.03,
        "filtered": 0.02,
    }
    with FaultyServer(echo, Plan(rates=rates, seed=8, latency=0.01, retry_after=0.05)) as server:
        answers = rig.ask(server, *map(question, range(200)), concurrency=32, attempts=6)
        assert texts(answers) == [f"question {i}" for i in range(200)]
        faults = [call.fault for call in server.log]
        assert faults.count(None) == 200 == rig.spending["extract"].answers == rig.answers["extract"]
        assert set(rates) == set(faults) - {None}, "every kind of fault was met"
        spent = rig.spending["extract"]
        assert spent.requests == len(server.log)
        assert spent.unusable == sum(
            faults.count(name) for name in ("truncated", "length", "schema", "prose", "filtered")
        )
        assert spent.lost == sum(faults.count(name) for name in ("hang", "cut", "cut_early"))
        assert spent.refused == sum(faults.count(name) for name in ("429", "429_retry", "500"))
        before = len(server.log)
        assert (
            all(answer.cached for answer in rig.ask(server, *map(question, range(200)))) and len(server.log) == before
        )


class Replying(FaultyServer):
    """Answers the first ``times`` requests with a fixed reply."""

    def __init__(self, status, payload, times=1000):
        super().__init__(echo)
        self.reply, self.times = (status, payload), times

    async def _respond(self, request, body, fault):
        from aiohttp import web

        if self.reply is None or len(self.log) > self.times:
            return await super()._respond(request, body, fault)
        status, payload = self.reply
        if isinstance(payload, str):
            return web.Response(text=payload, status=status, content_type="text/html")
        return web.json_response(payload, status=status)
