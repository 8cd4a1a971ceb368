"""The stock ``deepspeed`` launcher: one node, several by pdsh, Open MPI, MPICH or Slurm, or each node by hand (``--no-ssh``).

What its sources (0.19.8) do that a caller has to know, and what is done about it here:

- A hostfile with one host left runs on this node instead of that one: ``--force_multi``. Without ``--hostfile`` it reads a file
  ``/job/hostfile`` where there is one, and overrides ``CUDA_VISIBLE_DEVICES``: one node is started without it.
- pdsh hands the arguments to a shell on the other node. The runner quotes those with a space, and only against spaces; the rest is
  done in :func:`_for_remote_shell`.
- Variables are exported in pdsh's command line, for everyone to read. So a private file goes to every node ahead of it (``IGASCALE_ENV_FILE``), and
  DeepSpeed's own file of variables holds little more than its name.
- On SIGTERM the pdsh runner ends processes on all nodes by a pattern of their command line, a neighbour's too: it is never sent one.
- The Slurm and MPICH runners do not know ``--module``: they get the script ``start.py``. Open MPI and Slurm set no ``RANK``: see ``ranks.py``.
- The runner's status is 0 where a signal killed its child, and with MPICH always: the status is not believed alone.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from igascale.errors import UserError
from igascale.launchers.base import Command, Host, LaunchSpec, equal_slots
from igascale.launchers.environment import is_secret

#: ``--launcher`` -> the program it needs and the Debian package that has it.
PROGRAMS = {
    "pdsh": ("pdsh", "pdsh"),
    "openmpi": ("mpirun", "openmpi-bin"),
    "mpich": ("mpirun", "mpich"),
    "slurm": ("srun", "slurm-client"),
}
#: Prefixes that the runner exports by itself; Open MPI does not want a variable twice.
_EXPORTED = ("MLFLOW", "PYTHON", "MV2", "UCX", "NCCL")
_START = str(Path(__file__).with_name("start.py"))


def build_command(spec: LaunchSpec) -> list[Command]:
    """The launcher's argv.

    ``python -m deepspeed.launcher.runner`` is what the ``deepspeed`` script runs, and ``deepspeed.launcher.launch`` is what that starts
    on every node; naming the interpreter makes sure that it is the one igascale is installed in.

    Raises:
        UserError: DeepSpeed's runner cannot start this selection of hosts and slots.

    Example:
        >>> from igascale.launchers.base import local_hosts
        >>> [command] = build_command(LaunchSpec(local_hosts(2), "igascale", ("train", "run.yaml"), 29500))
        >>> command.argv[2:4], command.argv[-4:]
        (('-m', 'deepspeed.launcher.launch'), ('--module', 'igascale', 'train', 'run.yaml'))
    """
    if not spec.remote:
        return [_this_node(spec)]
    check(spec)
    assert spec.hostfile
    multi = ("--hostfile", spec.hostfile, "--launcher", spec.launcher, "--force_multi", "--no_ssh_check")
    where = ("--master_addr", spec.master_addr)
    argv = (*_runner(spec), *multi, *where)
    if spec.filtered:
        argv += ("--include", _include(spec.hosts))
    if spec.launcher == "pdsh":
        quoted = (_for_remote_shell(argument) for argument in spec.arguments)
        environment = {**spec.environment, **_hidden(), **_ssh_of_pdsh(spec)}
        environment |= {"DS_ENV_FILE": spec.env_file} if spec.env_file else {}
        return [Command((*argv, "--module", spec.module, *quoted), environment, on_sigterm=False)]
    meeting = {"MASTER_ADDR": spec.master_addr, "MASTER_PORT": str(spec.master_port)}
    # The variables are in this process's environment; the runner would write those of a file into mpirun's or srun's command line.
    environment = {**spec.environment, **meeting, **_hidden(), "DS_ENV_FILE": os.devnull}
    if spec.launcher == "openmpi":
        names = {*spec.forwarded, *spec.environment, *meeting}
        argv += (f"--launcher_args={_for_mpirun(spec, names)}", "--module", spec.module)
    elif spec.launcher == "slurm":
        argv += ("--launcher_args=--kill-on-bad-exit=0", _START, spec.module)
    else:
        argv += (_START, spec.module)
    return [Command((*argv, *spec.arguments), environment)]


def check(spec: LaunchSpec) -> None:
    """Refuse what the runner would refuse in the middle of its start, or would do wrongly without a word.

    Raises:
        UserError: says what to do instead.
    """
    name = f"--launcher {spec.launcher}"
    if spec.filtered and spec.launcher in ("openmpi", "mpich"):
        raise UserError(
            f"{name} cannot leave out hosts or slots: write a hostfile of those to use, or take --launcher pdsh"
        )
    if spec.launcher in ("mpich", "slurm") and equal_slots(spec.hosts) is None:
        counts = ", ".join(f"{host.name} {len(host.slots)}" for host in spec.hosts)
        raise UserError(f"{name} needs as many slots on every host ({counts}): even them out, or take --launcher pdsh")
    if spec.launcher == "slurm" and any(host.slots != tuple(range(len(host.slots))) for host in spec.hosts):
        raise UserError(f"{name} cannot choose devices: filter whole hosts, or take --launcher pdsh")
    if spec.launcher == "pdsh" and not all(c.isalnum() or c in "/._-+" for c in spec.folder):
        raise UserError(
            f"the working folder {spec.folder} has a space or sign that DeepSpeed's pdsh runner does not quote: run in another"
        )


def env_file(private: str, variables: Sequence[tuple[str, str]] = ()) -> str:
    """DeepSpeed's file of variables: where each node finds the private file, and what its own launcher needs before that.

    Example:
        >>> env_file("/tmp/igascale-1", [("DS_ACCELERATOR", "cpu")])
        'IGASCALE_ENV_FILE=/tmp/igascale-1\\nDS_ACCELERATOR=cpu\\n'
    """
    return "".join(f"{name}={value}\n" for name, value in [("IGASCALE_ENV_FILE", private), *variables])


def users_env_files(folder: Path) -> dict[str, str]:
    """What the user's own ``.deepspeed_env`` files (``DS_ENV_FILE``) set, which ours would otherwise hide."""
    variables = {}
    name = os.environ.get("DS_ENV_FILE", ".deepspeed_env")
    for path in (Path.home() / name, folder / name):
        for line in path.read_text().splitlines() if path.is_file() else ():
            name, separator, value = line.partition("=")
            if separator and not name.startswith("#"):
                variables[name.strip()] = value.strip()
    return variables


def _runner(spec: LaunchSpec) -> tuple[str, ...]:
    argv = (sys.executable, "-m", "deepspeed.launcher.runner")
    return (*argv, "--master_port", str(spec.master_port), "--no_local_rank", "--log_level", "error")


def _this_node(spec: LaunchSpec) -> Command:
    """This node's ranks, all of them or its share, with no other node asked.

    It is what the runner starts on one node and for ``--no_ssh``, started without it: for those it would want a hostfile, on one node it
    drops ``CUDA_VISIBLE_DEVICES``, and it costs one more import of DeepSpeed.
    """
    world = json.dumps(
        {host.name: list(host.slots) for host in spec.hosts} if spec.devices is None else {"localhost": spec.devices}
    )
    argv: tuple[str, ...] = (sys.executable, "-u", "-m", "deepspeed.launcher.launch")
    argv += (f"--world_info={base64.urlsafe_b64encode(world.encode()).decode()}", f"--node_rank={spec.node_rank or 0}")
    argv += (f"--master_addr={spec.master_addr}", f"--master_port={spec.master_port}", "--no_local_rank")
    return Command((*argv, "--log_level=error", "--module", spec.module, *spec.arguments), spec.environment)


def _include(hosts: Sequence[Host]) -> str:
    """DeepSpeed's filter for exactly these hosts and slots.

    Example:
        >>> _include([Host("a", (0, 2)), Host("b", (1,))])
        'a:0,2@b:1'
    """
    return "@".join(f"{host.name}:{','.join(map(str, host.slots))}" for host in hosts)


def _for_remote_shell(argument: str) -> str:
    """An argument as the pdsh runner must get it, so that it arrives on the other nodes as it is.

    An argument without a space goes into the remote shell's line as it stands. The runner puts one with a space between double quotes
    and escapes those within; the shell's other signs are left to us. pdsh itself reads ``%``.

    Example:
        >>> print(_for_remote_shell("x=[1,$A]"), _for_remote_shell('say "$A" 5%'))
        'x=[1,$A]' say "\\$A" 5%%
    """
    argument = argument.replace("%", "%%")
    if " " not in argument:
        return shlex.quote(argument)
    for sign in ("\\", "$", "`"):
        argument = argument.replace(sign, "\\" + sign)
    return argument


def _hidden() -> dict[str, str]:
    """What the runner would export in a command line though it is secret, without its value."""
    return {name: "" for name in os.environ if name.startswith(_EXPORTED) and is_secret(name)}


def _ssh_of_pdsh(spec: LaunchSpec) -> dict[str, str]:
    words = [os.environ.get("PDSH_SSH_ARGS_APPEND", ""), "-o BatchMode=yes"]
    words += [f"-F {shlex.quote(spec.ssh_config)}"] if spec.ssh_config else []
    words += [f"-p {spec.ssh_port}"] if spec.ssh_port else []
    return {"PDSH_SSH_ARGS_APPEND": " ".join(word for word in words if word)}


def _for_mpirun(spec: LaunchSpec, names: Iterable[str]) -> str:
    """mpirun's own arguments: which variables go along (by name: values stay out of the command line), and no binding to cores."""
    arguments = ["--bind-to", "none"]
    if spec.interface:
        arguments += ["--mca", "btl_tcp_if_include", spec.interface, "--mca", "oob_tcp_if_include", spec.interface]
    ssh = (["-F", spec.ssh_config] if spec.ssh_config else []) + (["-p", str(spec.ssh_port)] if spec.ssh_port else [])
    arguments += ["--mca", "plm_rsh_args", " ".join(ssh)] if ssh else []
    for name in sorted(names):
        arguments += [] if name.startswith(_EXPORTED) else ["-x", name]
    return shlex.join(arguments)
