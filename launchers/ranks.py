"""Who am I: what MPI and Slurm call a rank, in PyTorch's names; and this rank's share of the node's cores."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

#: Rank, world size and local rank of Open MPI, of MPICH and Intel MPI (hydra), and of a Slurm job step.
_NAMES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)
#: Ranks on this node, as each launcher says it.
_LOCAL_SIZES = (
    "LOCAL_WORLD_SIZE",
    "LOCAL_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "SLURM_STEP_TASKS_PER_NODE",
)


def adopt(environ: MutableMapping[str, str]) -> None:
    """Set ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK`` where a launcher set its own names only.

    Nothing is done where ``MASTER_ADDR`` is missing: a login shell inside a Slurm job carries such names too, and is no rank.

    Example:
        >>> environ = {"MASTER_ADDR": "a", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "1"}
        >>> adopt(environ)
        >>> environ["RANK"], environ["WORLD_SIZE"], environ["LOCAL_RANK"]
        ('3', '4', '1')
    """
    if "MASTER_ADDR" not in environ or "RANK" in environ:
        return
    for rank, size, local in _NAMES:
        if rank in environ and size in environ:
            environ["RANK"], environ["WORLD_SIZE"] = environ[rank], environ[size]
            environ["LOCAL_RANK"] = environ.get(local, "0")
            return


def share_cores(environ: MutableMapping[str, str]) -> None:
    """Set ``OMP_NUM_THREADS`` to this rank's share of a CPU node, unless it is set; before PyTorch is imported.

    PyTorch would start a thread per core in each rank.
    """
    sizes = [environ[name].partition("(")[0] for name in _LOCAL_SIZES if name in environ]
    if "OMP_NUM_THREADS" in environ or not sizes or not sizes[0].isdigit() or has_gpu():
        return
    environ["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // max(1, int(sizes[0]))))


def has_gpu() -> bool:
    """Whether the driver shows a device; asking PyTorch would cost seconds."""
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
