"""``igascale launch`` over two hosts, end to end: the same adapter as on one, by every way to start ranks."""

from __future__ import annotations

import json
import shutil
import sys

import pytest

import training_on_hosts
from training_on_hosts import adapter

PORT = "29485"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return training_on_hosts.prepare(tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def expected(hosts, folder):
    """The adapter of two ranks on one host."""
    done = hosts.igascale("launch", "run.yaml", "-n", "2", "output_dir=one-host", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return adapter(folder / "one-host")


def hostnames_in_logs(run):
    return [(run / "logs" / f"rank-000{rank}.log").read_text().split(", ")[1] for rank in (0, 1)]


@pytest.mark.parametrize(
    "backend",
    [["deepspeed"], ["torchrun"], ["torchrun", "--rdzv"]],
    ids=["deepspeed-pdsh", "torchrun-static", "torchrun-c10d"],
)
def test_launched_from_one_host(quiet_hosts, folder, expected, backend):
    hosts, run = quiet_hosts, folder / f"from-one-{'-'.join(backend).replace('--', '')}"
    where = ["-H", str(hosts.hostfile()), "--ssh-config", str(hosts.ssh_config), "--backend", *backend]
    done = hosts.igascale("launch", "run.yaml", *where, f"output_dir={run}", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert adapter(run) == expected
    assert hostnames_in_logs(run) == ["node-a", "node-b"]
    facts = json.loads((run / "environment.json").read_text())
    assert facts["world_size"] == 2


def test_launched_by_open_mpi(quiet_hosts, folder, expected):
    if shutil.which("mpirun") is None:
        pytest.skip("needs mpirun (Debian package openmpi-bin)")
    hosts, run = quiet_hosts, folder / "by-mpirun"
    # As root it wants to be told that this is meant.
    own = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = [
        sys.executable,
        "-m",
        "igascale",
        "launch",
        "run.yaml",
        "-H",
        str(hosts.hostfile()),
        "--launcher",
        "openmpi",
    ]
    command += ["--ssh-config", str(hosts.ssh_config), f"output_dir={run}"]
    done = hosts.a.run(*command, cwd=folder, env=hosts.environment(**own), timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert adapter(run) == expected
    assert hostnames_in_logs(run) == ["node-a", "node-b"]


@pytest.mark.parametrize("backend", [["deepspeed"], ["torchrun", "--rdzv"]], ids=["deepspeed", "torchrun-c10d"])
def test_started_on_every_host_by_hand(quiet_hosts, folder, expected, backend):
    hosts, run = quiet_hosts, folder / f"by-hand-{backend[0]}"
    where = ["--no-ssh", "--num-nodes", "2", "-n", "1", "--master-addr", hosts.a.address, "--master-port", PORT]
    command = [
        sys.executable,
        "-m",
        "igascale",
        "launch",
        "run.yaml",
        f"output_dir={run}",
        *where,
        "--backend",
        *backend,
    ]
    started = [
        host.start(*command, "--node-rank", str(rank), cwd=folder, env=hosts.environment())
        for rank, host in enumerate(hosts.both)
    ]
    said = [process.communicate(timeout=1200)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(said)
    assert adapter(run) == expected


def test_bad_input_starts_nothing(quiet_hosts, folder, tmp_path):
    hosts = quiet_hosts
    keyless = tmp_path / "ssh_config"
    lines = hosts.ssh_config.read_text().splitlines(keepends=True)
    keyless.write_text("".join(line for line in lines if "IdentityFile" not in line) + "  IdentityFile /nowhere\n")
    for text, config, told in (
        ("node-a slots=1\nnode-b slots=1\n", keyless, "Permission denied"),
        ("node-a slots=1\nnode-z slots=1\n", hosts.ssh_config, "host 'node-z'"),
        (
            "node-a slots=1\nnode-b slots=1\nnode-a slots=1\n",
            hosts.ssh_config,
            ":3: host 'node-a' is already on line 1",
        ),
    ):
        for backend in ("deepspeed", "torchrun"):
            where = ["-H", str(hosts.hostfile(text)), "--ssh-config", str(config), "--backend", backend]
            done = hosts.igascale("launch", "run.yaml", *where, "output_dir=never", cwd=folder)
            assert done.returncode == 2, (backend, done.stdout, done.stderr)
            error = [line for line in done.stderr.splitlines() if line]
            assert told in error[0] and error[0].startswith("error: ") and "Traceback" not in done.stderr, done.stderr
            assert not (folder / "never").exists() and not hosts.left_over(patience=60)
