"""What goes wrong in real training on two ranks under stock launchers: all leave in time, with one message and the right code."""

import json
import signal
import socket
import time

import pytest

import runs
from real_run import RealRun

HOST = socket.gethostname()
QUICK = ("supervision.heartbeat_timeout=5", "supervision.hang_timeout=5")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return runs.prepare(tmp_path_factory.mktemp("supervised"))


def hook(what, **options):
    return "hook.name=failing_hook:Failing", f"hook.what={what}", *(f"hook.{k}={v}" for k, v in options.items())


def no_tracebacks(text):
    return "Traceback (most recent call last)" not in text.split("error: ")[0] and "gloo" not in text.lower()


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_killed(config, tmp_path, launcher):
    with RealRun(launcher, config, tmp_path / "run") as run:
        run.until_step(6)
        run.signal(1, signal.SIGKILL)
        assert run.gone(10) < 5
        assert run.end() != 0
        [said] = run.said()
        assert f"rank 1 ({HOST}, pid {run.pids[1]}) died without a word, last heard of at step" in said
        assert no_tracebacks(run.text()), run.text()
        assert run.check_checkpoint() >= 2


def test_killed_rank_0_hosts_the_monitor(config, tmp_path):
    with RealRun("torchrun", config, tmp_path / "run") as run:
        run.until_step(6)
        run.signal(0, signal.SIGKILL)
        assert run.gone(10) < 6
        [said] = run.said()
        assert f"rank 1 ({HOST}, pid {run.pids[1]}) exits: rank 0 ended without a word" in said
        assert no_tracebacks(run.text()), run.text()
        assert run.check_checkpoint() >= 2


@pytest.mark.parametrize("rank", [0, 1])
def test_stopped(config, tmp_path, rank):
    with RealRun("torchrun", config, tmp_path / "run", *QUICK) as run:
        run.until_step(4)
        run.signal(rank, signal.SIGSTOP)
        assert run.gone(20) < 12
        [said] = run.said()
        words = ("rank 0 was silent for", f"rank 1 ({HOST}, pid {run.pids[1]}) has not been heard of")[rank]
        assert words in said
        assert no_tracebacks(run.text()), run.text()
        assert run.check_checkpoint() >= 2


@pytest.mark.parametrize("rank", [0, 1])
def test_hook_hangs(config, tmp_path, rank):
    with RealRun("torchrun", config, tmp_path / "run", *QUICK, *hook("hangs", rank=rank)) as run:
        run.until_step(3)
        assert run.gone(25) < 15
        [said] = run.said()
        assert f"rank {rank} ({HOST}, pid {run.pids[rank]}) hangs at step 4, combining (the hook)" in said
        assert run.text().count("in hangs") == 1  # the stack of the culprit
        assert run.check_checkpoint() == 2


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
@pytest.mark.parametrize("rank", [0, 1])
def test_hook_raises(config, tmp_path, launcher, rank):
    with RealRun(launcher, config, tmp_path / "run", *hook("raises", rank=rank)) as run:
        run.find_ranks()
        run.gone(60)
        assert run.end() != 0
        [said] = run.said()
        assert "hook 'Failing' failed in step 4: ValueError: no such domain (failing_hook.py, line" in said
        assert no_tracebacks(run.text()), run.text()
        assert run.check_checkpoint() == 2


@pytest.mark.parametrize("what", ["leaves", "asks"])
def test_rank_ends_without_a_word(config, tmp_path, what):
    with RealRun("torchrun", config, tmp_path / "run", *hook(what)) as run:
        run.find_ranks()
        run.gone(60)
        [said] = run.said()
        assert f"rank 1 ({HOST}, pid {run.pids[1]}) died without a word, last heard of at" in said
        assert no_tracebacks(run.text()), run.text()


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_launcher_killed(config, tmp_path, launcher):
    with RealRun(launcher, config, tmp_path / "run") as run:
        run.until_step(4)
        run.process.kill()
        run.process.wait(10)
        assert run.gone(20) < 6
        [said] = run.said()
        assert "exits: the launcher that started it" in said
        assert run.check_checkpoint() >= 2


def test_out_of_memory_in_the_hook(config, tmp_path):
    with RealRun("torchrun", config, tmp_path / "run", *hook("allocates")) as run:
        run.find_ranks()
        run.gone(60)
        [said] = run.said()
        assert f"rank 1 ({HOST}) ran out of memory at step 4, combining (the hook)" in said
        assert "lower hook.memory_mb (now 256); lower train.micro_batch_size (now" in said


def test_slow_rank_is_named_once(config, tmp_path):
    with RealRun("torchrun", config, tmp_path / "run", *hook("crawls", at=1)) as run:
        run.until_step(10)
        warnings = [line for line in run.text().splitlines() if "is slow" in line]
        assert len(warnings) == 1
        assert f"rank 1 ({HOST}, pid {run.pids[1]}) is slow" in warnings[0]


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM])
def test_signal_to_one_rank_stops_all_with_a_checkpoint(config, tmp_path, signum):
    with RealRun("torchrun", config, tmp_path / "run", *hook("nothing", seconds=0.1)) as run:
        run.until_step(3)
        run.signal(1, signum)
        run.gone(20)
        steps = [json.loads(line)["step"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        assert run.check_checkpoint() == steps[-1]
        assert run.said() == []
        run.end()  # with torchrun's report of the rank that it saw end first
        assert f"exitcode  : {128 + signum}" in run.text()


def test_a_second_signal_ends_at_once(config, tmp_path):
    with RealRun("torchrun", config, tmp_path / "run", *hook("hangs")) as run:
        run.until_step(3)
        for _ in range(2):
            run.signal(0, signal.SIGINT)
            runs_on = run.alive(0)
            time.sleep(2.3)
        assert runs_on
        run.gone(5)
        assert "stopped by SIGINT for the second time" in run.text()
        assert run.check_checkpoint() == 2


def test_signal_while_loading(config, tmp_path):
    with RealRun("torchrun", config, tmp_path / "run") as run:
        run.find_ranks()
        deadline = time.monotonic() + 60
        while not (run.folder / "environment.json").is_file():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.3)
        run.signal(1, signal.SIGTERM)
        run.gone(10)
        run.end()
        assert "stopped by SIGTERM before the first step: there is nothing to save" in run.text()
        assert "exitcode  : 143" in run.text()
        assert not run.folder.exists()  # so that the same command may start again


def test_parted_replicas_write_no_checkpoint(config, tmp_path):
    options = hook("flips"), ("supervision.check_replicas_every=1", "checkpoint.every=3")
    with RealRun("torchrun", config, tmp_path / "run", *options[0], *options[1]) as run:
        run.find_ranks()
        run.gone(60)
        run.end()
        [said] = run.said()
        assert f"parted by step 4: rank 0 ({HOST}), rank 1 ({HOST}) differ and there is no majority" in said
        assert "q_proj.lora_B" in said
        assert "exitcode  : 75" in run.text()
        assert run.check_checkpoint() == 3


def test_too_many_skipped_steps(config, tmp_path):
    """The same message of all ranks is said once; the last checkpoint is from before."""
    with RealRun("torchrun", config, tmp_path / "run", *hook("spoils", at=3), "train.max_skipped_steps=2") as run:
        run.find_ranks()
        run.gone(60)
        run.end()
        [said] = run.said()
        assert "stopped at step 4: 2 steps in a row had a loss or gradient that is not finite" in said
        assert "exitcode  : 2 " in run.text()
        assert run.check_checkpoint() == 2
