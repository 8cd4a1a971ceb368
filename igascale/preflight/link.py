"""A short all-reduce between all hosts: does it work at all, and how fast."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from igascale.preflight.finding import Finding, failed, listed, passed, warned

#: Below these a run waits for the network more than it needs to; LoRA gradients are small, so they are low.
SLOW_GBS, SLOW_MS = 0.1, 5.0
#: How far a rank came; what is said when it came no further.
_STAGES = {
    "start": "did not start PyTorch",
    "store": "cannot reach the first host",
    "group": "could not connect to the other ranks",
    "sum": "hung in the all-reduce",
}
_workers: list[subprocess.Popen[str]] = []


def run_workers(ranks: list[int], devices: list[int], timeout: float, **group: Any) -> list[dict[str, Any]]:
    """Run this host's ranks of the all-reduce and return what each says at its end.

    Args:
        ranks: of this host.
        devices: the GPU of each rank; empty on the CPU.
        timeout: seconds after which they are ended.
        group: ``world_size``, ``address``, ``port``, ``backend``, ``seconds`` of :func:`igascale.engine.link.measure`.
    """
    workers = []
    for place, rank in enumerate(ranks):
        told = {"rank": rank, "device": devices[place] if devices else None, "timeout": timeout, **group}
        command = [sys.executable, "-m", "igascale.engine.link", json.dumps(told)]
        threads = {} if devices else {"OMP_NUM_THREADS": "1"}
        workers.append(
            subprocess.Popen(command, env={**os.environ, **threads}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
        )  # fmt: skip
    _workers.extend(workers)
    return [_outcome(worker, rank) for worker, rank in zip(workers, ranks)]


def _outcome(worker: subprocess.Popen[str], rank: int) -> dict[str, Any]:
    """The worker prints a line of JSON for every stage; the last one counts. It ends by itself when its time is over."""
    out, error = worker.communicate()
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    said = [line.strip() for line in error.splitlines() if line.strip()]
    return {"rank": rank, "stage": "start", "error": said[-1] if said else "", **(lines[-1] if lines else {})}


def end_workers() -> None:
    """End what still runs; for the end of the conversation."""
    for worker in _workers:
        worker.kill()


def judge(answers: Mapping[str, Sequence[Mapping[str, Any]]], backend: str) -> list[Finding]:
    """What the ranks said.

    Args:
        answers: by host, of :func:`run_workers`.
        backend: gloo or nccl.
    """
    ranks = [(host, told) for host, list_ in answers.items() for told in list_]
    lost = [(host, told) for host, told in ranks if told["stage"] != "done"]
    if lost:
        return [_explain(lost, backend)]
    first = next(told for _, told in ranks if told["rank"] == 0)
    wrong = sorted({host for host, told in ranks if not told["right"]})
    if wrong:
        return [failed("all-reduce", f"{backend} gave a wrong sum on {', '.join(wrong)}",
                       "broken network hardware, driver or library; try NCCL_P2P_DISABLE=1, then NCCL_IB_DISABLE=1")]  # fmt: skip
    interfaces = {f"{host} {told['interface']}" for host, told in ranks if told["interface"]}
    found = (
        f"{backend}, {len(ranks)} ranks on {len(answers)} host{'s' * (len(answers) > 1)}: {first['gbs']:.2f} GB/s bus bandwidth, "
        f"{first['ms']:.2f} ms for 8 bytes" + (f" ({', '.join(sorted(interfaces))})" if interfaces else "")
    )
    if first["gbs"] < SLOW_GBS or first["ms"] > SLOW_MS:
        return [
            warned("all-reduce", found, "slow: is this the fast network? compare iperf3; see the lines on interfaces")
        ]
    return [passed("all-reduce", found)]


def _explain(lost: list[tuple[str, Mapping[str, Any]]], backend: str) -> Finding:
    """Blame the ranks that came least far: those beyond them wait for these."""
    order = list(_STAGES)
    earliest = min((told["stage"] for _, told in lost), key=order.index)
    hosts = list(dict.fromkeys(host for host, told in lost if told["stage"] == earliest))
    error = next((told["error"] for _, told in lost if told["stage"] == earliest and told["error"]), "")
    remedy = {
        "start": "run `python -c 'import torch'` there",
        "store": "the lines on network and master port say why; look for a firewall",
        "group": "ranks connect to each other on any port: open them all between the hosts; GLOO_SOCKET_IFNAME and "
        "NCCL_SOCKET_IFNAME must name the interface between them",
        "sum": "NCCL_DEBUG=INFO shows its choice of network; try NCCL_IB_DISABLE=1",
    }[earliest]
    return failed(
        "all-reduce", f"{backend}: {listed(hosts)} {_STAGES[earliest]}" + (f": {error[:200]}" if error else ""), remedy
    )
