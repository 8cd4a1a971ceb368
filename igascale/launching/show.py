"""``--dry-run``: the commands of a launch as a user could type them into bash, without secrets."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from igascale.launchers.base import Command, LaunchSpec
from igascale.launchers.environment import HIDDEN, redact, secret_values

_END = "END_OF_INPUT"


def dry_run(spec: LaunchSpec, commands: Sequence[Command]) -> list[str]:
    """Lines for bash. What is forwarded stands there by name, its value comes from the shell that runs them.

    Args:
        spec: what was built from.
        commands: the backend's.

    Returns:
        Lines that run as they are, but for what is ``<redacted>``.
    """
    secrets = secret_values({**os.environ, **spec.forwarded})
    lines = []
    if spec.forwarded and spec.remote:
        lines.append(f"# forwarded to every rank, values not shown: {' '.join(sorted(spec.forwarded))}")
    if any(not command.on_sigterm for command in commands):  # pdsh: what a launch puts into a private file on each host
        variables = {**spec.forwarded, **spec.environment}
        lines += ["export DS_ENV_FILE=$(mktemp)", f'cat > "$DS_ENV_FILE" <<{_END}']
        lines += [f"{name}={_value(name, value, spec, '${%s}')}" for name, value in variables.items()] + [_END]
    own = [n for n in spec.forwarded if os.environ.get(n) != spec.forwarded[n]] if not spec.remote else []
    for command in commands:
        if command.where != "this node":
            lines.append(f"# {command.where}")
        words = [f"{name}={shlex.quote(HIDDEN)}" for name in own]
        words += [f"{name}={shlex.quote(redact(value, secrets))}" for name, value in command.environment.items()]
        words += [shlex.quote(redact(argument, secrets)) for argument in command.argv]
        if command.script is None:
            lines.append(" ".join(words))
        else:
            lines += [f"{' '.join(words)} <<{_END}", *_script(command.script, spec, secrets), _END]
    return lines


def _script(script: str, spec: LaunchSpec, secrets: Sequence[str]) -> list[str]:
    """A remote shell's script inside an unquoted here-document."""
    lines = []
    for name, value in spec.forwarded.items():
        line = f"export {name}={shlex.quote(value)}\n"
        if name not in spec.environment and line in script:
            script = script.replace(line, "")
            lines.append(f"export {name}={_value(name, shlex.quote(value), spec, '${%s@Q}')}")
    for line in script.splitlines():
        text = redact(line, secrets)
        for sign in ("\\", "$", "`"):
            text = text.replace(sign, "\\" + sign)
        lines.append(text)
    return lines


def _value(name: str, value: str, spec: LaunchSpec, pattern: str) -> str:
    """What igascale decides is shown; what is forwarded comes from the shell, or was given with ``--env`` and is hidden."""
    if name in spec.environment:
        return value
    return pattern % name if os.environ.get(name) == spec.forwarded[name] else HIDDEN
