"""Commands on other nodes, by plain ssh that never asks: nothing, everything or one clear line."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from igascale.launchers.base import export_lines

CONNECT_SECONDS = 10
T = TypeVar("T")


def ssh_command(host: str, config_file: str | None = None, port: int | None = None) -> list[str]:
    """``ssh HOST sh -s``: a remote shell that reads its script from standard input.

    So nothing that the script sets stands in a command line. BatchMode: a missing key is an error and not a question.

    Example:
        >>> ssh_command("node1", port=2222)[-5:]
        ['2222', '--', 'node1', 'sh', '-s']
    """
    command = ["ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}", "-T"]
    command += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
    command += ["-F", config_file] if config_file else []
    command += ["-p", str(port)] if port else []
    return [*command, "--", host, "sh", "-s"]


def remote_script(argv: Sequence[str], environment: Mapping[str, str], folder: str | None = None) -> str:
    """What the remote shell reads: variables, working folder, and the command in the shell's own place.

    Example:
        >>> print(remote_script(["python", "a b.py"], {"X": "1"}, "/runs"), end="")
        export X=1
        cd /runs || exit 2
        exec python 'a b.py' </dev/null
    """
    change = f"cd {shlex.quote(folder)} || exit 2\n" if folder else ""
    return f"{export_lines(environment)}{change}exec {shlex.join(argv)} </dev/null\n"


def run(
    host: str, script: str, config_file: str | None = None, port: int | None = None, timeout: float = 30
) -> subprocess.CompletedProcess[str]:
    """Run a script on another node and wait for it; status 255 where ssh itself failed, 124 after ``timeout`` seconds."""
    command = ssh_command(host, config_file, port)
    try:
        return subprocess.run(command, input=script, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer within {timeout:.0f} s")
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", "ssh is not installed (Debian package openssh-client)")


def on_all(hosts: Sequence[str], work: Callable[[str], T]) -> list[T]:
    """``work(host)`` for every host at the same time; the results in the hosts' order."""
    with ThreadPoolExecutor(max_workers=min(64, len(hosts))) as pool:
        return list(pool.map(work, hosts))


def explain(done: subprocess.CompletedProcess[str], host: str) -> str:
    """One line: why ssh to ``host`` failed, and the remedy.

    Example:
        >>> explain(subprocess.CompletedProcess([], 255, "", "root@a: Permission denied (publickey)."), "a")
        "host 'a': ssh: Permission denied (publickey).; put your public key there (ssh-copy-id a)"
    """
    lines = [line for line in done.stderr.strip().splitlines() if line and not line.startswith("Warning:")]
    said = lines[-1].strip() if lines else f"status {done.returncode}"
    lower = done.stderr.lower()
    if "permission denied" in lower:
        said = said[said.lower().find("permission denied") :] if "permission denied" in said.lower() else said
        remedy = f"put your public key there (ssh-copy-id {host})"
    elif "host key verification failed" in lower or "identification has changed" in lower:
        remedy = f"its key is unknown or has changed; look, then `ssh {host}` once by hand"
    elif "could not resolve" in lower:
        remedy = "mend the name in the hostfile, or add it to the ssh config"
    elif "refused" in lower or "timed out" in lower or "no route" in lower or done.returncode == 124:
        remedy = "is the host up, does sshd run, is the port right (--ssh-port, --ssh-config)?"
    else:
        remedy = f"try `ssh {host} true`"
    return f"host '{host}': ssh: {said.removeprefix('ssh: ')}; {remedy}"
