"""``igascale doctor`` on two hosts: passes where all is well, and finds what one test after another breaks."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

import igascale

import runs

PORT = "29484"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run that could be started: model, data, configuration."""
    folder = tmp_path_factory.mktemp("doctor")
    runs.prepare(folder)
    return folder


class Report:
    """What the doctor said, as JSON and by status."""

    def __init__(self, done):
        assert done.returncode in (0, 1), (done.returncode, done.stdout, done.stderr)
        self.status = done.returncode
        self.all = json.loads(done.stdout)["findings"]
        for finding in self.all:  # how fast two hosts on one busy machine answer is no matter of these tests
            if finding["status"] == "warn" and finding["name"] in ("ssh", "all-reduce") and "slow" in finding["remedy"]:
                finding["status"] = "pass"

    def of(self, status):
        return [(f["name"], f["found"], f["remedy"]) for f in self.all if f["status"] == status]


@pytest.fixture
def doctor(quiet_hosts, folder):
    def run(*arguments, cwd=folder, **environment):
        command = ["doctor", *arguments, "-H", str(quiet_hosts.hostfile()), "--ssh-config", str(quiet_hosts.ssh_config)]
        command += ["--master-port", PORT, "--json", *([] if "--timeout" in arguments else ["--timeout", "240"])]
        command = [sys.executable, "-m", "igascale", *command]
        return Report(quiet_hosts.a.run(*command, cwd=cwd, env=quiet_hosts.environment(**environment)))

    return run


def test_passes_on_two_good_hosts(doctor, folder):
    report = doctor("run.yaml")
    assert report.of("fail") == [] and report.status == 0, report.all
    assert report.of("warn") == []
    found = {name: text for name, text, _ in report.of("pass")}
    assert set(found) == {
        "tools", "ssh", "clock", "versions", "igascale source", "GPUs", "limits", "network", "master port", "run folder",
        "disk", "model", "data", "all-reduce",
    }  # fmt: skip
    assert "node-a eth0 10.84.0.1, node-b eth0 10.84.0.2" in found["network"]
    assert found["run folder"] == f"{folder} can be written, shared by node-a, node-b"
    assert (
        found["all-reduce"].startswith("gloo, 2 ranks on 2 hosts: ")
        and "(node-a eth0, node-b eth0)" in found["all-reduce"]
    )
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".igascale")]  # the tokens are gone


def test_a_port_in_use(doctor, quiet_hosts):
    code = f"import socket, time; s = socket.create_server(('', {PORT})); print('up', flush=True); time.sleep(600)"
    squatter = quiet_hosts.a.start(sys.executable, "-c", code)
    try:
        assert squatter.stdout.readline() == "up\n"
        report = doctor()
    finally:
        squatter.kill()
        squatter.communicate()
    ((name, found, remedy),) = report.of("fail")
    assert (name, report.status) == ("master port", 1)
    assert found.startswith(f"{PORT} cannot be used on node-a: Address already in use by python")
    assert f"pid {squatter.pid}" in found and "another --master-port" in remedy


def test_one_broken_thing_after_another(doctor, quiet_hosts, folder, tmp_path):
    """All on node-b at once: each gets its own line, and none hides another."""
    hosts, b = quiet_hosts, quiet_hosts.b
    peft = metadata.distribution("peft")
    information = Path(str(peft.locate_file(f"peft-{peft.version}.dist-info"))) / "METADATA"
    (tmp_path / "METADATA").write_text(
        information.read_text().replace(f"\nVersion: {peft.version}", "\nVersion: 0.0.7")
    )
    source = Path(igascale.__file__).parent / "step.py"
    (tmp_path / "step.py").write_text(source.read_text() + "# another commit\n")
    config = folder / "model" / "config.json"
    (tmp_path / "config.json").write_text(config.read_text().replace("0.02", "0.03"))
    train = folder / "data" / "train.jsonl"
    (tmp_path / "train.jsonl").write_text(train.read_text().replace("a", "b", 1))
    run_folder = tmp_path / "runs"
    run_folder.mkdir()
    with (
        hosts.mounted(b, information, tmp_path / "METADATA"),
        hosts.mounted(b, source, tmp_path / "step.py"),
        hosts.mounted(b, config, tmp_path / "config.json"),
        hosts.mounted(b, train, tmp_path / "train.jsonl"),
        hosts.mounted(b, run_folder),
    ):
        report = doctor("run.yaml", f"output_dir={run_folder}/first")
    failing = {name: (found, remedy) for name, found, remedy in report.of("fail")}
    assert report.status == 1 and len(report.of("fail")) == len(failing)
    assert set(failing) == {"versions", "igascale source", "run folder", "model", "data"}
    assert failing["versions"] == (
        f"peft {peft.version} on node-a; peft 0.0.7 on node-b", "install the same peft on every host"
    )  # fmt: skip
    assert failing["igascale source"][0].startswith("node-b differs from node-a in step.py (")
    assert "same commit" in failing["igascale source"][1]
    assert failing["run folder"][0] == (
        f"{run_folder} is not shared: node-b does not see what node-a writes, node-a does not see what node-b writes"
    )
    assert "a disk that all hosts mount" in failing["run folder"][1]
    assert failing["model"][0] == f"node-b differs from node-a in config.json ({folder / 'model'})"
    assert failing["data"][0] == f"{train} on node-b is another file than on node-a"


def test_no_ssh_to_one_host(doctor, quiet_hosts):
    quiet_hosts.stop_sshd(quiet_hosts.b)
    try:
        report = doctor()
    finally:
        quiet_hosts.start_sshd(quiet_hosts.b)
    ((name, found, remedy),) = report.of("fail")
    assert (name, report.status) == ("ssh", 1)
    assert found.startswith("node-b: ") and "refused" in found and "sshd" in remedy
    assert ("all-reduce", "not tried", "mend the lines that fail first") in report.of("warn")


def test_a_host_that_hangs_does_not_hang_the_doctor(doctor, quiet_hosts):
    sshd = quiet_hosts.sshd(quiet_hosts.b)
    os.kill(sshd, signal.SIGSTOP)
    start = time.monotonic()
    try:
        report = doctor("--timeout", "5")
    finally:
        os.kill(sshd, signal.SIGCONT)
    assert time.monotonic() - start < 300
    assert ("ssh", "node-b: ssh gave no shell within 5 s") in [line[:2] for line in report.of("fail")]


def test_the_traps_of_names_and_bridges(doctor, quiet_hosts):
    """Debian's installer writes the line in /etc/hosts; gloo then tells the other ranks to connect to themselves."""
    a, b = quiet_hosts.both
    quiet_hosts.set_names(b, own_address="127.0.1.1")
    a.must("ip", "link", "add", "br-1f0c", "type", "veth", "peer", "name", "docker0")
    for command in ("address add 172.30.84.1/24 dev br-1f0c", "link set br-1f0c up", "link set docker0 up"):
        a.must("ip", *command.split())
    try:
        report = doctor()
    finally:
        a.must("ip", "link", "delete", "br-1f0c")
        quiet_hosts.set_names(b)
    assert report.of("fail") == []  # launch, and the doctor's all-reduce, choose the interface by themselves
    bridge, name = report.of("warn")
    assert bridge[:2] == ("interface", "node-a also has br-1f0c, which NCCL may choose")
    assert "NCCL_SOCKET_IFNAME=eth0" in bridge[2]
    assert name[0] == "host name" and name[1].startswith("node-b is 127.0.1.1 on node-b itself")
    assert "GLOO_SOCKET_IFNAME=eth0" in name[2] and "'10.84.0.2 node-b' into /etc/hosts of node-b" in name[2]


def test_a_wrong_interface(doctor):
    report = doctor("--timeout", "20", GLOO_SOCKET_IFNAME="lo")
    found = [line for line in report.of("fail") if line[0] == "interface"]
    assert [text for _, text, _ in found] == [
        "GLOO_SOCKET_IFNAME=lo on node-a, but the way to 10.84.0.2 is eth0",
        "GLOO_SOCKET_IFNAME=lo on node-b, but the way to 10.84.0.1 is eth0",
    ]
    assert all("export GLOO_SOCKET_IFNAME=eth0" in remedy for *_, remedy in found)
    assert "all-reduce" in {name for name, *_ in report.of("fail")}  # and so it is


def test_a_clock_that_is_off(doctor, quiet_hosts):
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        pytest.skip("a wrong clock needs the package libfaketime")
    wrong = {"LD_PRELOAD": str(libraries[0]), "FAKETIME": "-300", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    with quiet_hosts.sshd_with(quiet_hosts.b, **wrong):
        report = doctor()
    ((name, found, remedy),) = report.of("fail")
    assert name == "clock" and found.startswith("node-b is ") and found.endswith(" s behind node-a") and "NTP" in remedy
    assert abs(float(found.split()[2]) - 300) < 20


def test_a_link_that_is_down_and_bad_input(quiet_hosts, folder):
    hosts = quiet_hosts
    base = ["doctor", "--ssh-config", str(hosts.ssh_config)]
    for text, message in (
        ("node-a slots=x\n", ":1: slots=x"),
        ("node-a slots=1\nnode-z slots=1\n", None),
    ):
        done = hosts.igascale(*base, "-H", str(hosts.hostfile(text)), cwd=folder)
        if message:
            assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
        else:
            assert done.returncode == 1 and "mend the name in the hostfile" in done.stdout
    done = hosts.igascale("doctor", "--ssh-port", "22", cwd=folder)
    assert done.returncode == 2 and done.stderr == "error: --ssh-port needs --hostfile FILE\n"
