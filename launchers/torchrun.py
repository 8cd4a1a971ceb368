"""PyTorch's own launcher: on this node, on each node by hand, or started on every host of a hostfile by ssh."""

from __future__ import annotations

import sys

from igascale.launchers.base import Command, LaunchSpec
from igascale.launchers.ssh import remote_script, ssh_command


def build_command(spec: LaunchSpec) -> list[Command]:
    """A command for each node that this process starts.

    Example:
        >>> from igascale.launchers.base import Host
        >>> spec = LaunchSpec((Host("a", (0,)), Host("b", (0,))), "igascale", ("train", "run.yaml"), 29500, "10.0.0.1", node_rank=1)
        >>> [command] = build_command(spec)
        >>> command.argv[3:9]
        ('--nnodes', '2', '--nproc-per-node', '1', '--node-rank', '1')
    """
    if not spec.remote:
        rank = spec.node_rank or 0
        return [Command(_torchrun(spec, rank, spec.local_addr), spec.environment)]
    environment = {**spec.forwarded, **spec.environment}
    return [
        Command(
            tuple(ssh_command(host.name, spec.ssh_config, spec.ssh_port)),
            script=remote_script(_torchrun(spec, rank, None), environment | _devices(host.slots, spec), spec.folder),
            where=host.name,
        )
        for rank, host in enumerate(spec.hosts)
    ]


def _torchrun(spec: LaunchSpec, node_rank: int, local_addr: str | None) -> tuple[str, ...]:
    argv: tuple[str, ...] = (sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(spec.hosts)))
    argv += ("--nproc-per-node", str(len(spec.hosts[node_rank].slots)))
    if spec.rdzv:
        # Who hosts the meeting is said and not guessed from the host's name, which may resolve to anything.
        argv += ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{spec.master_addr}:{spec.master_port}")
        argv += ("--rdzv-id", f"igascale-{spec.master_port}", "--rdzv-conf", f"is_host={int(node_rank == 0)}")
        local_addr = local_addr or (spec.master_addr if node_rank == 0 else None)
    else:
        argv += ("--node-rank", str(node_rank), "--master-addr", spec.master_addr)
        argv += ("--master-port", str(spec.master_port))
    argv += ("--local-addr", local_addr) if local_addr else ()
    return (*argv, "--max-restarts", "0", "-m", spec.module, *spec.arguments)


def _devices(slots: tuple[int, ...], spec: LaunchSpec) -> dict[str, str]:
    """torchrun numbers local ranks from 0: chosen slots become the devices it can see."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, slots))} if spec.filtered else {}
