"""From options to a complete :class:`~igascale.launchers.base.LaunchSpec`: every default is decided here."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from igascale.errors import UserError
from igascale.launchers import deepspeed, environment, local, network, ranks, slurm, torchrun
from igascale.launchers.base import Command, Host, LaunchSpec, free_port
from igascale.launching.options import Options, choose_hosts, visible_devices

BUILDERS: dict[str, Callable[[LaunchSpec], list[Command]]] = {
    "deepspeed": deepspeed.build_command,
    "local": local.build_command,
    "torchrun": torchrun.build_command,
    "slurm": slurm.build_command,
}
#: Where ranks meet when the command runs on every node by itself and all must agree.
AGREED_PORT = 29500


def build_spec(options: Options, arguments: Sequence[str]) -> LaunchSpec:
    """Everything that the backends need, with the environment of the ranks but for the Monitor's variables.

    Args:
        options: checked.
        arguments: of ``igascale`` on each rank.

    Raises:
        UserError: a bad hostfile or filter, a name that does not resolve, a variable that is not set.
    """
    if options.backend == "slurm":
        hosts, filtered = _allocated(options), False
    else:
        hosts, filtered = choose_hosts(options)
    if options.node_rank is not None and options.node_rank >= len(hosts):
        raise UserError(f"--node-rank {options.node_rank}: there are {len(hosts)} nodes, numbered from 0")
    address = _master_address(options, hosts)
    node_rank, local_addr = options.node_rank, None
    if options.no_ssh and options.rdzv:
        local_addr = _own_address(address)
        node_rank = (
            options.node_rank if options.node_rank is not None else int(local_addr != socket.gethostbyname(address))
        )
    folder = Path.cwd()
    forwarded = environment.forwarded(os.environ, options.env)
    if options.backend == "deepspeed" and options.hostfile and not options.no_ssh:
        forwarded = deepspeed.users_env_files(folder) | forwarded
    port = options.master_port or (AGREED_PORT if options.no_ssh else free_port())
    alone = options.hostfile is None and not options.no_ssh and options.backend != "slurm"
    devices = visible_devices() if alone else None
    if devices is not None:
        if len(devices) < len(hosts[0].slots) and options.backend == "deepspeed":
            raise UserError(
                f"--num-processes {len(hosts[0].slots)}: CUDA_VISIBLE_DEVICES names {len(devices)} devices; start as many, or unset it"
            )
        devices = devices[: len(hosts[0].slots)]
    return LaunchSpec(
        hosts,
        "igascale",
        tuple(arguments),
        port,
        address,
        environment=_decided(options, forwarded),
        forwarded=forwarded,
        folder=str(folder),
        hostfile=options.hostfile and str(Path(options.hostfile).absolute()),
        filtered=filtered,
        devices=devices,
        launcher=options.launcher or "pdsh",
        node_rank=node_rank,
        rdzv=options.rdzv,
        local_addr=local_addr,
        ssh_config=options.ssh_config and str(Path(options.ssh_config).absolute()),
        ssh_port=options.ssh_port,
        interface=options.interface,
    )


def describe_slots(hosts: Sequence[Host], options: Options) -> str | None:
    """What a user of hosts with different numbers of slots should know."""
    if len({len(host.slots) for host in hosts}) == 1:
        return None
    counts = ", ".join(f"{host.name} {len(host.slots)}" for host in hosts)
    order = (
        "; DeepSpeed then numbers the devices of a host in another order than its ranks"
        if options.backend == "deepspeed"
        else ""
    )
    return f"the hosts have different numbers of slots ({counts}){order}: every step waits for the host with the most work per device"


def _decided(options: Options, forwarded: Mapping[str, str]) -> dict[str, str]:
    """What igascale sets for every rank; what the user has set wins, but for the interface asked for here."""
    chosen = {}
    # DeepSpeed's launcher warns where it finds no GPU. Other hosts may have what this one lacks: they find out themselves.
    if (
        options.hostfile is None
        and options.backend != "slurm"
        and "DS_ACCELERATOR" not in forwarded
        and not ranks.has_gpu()
    ):
        chosen["DS_ACCELERATOR"] = "cpu"
    if options.interface:
        chosen |= {"GLOO_SOCKET_IFNAME": options.interface, "NCCL_SOCKET_IFNAME": options.interface}
    return chosen


def _master_address(options: Options, hosts: Sequence[Host]) -> str:
    if options.master_addr:
        return options.master_addr
    if options.backend == "slurm" and len(hosts) > 1:
        return hosts[0].name
    if options.hostfile is None:  # one node; Slurm's name for it need not resolve
        return "127.0.0.1"
    first = hosts[0].name
    try:
        address = network.address_of(first, options.ssh_config)
    except OSError:
        raise UserError(
            f"{options.hostfile}: host '{first}' does not resolve here: mend its name, add it to the ssh config, or give "
            "--master-addr"
        ) from None
    if address.startswith("127.") and len(hosts) > 1:
        raise UserError(
            f"{options.hostfile}: '{first}' resolves to {address}, which other hosts cannot reach: give --master-addr"
        )
    return address


def _own_address(master: str) -> str:
    try:
        return network.source_address(socket.gethostbyname(master))
    except OSError as error:
        raise UserError(f"--master-addr {master}: not reachable from here ({error.strerror or error})") from None


def _allocated(options: Options) -> tuple[Host, ...]:
    """The nodes of the Slurm job that we are in."""
    try:
        told = subprocess.run(
            ["scontrol", "show", "hostnames", os.environ.get("SLURM_JOB_NODELIST", "")],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout.split()
    except (OSError, subprocess.SubprocessError):
        raise UserError(
            "inside a Slurm job, but `scontrol show hostnames` does not work here (Debian package slurm-client)"
        ) from None
    wanted = os.environ.get("SLURM_NTASKS_PER_NODE") or os.environ.get("SLURM_GPUS_ON_NODE")
    slots = options.num_processes or (int(wanted) if wanted and wanted.isdigit() else None)
    if slots is None:
        raise UserError("how many ranks on each node? Give --num-processes N (the allocation does not say)")
    if options.num_nodes and options.num_nodes > len(told):
        raise UserError(f"--num-nodes {options.num_nodes}: the allocation has {len(told)}")
    return tuple(Host(name, tuple(range(slots))) for name in told[: options.num_nodes])
