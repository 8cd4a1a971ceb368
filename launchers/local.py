"""No launcher at all: one process per rank on this node."""

from __future__ import annotations

from igascale.launchers.base import PYTHON, Command, LaunchSpec


def build_command(spec: LaunchSpec) -> list[Command]:
    """A command per rank.

    Example:
        >>> from igascale.launchers.base import local_hosts
        >>> spec = LaunchSpec(local_hosts(2), "igascale", ("train", "run.yaml"), 29500)
        >>> [command.environment["RANK"] for command in build_command(spec)]
        ['0', '1']
    """
    (host,) = spec.hosts
    meeting = {
        "WORLD_SIZE": str(spec.world_size),
        "LOCAL_WORLD_SIZE": str(spec.world_size),
        "MASTER_ADDR": spec.master_addr,
        "MASTER_PORT": str(spec.master_port),
    }
    return [
        Command(
            (*PYTHON, "-m", spec.module, *spec.arguments),
            {**spec.environment, **meeting, "RANK": str(rank), "LOCAL_RANK": str(slot)},
            where=f"rank {rank}",
        )
        for rank, slot in enumerate(host.slots)
    ]
