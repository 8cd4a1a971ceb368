"""Bad input: one clear line, a status that is not 0, nothing started and nothing written; and what --dry-run shows."""

import shutil
import socket
import subprocess
import sys

import pytest
from click.testing import CliRunner

from igascale.cli import main

import runs
from launching import environment, igascale


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refusals")
    (folder / "hosts").write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    (folder / "uneven").write_text("127.0.0.1 slots=1\nlocalhost slots=2\n")
    (folder / "bad").write_text("# a cluster\nnode1 slots=x\n")
    (folder / "nowhere").write_text("no-such-host.invalid slots=1\n127.0.0.1 slots=1\n")
    return runs.prepare(folder, engine={"name": "deepspeed"})


def invoke(base, *arguments):
    words = [a.replace("FOLDER", str(base.parent)) for a in arguments]
    return CliRunner().invoke(main, ["launch", str(base), *words])


REFUSED = {
    "--include a -n 2": "--include chooses from a hostfile",
    "--exclude a -n 2": "--exclude chooses from a hostfile",
    "--ssh-port 22 -n 2": "--ssh-port needs --hostfile",
    "--launcher pdsh -n 2": "--launcher says how DeepSpeed reaches the hosts",
    "--launcher pdsh --backend torchrun -H FOLDER/hosts": "--launcher says how",
    "--backend local -H FOLDER/hosts": "--hostfile is for --backend deepspeed and torchrun, not local",
    "--backend slurm --no-ssh": "--no-ssh is for --backend deepspeed and torchrun",
    "--rdzv -n 2": "--rdzv is torchrun's",
    "--node-rank 1 -n 2": "add --no-ssh",
    "--num-nodes 2 -n 2": "--num-nodes needs --hostfile FILE, or --no-ssh",
    "--master-addr a -n 2": "--master-addr is for several nodes",
    "--interface eth0 -n 2": "--interface is for several nodes",
    "--partition p -n 2": "--partition is for --backend slurm",
    "--sbatch-arg=--x -n 2": "--sbatch-arg is for --backend slurm",
    "--no-ssh --num-nodes 2 -n 1 --node-rank 0": "--no-ssh needs --master-addr",
    "--no-ssh --num-nodes 2 -n 1 --master-addr 127.0.0.1": "--no-ssh needs --node-rank K",
    "--no-ssh -n 1 --master-addr 127.0.0.1 --node-rank 0": "--no-ssh needs --num-nodes and --num-processes",
    "--no-ssh --num-nodes 2 -n 1 --master-addr 127.0.0.1 --node-rank 2": "there are 2 nodes, numbered from 0",
    "--no-ssh --num-nodes 2 -n 1 --master-addr 127.0.0.1 --node-rank 0 --max-restarts 1": "--max-restarts needs one launcher",
    "--backend slurm": "how many ranks on each node?",
    "--backend slurm -n 2 --max-restarts 2": "the job requeues itself",
    "--backend slurm -n 2 --master-port 29500": "chosen inside the job",
    "--backend slurm -n 9": "more ranks than the 8 groups",
    "-H FOLDER/bad": "bad:2: slots=x: must be a whole number",
    "-H FOLDER/none": "No such file",
    "-H FOLDER/hosts --include 127.0.0.1:1": "no slot '1'",
    "-H FOLDER/hosts --include 127.0.0.1 --exclude localhost": "give one of them",
    "-H FOLDER/hosts --num-nodes 3": "leaves 2 to choose from",
    "-H FOLDER/hosts -n 2": "host '127.0.0.1' has 1 slots",
    "-H FOLDER/hosts": "which other hosts cannot reach: give --master-addr",
    "-H FOLDER/nowhere": "'no-such-host.invalid' does not resolve here",
    "-H FOLDER/uneven --launcher mpich --master-addr 127.0.0.1": "as many slots on every host",
    "-H FOLDER/uneven --launcher slurm --master-addr 127.0.0.1": "as many slots on every host",
    "-H FOLDER/hosts --env NOT_SET_ANYWHERE --master-addr 127.0.0.1": "not set here",
    "-H FOLDER/hosts --ssh-port 1 --master-addr 127.0.0.1": "Connection refused",
    "-n 2 engine.name=single": "engine.name is 'single'",
    "-n 2 model.path=/no/such/model": "/no/such/model: no such model folder",
    "-n 2 --backend local model.path=FOLDER/data": "holds no config.json",
    "-n 2 output_dir=/proc/run": "output_dir /proc/run cannot be written: /proc: ",
    "-n 2 output_dir=/dev/null/run": "output_dir /dev/null/run cannot be written: /dev/null: Not a directory",
    "-n 2 --resume FOLDER/data": "a data set, not a run",
    "-n 2 --backend pdsh": "'pdsh' is not one of",
}


@pytest.mark.parametrize("text", REFUSED)
def test_is_refused(base, text):
    result = invoke(base, *text.split())
    assert result.exit_code == 2, (result.output, result.exception)
    assert REFUSED[text] in result.output
    assert "Traceback" not in result.output
    assert result.output.count("error: ") + result.output.count("Error: ") == 1
    assert not (base.parent / "run").exists()
    assert not (base.parent / "run.sbatch").exists()


def test_every_host_that_does_not_answer_is_named(base):
    output = invoke(base, *["-H", "FOLDER/hosts", "--ssh-port", "1", "--master-addr", "127.0.0.1"]).output
    for host in ("127.0.0.1", "localhost"):
        assert f"host '{host}': ssh: connect to host" in output
    assert "--ssh-port" in output
    assert output.strip().endswith("nothing was started")


def test_a_signal_during_the_checks_is_not_lost(base, tmp_path):
    """Libraries catch everything while they are imported; a run that the user has stopped must not begin."""
    lines = ["import os, signal", "try: os.kill(os.getpid(), signal.SIGINT)", "except BaseException: pass"]
    (tmp_path / "swallows.py").write_text("\n".join(lines))
    done = igascale("launch", str(base), "-n", "2", "hook.name=swallows:Rule", cwd=tmp_path)
    assert done.returncode == 130, done.stderr
    assert "stopped by SIGINT" in done.stderr
    assert not (base.parent / "run").exists()


def test_a_folder_without_a_run_is_not_to_be_continued(base):
    data = base.parent / "data"
    result = invoke(base, "-n", "2", f"output_dir={data}", "--resume", "auto")
    assert result.exit_code == 2
    assert f"output_dir {data} already exists (a data set, not a run;" in result.output
    shutil.copytree(data, other := base.parent / "other", ignore=lambda *_: ["manifest.json"])
    result = invoke(base, "-n", "2", f"output_dir={other}", "--resume", "auto")
    assert "(neither a run nor a checkpoint of igascale): choose another" in result.output


def test_port_in_use(base):
    with socket.socket() as busy:
        busy.bind(("", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        for backend in ("deepspeed", "local", "torchrun"):
            result = invoke(base, "-n", "2", "--master-port", port, "--backend", backend)
            assert f"--master-port {port}: cannot be used on this node (Address already in use)" in result.output
            assert result.exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "missing", "package"),
    [
        ("-H FOLDER/hosts --master-addr 127.0.0.1", "pdsh", "pdsh"),
        ("-H FOLDER/hosts --master-addr 127.0.0.1 --launcher openmpi", "mpirun", "openmpi-bin"),
        ("-H FOLDER/hosts --master-addr 127.0.0.1 --launcher mpich", "mpirun", "mpich"),
        ("-H FOLDER/hosts --master-addr 127.0.0.1 --launcher slurm", "srun", "slurm-client"),
        ("-H FOLDER/hosts --master-addr 127.0.0.1 --backend torchrun", "ssh", "openssh-client"),
        ("-n 2 --backend slurm", "sbatch", "slurm-client"),
    ],
)
def test_a_missing_program_is_named_with_its_package(base, monkeypatch, arguments, missing, package):
    import shutil

    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else which(name) or f"/bin/{name}")
    result = invoke(base, *arguments.split())
    assert f"'{missing}' is not installed or not on PATH: Debian package {package}" in result.output
    assert result.exit_code == 2


def test_openmpi_as_root(base, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.delenv("OMPI_ALLOW_RUN_AS_ROOT", raising=False)
    result = invoke(base, *["-H", "FOLDER/hosts", "--master-addr", "127.0.0.1", "--launcher", "openmpi"])
    assert "OMPI_ALLOW_RUN_AS_ROOT=1" in result.output


def test_uneven_slots_are_said_aloud(base):
    result = invoke(base, *["-H", "FOLDER/uneven", "--master-addr", "127.0.0.1", "--dry-run"])
    assert result.exit_code == 0
    assert "different numbers of slots (127.0.0.1 1, localhost 2)" in result.output


DRY = {
    "local": "-n 2 --backend local",
    "deepspeed": "-n 2",
    "torchrun": "-n 2 --backend torchrun",
    "pdsh": "-H FOLDER/hosts --master-addr 127.0.0.1",
    "openmpi": "-H FOLDER/hosts --master-addr 127.0.0.1 --launcher openmpi",
    "mpich": "-H FOLDER/hosts --master-addr 127.0.0.1 --launcher mpich",
    "deepspeed slurm": "-H FOLDER/hosts --master-addr 127.0.0.1 --launcher slurm",
    "torchrun ssh": "-H FOLDER/hosts --master-addr 127.0.0.1 --backend torchrun",
    "by hand": "--no-ssh --num-nodes 2 -n 1 --master-addr 127.0.0.1 --node-rank 1",
    "slurm": "-n 2 --backend slurm --nodes 2",
}


@pytest.mark.parametrize("backend", DRY)
def test_dry_run_hides_secrets_and_writes_nothing(base, backend, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    monkeypatch.setenv("NCCL_DEBUG", "a-private-level")
    extra = [
        "hook.api_key=overridden-secret",
        "model.path=/x/hf_verysecret/y",
        "--env",
        "OWN_PASSWORD=own-secret",
        "--dry-run",
    ]
    result = invoke(base, *DRY[backend].split(), *extra, "--env", "OWN=own-value")
    assert result.exit_code == 0, result.output
    for secret in ("hf_verysecret", "overridden-secret", "own-secret", "own-value", "a-private-level"):
        assert secret not in result.output
    assert "hook.api_key=<redacted>" in result.output
    if backend not in ("local", "deepspeed", "torchrun", "by hand", "slurm"):
        assert "HF_TOKEN" in result.output  # by name
        assert "OWN_PASSWORD" in result.output
    assert not (base.parent / "run").exists()


@pytest.mark.parametrize("backend", DRY)
def test_dry_run_is_what_bash_understands(base, backend):
    result = invoke(base, *DRY[backend].split(), "--dry-run", "data.domains=[law, 'x y', \"$HOME\"]")
    subprocess.run(["bash", "-n"], input=result.output, text=True, check=True)


def test_dry_run_of_one_node_runs_when_pasted(base, tmp_path):
    words = [
        "-n",
        "2",
        "--backend",
        "torchrun",
        f"output_dir={tmp_path / 'run'}",
        "train.max_steps=1",
        "eval.every=null",
    ]
    output = invoke(base, *words, "--dry-run").output
    done = subprocess.run(
        ["bash"], input=output, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "adapter").is_dir()


def test_help_teaches():
    output = CliRunner().invoke(main, ["launch", "--help"]).output
    for expected in (
        "Where:",
        "Each node by hand:",
        "When it fails:",
        "Examples:",
        "--slots",
        "Exit status",
        "--dry-run",
        "-h, --help",
    ):
        assert expected in output
    assert sys.executable not in output
