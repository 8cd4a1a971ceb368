"""What is forwarded, what is hidden, and the private file."""

import os
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale.errors import UserError
from igascale.launchers import environment, ranks, ssh
from igascale.launchers.base import export_lines


def test_only_what_is_listed_goes_along():
    here = {
        "HF_TOKEN": "t",
        "NCCL_DEBUG": "INFO",
        "GLOO_SOCKET_IFNAME": "eth0",
        "TORCH_HOME": "/t",
        "CUDA_LAUNCH_BLOCKING": "1",
        "OMP_NUM_THREADS": "2",
        "PYTHONPATH": "/p",
        "HOME": "/root",
        "PATH": "/bin",
        "AWS_SECRET_ACCESS_KEY": "s",
        "TORCHELASTIC_RUN_ID": "7",
        "CUDA_VISIBLE_DEVICES": "3",
        "DS_ENV_FILE": "/e",
        "IGASCALE_MONITOR_TOKEN": "x",
    }
    found = environment.forwarded(here, ["AWS_SECRET_ACCESS_KEY", "MINE=a b=c", "EMPTY="])
    assert found == dict(list(here.items())[:7]) | {
        "AWS_SECRET_ACCESS_KEY": "s",
        "MINE": "a b=c",
        "EMPTY": "",
    }


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("NOT_THERE", "not set here"),
        ("1X=2", "not a variable's name"),
        ("=2", "not a variable's name"),
        ("a-b", "not a variable's name"),
        ("CUDA_VISIBLE_DEVICES=1", "choose devices by --include"),
    ],
)
def test_a_bad_own_variable(own, expected):
    with pytest.raises(UserError, match=expected):
        environment.forwarded({}, [own])


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="<>"), min_size=6, max_size=20)


@given(WORDS, st.sampled_from(["hub.api_key", "TOKEN", "my_password", "a.client-secret"]), st.sampled_from(["=", ": "]))
def test_what_is_named_like_a_secret_is_hidden(secret, name, sign):
    for text in (f"{name}{sign}x{secret}", f"logging={{{name}{sign}x{secret}}}"):
        assert secret not in environment.redact(text)
    assert secret not in environment.redact(f"path=/x/{secret}/y", [secret])


def test_what_is_not_secret_is_shown():
    for text in (
        "optimizer.lr=1e-4",
        "data.train=/data/train.jsonl",
        "--resume",
        "train.max_steps=100",
        "model.path=a:b",
    ):
        assert environment.redact(text, ["hunter2"]) == text


def test_private_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    variables = {"A": "line\nline", "B": 'it\'s $HOME `x` "q" %n'}
    path.write_text(environment.pack(variables))
    environ = {"IGASCALE_ENV_FILE": str(path), "A": "before"}
    environment.unpack(environ)
    assert environ == {"IGASCALE_ENV_FILE": str(path), **variables}
    monkeypatch.setenv("IGASCALE_ENV_FILE", str(path))
    environment.discard()
    assert not path.exists()
    environment.discard()
    with pytest.raises(UserError, match="start again"):
        environment.unpack({"IGASCALE_ENV_FILE": str(path)})
    environment.unpack({})


VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)


@settings(max_examples=50, deadline=None)
@given(VALUES)
def test_values_survive_a_shell(value):
    script = export_lines({"X": value}) + 'printf %s "$X"\n'
    done = subprocess.run(["sh", "-s"], input=script.encode(), capture_output=True, check=True)
    assert done.stdout.decode() == value


def test_remote_script_runs_the_command_in_the_shells_place(tmp_path):
    script = ssh.remote_script(["sh", "-c", 'echo "$PPID $X"; pwd; cat'], {"X": "a b"}, str(tmp_path))
    with subprocess.Popen(["sh", "-s"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        out, _ = process.communicate(script)
    assert out.splitlines() == [f"{os.getpid()} a b", str(tmp_path)]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
            ("1", "4", "0"),
        ),
        ({"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"}, ("2", "4", "1")),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}, ("3", "4", "1")),
    ],
)
def test_ranks_of_other_launchers(environ, expected):
    found = {**environ, "MASTER_ADDR": "a"}
    ranks.adopt(found)
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"]) == expected
    for untouched in (environ, {**environ, "MASTER_ADDR": "a", "RANK": "9"}, {"MASTER_ADDR": "a", "SLURM_PROCID": "0"}):
        found = dict(untouched)
        ranks.adopt(found)
        assert found == untouched


def test_threads_are_shared(monkeypatch):
    monkeypatch.setattr(ranks, "has_gpu", lambda: False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for given_, expected in [
        ({"LOCAL_WORLD_SIZE": "2"}, "4"),
        ({"LOCAL_SIZE": "16"}, "1"),
        ({"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}, "2"),
        ({"LOCAL_SIZE": "2", "OMP_NUM_THREADS": "7"}, "7"),
        ({}, None),
    ]:
        ranks.share_cores(given_)
        assert given_.get("OMP_NUM_THREADS") == expected
