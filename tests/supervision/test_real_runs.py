"""What goes wrong in real training on two ranks under stock launchers: all leave, with one message and the right code.

The message tells what made them leave: no test says how long that may take on a machine that has other things to do.
"""

import json
import signal
import socket
import time

import pytest

import runs
from real_run import RealRun

pytestmark = pytest.mark.slow
HOST = socket.gethostname()


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
        run.gone()
        assert run.end() != 0
        [said] = run.said()
        assert f"rank 1 ({HOST}, pid {run.pids[1]}) died without a word, last heard of at step" in said
        assert no_tracebacks(run.text()), run.text()
        assert run.check_checkpoint() >= 2


def test_killed_rank_0_hosts_the_monitor(config, tmp_path):
    with RealRun("torchrun", config, tmp_path / "run") as run:
        run.until_step(6)
        run.signal(0, signal.SIGKILL)
        run.gone()
        [said] = run.said()
        assert f"rank 1 ({HOST}, pid {run.pids[1]}) exits: rank 0 ended without a word" in said
        assert no_tracebacks(run.text()), run.text()
        assert run.check_checkpoint() >= 2


@pytest.mark.parametrize("rank", [0, 1])
def test_stopped(config, tmp_path, rank):
    with RealRun("torchrun", config, tmp_path / "run", "supervision.heartbeat_timeout=10") as run:
        run.until_step(4)
        run.signal(rank, signal.SIGSTOP)
        run.gone()
        [said] = run.said()
        words = ("rank 0 was silent for", f"rank 1 ({HOST}, pid {run.pids[1]}) has not been heard of")[rank]
        assert words in said
        assert no_tracebacks(run.text()), run.text()
        assert run.check_checkpoint() >= 2


def test_hook_hangs(config, tmp_path):
    rank = 0  # which hosts the Monitor too; the other one is in test_monitor.py
    with RealRun("torchrun", config, tmp_path / "run", "supervision.hang_timeout=10", *hook("hangs", rank=rank)) as run:
        run.until_step(3)
        run.gone()
        [said] = run.said()
        assert f"rank {rank} ({HOST}, pid {run.pids[rank]}) hangs at step 4, combining (the hook)" in said
        assert run.text().count("in hangs") == 1  # the stack of the culprit
        assert run.check_checkpoint() == 2


@pytest.mark.parametrize(("launcher", "rank"), [("torchrun", 0), ("deepspeed", 1)])
def test_hook_raises(config, tmp_path, launcher, rank):
    with RealRun(launcher, config, tmp_path / "run", *hook("raises", rank=rank)) as run:
        run.find_ranks()
        run.gone()
        assert run.end() != 0
        [said] = run.said()
        assert "hook 'Failing' failed in step 4: ValueError: no such domain (failing_hook.py, line" in said
        assert no_tracebacks(run.text()), run.text()
        assert run.check_checkpoint() == 2


def test_rank_ends_without_a_word(config, tmp_path):
    """And the other one waits for it inside the hook, which is then not at fault."""
    with RealRun("torchrun", config, tmp_path / "run", *hook("asks")) as run:
        run.find_ranks()
        run.gone()
        [said] = run.said()
        assert f"rank 1 ({HOST}, pid {run.pids[1]}) died without a word, last heard of at" in said
        assert no_tracebacks(run.text()), run.text()


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_launcher_killed(config, tmp_path, launcher):
    with RealRun(launcher, config, tmp_path / "run") as run:
        run.until_step(4)
        run.process.kill()
        run.process.wait(60)
        run.gone()
        [said] = run.said()
        assert "exits: the launcher that started it" in said
        assert run.check_checkpoint() >= 2


def test_out_of_memory_in_the_hook(config, tmp_path):
    with RealRun("torchrun", config, tmp_path / "run", *hook("allocates")) as run:
        run.find_ranks()
        run.gone()
        [said] = run.said()
        assert f"rank 1 ({HOST}) ran out of memory at step 4, combining (the hook)" in said
        assert "lower hook.memory_mb (now 256); lower train.micro_batch_size (now" in said


def test_slow_rank_is_named_once(config, tmp_path):
    with RealRun("torchrun", config, tmp_path / "run", *hook("crawls", at=1)) as run:
        run.until_said("is slow")
        run.until_step(run.steps() + 3)
        warnings = [line for line in run.text().splitlines() if "is slow" in line]
        assert len(warnings) == 1
        assert f"rank 1 ({HOST}, pid {run.pids[1]}) is slow" in warnings[0]


def test_signal_to_one_rank_stops_all_with_a_checkpoint(config, tmp_path):
    signum = signal.SIGUSR1
    with RealRun("torchrun", config, tmp_path / "run", *hook("nothing", seconds=0.1)) as run:
        run.until_step(3)
        run.signal(1, signum)
        run.gone()
        steps = [json.loads(line)["step"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        assert run.check_checkpoint() == steps[-1]
        assert run.said() == []
        run.end()  # with torchrun's report of the rank that it saw end first
        assert f"exitcode  : {128 + signum}" in run.text()


def test_a_second_signal_ends_at_once(config, tmp_path):
    with RealRun("torchrun", config, tmp_path / "run", *hook("hangs")) as run:
        run.until_step(3)
        run.signal(0, signal.SIGINT)
        run.until_said("stopping after this step")
        time.sleep(2.5)  # within two seconds it would be the same request
        assert run.alive(0)
        run.signal(0, signal.SIGINT)
        run.gone()
        assert "stopped by SIGINT for the second time" in run.text()
        assert run.check_checkpoint() == 2


def test_signal_while_loading(config, tmp_path):
    hold = tmp_path / "hold"
    hold.touch()
    with RealRun("torchrun", config, tmp_path / "run", *hook("loads", while_there=hold)) as run:
        run.find_ranks()
        deadline = time.monotonic() + 600
        while not all(hold.with_name(f"hold.{rank}").exists() for rank in (0, 1)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert (run.folder / "environment.json").is_file()
        run.signal(1, signal.SIGTERM)
        run.gone()
        run.end()
        assert "stopped by SIGTERM before the first step: there is nothing to save" in run.text()
        assert "exitcode  : 143" in run.text()
        assert not run.folder.exists()  # so that the same command may start again


def test_parted_replicas_write_no_checkpoint(config, tmp_path):
    options = hook("flips"), ("supervision.check_replicas_every=1", "checkpoint.every=3")
    with RealRun("torchrun", config, tmp_path / "run", *options[0], *options[1]) as run:
        run.find_ranks()
        run.gone()
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
        run.gone()
        run.end()
        [said] = run.said()
        assert "stopped at step 4: 2 steps in a row had a loss or gradient that is not finite" in said
        assert "exitcode  : 2 " in run.text()
        assert run.check_checkpoint() == 2
