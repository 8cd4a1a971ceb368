"""One rank of ``igascale doctor``'s all-reduce: does it work, is the sum right, how fast is it.

Prints a line of JSON as it reaches each stage, so that the doctor can tell who came how far.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from datetime import timedelta
from typing import Any

#: Numbers of the large messages: 16 MiB on the CPU, 256 MiB on a GPU; 1 MiB where even that is slow.
_ELEMENTS = {"gloo": 4 << 20, "nccl": 64 << 20}
_SMALL = 1 << 18
_SLOW = 0.05


def measure(
    *,
    rank: int,
    world_size: int,
    address: str,
    port: int,
    backend: str,
    device: int | None,
    seconds: float,
    timeout: float,
) -> None:
    """Join the others and reduce for ``seconds``.

    Args:
        rank: of this process.
        world_size: of the group.
        address: of rank 0.
        port: rank 0 listens here.
        backend: gloo or nccl.
        device: this rank's GPU; ``None`` on the CPU.
        seconds: how long to measure.
        timeout: seconds until this process ends in any case.
    """
    signal.setitimer(signal.ITIMER_REAL, timeout)  # SIGALRM ends it, also inside a library that hangs
    import torch
    import torch.distributed as dist

    from igascale.launchers.network import choose_interface

    limit = timedelta(seconds=0.8 * timeout)  # its error says more than an end by the alarm
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port))
    choose_interface(os.environ)
    interface = os.environ.get(f"{backend.upper()}_SOCKET_IFNAME")
    where = torch.device("cpu") if device is None else torch.device("cuda", device)
    if device is not None:
        torch.cuda.set_device(where)
    _say("store", address=address)
    store = dist.TCPStore(address, port, world_size, is_master=rank == 0, timeout=limit)
    _say("group", interface=interface)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    dist.barrier()
    _say("sum", interface=interface)
    right, speed, delay = _reduce(torch, dist, where, backend, seconds)
    _say("done", interface=interface, right=right, gbs=speed, ms=delay)
    dist.barrier()  # rank 0 is the store: it leaves last
    dist.destroy_process_group()


def _reduce(torch: Any, dist: Any, where: Any, backend: str, seconds: float) -> tuple[bool, float, float]:
    """Whether sums were right; bus bandwidth in GB/s; milliseconds of a small all-reduce."""
    ranks, rank = dist.get_world_size(), dist.get_rank()

    def once(tensor: Any) -> float:
        start = time.perf_counter()
        dist.all_reduce(tensor)
        if where.type == "cuda":
            torch.cuda.synchronize(where)
        return time.perf_counter() - start

    tiny = torch.full((1,), float(rank + 1), dtype=torch.float64, device=where)
    once(tiny)
    right = tiny.item() == ranks * (ranks + 1) / 2
    delay = statistics.median(once(tiny.zero_()) for _ in range(20)) * 1e3
    small = torch.ones(_SMALL, device=where)
    once(small)
    size = _SMALL if _slowest(torch, dist, where, once(small.fill_(1))) > _SLOW else _ELEMENTS[backend]
    large = torch.full((size,), 1.0, device=where)
    rounds = max(1, round(seconds / _slowest(torch, dist, where, once(large))))
    right &= bool((large == ranks).all())
    elapsed = sum(once(large.fill_(1)) for _ in range(rounds)) / rounds
    right &= bool((large == ranks).all())
    # A ring sends 2 (n-1)/n of the message over every link: the usual "bus bandwidth".
    return right, 4 * size * 2 * (ranks - 1) / ranks / elapsed / 1e9, delay


def _slowest(torch: Any, dist: Any, where: Any, seconds: float) -> float:
    """The same figure on every rank, so that all take the same decision."""
    worst = torch.tensor([seconds], dtype=torch.float64, device=where)
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return float(worst)


def _say(stage: str, **more: Any) -> None:
    print(json.dumps({"stage": stage, **more}), flush=True)


if __name__ == "__main__":
    measure(**json.loads(sys.argv[1]))
