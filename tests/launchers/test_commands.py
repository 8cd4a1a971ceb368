"""The commands of every backend as data; what DeepSpeed's own runners make of them; quoting through real shells and a real pdsh."""

import base64
import json
import os
import shlex
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
from deepspeed.launcher import multinode_runner, runner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igascale.errors import UserError
from igascale.launchers import base, deepspeed, local, slurm, torchrun
from igascale.launchers.base import Command, Host, LaunchSpec, local_hosts

ARGUMENTS = ("train", "run.yaml", "data.domains=[law, medicine]")
ONE = LaunchSpec(local_hosts(2), "igascale", ARGUMENTS, 29500, environment={"X": "1"})
HOSTS = (Host("a", (0, 1)), Host("b", (0, 1)))
MANY = replace(
    ONE, hosts=HOSTS, master_addr="10.0.0.1", hostfile="/hosts", folder="/work", forwarded={"HF_TOKEN": "s3cret"}
)
BY_HAND = replace(MANY, node_rank=1)


def value(argv, option):
    return argv[argv.index(option) + 1]


def test_a_free_port_is_none_that_an_outgoing_connection_may_get(tmp_path, monkeypatch):
    first, last = map(int, base._OUTGOING.read_text().split())
    taken = [socket.create_server(("", port)) for port in {base.free_port() for _ in range(50)}]
    ports = [listener.getsockname()[1] for listener in taken]
    assert len(ports) > 1
    assert not [port for port in ports if first <= port <= last]
    (tmp_path / "range").write_text("1024\t65535\n")  # where they may get any, any will do
    monkeypatch.setattr(base, "_OUTGOING", tmp_path / "range")
    assert base.free_port() not in ports
    monkeypatch.setattr(base, "_OUTGOING", tmp_path / "nowhere")
    assert base.free_port() < 32768
    for listener in taken:
        listener.close()


def test_local_starts_a_process_per_rank():
    commands = local.build_command(ONE)
    assert [c.environment["RANK"] for c in commands] == ["0", "1"]
    assert [c.environment["LOCAL_RANK"] for c in commands] == ["0", "1"]
    for command in commands:
        assert command.argv == (sys.executable, "-u", "-m", "igascale", *ARGUMENTS)
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "X": "1"}
        assert shared.items() <= command.environment.items()


@pytest.mark.parametrize(
    ("spec", "world", "node"),
    [
        (ONE, {"localhost": [0, 1]}, "0"),
        (replace(ONE, devices=("2", "GPU-7f")), {"localhost": ["2", "GPU-7f"]}, "0"),
        (BY_HAND, {"a": [0, 1], "b": [0, 1]}, "1"),
    ],
)
def test_deepspeed_on_this_node(spec, world, node, monkeypatch):
    (command,) = deepspeed.build_command(spec)
    assert command.argv[:4] == (sys.executable, "-u", "-m", "deepspeed.launcher.launch")
    from deepspeed.launcher import launch

    monkeypatch.setattr(sys, "argv", ["launch", *command.argv[4:]])
    seen = launch.parse_args()  # DeepSpeed's own parser
    assert json.loads(base64.urlsafe_b64decode(seen.world_info)) == world
    assert (str(seen.node_rank), seen.master_addr, seen.master_port) == (node, spec.master_addr, 29500)
    assert (seen.module, seen.no_local_rank, seen.training_script) == (True, True, "igascale")
    assert tuple(seen.training_script_args) == ARGUMENTS


def stock(command):
    """DeepSpeed's own parser and runner on our command; returns what it would execute."""
    arguments = runner.parse_args(list(command.argv[3:]))
    pool = {host.name: len(host.slots) for host in HOSTS}
    active = runner.parse_inclusion_exclusion(pool, arguments.include, arguments.exclude)
    cls = runner.LAUNCHER_CLASSES[arguments.launcher]
    cls.validate_active_resources(active)
    world = runner.encode_world_info(active)
    made = cls(arguments, world) if arguments.launcher == "pdsh" else cls(arguments, world, pool)
    found = made.get_cmd(dict(command.environment), active)
    return arguments, (found[0] if arguments.launcher == "pdsh" else found)


def test_pdsh_gets_the_hosts_and_no_value():
    (command,) = deepspeed.build_command(replace(MANY, ssh_config="/etc/my ssh", ssh_port=2222, env_file="/tmp/e"))
    arguments, argv = stock(command)
    assert arguments.force_multi
    assert arguments.no_ssh_check
    assert value(argv, "-w") == "a,b"
    assert "s3cret" not in str(command)
    assert not command.on_sigterm  # its handler ends processes by a pattern
    assert command.environment["DS_ENV_FILE"] == "/tmp/e"
    assert shlex.split(command.environment["PDSH_SSH_ARGS_APPEND"])[-4:] == ["-F", "/etc/my ssh", "-p", "2222"]


def test_pdsh_filter():
    (command,) = deepspeed.build_command(replace(MANY, hosts=(Host("b", (1,)),), filtered=True))
    arguments, argv = stock(command)
    assert value(argv, "-w") == "b"
    world = next(a for a in argv if a.startswith("--world_info=")).partition("=")[2]
    assert json.loads(base64.urlsafe_b64decode(world)) == {"b": [1]}


def test_openmpi_names_the_variables():
    spec = replace(MANY, launcher="openmpi", interface="ib0", forwarded={"HF_TOKEN": "s3cret", "PYTHONPATH": "/x"})
    (command,) = deepspeed.build_command(spec)
    _, argv = stock(command)
    exported = [argv[n + 1] for n, word in enumerate(argv) if word == "-x"]
    assert {"HF_TOKEN", "MASTER_ADDR", "MASTER_PORT", "X"} <= set(exported)
    assert "PYTHONPATH" not in exported  # the runner exports it with its value: twice is an error
    assert not [word for word in argv if "s3cret" in word]
    assert argv.count("btl_tcp_if_include") == 1
    assert value(argv, "btl_tcp_if_include") == "ib0"
    assert value(argv, "--bind-to") == "none"
    assert argv[argv.index("-m") :] == ["-m", "igascale", *ARGUMENTS]
    assert command.environment["MASTER_ADDR"] == "10.0.0.1"


@pytest.mark.parametrize("launcher", ["openmpi", "mpich", "slurm"])
def test_the_runner_finds_no_secret_that_it_would_write_into_a_command_line(launcher, tmp_path, monkeypatch):
    """It reads ``.deepspeed_env`` and some of the environment, and exports them by value."""
    (tmp_path / ".deepspeed_env").write_text("WANDB_API_KEY=s3cret\n")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
    (command,) = deepspeed.build_command(replace(MANY, launcher=launcher))
    seen = {**os.environ, **command.environment}
    assert not os.path.isfile(tmp_path / seen.get("DS_ENV_FILE", ".deepspeed_env"))
    assert not [name for name, value in seen.items() if name.startswith(runner.EXPORT_ENVS[0]) and value]
    # The user's file is read all the same: its variables are forwarded by name.
    assert deepspeed.users_env_files(tmp_path)["WANDB_API_KEY"] == "s3cret"


@pytest.mark.parametrize("launcher", ["mpich", "slurm"])
def test_runners_without_modules_get_a_script(launcher, tmp_path):
    (command,) = deepspeed.build_command(replace(MANY, launcher=launcher))
    _, argv = stock(command)
    script = next(n for n, word in enumerate(argv) if word.endswith("/start.py"))
    assert tuple(argv[script + 1 :]) == ("igascale", *ARGUMENTS)
    assert argv[0] == {"mpich": "mpirun", "slurm": "srun"}[launcher]
    done = subprocess.run(
        [sys.executable, argv[script], "igascale", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("igascale, version"), done.stderr


def test_selections_that_runners_cannot_start():
    uneven = replace(MANY, hosts=(Host("a", (0, 1)), Host("b", (0,))))
    for launcher, spec, expected in [
        ("openmpi", replace(MANY, filtered=True), "write a hostfile"),
        ("mpich", replace(MANY, filtered=True), "write a hostfile"),
        ("mpich", uneven, r"as many slots on every host \(a 2, b 1\)"),
        ("slurm", uneven, "as many slots"),
        ("slurm", replace(MANY, hosts=(Host("a", (1,)), Host("b", (1,))), filtered=True), "cannot choose devices"),
        ("pdsh", replace(MANY, folder="/my work"), "run in another"),
    ]:
        with pytest.raises(UserError, match=expected):
            deepspeed.build_command(replace(spec, launcher=launcher))
    deepspeed.build_command(replace(uneven, launcher="pdsh"))


SHELL = st.text(st.sampled_from("ab=[],{}'\"\\$`%!*?;&|<>() ~#"), min_size=1, max_size=12)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(SHELL, min_size=1, max_size=4))
def test_arguments_arrive_through_pdsh_and_a_shell(tmp_path, arguments):
    """A real pdsh runs what the runner hands to it; a fake ssh runs that in a shell, as a real one does on the other side."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nshift 4; exec sh -c "$*"\n')
    ssh.chmod(0o755)
    (command,) = deepspeed.build_command(replace(MANY, hosts=HOSTS[:1], filtered=True, arguments=tuple(arguments)))
    parsed = runner.parse_args(list(command.argv[3:]))
    made = multinode_runner.PDSHRunner(parsed, "e30=")
    echo = f"{sys.executable} -c 'import sys,json;print(json.dumps(sys.argv[1:]))'"
    argv = ["pdsh", "-S", "-w", "a", echo, *made.user_arguments]
    environ = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PDSH_RCMD_TYPE": "ssh",
        "PDSH_SSH_ARGS": "-a -x %h",
    }
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout.removeprefix("a: ")) == arguments, (argv, done)


def options_of(argv):
    start = argv.index("torch.distributed.run") + 1
    from torch.distributed.run import parse_args

    return parse_args(list(argv[start:]))  # torchrun's own parser


def test_torchrun_here_and_by_hand():
    seen = options_of(torchrun.build_command(ONE)[0].argv)
    assert (seen.nnodes, seen.nproc_per_node, seen.module, seen.training_script) == ("1", "2", True, "igascale")
    assert tuple(seen.training_script_args) == ARGUMENTS
    seen = options_of(torchrun.build_command(BY_HAND)[0].argv)
    assert (seen.nnodes, seen.node_rank, seen.master_addr, seen.master_port) == ("2", 1, "10.0.0.1", 29500)
    seen = options_of(torchrun.build_command(replace(BY_HAND, rdzv=True, local_addr="10.0.0.2"))[0].argv)
    assert (seen.rdzv_backend, seen.rdzv_endpoint, seen.rdzv_conf) == ("c10d", "10.0.0.1:29500", "is_host=0")
    assert seen.local_addr == "10.0.0.2"


def test_torchrun_over_ssh_keeps_values_out_of_command_lines():
    commands = torchrun.build_command(replace(MANY, ssh_port=2222, filtered=True))
    assert [c.where for c in commands] == ["a", "b"]
    for rank, command in enumerate(commands):
        assert command.argv[0] == "ssh"
        assert command.argv[-3:] == (HOSTS[rank].name, "sh", "-s")
        assert value(command.argv, "-p") == "2222"
        assert "BatchMode=yes" in command.argv
        assert "s3cret" not in str(command.argv)
        last = command.script.splitlines()[-1]
        seen = options_of(shlex.split(last.removesuffix(" </dev/null")))
        assert seen.node_rank == rank
        assert tuple(seen.training_script_args) == ARGUMENTS
        assert "export HF_TOKEN=s3cret\n" in command.script
        assert "export CUDA_VISIBLE_DEVICES=0,1\n" in command.script


def test_srun():
    (command,) = slurm.build_command(replace(MANY, hostfile=None))
    assert {"--nodes=2", "--ntasks=4", "--ntasks-per-node=2"} <= set(command.argv)
    assert command.argv[-len(ARGUMENTS) - 2 :] == ("-m", "igascale", *ARGUMENTS)
    assert command.environment["MASTER_PORT"] == "29500"


def test_batch_script_is_a_shell_script_that_becomes_the_launcher():
    job = slurm.Job("my run", 2, 4, "/r/run.slurm-%j.log", "gpu", "1-0", None, ("--gpus-per-node=4",))
    script = slurm.batch_script(job, ["echo", "a b", "$HOME"], "/tmp")
    options = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]
    assert {"--requeue", "--open-mode=append", "--signal=B:USR1@120", "--gpus-per-node=4", "--time=1-0"} <= set(options)
    assert not [o for o in options if o.startswith("--account")]
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "a b $HOME\n"


def test_every_command_is_plain_data():
    for build, spec in [(local.build_command, ONE), (torchrun.build_command, MANY), (slurm.build_command, MANY)]:
        assert build(spec) == build(spec)
        assert all(isinstance(c, Command) and all(isinstance(a, str) for a in c.argv) for c in build(spec))
