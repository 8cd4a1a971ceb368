"""The command line: verbs only. Nothing heavy is imported until a command runs, so that ``--help`` is quick."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import warnings
from typing import Any

import click

from igascale.errors import UserError
from igascale.version import __version__

#: Verb -> module, in the order of a first session.
COMMANDS = {
    "demo": "igascale.cli.demo",
    "data": "igascale.cli.data",
    "validate": "igascale.cli.validate",
    "train": "igascale.cli.train",
    "launch": "igascale.cli.launch",
    "eval": "igascale.cli.eval",
    "merge": "igascale.cli.merge",
    "hooks": "igascale.cli.hooks",
}


class _LazyGroup(click.Group):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            fail(error)


def fail(error: UserError) -> None:
    """Print the message, on the first rank only, and exit with status 2."""
    if os.environ.get("RANK", "0") == "0":
        click.secho(f"error: {error}", err=True, fg="red")
    # Several ranks stop for the same reason; there is nothing to wait for.
    sys.stdout.flush()
    sys.stderr.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os._exit(2)
    sys.exit(2)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="igascale")
def main() -> None:
    """Train LoRA adapters with per-domain gradient rules (Invariant Gradient Alignment, arXiv 2606.05025).

    \b
    A first session:
      igascale demo                                   watch all of it happen on a small model
      igascale data generate --out data/demo          isomer groups without a teacher
      igascale validate CONFIG                        everything but training
      igascale launch CONFIG --num-processes 2        train under DeepSpeed
      igascale eval runs/first                        accuracy, consistency, ID-OOD gap
      igascale merge runs/first --out merged          a normal Hugging Face folder
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `igascale hooks | head` ends quietly
    _quieten_libraries()


def _quieten_libraries() -> None:
    """What libraries tell their own developers hides what igascale tells its users; the environment can bring it back."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch|transformers|peft|deepspeed")
        warnings.filterwarnings("ignore", category=UserWarning, module="torch")
