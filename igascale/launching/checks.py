"""What is checked before anything is started, so that a mistake costs seconds and leaves nothing behind."""

from __future__ import annotations

import hashlib
import os
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from igascale.config import RunConfig
from igascale.errors import UserError
from igascale.imports import uncollected
from igascale.launchers import ssh
from igascale.launchers.base import LaunchSpec
from igascale.launchers.deepspeed import PROGRAMS
from igascale.launching.options import Options

if TYPE_CHECKING:
    from igascale.resuming.start import Resumption

_PORT_CHECK = "import socket; s = socket.socket(); s.setsockopt(1, 2, 1); s.bind(('', {port}))"


def check_run(
    config: RunConfig, num_processes: int, resume: str | None, allow: Sequence[str] = (), *, at_once: bool = True
) -> Resumption | None:
    """Check what every rank would otherwise find out together, after its start; what the run would continue from.

    ``at_once`` is said in :func:`igascale.runfolder.check_start`.

    Raises:
        UserError: the configuration, hook, DeepSpeed file, data files or run folder are not fit for a start.
    """
    with uncollected():
        from igascale import assemble, runfolder
        from igascale.engine.ds_config import load_ds_config
        from igascale.loading import look_over

    rule, section = assemble.build_hook(config), config.data
    load_ds_config(config.engine.ds_config, bf16=config.model.dtype == "bfloat16")
    training = look_over(section.train)
    held_out = {path: look_over(path).seeds for path in (section.validation, section.ood) if path}
    assemble.check_domains(config, rule, assemble.training_domains(section, training.domains))
    assemble.check_seeds(section, training.seeds, held_out)
    if num_processes > config.groups_per_step:
        raise UserError(
            f"--num-processes {num_processes}: more ranks than the {config.groups_per_step} groups of a step; a group is "
            "never split between ranks. Raise train.groups_per_batch or use fewer processes"
        )
    start = runfolder.check_start(config, resume, allow, num_processes, at_once=at_once)
    if start is None or not start.finished:
        _check_writable(Path(config.output_dir).resolve())
    return start


def _check_writable(folder: Path) -> None:
    """A folder can be made where the run folder is, or will be; it goes again."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        Path(tempfile.mkdtemp(prefix=".igascale-", dir=there)).rmdir()
    except OSError as error:
        raise UserError(f"output_dir {folder} cannot be written: {there}: {error.strerror}") from None


def check_model(config: RunConfig, spec: LaunchSpec) -> None:
    """There is a model folder, where ranks of this node will look for it; other hosts may have it where this one does not.

    Raises:
        UserError: there is none.
    """
    from igascale.model import existing

    if not spec.remote:
        existing(config.model.path)


def check_programs(options: Options, spec: LaunchSpec | None) -> None:
    """The launcher's program is installed.

    Raises:
        UserError: names the Debian package, or pip's extra.
    """
    from importlib.util import find_spec

    if find_spec("deepspeed") is None:
        raise UserError("DeepSpeed is not installed: pip install 'igascale[deepspeed]'")
    wanted = []
    if spec and spec.remote:
        wanted.append(("ssh", "openssh-client"))
        wanted += [PROGRAMS[spec.launcher]] if options.backend == "deepspeed" else []
    if options.backend == "slurm":
        wanted.append(("sbatch" if options.submits else "srun", "slurm-client"))
    for program, package in wanted:
        if shutil.which(program) is None:
            raise UserError(f"'{program}' is not installed or not on PATH: Debian package {package}")
    permits = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
    if (
        spec
        and spec.remote
        and spec.launcher == "openmpi"
        and os.geteuid() == 0
        and not all(map(os.environ.get, permits))
    ):
        raise UserError(f"Open MPI does not run as root: use another account, or set {permits[0]}=1 and {permits[1]}=1")


def check_port(spec: LaunchSpec) -> None:
    """The master port is free, where this is the node that needs it.

    Raises:
        UserError: it is in use.
    """
    if spec.node_rank not in (None, 0) or spec.remote:
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", spec.master_port))
        except OSError as error:
            raise UserError(_port_message(spec.master_port, "this node", error.strerror or str(error))) from None


def check_hosts(spec: LaunchSpec) -> None:
    """Every host answers ssh, has this interpreter and working folder, and the first one has the port free; all at once.

    Raises:
        UserError: names every host that does not, with the remedy.
    """
    work: Callable[[str], str] = partial(_check_host, spec=spec)
    problems = [problem for problem in ssh.on_all([host.name for host in spec.hosts], work) if problem]
    if problems:
        raise UserError("\n".join(problems) + "\nnothing was started")


def _check_host(host: str, spec: LaunchSpec) -> str:
    python, folder = sys.executable, spec.folder
    script = f"test -x {shlex.quote(python)} || exit 3\ncd {shlex.quote(folder)} 2>/dev/null || exit 4\n"
    if host == spec.hosts[0].name:
        script += f"{shlex.quote(python)} -c {shlex.quote(_PORT_CHECK.format(port=spec.master_port))} || exit 5\n"
    done = ssh.run(host, script, spec.ssh_config, spec.ssh_port)
    if done.returncode == 3:
        return f"host '{host}': no Python at {python}; every host needs the same environment at the same place"
    if done.returncode == 4:
        return f"host '{host}': no folder {folder}; run from a folder that every host shares"
    if done.returncode == 5:
        return _port_message(spec.master_port, f"host '{host}'", "in use")
    return ssh.explain(done, host) if done.returncode else ""


def _port_message(port: int, where: str, why: str) -> str:
    return f"--master-port {port}: cannot be used on {where} ({why}); choose another, or leave it out to have a free one chosen"


def private_prefix(run: Path) -> str:
    """How the names of a run's private files begin: what a killed launch of the run left is found by it."""
    return f"igascale-{hashlib.sha256(str(run).encode()).hexdigest()[:16]}-"


def send_private_file(spec: LaunchSpec, content: str, prefix: str) -> str:
    """Put a file that only its owner may read on every host, through ssh's standard input.

    It is moved into its place whole, so that hosts that share ``/tmp`` do not disturb each other. Those that a killed launch of the
    same run left there are removed first.

    Args:
        spec: the hosts.
        content: of the file.
        prefix: of its name; see :func:`private_prefix`.

    Returns:
        Its path, which cannot be guessed. Ranks remove it (:func:`igascale.launchers.environment.discard`).

    Raises:
        UserError: names the hosts where it could not be written.
    """
    path = f"/tmp/{prefix}{secrets.token_hex(16)}"
    script = (
        f'for old in /tmp/{prefix}*; do case "$old" in {path}*) ;; *) rm -f "$old" 2>/dev/null ;; esac; done\n'
        f'umask 077\nfile=$(mktemp {path}.XXXXXX) && printf %s {shlex.quote(content)} > "$file" && mv "$file" {path}\n'
    )
    on_hosts(spec, script, f"cannot write {path}")
    return path


def on_hosts(spec: LaunchSpec, script: str, problem: str | None = None) -> None:
    """Run a script on all hosts at the same time.

    Raises:
        UserError: it failed somewhere, and ``problem`` says of what.
    """
    names = [host.name for host in spec.hosts]
    results = ssh.on_all(names, lambda host: ssh.run(host, script, spec.ssh_config, spec.ssh_port))
    failed = [f"{problem}: {ssh.explain(done, host)}" for host, done in zip(names, results) if done.returncode]
    if failed and problem:
        raise UserError("\n".join(failed) + "\nnothing was started")
