"""Every family's judgement on facts of hosts that are not here: GPUs, other interfaces, slow networks, full disks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from igascale.launchers.base import free_port
from igascale.preflight import devices, disk, files, limits, link, network, port, reach, versions
from igascale.preflight.conversation import NoAnswer
from igascale.preflight.examine import Examination, Plan

GIB = 2**30
H100 = {"name": "NVIDIA H100", "memory": 80 * GIB}


def statuses(findings):
    return [(f.name, f.status) for f in findings]


def gpus(count, *, driver="570.1", nccl="2.27.5", cuda="12.8", kind=H100, used=0.0):
    return {"gpus": [kind] * count, "cuda": cuda, "nccl": nccl, "driver": driver, "used": [used] * count}


def test_gpus_that_agree():
    findings = devices.judge({"a": gpus(8), "b": gpus(8)}, {"a": tuple(range(8)), "b": tuple(range(8))})
    assert statuses(findings) == [("GPUs", "pass"), ("CUDA", "pass")]
    assert findings[0].found == "a: 8 x NVIDIA H100 (80 GiB); b: 8 x NVIDIA H100 (80 GiB)"
    assert findings[1].found == "driver 570.1, CUDA 12.8, NCCL 2.27.5"


@pytest.mark.parametrize(
    ("b", "slots", "status", "found"),
    [
        (gpus(7), range(8), "fail", "b has 7, but slots=8 asks for device 7"),
        (gpus(0), range(8), "fail", "b has 0, but slots=8 asks for device 7"),
        (gpus(8), range(4), "warn", "b has 8, of which 4 are used"),
        (gpus(8, used=0.4), [3], "warn", "memory is in use on b: GPU 3 (40%)"),
        (gpus(8, nccl="2.26.2"), range(8), "fail", "NCCL 2.27.5 on a; NCCL 2.26.2 on b"),
        (gpus(8, driver="550"), range(8), "warn", "driver 570.1 on a; driver 550 on b"),
        (
            gpus(8, kind={"name": "A100", "memory": 40 * GIB}),
            range(8),
            "warn",
            "NVIDIA H100 (80 GiB) on a; A100 (40 GiB) on b",
        ),
    ],
)
def test_gpus_that_do_not(b, slots, status, found):
    findings = devices.judge({"a": gpus(8), "b": b}, {"a": tuple(range(8)), "b": tuple(slots)})
    told = [f.found for f in findings if f.status == status]
    assert found in told and all(f.remedy for f in findings if f.status != "pass")
    assert any(f.status == "fail" for f in findings) == (status == "fail" or not b["gpus"])


def test_no_gpu_anywhere_is_no_failure_unless_there_is_a_driver():
    cpu = gpus(0, driver=None)
    assert statuses(devices.judge({"a": cpu, "b": cpu}, {})) == [("GPUs", "pass")]
    assert statuses(devices.judge({"a": gpus(0)}, {})) == [("GPUs", "fail")]


def interfaces(**changes):
    facts = {
        "towards": "10.0.0.1", "interfaces": {"lo": ["127.0.0.1"], "ib0": ["10.0.0.2"]}, "source": "10.0.0.2", "problem": None,
        "interface": "ib0", "name": "b", "own_address": "10.0.0.2", "variables": {},
    }  # fmt: skip
    return facts | changes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [("network", "pass")]),
        ({"problem": "Network is unreachable", "source": None}, [("network", "fail")]),
        ({"source": "127.0.0.1"}, [("network", "fail")]),
        ({"own_address": "127.0.1.1"}, [("network", "pass"), ("host name", "warn")]),
        ({"own_address": None}, [("network", "pass"), ("host name", "warn")]),
        ({"own_address": "127.0.1.1", "variables": {"GLOO_SOCKET_IFNAME": "ib0"}}, [("network", "pass")]),
        ({"variables": {"GLOO_SOCKET_IFNAME": "eth7"}}, [("interface", "fail")]),
        ({"variables": {"GLOO_SOCKET_IFNAME": "ib"}}, [("interface", "fail")]),  # gloo takes no prefixes
        ({"variables": {"NCCL_SOCKET_IFNAME": "ib"}}, [("network", "pass")]),  # NCCL does
        ({"variables": {"NCCL_SOCKET_IFNAME": "=ib"}}, [("interface", "fail")]),
        ({"variables": {"NCCL_SOCKET_IFNAME": "^docker"}}, [("network", "pass")]),
        ({"interfaces": {"ib0": ["10.0.0.2"], "docker0": ["172.17.0.1"]}}, [("network", "pass")]),
        ({"interfaces": {"ib0": ["10.0.0.2"], "veth1": ["172.18.0.1"]}}, [("network", "pass"), ("interface", "warn")]),
    ],
)
def test_interfaces(changes, expected):
    assert statuses(network.judge({"b": interfaces(**changes)})) == expected


@pytest.mark.parametrize(("seconds", "status"), [(0.5, "pass"), (2.0, "warn"), (-2.0, "warn"), (61.0, "fail")])
def test_clocks(seconds, status):
    offsets = {"a": reach.Offset(100.0, 0.1), "b": reach.Offset(100.0 + seconds, 0.1)}
    assert statuses(reach.judge_clocks(offsets)) == [("clock", status)]


def test_a_slow_answer_is_no_skew(monkeypatch):
    """The clock is read in the middle of a round trip of 0.4 s; the error says how far that may be wrong."""
    now = [100.0]
    monkeypatch.setattr(reach, "time", SimpleNamespace(time=lambda: 1e9 + now[0], monotonic=lambda: now[0]))
    waits = iter([0.9, 0.2, 0.2, 0.2])

    def ask():
        now[0] += next(waits)
        told = 1e9 + now[0] + 5
        now[0] += next(waits)
        return told

    offset = reach.measure_offset(ask, times=2)
    assert (offset.seconds, offset.error) == pytest.approx((5, 0.2), abs=1e-5)


@pytest.mark.parametrize(
    ("free", "needed", "status"),
    [(10, 20, "fail"), (30, 20, "warn"), (50, 20, "pass"), (50, None, "pass"), (50, "why", "warn")],
)
def test_room_for_checkpoints(free, needed, status):
    facts = {"a": {"folder": "/runs", "free": 10**9}, "b": {"folder": "/runs", "free": free}}
    assert statuses(disk.judge_room(facts, needed)) == [("disk", status)]


def test_what_checkpoints_need(tmp_path):
    """Against the bytes of a model whose adapters are counted by hand: r (in + out) for q, k, v, o in two layers."""
    from igascale.config import load_config

    import runs

    config = load_config(runs.prepare(tmp_path))
    trained = 2 * 4 * ((64 + 64) + 2 * (64 + 32) + (64 + 64))
    kept = config.checkpoint.keep
    for overrides, copies in ((), kept + 1), (("checkpoint.keep_best=true", "checkpoint.keep=5"), 7):
        config = load_config(tmp_path / "run.yaml", overrides)
        assert disk.need(config.model_dump(mode="json")) == copies * (16 * trained + 1_000_000) + 4 * trained


def test_shared_memory_matters_where_ranks_share_a_host():
    facts = {"a": {"open_files": 65536, "locked_memory": -1, "infiniband": True, "shm_free": 60 << 20}}
    assert statuses(limits.judge(facts, {"a": 8})) == [("limits", "warn")]
    assert statuses(limits.judge(facts, {"a": 1})) == [("limits", "pass")]
    facts["a"] |= {"locked_memory": 65536, "open_files": 256}
    assert statuses(limits.judge(facts, {"a": 1})) == [("limits", "warn")] * 2


def rank(number, stage="done", **more):
    return {
        "rank": number,
        "stage": stage,
        "error": "",
        "interface": "ib0",
        "right": True,
        "gbs": 20.0,
        "ms": 0.1,
    } | more


@pytest.mark.parametrize(
    ("a", "b", "status", "told"),
    [
        (rank(0), rank(1), "pass", "nccl, 2 ranks on 2 hosts: 20.00 GB/s"),
        (rank(0, gbs=0.05), rank(1), "warn", "0.05 GB/s"),
        (rank(0), rank(1, right=False), "fail", "wrong sum on b"),
        (rank(0, "group"), rank(1, "store", error="timed out"), "fail", "b cannot reach the first host: timed out"),
        (rank(0, "group"), rank(1, "start", error="No module named 'torch'"), "fail", "b did not start PyTorch"),
        (rank(0, "sum"), rank(1, "sum"), "fail", "a, b hung in the all-reduce"),
    ],
)
def test_the_all_reduce_blames_the_host_that_came_least_far(a, b, status, told):
    (finding,) = link.judge({"a": [a], "b": [b]}, "nccl")
    assert finding.status == status and told in finding.found


def test_model_and_data():
    whole = {
        "is_folder": True,
        "model": {"config.json": "1", "model.safetensors": "9 bytes, x"},
        "data": {"train.jsonl": "t"},
    }
    assert statuses(files.judge({"a": whole, "b": whole}, "m")) == [("model", "pass"), ("data", "pass")]
    lacking = {**whole, "model": {"config.json": "1"}, "data": {"train.jsonl": "missing"}}
    findings = files.judge({"a": whole, "b": lacking}, "m")
    assert [f.found for f in findings] == ["b lacks model.safetensors (m)", "train.jsonl is not on b"]
    hub = {**whole, "is_folder": False, "model": {}}
    assert statuses(files.judge({"a": hub, "b": hub}, "org/m"))[0] == ("model", "warn")
    assert statuses(files.judge({"a": whole, "b": hub}, "org/m"))[0] == ("model", "fail")


def test_weights_of_another_training_are_told_apart(tmp_path):
    """Same names, same sizes."""
    prints = []
    for name, byte in (("x", b"\x00"), ("y", b"\x01")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"\x00" * (3 << 20) + byte)
        prints.append(files.collect(str(folder), [])["model"])
    assert prints[0]["config.json"] == prints[1]["config.json"]
    assert prints[0]["model.safetensors"] != prints[1]["model.safetensors"]


def test_versions_of_one_host_without_an_extra():
    facts = versions.collect()
    assert statuses(versions.judge({"a": facts})) == [("versions", "pass"), ("igascale source", "pass")]
    without = {**facts, "packages": facts["packages"] | {"deepspeed": "not installed"}}
    assert ("versions", "fail") in statuses(versions.judge({"a": without}))
    assert any(path.startswith("launchers/") for path in facts["source"])  # behind a link


def test_the_port_is_free_again_after_the_check():
    number = free_port()
    held = port.hold(number)
    assert held["problem"] is None and port.reach("127.0.0.1", number) is None
    assert port.hold(number)["problem"]
    port.release()
    assert port.reach("127.0.0.1", number)
    assert port.hold(number)["problem"] is None
    port.release()


class Scripted:
    """A host that answers from a table, and not at all where that says so."""

    def __init__(self, host, silent_on=""):
        self.host, self.silent_on, self.closed = host, silent_on, False

    def await_shell(self, timeout):
        return 0.1

    def await_python(self, timeout):
        return

    def ask(self, action, timeout, /, **arguments):
        if action == self.silent_on:
            raise NoAnswer("no answer", "look")
        return {"versions": versions.collect, "devices": lambda: gpus(0, driver=None), "limits": limits.collect}[
            action
        ]()

    def close(self):
        self.closed = True


def test_a_host_that_falls_silent_is_told_of_once_and_left_out():
    plan = Plan({"a": (0,), "b": (0,)}, False, "127.0.0.1", 1, 5.0)
    patients = [Scripted("a"), Scripted("b", silent_on="devices")]
    examination = Examination(plan, patients)
    examination._port = list
    findings = list(examination.run())
    assert [(f.name, f.found) for f in findings if f.status == "fail"] == [("GPUs", "b: no answer")]
    assert patients[1].closed and not patients[0].closed
    assert findings[-1].found == "not tried"


def test_the_interface_on_the_route_counts_before_the_kernel_calls_it_running(monkeypatch):
    """An interface that has just come up is not "running" yet; its address is no mistake in /etc/hosts."""
    import psutil

    stats = {name: told._replace(isup=False) for name, told in psutil.net_if_stats().items()}
    monkeypatch.setattr(psutil, "net_if_stats", lambda: stats)
    facts = network.collect("127.0.0.1")
    assert facts["interface"] == "lo" and list(facts["interfaces"]) == ["lo"]
