"""What was asked for on the command line, and which of it makes sense together."""

from __future__ import annotations

import os
from dataclasses import dataclass

from igascale.errors import UserError
from igascale.launchers import hostfile
from igascale.launchers.base import Host, local_hosts

BACKENDS = ("deepspeed", "local", "torchrun", "slurm")


@dataclass(frozen=True)
class Options:
    """The options of ``igascale launch`` that say where and how; ``None``, ``""`` and ``False`` where not given."""

    backend: str = "deepspeed"
    num_processes: int | None = None
    num_nodes: int | None = None
    hostfile: str | None = None
    include: str = ""
    exclude: str = ""
    launcher: str | None = None
    no_ssh: bool = False
    node_rank: int | None = None
    master_addr: str | None = None
    master_port: int | None = None
    rdzv: bool = False
    ssh_config: str | None = None
    ssh_port: int | None = None
    interface: str | None = None
    env: tuple[str, ...] = ()
    max_restarts: int = 0
    partition: str | None = None
    time: str | None = None
    account: str | None = None
    sbatch_arg: tuple[str, ...] = ()

    @property
    def in_allocation(self) -> bool:
        """Whether Slurm has given us nodes already."""
        return "SLURM_JOB_ID" in os.environ

    @property
    def submits(self) -> bool:
        """Whether this hands a job to Slurm and ends."""
        return self.backend == "slurm" and not self.in_allocation

    def check(self) -> None:
        """Refuse options that would have no effect.

        Raises:
            UserError: names the option and what it needs.
        """
        for names, allowed, remedy in self._rules():
            for name in names:
                if not allowed and getattr(self, name) not in (None, "", False, 0, ()):
                    raise UserError(f"--{name.replace('_', '-')} {remedy}")
        self._check_no_ssh()

    def _rules(self) -> tuple[tuple[tuple[str, ...], bool, str], ...]:
        """Options, whether they mean anything here, and the message where not."""
        several = self.hostfile is not None or self.no_ssh
        stock = self.backend in ("deepspeed", "torchrun")
        return (
            (("hostfile", "no_ssh"), stock, f"is for --backend deepspeed and torchrun, not {self.backend}"),
            (("include", "exclude"), self.hostfile is not None, "chooses from a hostfile: add --hostfile FILE"),
            (("ssh_config", "ssh_port"), self.hostfile is not None and not self.no_ssh, "needs --hostfile FILE"),
            (
                ("launcher",),
                self.backend == "deepspeed" and self.hostfile is not None and not self.no_ssh,
                "says how DeepSpeed reaches the hosts: it needs --backend deepspeed and --hostfile FILE",
            ),
            (("rdzv",), self.backend == "torchrun", "is torchrun's: add --backend torchrun"),
            (("node_rank",), self.no_ssh, "says which node this is when you run the command on each: add --no-ssh"),
            (
                ("num_nodes",),
                several or self.backend == "slurm",
                "needs --hostfile FILE, or --no-ssh where you run the command on every node, or --backend slurm",
            ),
            (
                ("master_addr", "interface"),
                several or self.backend == "slurm",
                "is for several nodes: add --hostfile FILE",
            ),
            (
                ("max_restarts",),
                not self.no_ssh and not self.submits,
                "needs one launcher over all ranks, which --no-ssh has not"
                if self.no_ssh
                else "is Slurm's own affair: the job requeues itself",
            ),
            (
                ("partition", "time", "account", "sbatch_arg"),
                self.submits,
                "is for sbatch: inside the allocation it is too late"
                if self.backend == "slurm"
                else "is for --backend slurm",
            ),
            (("master_port",), not self.submits, "is chosen inside the job"),
        )

    def _check_no_ssh(self) -> None:
        if not self.no_ssh:
            return
        if self.master_addr is None:
            raise UserError("--no-ssh needs --master-addr: the first node's address, the same on every node")
        if self.node_rank is None and not self.rdzv:
            raise UserError("--no-ssh needs --node-rank K: 0 on the first node, 1 on the next, and so on")
        if self.hostfile is None and (self.num_nodes is None or self.num_processes is None):
            raise UserError("--no-ssh needs --num-nodes and --num-processes (per node), or --hostfile FILE")


def choose_hosts(options: Options) -> tuple[tuple[Host, ...], bool]:
    """The nodes and slots to use, and whether they are fewer than the hostfile names.

    Raises:
        UserError: a bad hostfile or filter, more nodes or slots asked for than there are.
    """
    if options.hostfile is None:
        if options.no_ssh:
            assert options.num_nodes and options.num_processes
            slots = tuple(range(options.num_processes))
            return tuple(Host(f"node{k}", slots) for k in range(options.num_nodes)), False
        return local_hosts(options.num_processes or _devices_here()), False
    everything = hostfile.read(options.hostfile)
    hosts = hostfile.select(everything, options.include, options.exclude)
    if options.num_nodes is not None:
        if options.num_nodes > len(hosts):
            raise UserError(f"--num-nodes {options.num_nodes}: {options.hostfile} leaves {len(hosts)} to choose from")
        hosts = hosts[: options.num_nodes]
    if options.num_processes is not None:
        for host in hosts:
            if options.num_processes > len(host.slots):
                raise UserError(
                    f"--num-processes {options.num_processes}: host '{host.name}' has {len(host.slots)} slots "
                    f"in {options.hostfile}"
                )
        hosts = tuple(Host(host.name, host.slots[: options.num_processes]) for host in hosts)
    return hosts, hosts != everything


def visible_devices() -> tuple[str, ...] | None:
    """What ``CUDA_VISIBLE_DEVICES`` names, or ``None`` where it is not set."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(part.strip() for part in named.split(",") if part.strip()) if named else None


def _devices_here() -> int:
    import torch

    count = torch.cuda.device_count()
    if count == 0:
        raise UserError("no GPU here: say how many CPU processes to start, --num-processes N")
    return count
