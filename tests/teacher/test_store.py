"""The store: what is committed stays, one builder at a time, nothing that grows with what is in it when it is opened."""

import json
import os
import sqlite3
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from igascale.errors import UserError
from igascale.isomers.teacher.database import VERSION
from igascale.isomers.teacher.store import Failure, Outcome, Spent, Store, StoredAnswer

ANSWER = StoredAnswer('{"a": "é"}', 10, 20, "extract", {"model": "m", "temperature": 0.7, "seed": 3})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "store.sqlite"


def test_what_is_put_is_there_after_a_restart(path):
    with Store.open(path) as store:
        assert store.get("k") is None
        store.put("k", ANSWER, Spent(1, 1, input_tokens=10, output_tokens=20, cost=0.25))
        store.put_outcome("s1", "r", "rejected", "low_alignment", "verify", '{"x": 1}')
        store.put_meta("name", "value")
    with Store.open(path) as store:
        assert store.get("k") == ANSWER
        assert store.get_outcome("s1", "r") == Outcome("s1", "r", "rejected", "low_alignment", "verify", '{"x": 1}')
        assert store.get_outcome("s1", "other recipe") is None
        assert store.spending() == {"extract": Spent(1, 1, input_tokens=10, output_tokens=20, cost=0.25)}
        assert store.get_meta("name") == "value" and store.get_meta("nothing") is None
        assert store.count_answers() == {"extract": 1}


def test_failures_are_counted_and_never_answers(path):
    with Store.open(path) as store:
        for detail in ("first", "half a pair \ud800"):
            store.log_failure("k", "verify", "schema", detail, 100, Spent(1, unusable=1, output_tokens=7))
        store.log_failure("k", "verify", "length", "cut", 200)
        assert store.get("k") is None
        assert store.failures("k") == [
            Failure("k", "length", 200, "verify", "cut", 1),
            Failure("k", "schema", 100, "verify", "half a pair \\ud800", 2),
        ]
        assert store.count_failures() == {("verify", "length"): 1, ("verify", "schema"): 2}
        assert store.spending()["verify"] == Spent(2, unusable=2, output_tokens=14)


def test_requests_under_way_at_a_kill_are_counted_as_lost_once(path):
    with Store.open(path) as store:
        first = store.log_sent("a", "extract", 0.5)
        store.log_sent("b", "extract", 0.25)
        store.log_sent("c", "verify", 0.125)
        store.put("a", ANSWER, Spent(1, 1, cost=0.1), first)
    with Store.open(path) as store:
        assert store.settle_lost() == Spent(2, lost=2, lost_cost=0.375)
        assert store.settle_lost() == Spent()
        assert store.spending()["extract"] == Spent(2, 1, lost=1, cost=0.1, lost_cost=0.25)


def test_an_answer_and_its_price_are_one_transaction(path):
    with Store.open(path) as store:
        store._db.execute("CREATE TRIGGER t BEFORE INSERT ON spending BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(UserError, match=r"store\.sqlite: no"):
            store.put("k", ANSWER, Spent(1, 1))
        assert store.get("k") is None and store.spending() == {}


def test_outcomes_are_counted_and_streamed_in_order_while_being_written(path):
    with Store.open(path) as store:
        for i in range(600):
            store._db.execute(
                "INSERT INTO outcomes (recipe, seed_id, status, reason, stage, at, record) VALUES ('r', ?, ?, ?, 'v', '', '{}')",
                (f"s{i:04}" if i else "", "accepted" if i % 3 else "rejected", "" if i % 3 else "why"),
            )
        store.put_outcome("s0001", "other", "accepted", "", "", "{}")
        ids = []
        for outcome in store.iter_outcomes("r"):
            ids.append(outcome.seed_id)
            if len(ids) % 50 == 0:
                store.put_outcome(outcome.seed_id, "r", outcome.status, outcome.reason, outcome.stage, '{"seen": true}')
        assert ids == ["", *(f"s{i:04}" for i in range(1, 600))]
        assert sum("seen" in json.loads(o.record) for o in store.iter_outcomes("r")) == 12
        assert [o.seed_id for o in store.iter_outcomes("r", "rejected")] == [
            "",
            *(f"s{i:04}" for i in range(3, 600, 3)),
        ]
        assert store.count_outcomes("r") == {("accepted", "v", ""): 400, ("rejected", "v", "why"): 200}
        assert store.recipes() == {"other": 1, "r": 600}
        assert list(store.undecided(["s0001", "new", "s0600", "s0599"], "r")) == ["new", "s0600"]


def test_rejections_are_forgotten_by_reason_with_the_attempts_behind_them(path):
    with Store.open(path) as store:
        for seed, recipe, status, reason in (
            ("a", "r", "rejected", "reply_empty"),
            ("b", "r", "rejected", "votes"),
            ("c", "r", "accepted", ""),
            ("d", "r", "rejected", "reply_refused"),
            ("a", "other", "rejected", "reply_empty"),
        ):
            store.put_outcome(seed, recipe, status, reason, "extract", "{}")
        for key, reason in (("k1", "empty"), ("k1", "schema"), ("k2", "schema"), ("k3", "declined: refused")):
            store.log_failure(key, "extract", reason, "", 100, Spent(1, unusable=1))
        assert store.forget([], "r") == 0 == store.forget(["reply_schema"], "r") and len(store.failures("k1")) == 2
        assert store.forget(["reply_empty", "votes"], "r") == 2
        assert [outcome.seed_id for outcome in store.iter_outcomes("r")] == ["c", "d"]
        assert store.get_outcome("a", "other") is not None
        assert store.failures("k1") == [] and store.failures("k2") and store.failures("k3")
        assert store.forget({"reply_refused"}, "r") == 1 and store.failures("k3") == []
        assert store.spending()["extract"].unusable == 4


def test_forgetting_is_all_or_nothing(path):
    with Store.open(path) as store:
        store.put_outcome("a", "r", "rejected", "reply_empty", "extract", "{}")
        store.log_failure("k", "extract", "empty", "")
        store._db.execute("CREATE TRIGGER t BEFORE DELETE ON failures BEGIN SELECT RAISE(ABORT, 'no'); END")
        with pytest.raises(UserError, match=r"store\.sqlite: no"):
            store.forget(["reply_empty"], "r")
        assert store.get_outcome("a", "r") is not None


def test_a_second_builder_is_refused_and_told_who_builds(path):
    hold = (
        "import sys; from igascale.isomers.teacher.store import Store\n"
        f"store = Store.open({str(path)!r}); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError) as refused:
            Store.open(path)
        assert f"process {holder.pid} on {os.uname().nodename} has built with it since 20" in str(refused.value)
        assert "\n" not in str(refused.value)
        with Store.open_readonly(path) as store:
            assert store.recipes() == {}
        holder.kill()  # the lock dies with the process
    with Store.open(path) as store:
        store.put_meta("mine", "now")
        with pytest.raises(UserError, match="this very process"):
            Store.open(path)
        with pytest.raises(UserError, match="is in use"):  # and the refused attempt has not released the lock
            subprocess_open(path)
    Store.open(path).close()


def subprocess_open(path):
    code = f"from igascale.isomers.teacher.store import Store\nStore.open({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1])


def test_a_reader_sees_what_a_builder_commits_and_cannot_write(path):
    with Store.open(path) as builder, Store.open_readonly(path) as reader:
        builder.put("k", ANSWER)
        assert reader.get("k") == ANSWER
        with pytest.raises(UserError, match="read-only"):
            reader.put("k2", ANSWER)


def test_a_full_disk_is_one_line_and_nothing_is_lost(path):
    with Store.open(path) as store:
        store.put("k", ANSWER)
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count={pages + 2}")
        with pytest.raises(
            UserError, match=r"the disk is full; free some space and run the same command again"
        ) as full:
            for i in range(100):
                store.put(f"k{i}", StoredAnswer("x" * 3000, 1, 1, "s"), Spent(1, 1))
        assert "\n" not in str(full.value)
        kept = store.spending()["s"].answers
        assert store.count_answers() == {"extract": 1, "s": kept}
        store._db.execute("PRAGMA max_page_count=100000")
        store.put("later", ANSWER)
    with Store.open(path) as store:
        assert store.get("k") == ANSWER and store.get("later") == ANSWER


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(path):
    Store.open(path).close()
    path.parent.chmod(0o500)
    try:
        with Store.open_readonly(path) as store:
            assert store.recipes() == {}
        path.with_name(path.name + ".lock").chmod(0o400)
        with pytest.raises(UserError, match="cannot be written"):
            Store.open(path)
    finally:
        path.parent.chmod(0o700)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"not a database at all, but text" * 100, "not an SQLite file"),
        (None, "SQLite file of another program"),
        (VERSION + 1, f"a store of version {VERSION + 1}; this igascale reads version {VERSION}"),
    ],
)
def test_other_files_are_refused_and_left_as_they_are(path, content, why):
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is None:
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE t (x)")
    else:
        Store.open(path).close()
        with sqlite3.connect(path) as newer:
            newer.execute(f"PRAGMA user_version={content}")
    before = path.read_bytes()
    for opened in (Store.open, Store.open_readonly):
        with pytest.raises(UserError, match=why):
            opened(path)
        assert path.read_bytes() == before


def test_a_missing_store_is_not_made_by_looking(path):
    for opened in (Store.open_readonly, lambda p: Store.open(p, create=False)):
        with pytest.raises(UserError, match="no such store"):
            opened(path)
    assert not path.parent.exists()


def test_the_folder_is_a_file(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        Store.open(tmp_path / "f" / "store.sqlite")


def test_a_store_that_was_killed_while_it_was_made_is_made(path):
    path.parent.mkdir()
    path.touch()
    with Store.open(path) as store:
        store.put_meta("a", "b")


def bytes_read():
    """By this process, until now."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["rchar"])


def test_opening_takes_no_longer_for_a_large_store_and_reading_keeps_memory_flat(path):
    groups, record = 100_000, json.dumps({"text": "x" * 300})
    small = path.with_name("small.sqlite")
    Store.open(small).close()
    with Store.open(path) as store, store._transaction():
        store._db.execute(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO outcomes SELECT 'r', printf('s%06d', i), iif(i % 9, 'accepted', 'rejected'), '', 'v', '', ? FROM n",
            (groups - 1, record),
        )
        store._db.execute("DELETE FROM outcomes WHERE seed_id IN ('s000007', 's099999')")

    def opening(which):
        """Bytes read, which are the same each time, unlike seconds."""
        before = bytes_read()
        Store.open(which).close()
        return bytes_read() - before

    assert path.stat().st_size > 30e6
    assert opening(path) < opening(small) + 100_000
    with Store.open_readonly(path) as store:
        assert sum(store.count_outcomes("r").values()) == groups - 2
        tracemalloc.start()
        count = sum(1 for _ in store.iter_outcomes("r"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == groups - 2
        assert peak < 2_000_000, "bytes; all records together are 31 MB"
        assert list(store.undecided((f"s{i:06}" for i in range(groups)), "r")) == ["s000007", "s099999"]
