"""``igascale runs tail``: files that grow, are cut off and begin anew under the eyes of the reader."""

import io
import json
import os
import random
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner
from rich.console import Console

from igascale.cli import main
from igascale.runs.following import Follower, Logs, Metrics
from igascale.runs.view import Watched, panel, sparkline

import runs
from launching import environment, igascale
from run_folders import append, record, validation, write, write_metrics

ALL = "1000000"  # lines of a run that goes on until it is killed, however late that is


def tail(*arguments):
    result = CliRunner().invoke(main, ["runs", "tail", *map(str, arguments)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_a_line_is_given_once_and_whole(tmp_path):
    path = tmp_path / "file"
    follower = Follower(path)
    assert follower.poll() == (False, [])
    with path.open("wb", buffering=0) as file:
        file.write(b"one\ntw")
        assert follower.poll() == (False, [b"one"])
        assert follower.poll() == (False, [])
        file.write(b"o\nthree\n")
        assert follower.poll() == (False, [b"two", b"three"])


@pytest.mark.parametrize("way", ["replaced, shorter", "replaced, longer", "in place, shorter", "in place, longer"])
def test_a_file_that_began_anew_is_read_anew(tmp_path, way):
    path = tmp_path / "file"
    path.write_text("a1\na2\na3\n")
    follower = Follower(path)
    follower.poll()
    content = "a1\n" if "shorter" in way else "a1\na2\nB3\na4\na5\n"
    if "replaced" in way:
        (tmp_path / "new").write_text(content)
        (tmp_path / "new").replace(path)
    else:
        path.write_text(content)
    assert follower.poll() == (True, content.encode().splitlines())
    assert follower.poll() == (False, [])


def test_a_file_written_again_with_the_same_beginning_goes_on(tmp_path):
    """A run that is resumed at its last step rewrites the file to the byte."""
    path = tmp_path / "file"
    path.write_text("a1\na2\n")
    follower = Follower(path)
    follower.poll()
    (tmp_path / "new").write_text("a1\na2\na3\n")
    (tmp_path / "new").replace(path)
    assert follower.poll() == (False, [b"a3"])


def test_only_the_end_of_what_is_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("".join(f"line {k}\n" for k in range(1000)))
    follower = Follower(path, last_bytes=20)
    assert follower.poll() == (False, [b"line 998", b"line 999"])
    path.write_text("new\n")
    assert follower.poll() == (True, [b"new"])


def test_a_reader_at_random_moments_sees_every_record_in_order(tmp_path):
    """A thread writes as a run does, and starts again from an earlier step; the reader must end with what the file says."""
    folder = write(tmp_path / "run", [])
    generator, done = random.Random(5), threading.Event()
    polled = 0

    def run():
        step = 0
        for round in range(12):
            for _ in range(generator.randrange(5, 40)):
                step += 1
                append(folder, record(step, generator.random(), seconds=generator.random()))
            seen = polled
            while round == 11 and polled < seen + 2:  # once at least the reader sees what is then taken back
                time.sleep(0.001)
            step = generator.randrange(step // 2, step)
            kept = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
            write_metrics(folder, [r for r in kept if r["step"] <= step])
        done.set()

    metrics, backs, shown = Metrics(folder / "metrics.jsonl"), 0, []
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while True:
        over = done.is_set()
        back_at, new = metrics.poll()
        polled += 1
        if back_at is not None:
            backs += 1
            shown = [r for r in shown if r["step"] <= back_at]
        shown += new
        if over:
            break
    thread.join()
    final = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert list(metrics.steps) == final == shown
    assert backs


def test_metrics_of_a_resumed_run(tmp_path):
    folder = write(
        tmp_path / "run", [record(1), record(2), validation(2, 4.0), record(3), record(4), validation(4, 5.0)]
    )
    metrics = Metrics(folder / "metrics.jsonl")
    assert len(metrics.poll()[1]) == 6
    write_metrics(folder, [record(1), record(2), validation(2, 4.0), record(3, 0.5)])
    back_at, new = metrics.poll()
    assert (back_at, [r["loss"] for r in new]) == (2, [0.5])
    assert [r["step"] for r in metrics.steps] == [1, 2, 3]
    assert metrics.validation["step"] == 2


def test_notable_lines_of_all_ranks_once(tmp_path):
    for rank in range(3):
        (tmp_path / f"rank-{rank:04}.log").write_text(
            "==== attempt 1 ====\nloading\nwarning: attention falls back\nno errors were found here\n"
        )
    logs = Logs(tmp_path)
    assert logs.poll() == [("rank-0000", "warning: attention falls back")]
    with (tmp_path / "rank-0002.log").open("a") as file:
        file.write("torch.OutOfMemoryError: CUDA out of memory. Tried\nTraceback (most recent call last):\n  File x\n")
    assert [name for name, _ in logs.poll()] == ["rank-0002", "rank-0002"]
    assert logs.poll() == []


def test_plain_lines_then_the_end(tmp_path):
    folder = write(tmp_path / "run", [record(k, 5.0 - k) for k in range(1, 5)], state="finished", step=4)
    append(folder, validation(4, 3.0), record(5, None, skipped="loss is not finite on rank 1"))
    shown = tail(folder, "--lines", 3).splitlines()
    assert shown[0].startswith(
        "step 4/100 loss 1 [law 1.000 medicine 1.000] |g| 0.5->0.25 mask 0.75 lr 0.0001 2 s/step 500 tok/s"
    )
    assert (
        shown[1]
        == "step 4/100 validation (ID) 3.0000 [law 2.500 medicine 3.500]; unseen domains (OOD) 6.0000 [finance 6.000]"
    )
    assert shown[2] == "step 5/100 skipped: loss is not finite on rank 1"
    assert shown[3:] == ["finished at step 5/100"]
    records = [json.loads(line) for line in tail(folder, "--lines", 2, "--json").splitlines()]
    assert [r["kind"] for r in records] == ["validation", "train", "status"]
    assert records[-1]["state"] == "finished"
    assert tail(folder, "--lines", 0).splitlines() == ["finished at step 5/100"]


def test_once_does_not_wait_for_a_run_that_goes_on(tmp_path):
    folder = write(tmp_path / "run", [record(1)], step=1)
    assert tail(folder, "--once").splitlines()[-1] == "running at step 1/100"
    assert "ETA 3m" in tail(folder, "--once")


def test_what_is_no_run(tmp_path):
    write(tmp_path / "first", [])
    for path, expected in (
        (tmp_path / "frist", "did you mean"),
        (tmp_path, "not a run folder"),
        (tmp_path / "a/b", "runs ls"),
    ):
        result = CliRunner().invoke(main, ["runs", "tail", str(path)])
        assert result.exit_code == 2
        assert expected in result.output


def test_the_picture(tmp_path):
    folder = write(tmp_path / "run", [*(record(k, 10.0 - k) for k in range(1, 9)), validation(8, 3.0)], step=8)
    append(folder, record(9, None, skipped="loss is not finite", losses={"law": None, "medicine": 4.0}))
    (folder / "checkpoints" / "step-00000005").mkdir(parents=True)
    (folder / "logs").mkdir()
    (folder / "logs" / "rank-0001.log").write_text("error: disk is full\n")
    watched = Watched(folder)
    watched.poll()
    out = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    out.print(panel(watched, 3))
    shown = out.file.getvalue()
    for expected in (
        "running",
        "4 ranks",
        "9/100 9%",
        "ETA 3m",
        "█▇▆▅▄▃▂▁",
        "2 to 9",
        "mean_mask 0.75",
        "|g| 0.5 -> 0.25",
        "last checkpoint: step 5",
        "finance (unseen)",
        "1 of the last 9 steps skipped; step 9: loss is not finite",
        "rank-0001: error: disk is full",
    ):
        assert expected in shown, expected
    for records in ([], [{"kind": "train", "step": 1}], [{"kind": "train", "step": 2, "losses": 3, "seconds": 0.0}]):
        write_metrics(folder, records)  # nothing in a record may break the view
        watched.poll()
        out.print(panel(watched, 3))


def test_sparkline_means_and_gaps():
    assert sparkline(range(120), 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, float("nan"), float("inf"), 2.0]) == "▁█"


def test_a_real_run_watched_from_another_process_through_a_kill_and_a_resume(tmp_path):
    """All lines of one tail process, while the run is killed, and of another while it is resumed."""
    config = runs.prepare(tmp_path)
    run = tmp_path / "run"
    arguments = ["train", str(config), "train.max_steps=100000", "eval.every=null", "checkpoint.every=3"]
    command = [sys.executable, "-m", "igascale"]
    options = {"env": environment() | {"PYTHONUNBUFFERED": "1"}, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, *arguments], **options | {"stdout": subprocess.DEVNULL}) as process:
        try:
            deadline = time.monotonic() + 600
            while not (run / "metrics.jsonl").exists():
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.05)
            with subprocess.Popen([*command, "runs", "tail", str(run), "-n", ALL], **options) as watcher:
                try:
                    lines = []
                    while not (lines and lines[-1].startswith("step 4/100000")):
                        lines.append(watcher.stdout.readline())
                        assert lines[-1] and len(lines) < 100, lines  # it ended before the run, or tells something else
                    process.kill()
                    rest = watcher.communicate(timeout=300)[0]
                finally:
                    watcher.kill()
        finally:
            process.kill()
    assert "died at step" in rest.splitlines()[-1]
    done = igascale(*arguments, "--resume", "auto", "--stop-after", "2")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in tail(run, "--json", "-n", ALL).splitlines()]
    assert records[-1]["state"] == "interrupted"
    assert [r["step"] for r in records[:-1]] == list(range(1, records[-1]["step"] + 1))
    assert records[-1]["checkpoints"][-1] == records[-1]["step"]
    assert not os.path.exists(run / ".status.json.tmp")
