"""Weights & Biases by a stand-in package that notes every call: what is sent, and that nothing it does reaches the run.

The real package is in test_wandb_offline.py: here are the calls, a page on the network, and every way to fail.
"""

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from igascale import status
from igascale.boards import check_boards
from igascale.cli import main
from igascale.config import LoggingConfig
from igascale.errors import UserError
from igascale.wandb_board import WandbBoard

import runs

FAKE = Path(__file__).parent / "fake_packages"


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The stand-in for this process and those it starts; reads the calls so far."""
    path = tmp_path / "calls.jsonl"
    monkeypatch.setenv("FAKE_WANDB_CALLS", str(path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAKE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(str(FAKE))

    def read():
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]  # one may be half written

    # However slow the machine is, the sender has the time for what it should do and say.
    monkeypatch.setattr("igascale.wandb_board._STUCK", 300.0)
    return read


@pytest.fixture
def config(tmp_path_factory):
    return runs.load(runs.prepare(tmp_path_factory.mktemp("wandb")))


def test_a_run_and_its_resume_send_the_scalars_of_tensorboard_to_one_page(tmp_path, calls):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path, run = runs.prepare(tmp_path), tmp_path / "run"
    command = ["train", str(path), "logging.wandb=true", "logging.wandb_project=mine", "logging.tensorboard=true"]
    for more in (["--stop-after", "2"], ["--resume", "auto"]):
        result = CliRunner().invoke(main, [*command, *more])
        assert result.exit_code == 0, result.output
    seen = calls()
    assert [c["call"] for c in seen if c["call"] != "log"] == ["init", "finish", "teardown"] * 2
    first, second = (c for c in seen if c["call"] == "init")
    assert first["id"] == second["id"] == json.loads((run / "wandb.json").read_text())["id"]
    assert (first["project"], first["name"], first["dir"], first["mode"]) == ("mine", "run", str(run), None)
    assert first["resume"] == second["resume"] == "allow"
    assert first["config"]["hook"] == {"name": "mean"}
    assert all(c["pid"] != os.getpid() for c in seen)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    expected = {(tag, e.step): e.value for tag in events.Tags()["scalars"] for e in events.Scalars(tag)}
    sent = {(tag, c["step"]): value for c in seen if c["call"] == "log" for tag, value in c["data"].items()}
    assert sent.keys() == expected.keys()
    assert {k: pytest.approx(v, rel=1e-6) for k, v in expected.items()} == sent
    assert {step for _, step in sent} == {1, 2, 3, 4}


def gone(pid):
    return not status._started_ticks(pid)  # a zombie that nobody waits for has ended, too


@pytest.mark.parametrize(
    ("mischief", "expected", "logged"),
    [
        ("", "https://wandb.example/run", 50),
        ("no network", "api.wandb.ai cannot be reached: keeping the records", 50),
        ("no run at all", "nothing more is sent", 0),
        ("fail in log", "the network is gone: nothing more is sent", 1),
        ("hang in init", "not everything was sent", 0),
        ("hang in log", "not everything was sent", 1),
        ("hang in finish", "not everything was sent", 50),
        ("killed", "not every record was sent", 0),
    ],
)
def test_nothing_that_it_does_reaches_the_run(tmp_path, config, calls, monkeypatch, capfd, mischief, expected, logged):
    monkeypatch.setenv("FAKE_WANDB", mischief)
    board = WandbBoard(tmp_path, config, grace=1.0 if "hang" in mischief else 300.0)
    started = time.monotonic()
    for step in range(50):
        board.add({"loss": float("nan") if step == 3 else 1.0}, step)
    deadline = time.monotonic() + 300  # the stand-in takes a moment to start
    while (not calls() or sum(c["call"] == "log" for c in calls()) < logged) and time.monotonic() < deadline:
        time.sleep(0.02)
    board.close()
    assert time.monotonic() - started < 550  # what hangs does so for 600 seconds
    assert expected in capfd.readouterr().err
    assert sum(c["call"] == "log" for c in calls()) == logged
    assert all(gone(c["pid"]) for c in calls())
    assert calls()[-1]["call"] == ("teardown" if logged == 50 and "hang" not in mischief else calls()[-1]["call"])


def test_the_sender_ends_with_a_run_that_is_killed(tmp_path, config, calls, monkeypatch):
    monkeypatch.setenv("FAKE_WANDB", "hang in log")
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    code = (
        "import os\nfrom pathlib import Path\nfrom igascale.config import load_config\n"
        "from igascale.wandb_board import WandbBoard\n"
        f"board = WandbBoard(Path({str(tmp_path)!r}), load_config({str(tmp_path / 'config.yaml')!r}), grace=1.0)\n"
        "board.add({'loss': 1.0}, 1)\nprint('ready', flush=True)\ninput()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 300
        while len(calls()) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        sender = calls()[-1]["pid"]
        assert not gone(sender)
        process.kill()
    deadline = time.monotonic() + 300
    while not gone(sender) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone(sender)


def test_a_sender_that_dies_does_not_end_the_run_by_sigpipe(tmp_path, config, calls, monkeypatch):
    """Ranks leave SIGPIPE at its default, which ends a process that writes to a closed pipe."""
    monkeypatch.setenv("FAKE_WANDB", "killed")
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    code = (
        "import signal, time\nfrom pathlib import Path\nfrom igascale.config import load_config\n"
        "from igascale.wandb_board import WandbBoard\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        f"board = WandbBoard(Path({str(tmp_path)!r}), load_config({str(tmp_path / 'config.yaml')!r}), grace=1.0)\n"
        "board._process.wait(300)\n"
        "for step in range(1000): board.add({'loss': 1.0, 'filler': 'x' * 1000}, step)\n"
        "board.close()\nprint('alive')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=600)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
    assert "not every record was sent" in done.stderr


def test_a_run_that_outpaces_the_sender_drops_and_says_so(tmp_path, config, calls, monkeypatch, capfd):
    monkeypatch.setenv("FAKE_WANDB", "hang in init")
    monkeypatch.setattr("igascale.wandb_board._ROOM", 100)
    board = WandbBoard(tmp_path, config, grace=0.5)
    for step in range(5000):  # more than queue and pipe hold
        board.add({"loss": 1.0, "filler": "x" * 200}, step)
    board.close()
    assert "not every record was sent" in capfd.readouterr().err


def test_a_missing_package_is_one_line_before_anything_starts(tmp_path, monkeypatch):
    path = runs.prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb").mkdir()  # what the package leaves behind can be "imported" as well
    # As where it is not installed: nothing but that folder has the name.
    original, mine = importlib.util.find_spec, str(tmp_path)
    there = {"wandb": importlib.machinery.PathFinder.find_spec("wandb", [mine])}
    monkeypatch.setattr("igascale.boards.find_spec", lambda name: there[name] if name in there else original(name))
    for verb in ("train", "validate"):
        result = CliRunner().invoke(main, [verb, str(path), "logging.wandb=true"])
        assert result.exit_code == 2
        assert "logging.wandb needs it installed: pip install 'igascale[wandb]'" in result.output
        assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="tensorboard"):
        monkeypatch.setattr("igascale.boards.find_spec", lambda name: None)
        check_boards(LoggingConfig(tensorboard=True))
