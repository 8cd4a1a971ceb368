"""Options of ``igascale eval`` that let somebody else answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from igascale.evaluation.elsewhere import Elsewhere

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = [
    click.option(
        "--endpoint",
        metavar="URL",
        help="An OpenAI-compatible server answers (`vllm serve`, for one): http://localhost:8000/v1. Its key is IGASCALE_EVAL_KEY or "
        "OPENAI_API_KEY in the environment. No LCS.",
    ),
    click.option("--served-model", metavar="NAME", help="As the server calls it.  [default: MODEL]"),
    click.option(
        "--concurrency",
        default=32,
        show_default=True,
        type=click.IntRange(min=1, max=1000),
        help="Requests to the server at once; a server that says 429 gets fewer.",
    ),
    click.option(
        "--timeout",
        default=300.0,
        show_default=True,
        type=click.FloatRange(min=0, min_open=True),
        help="Seconds for a request to the server.",
    ),
    click.option("--sampled", is_flag=True, help="For a served model that takes no temperature: not greedy."),
    click.option(
        "--generator",
        default="local",
        show_default=True,
        type=click.Choice(["local", "vllm"]),
        help="What answers in this process: the model itself, or vLLM, which must be installed. No LCS by vLLM.",
    ),
]
#: Of the model in this process; they say nothing to a server.
_OURS = ("base", "batch_size", "dtype", "device", "lcs_text", "num_processes", "checkpoint", "watch")
_OF_VLLM = ("base", "dtype")
_OF_A_SERVER = ("served_model", "concurrency", "timeout", "sampled")


def generator_options(command: Command) -> Command:
    """Add them to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def somebody_else(options: dict[str, Any]) -> Elsewhere | None:
    """Who answers by the options; ``None``: the model in this process.

    Raises:
        UserError: options that contradict each other.
    """
    from igascale.errors import UserError
    from igascale.evaluation.elsewhere import Elsewhere

    endpoint, vllm = options["endpoint"], options["generator"] == "vllm"
    if endpoint and vllm:
        raise UserError("--endpoint and --generator vllm are two ways to answer; leave one of them out")
    if not endpoint:
        _refuse(options, _OF_A_SERVER, "goes with --endpoint")
        if not vllm:
            return None
    who = "a server" if endpoint else "vLLM"
    _refuse(options, [o for o in _OURS if endpoint or o not in _OF_VLLM], f"says nothing to {who}; leave it out")
    return Elsewhere(endpoint, **{name: options[name] for name in _OF_A_SERVER})


def _refuse(options: dict[str, Any], names: Any, why: str) -> None:
    """Options that the user gave and that nothing would come of."""
    from igascale.errors import UserError

    context = click.get_current_context(silent=True)
    for name in names:
        given = context is not None and context.get_parameter_source(name) not in (
            None,
            click.core.ParameterSource.DEFAULT,
        )
        if given:
            raise UserError(f"--{name.replace('_', '-')} {why}")
