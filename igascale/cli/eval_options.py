"""Which options of `igascale eval` go together: what would have no effect is refused, not passed over."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import click
from click.core import ParameterSource

from igascale.errors import UserError

_MODEL_HERE = ("batch_size", "device", "lcs_text", "layers", "gir", "gir_groups", "num_processes")
#: What each generator has no use for.
_NOT_OF = {
    "local": ("served_model", "concurrency", "timeout", "sampled"),
    "endpoint": (*_MODEL_HERE, "dtype", "base", "watch", "checkpoint"),
    "vllm": (*_MODEL_HERE, "served_model", "concurrency", "timeout", "sampled"),
}
_WHY = {
    "local": "goes with --endpoint URL",
    "endpoint": "needs the model in this process; leave it out with --endpoint",
    "vllm": "needs the model in this process; leave it out with --generator vllm",
}
_OF_SERVERS = _NOT_OF["local"]
_OF_ISOMERS = ("limit_groups", "lcs_text", "layers", "gir", "gir_groups")
_OF_BENCHMARKS = ("benchmark_split", "limit_problems", "password")


def check_options(generator: str, options: Mapping[str, Any], isomers: bool, benchmarks: bool) -> None:
    """Refuse what was asked for and would not be done.

    Args:
        generator: ``local``, ``endpoint`` or ``vllm``.
        options: those of the command; ``given`` names the ones that the user wrote.
        isomers: whether isomer groups are evaluated.
        benchmarks: whether a benchmark is.

    Raises:
        UserError: names the two options that do not go together.
    """
    given: Collection[str] = options["given"]
    if options["endpoint"] and options["generator"] != "local":
        raise UserError("--endpoint and --generator vllm: one of them answers; leave the other out")
    for name in _NOT_OF[generator]:
        if name in given:
            if name in ("watch", "checkpoint"):
                raise UserError("a server serves one adapter; leave --watch and --checkpoint out with --endpoint")
            raise UserError(f"{_flag(name)} {_WHY['local' if name in _OF_SERVERS else generator]}")
    for name in _OF_ISOMERS if not isomers else ():
        if name in given:
            raise UserError(f"{_flag(name)} is about isomer groups, and here are only benchmarks; give --id FILE too")
    for name in _OF_BENCHMARKS if not benchmarks else ():
        if name in given:
            more = ", for groups it is --limit-groups" if name == "limit_problems" else ""
            raise UserError(f"{_flag(name)} goes with --benchmark NAME=SOURCE{more}")
    if "gir_groups" in given and not options["gir"]:
        raise UserError("--gir-groups says how many groups --gir averages; give --gir too")


def given_options(context: click.Context) -> set[str]:
    """Names of the options that the user wrote."""
    return {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
