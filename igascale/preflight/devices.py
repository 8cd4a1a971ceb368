"""GPUs: as many as slots, alike, free, with the same driver, CUDA and NCCL."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Mapping
from typing import Any

from igascale.preflight.finding import Facts, Finding, differ, failed, passed, warned

#: Share of a GPU's memory in use from which somebody else seems to be on it.
BUSY = 0.1


def collect() -> dict[str, Any]:
    """What PyTorch sees, and what the driver says beyond it."""
    if not _has_cuda():
        return {"gpus": [], "cuda": None, "nccl": None, **_ask_driver()}
    import torch

    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        gpus.append({"name": properties.name, "memory": properties.total_memory})
    nccl = torch.cuda.nccl.version() if gpus else None
    return {
        "gpus": gpus,
        "cuda": torch.version.cuda,
        "nccl": ".".join(map(str, nccl)) if nccl else None,
        **_ask_driver(),
    }


def _has_cuda() -> bool:
    """Whether the driver's library is here; without it there is no need to wait for PyTorch."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _ask_driver() -> dict[str, Any]:
    """The driver's version, whatever CUDA_VISIBLE_DEVICES hides, and the share of memory in use of each GPU."""
    command = ["nvidia-smi", "--query-gpu=driver_version,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        rows = [line.split(", ") for line in done.stdout.splitlines()]
        return {"driver": rows[0][0], "used": [float(used) / float(total) for _, used, total in rows]}
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):  # no driver, or figures that it does not know
        return {"driver": None, "used": []}


def judge(facts: Facts, slots: Mapping[str, tuple[int, ...]]) -> list[Finding]:
    """GPUs against slots, then against each other.

    Args:
        facts: of :func:`collect`.
        slots: the devices that each host is to use, from the hostfile; empty where it says nothing.
    """
    counts = {host: len(told["gpus"]) for host, told in facts.items()}
    if not any(counts.values()):
        driver = {h: f["driver"] for h, f in facts.items() if f["driver"]}
        if driver:
            return [failed("GPUs", f"PyTorch sees none, but there is a driver: {differ(driver)}",
                           "install the CUDA build of PyTorch; look at CUDA_VISIBLE_DEVICES")]  # fmt: skip
        return [passed("GPUs", "none on any host: ranks run on the CPU")]
    findings = []
    for host, count in counts.items():
        wanted = slots.get(host, ())
        if count == 0 or max(wanted, default=-1) >= count:
            findings.append(failed("GPUs", f"{host} has {count}, but slots={len(wanted)} asks for device {max(wanted, default=0)}",
                                   f"mend the hostfile, or look at nvidia-smi and CUDA_VISIBLE_DEVICES on {host}"))  # fmt: skip
        elif wanted and count > len(wanted):
            findings.append(
                warned("GPUs", f"{host} has {count}, of which {len(wanted)} are used", "raise slots, if they are yours")
            )
    findings += _judge_alike(facts) + _judge_busy(facts, slots)
    if not findings:
        findings.append(passed("GPUs", "; ".join(f"{host}: {_describe(told['gpus'])}" for host, told in facts.items())))
    first = next(iter(facts.values()))
    if not any(finding.name == "CUDA" for finding in findings):
        findings.append(passed("CUDA", f"driver {first['driver']}, CUDA {first['cuda']}, NCCL {first['nccl']}"))
    return findings


def _describe(gpus: list[dict[str, Any]]) -> str:
    kinds = {f"{gpu['name']} ({gpu['memory'] / 2**30:.0f} GiB)" for gpu in gpus}
    return f"{len(gpus)} x {' and '.join(sorted(kinds))}"


def _judge_alike(facts: Facts) -> list[Finding]:
    findings = []
    kinds = {host: ", ".join(sorted({_describe([gpu])[4:] for gpu in told["gpus"]})) for host, told in facts.items()}
    if len(set(kinds.values())) > 1:
        findings.append(
            warned("GPUs", differ(kinds), "every step waits for the slowest; the smallest memory decides the batch")
        )
    for key, title, report, remedy in (
        ("driver", "driver", warned, "update the older one"),
        ("cuda", "PyTorch's CUDA", failed, "install the same build of PyTorch on every host"),
        (
            "nccl",
            "NCCL",
            failed,
            "install the same build of PyTorch on every host; look at LD_LIBRARY_PATH for another NCCL",
        ),
    ):
        values = {host: f"{title} {told[key]}" for host, told in facts.items()}
        if len(set(values.values())) > 1:
            findings.append(report("CUDA", differ(values), remedy))
    return findings


def _judge_busy(facts: Facts, slots: Mapping[str, tuple[int, ...]]) -> list[Finding]:
    findings = []
    for host, told in facts.items():
        wanted = slots.get(host) or range(len(told["used"]))
        if busy := [
            f"GPU {i} ({told['used'][i]:.0%})" for i in wanted if i < len(told["used"]) and told["used"][i] > BUSY
        ]:
            remedy = f"nvidia-smi on {host} shows whose; a run that was killed may have left a process"
            findings.append(warned("GPUs", f"memory is in use on {host}: {', '.join(busy)}", remedy))
    return findings
