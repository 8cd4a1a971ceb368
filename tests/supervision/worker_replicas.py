"""Run on every rank: one bit changed on one of them; each rank prints what the comparison says."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

from igascale.engine.collectives import Collectives
from igascale.errors import RunLost
from igascale.replicas import check_replicas


def engine(comm, dtype):
    generator = torch.Generator().manual_seed(1)
    pairs = {
        fqn: [torch.randn(shape, generator=generator).to(dtype) for shape in ((4, 6), (5, 4))]
        for fqn in ("first", "second")
    }
    pairs["second"][0][1, 2] = float("nan")  # the same bits on every rank: equal
    return SimpleNamespace(comm=comm, adapters={k: SimpleNamespace(A=a, B=b) for k, (a, b) in pairs.items()})


def flip(factor, bit):
    factor.view(torch.int32 if factor.dtype == torch.float32 else torch.int16).flatten()[-1] ^= 1 << bit


def main(out):
    dist.init_process_group("gloo")
    comm = Collectives(torch.device("cpu"))
    lines = []
    for dtype, bits in ((torch.float32, (0, 30)), (torch.bfloat16, (0, 14))):
        for bit in (None, *bits):
            for rank in (0, comm.world_size - 1):
                parts = engine(comm, dtype)
                if bit is not None and comm.rank == rank:
                    flip(parts.adapters["second"].B, bit)
                try:
                    check_replicas(parts, 7)
                    lines.append("equal")
                except RunLost as error:
                    lines.append(str(error))
    Path(out, f"rank-{comm.rank}.txt").write_text("\n".join(lines))
    dist.destroy_process_group()


main(sys.argv[1])
