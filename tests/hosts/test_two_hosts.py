"""The fixture itself: what the other tests of this folder stand on."""

from __future__ import annotations

from own_namespaces import wait_for


def test_ssh_and_pdsh_reach_both(quiet_hosts):
    hosts = quiet_hosts
    for host in hosts.both:
        done = hosts.a.run("ssh", "-F", str(hosts.ssh_config), host.name, "hostname")
        assert (done.returncode, done.stdout.strip()) == (0, host.name), done.stderr
    done = hosts.a.run("pdsh", "-w", "node-a,node-b", "hostname", env=hosts.environment())
    assert sorted(done.stdout.split("\n")) == ["", "node-a: node-a", "node-b: node-b"], done.stderr


def test_a_mount_is_seen_on_one_host_only(hosts, tmp_path):
    (tmp_path / "x").write_text("disk")
    with hosts.mounted(hosts.b, tmp_path):
        assert hosts.a.run("ls", str(tmp_path)).stdout == "x\n"
        assert hosts.b.run("ls", str(tmp_path)).stdout == ""
    assert hosts.b.run("ls", str(tmp_path)).stdout == "x\n"


def test_what_runs_on_a_host_is_found(hosts):
    process = hosts.b.start("sleep", "600")
    try:
        wait_for(lambda: hosts.b.processes().get(process.pid) == "sleep 600", "sleep", process)
        assert hosts.left_over(patience=0) == {"node-b": [f"{process.pid} sleep 600"]}
    finally:
        process.kill()
        process.communicate()
    assert hosts.left_over() == {}
