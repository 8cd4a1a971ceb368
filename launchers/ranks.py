"""Who am I: what MPI and Slurm call a rank, in PyTorch's names."""

from __future__ import annotations

from collections.abc import MutableMapping

#: Rank, world size and local rank of Open MPI, of MPICH and Intel MPI (hydra), and of a Slurm job step.
_NAMES = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
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
