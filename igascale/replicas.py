"""Whether all ranks still hold the same adapters, to the bit.

They step with the same numbers, so they should. Faulty memory, an uninitialised buffer or a hook that draws its own random numbers
makes them part in silence, and the checkpoint is then one rank's opinion. Shape legend: W ranks, N adapters, F factors, P entries.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor

from igascale.adapters import LoraAdapter
from igascale.engine import Engine
from igascale.errors import RunLost

_ODD = -7046029254386353131  # 2^64 / golden ratio as a signed number; odd, so that no bit of a product is lost
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksum(tensor: Tensor) -> Tensor:
    r"""A 64-bit number of the raw bits, 0-d int64 on the tensor's device.

    .. math:: \sum_p (2p + 1) \, c \, \mathrm{bits}_p \bmod 2^{64}

    With odd weights one changed entry always changes it, and so do two entries that swap places. Bits are compared, not
    numbers: a NaN equals itself, and -0 is not 0.
    """
    flat = tensor.detach().contiguous().flatten()
    bits_P = flat.view(_INTEGERS[flat.element_size()]).long()
    weights_P = torch.arange(1, 2 * len(bits_P), 2, device=bits_P.device).mul_(_ODD)
    return (bits_P * weights_P).sum()


def checksums(adapters: Mapping[str, LoraAdapter]) -> Tensor:
    """``[F]`` int64: A and B of each adapter in turn."""
    return torch.stack([checksum(factor) for a in adapters.values() for factor in (a.A, a.B)])


def check_replicas(engine: Engine, step: int) -> None:
    """Compare the working adapters of all ranks; call it on every rank.

    Raises:
        RunLost: they differ; names the ranks in the minority, their hosts and the first factor that differs.
    """
    if engine.comm.world_size == 1:
        return
    rows_WF = engine.comm.gather(checksums(engine.adapters)).cpu()
    if bool((rows_WF == rows_WF[0]).all()):
        return
    hosts = engine.comm.gather_objects(socket.gethostname())
    rows = [tuple(row) for row in rows_WF.tolist()]
    usual, votes = Counter(rows).most_common(1)[0]
    if 2 * votes > len(rows):
        odd = [rank for rank, row in enumerate(rows) if row != usual]
        who = ", ".join(f"rank {rank} ({hosts[rank]})" for rank in odd[:8]) + (", ..." if len(odd) > 8 else "")
        verb = "differs" if len(odd) == 1 else "differ"
        told = f"{who} {verb} from the other {votes} ranks"
    else:
        odd, usual = [rank for rank, row in enumerate(rows) if row != rows[0]], rows[0]
        everyone = ", ".join(f"rank {rank} ({host})" for rank, host in enumerate(hosts[:8]))
        told = f"{everyone} differ and there is no majority to say who is wrong"
    first = next(f for f in range(len(usual)) if any(rows[rank][f] != usual[f] for rank in odd))
    factor = f"{list(engine.adapters)[first // 2]}.lora_{'AB'[first % 2]}"
    raise RunLost(
        f"the ranks' adapters have parted by step {step}: {told}; the first factor that differs is {factor}. No checkpoint was "
        "written, and each one there is was compared before it was. Suspect the memory of a GPU or a host, or a hook that "
        "does not compute the same on every rank; --resume auto continues from the last checkpoint"
    )
