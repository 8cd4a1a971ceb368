"""Slurm: ``srun`` inside an allocation; outside of one, a batch script that continues by itself after a preemption."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from igascale.launchers.base import PYTHON, Command, LaunchSpec

#: Seconds between the warning signal and the end of the job's time.
WARNING_SECONDS = 120


@dataclass(frozen=True)
class Job:
    """What ``sbatch`` is asked for.

    Attributes:
        name: of the job.
        nodes: how many.
        slots: ranks on each node.
        log: where the launcher's output goes; ``%j`` is the job's id.
        partition: and ``time``, ``account``: as sbatch knows them.
        extra: further arguments of sbatch, such as ``--gpus-per-node=8``.
    """

    name: str
    nodes: int
    slots: int
    log: str
    partition: str | None = None
    time: str | None = None
    account: str | None = None
    extra: tuple[str, ...] = ()


def build_command(spec: LaunchSpec) -> list[Command]:
    """``srun`` over the allocation.

    A rank that ends with an error does not make srun kill the others: they hear why and end by themselves.

    Example:
        >>> from igascale.launchers.base import Host
        >>> spec = LaunchSpec((Host("n1", (0, 1)), Host("n2", (0, 1))), "igascale", ("train", "run.yaml"), 29500, "n1")
        >>> [command] = build_command(spec)
        >>> command.argv[:4], command.environment["MASTER_ADDR"]
        (('srun', '--nodes=2', '--ntasks=4', '--ntasks-per-node=2'), 'n1')
    """
    nodes, ranks = len(spec.hosts), spec.world_size
    argv: tuple[str, ...] = ("srun", f"--nodes={nodes}", f"--ntasks={ranks}", f"--ntasks-per-node={ranks // nodes}")
    argv += ("--kill-on-bad-exit=0", "--export=ALL", *PYTHON, "-m", spec.module, *spec.arguments)
    meeting = {"MASTER_ADDR": spec.master_addr, "MASTER_PORT": str(spec.master_port)}
    return [Command(argv, {**spec.environment, **meeting})]


def batch_script(job: Job, launch: Sequence[str], folder: str) -> str:
    """The script for ``sbatch``: its last line runs ``igascale launch`` again, inside the allocation.

    The launcher takes the shell's place (``exec``), so that the warning signal reaches it without a trap: it asks the ranks for a
    checkpoint, and requeues the job.

    Example:
        >>> print(batch_script(Job("run", 2, 1, "run.log"), ["igascale", "launch", "run.yaml"], "/work"), end="")
        #!/bin/sh
        # written by `igascale launch --backend slurm`
        #SBATCH --job-name=run
        #SBATCH --nodes=2
        #SBATCH --ntasks-per-node=1
        #SBATCH --output=run.log
        #SBATCH --open-mode=append
        #SBATCH --requeue
        #SBATCH --signal=B:USR1@120
        cd /work || exit 2
        IGASCALE_REQUEUE=1
        export IGASCALE_REQUEUE
        exec igascale launch run.yaml
    """
    options = [
        f"--job-name={job.name}",
        f"--nodes={job.nodes}",
        f"--ntasks-per-node={job.slots}",
        f"--output={job.log}",
    ]
    options += ["--open-mode=append", "--requeue", f"--signal=B:USR1@{WARNING_SECONDS}"]
    named = (("partition", job.partition), ("time", job.time), ("account", job.account))
    options += [f"--{name}={value}" for name, value in named if value]
    lines = [
        "#!/bin/sh",
        "# written by `igascale launch --backend slurm`",
        *(f"#SBATCH {o}" for o in (*options, *job.extra)),
    ]
    lines += [
        f"cd {shlex.quote(folder)} || exit 2",
        "IGASCALE_REQUEUE=1",
        "export IGASCALE_REQUEUE",
        f"exec {shlex.join(launch)}",
    ]
    return "\n".join(lines) + "\n"
