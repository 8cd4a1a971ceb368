"""Which of the caller's variables ranks on other nodes get, and what of a command may be shown.

A launcher that reaches another node through ssh starts there with a new environment. Names on the list below are carried over; nothing
else is, so that a login shell's leftovers do not decide what a run computes. Values are never printed, and never stand in a
command line, where every user of a node could read them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path

from igascale.errors import UserError

PREFIXES = ("CUDA_", "DS_", "GLOO_", "HF_", "IGASCALE_", "NCCL_", "TORCH_", "WANDB_")
NAMES = ("OMP_NUM_THREADS", "PYTHONPATH")
#: What a launcher decides for each rank or node by itself.
_NEVER = ("CUDA_VISIBLE_DEVICES", "DS_ENV_FILE", "IGASCALE_ENV_FILE", "IGASCALE_MONITOR", "IGASCALE_MONITOR_TOKEN")

_SECRET = re.compile(r"key|token|secret|password", re.IGNORECASE)
_NAMED_SECRET = re.compile(
    r"([\w.-]*(?:key|token|secret|password)[\w.-]*['\"]?\s*[=:]\s*)\S.*", re.IGNORECASE | re.DOTALL
)
_URL_PASSWORD = re.compile(r"(://[^/@\s:]*:)[^/@\s]+@")
HIDDEN = "<redacted>"


def forwarded(environ: Mapping[str, str], own: Iterable[str] = ()) -> dict[str, str]:
    """The variables that every rank gets.

    Args:
        environ: the caller's environment.
        own: ``NAME`` (the caller's value) or ``NAME=VALUE``, from ``--env``.

    Raises:
        UserError: not a variable's name, or not set.

    Example:
        >>> forwarded({"NCCL_DEBUG": "INFO", "HOME": "/root", "CUDA_VISIBLE_DEVICES": "1", "X": "1"}, ["X", "Y=a=b"])
        {'NCCL_DEBUG': 'INFO', 'X': '1', 'Y': 'a=b'}
    """
    chosen = {
        name: value
        for name, value in sorted(environ.items())
        if (name.startswith(PREFIXES) or name in NAMES) and name not in _NEVER
    }
    for text in own:
        name, given, value = text.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(
                f"--env {name}: not a variable's name; write --env NAME (its value here) or --env NAME=VALUE"
            )
        if name in _NEVER:
            raise UserError(f"--env {name}: the launcher sets it on every node; choose devices by --include")
        if not given and name not in environ:
            raise UserError(f"--env {name}: not set here; export it first, or write --env {name}=VALUE")
        chosen[name] = value if given else environ[name]
    return chosen


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """An argument as it may be shown: what is named like a secret, or is the value of one, is hidden.

    Example:
        >>> redact("logging.api_key=abc"), redact("logging={api_key: abc, x: 1}"), redact("optimizer.lr=1e-4")
        ('logging.api_key=<redacted>', 'logging={api_key: <redacted>', 'optimizer.lr=1e-4')
        >>> redact("proxy=http://me:pw@host/", ["abc"]), redact("x=abc", ["abc"])
        ('proxy=http://me:<redacted>@host/', 'x=<redacted>')
    """
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _URL_PASSWORD.sub(rf"\1{HIDDEN}@", _NAMED_SECRET.sub(rf"\1{HIDDEN}", text))


def is_secret(name: str) -> bool:
    """Whether a variable is named like a secret."""
    return bool(_SECRET.search(name))


def secret_values(environ: Mapping[str, str]) -> list[str]:
    """Values of variables that are named like secrets; short ones would hide too much by chance."""
    return [value for name, value in environ.items() if is_secret(name) and len(value) >= 6]


def pack(variables: Mapping[str, str]) -> str:
    """The content of a private file for :func:`unpack`."""
    return json.dumps(dict(variables))


def unpack(environ: MutableMapping[str, str]) -> None:
    """Take over the variables of the private file that ``IGASCALE_ENV_FILE`` names; on a rank, before anything is imported.

    Raises:
        UserError: it cannot be read.
    """
    path = environ.get("IGASCALE_ENV_FILE")
    if not path:
        return
    try:
        environ.update(json.loads(Path(path).read_text()))
    except (OSError, ValueError) as error:
        raise UserError(
            f"IGASCALE_ENV_FILE {path}: cannot be read here ({getattr(error, 'strerror', None) or error}); `igascale launch` "
            "writes it on every host before it starts the ranks: start again"
        ) from None


def discard() -> None:
    """Remove the private file, when all ranks have read it."""
    path = os.environ.pop("IGASCALE_ENV_FILE", None)
    if path:
        Path(path).unlink(missing_ok=True)
