"""Answers that are kept: under which circumstances one is used again, and what a kill leaves."""

import errno
import itertools
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import igascale
from igascale.errors import UserError
from igascale.evaluation import store as store_module
from igascale.evaluation.answering import Asked, Share, answer_share
from igascale.evaluation.evaluate import evaluate
from igascale.evaluation.generator import Answered
from igascale.evaluation.store import AnswerStore

from slow_answers import BATCH, Clerk, suite

SCRIPT = Path(__file__).parent / "slow_answers.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(igascale.__file__).parents[1])}
TOTAL = 36


def result_of(out, clerk=None):
    clerk = clerk or Clerk()
    store = AnswerStore(clerk.settings(), out and out / "answers")
    result = evaluate(clerk, [suite()], store)
    store.close()
    return result


def same(first, second):
    """But for the seconds."""

    def without_seconds(result):
        told = json.loads(result.to_json())
        for side in ("id", "ood"):
            told["suites"]["isomers"][side].pop("seconds")
        return told

    return without_seconds(first) == without_seconds(second) and first.samples == second.samples


def test_every_kind_of_difference_makes_another_key(tmp_path):
    store = AnswerStore({"model": "a", "max_new_tokens": 64})
    base = ("math", "1", "id", "7", "What is 2+2?")
    keys = {store.key(*base)}
    for place, value in enumerate(("arb", "2", "ood", "8", "What is 2+3?")):
        keys.add(store.key(*base[:place], value, *base[place + 1 :]))
    keys.add(AnswerStore({"model": "a", "max_new_tokens": 65}).key(*base))
    keys.add(AnswerStore({"model": "b", "max_new_tokens": 64}).key(*base))
    assert len(keys) == 8
    assert AnswerStore({"max_new_tokens": 64, "model": "a"}).key(*base) in keys  # the order of settings is no setting


def test_answers_of_another_setting_are_asked_anew(tmp_path):
    first = Clerk()
    result_of(tmp_path, first)
    again, other = Clerk(), Clerk(name="another model")
    result_of(tmp_path, again)
    result_of(tmp_path, other)
    assert (first.asked, again.asked, other.asked) == (TOTAL, 0, TOTAL)


def test_a_higher_task_version_is_asked_anew(tmp_path):
    clerk = Clerk()
    store = AnswerStore(clerk.settings(), tmp_path / "answers")
    answer_share(clerk, Asked([suite()], store))
    newer = suite()
    newer.version = "2"
    assert Asked([newer], store).missing() == TOTAL
    assert Asked([suite()], store).missing() == 0


@pytest.mark.parametrize("seed", range(3))
def test_cut_off_anywhere_it_goes_on_to_the_same_result(tmp_path, seed):
    """The file of a whole run, cut at any byte as a kill would: every answer of a whole batch is used, the rest asked."""
    undisturbed = result_of(tmp_path / "whole")
    file = tmp_path / "whole" / "answers" / "rank-0000.jsonl"
    content = file.read_bytes()
    for cut in random.Random(seed).sample(range(len(content)), 12):
        out = tmp_path / f"cut-{cut}"
        (out / "answers").mkdir(parents=True)
        (out / "answers" / file.name).write_bytes(content[:cut])
        clerk = Clerk()
        assert same(result_of(out, clerk), undisturbed)
        kept = content[:cut].count(b"\n")
        assert TOTAL - kept <= clerk.asked < TOTAL - kept + BATCH
        lines = (out / "answers" / file.name).read_bytes().splitlines()
        assert sum(line.startswith(b'{"key"') and line.endswith(b"}") for line in lines) == kept + clerk.asked


@pytest.mark.parametrize("spoilt", [b"\0" * 40 + b"\n", b"[]\n", b'{"key": 3}\n', b'"x"\n', b"{}\n", b"\xff\xfe\n"])
def test_a_spoilt_line_is_no_answer(tmp_path, spoilt):
    undisturbed = result_of(tmp_path)
    file = tmp_path / "answers" / "rank-0000.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:5], spoilt, *lines[6:]]))
    clerk = Clerk()
    assert same(result_of(tmp_path, clerk), undisturbed)
    assert clerk.asked == BATCH  # the whole batch, so that the answer meets the same others in it


def test_real_kills(tmp_path):
    """kill -9 at any moment, again and again, of one process and of one of two; then nothing is missing or twice."""
    undisturbed, moments = result_of(None), random.Random(1)
    for world in (1, 2):
        out = tmp_path / str(world)
        for attempt in itertools.count():
            processes = [
                subprocess.Popen(
                    [sys.executable, SCRIPT, out, str(rank), str(world)], stdout=subprocess.PIPE, env=ENVIRONMENT
                )
                for rank in range(world)
            ]
            if attempt < 4:
                wait_for_answers(out, attempt, processes, moments)
                for process in processes:
                    process.kill()
            asked = [int(process.communicate()[0] or 0) for process in processes]
            if attempt == 4:
                assert [p.returncode for p in processes] == [0] * world
                assert sum(asked) < TOTAL  # something had been kept
                break
        clerk = Clerk()
        assert same(result_of(out, clerk), undisturbed)
        assert clerk.asked == 0
        keys = [json.loads(line)["key"] for f in (out / "answers").glob("*.jsonl") for line in whole_lines(f)]
        assert len(set(keys)) == TOTAL
        assert len(keys) < TOTAL + 4 * BATCH * world  # at most the batch that was being written, once a kill


def wait_for_answers(out, attempt, processes, moments):
    """Until some more answers are there, then a moment."""
    end = time.monotonic() + 120
    while count(out) < 6 * attempt + 1 and time.monotonic() < end and all(p.poll() is None for p in processes):
        time.sleep(0.005)
    time.sleep(moments.random() * 0.03)


def count(out):
    return sum(len(whole_lines(f)) for f in (out / "answers").glob("*.jsonl"))


def whole_lines(file):
    return [line for line in file.read_bytes().split(b"\n")[:-1] if line.startswith(b'{"key"') and line.endswith(b"}")]


def test_shares_are_all_of_it_and_no_batch_depends_on_them(tmp_path):
    """The clerk's answers depend on what is in a batch: they are the same on any number of processes."""
    undisturbed = result_of(None)
    for world in (2, 3, 12):
        out = tmp_path / str(world)
        asked = 0
        for rank in range(world):
            clerk = Clerk()
            store = AnswerStore(clerk.settings(), out / "answers", rank)
            answer_share(clerk, Asked([suite()], store), Share(rank, world))
            store.close()
            asked += clerk.asked
        assert asked == TOTAL
        clerk = Clerk()
        assert same(result_of(out, clerk), undisturbed)
        assert clerk.asked == 0


def test_two_writers_of_one_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "_PATIENCE", 0.3)
    first = AnswerStore({}, tmp_path / "answers")
    first.put([("k", Answered("x", 1, True), 0.1)])
    first.refresh()  # must not free the lock
    with pytest.raises(UserError, match="another igascale eval writes there"):
        AnswerStore({}, tmp_path / "answers")
    AnswerStore({}, tmp_path / "answers", rank=1).close()
    first.close()
    assert AnswerStore({}, tmp_path / "answers").get("k").answered == Answered("x", 1, True)


def test_a_file_that_its_last_process_removes_meanwhile_is_made_anew(tmp_path, monkeypatch):
    """One that ends without an answer takes file and folder with it, when another has opened the file and waits for the lock."""
    lock, removed = store_module._lock, []

    def then_remove(file, path):
        lock(file, path)
        if not removed:
            removed.append(path)
            path.unlink()
            path.parent.rmdir()

    monkeypatch.setattr(store_module, "_lock", then_remove)
    store = AnswerStore({}, tmp_path / "answers")
    store.put([("k", Answered("x", 1, True), 0.1)])
    store.close()
    assert removed and AnswerStore({}, tmp_path / "answers", rank=None).get("k").answered == Answered("x", 1, True)


def test_a_folder_that_goes_while_it_is_made_is_made_anew(tmp_path, monkeypatch):
    folder, mkdir, removed = tmp_path / "answers", Path.mkdir, []
    folder.mkdir()

    def interrupted(path, *arguments, **options):
        if not removed:  # the system says that it is there, and then it is not
            removed.append(path)
            path.rmdir()
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", interrupted)
    AnswerStore({}, folder).put([("k", Answered("x", 1, True), 0.1)])
    assert removed and AnswerStore({}, folder, rank=None).get("k").answered == Answered("x", 1, True)


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "answers").touch()
    with pytest.raises(UserError, match=r"cannot be written \(File exists\); choose another --out"):
        AnswerStore({}, tmp_path / "answers")


def test_without_an_answer_nothing_is_left(tmp_path):
    AnswerStore({}, tmp_path / "answers").close()
    assert not (tmp_path / "answers").exists()


def test_a_full_disk_is_told(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    store = AnswerStore({}, tmp_path / "answers")
    store._file.close()
    with Path("/dev/full").open("ab", buffering=0) as full:
        store._file = full
        with pytest.raises(UserError, match="No space left on device"):
            store.put([("k", Answered("x", 1, True), 0.1)])


def test_unwritable(tmp_path):
    (tmp_path / "answers").write_text("a file")
    with pytest.raises(UserError, match=r"cannot be written .*--out"):
        AnswerStore({}, tmp_path / "answers")


def test_any_text_survives(tmp_path):
    texts = ["", "line\nbreak\r\n\x0b\x0c\x1c\x85\u2028", "\ud800 lone", "é😀\0"]
    store = AnswerStore({}, tmp_path / "answers")
    store.put((str(n), replace(Answered(text, 1, True)), 0.0) for n, text in enumerate(texts))
    store.close()
    again = AnswerStore({}, tmp_path / "answers", rank=None)
    assert [again.get(str(n)).answered.text for n in range(len(texts))] == texts


def test_counting_what_is_missing_does_not_cost_more_with_every_answer(monkeypatch):
    """A server's answers come one by one: to look at all the others for each would take hours of 20,000."""
    looks = []
    get, refresh = AnswerStore.get, AnswerStore.refresh
    monkeypatch.setattr(AnswerStore, "get", lambda self, key: looks.append(key) or get(self, key))
    refreshes = []
    monkeypatch.setattr(AnswerStore, "refresh", lambda self: refreshes.append(1) or refresh(self))
    monkeypatch.setattr(Clerk, "batches", None)  # single problems
    monkeypatch.setattr(
        Clerk, "answer", lambda self, problems: ((i, Answered("Answer: 1", 1, True)) for i in range(len(problems)))
    )
    told = []
    many, clerk = suite(200), Clerk()
    result = evaluate(clerk, [many], AnswerStore(clerk.settings()), progress=lambda *line: told.append(line))
    assert len(result.samples) == 600 and told[-1] == ("answers", 600, 600)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert len(looks) <= 4 * 600 and len(refreshes) < 60


def test_answers_that_were_there_before_are_counted_as_there():
    clerk = Clerk()
    store = AnswerStore(clerk.settings())
    answer_share(clerk, Asked([suite()], store))
    again = Asked([suite()], store)
    assert (again.missing(), again.total) == (0, TOTAL)


def test_a_full_disk_is_told_when_the_store_is_closed_after_it(tmp_path):
    """What a write has left in the buffer would be written again by closing, and fail again."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    clerk = Clerk()
    store = AnswerStore(clerk.settings(), tmp_path / "answers")
    store._file.close()
    (tmp_path / "full").symlink_to("/dev/full")
    store._file = (tmp_path / "full").open("ab+")
    with pytest.raises(UserError, match="No space left"):
        try:
            evaluate(clerk, [suite()], store)
        finally:
            store.close()
