"""The command line: verbs only. Nothing heavy is imported until a command runs, so that ``--help`` is quick."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import click

from igascale.errors import UserError
from igascale.version import __version__

#: Verb -> module, in the order of a first session.
COMMANDS = {
    "demo": "igascale.cli.demo",
    "data": "igascale.cli.data",
    "validate": "igascale.cli.validate",
    "plan": "igascale.cli.plan",
    "train": "igascale.cli.train",
    "launch": "igascale.cli.launch",
    "checkpoint": "igascale.cli.checkpoint",
    "eval": "igascale.cli.eval",
    "merge": "igascale.cli.merge",
    "hooks": "igascale.cli.hooks",
    "methods": "igascale.cli.methods",
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
    """Print the message and exit with status 2.

    Where several ranks stop for one reason the first one says so, and the launcher ends the others while they wait. A
    rank that is alone with its error outlives the wait and says it too.
    """
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        time.sleep(3)
    click.secho(f"error: {error}" if rank == "0" else f"error (rank {rank}): {error}", err=True, fg="red")
    sys.stdout.flush()
    sys.stderr.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        os._exit(2)
    sys.exit(2)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="igascale")
@click.option(
    "--local_rank", type=int, hidden=True
)  # the deepspeed launcher puts it before the command; LOCAL_RANK says it too
def main(local_rank: int | None) -> None:
    """Train LoRA adapters with per-domain gradient rules (Invariant Gradient Alignment, arXiv 2606.05025).

    \b
    A first session:
      igascale demo                                   watch all of it happen on a small model
      igascale data generate --out data/demo          isomer groups without a teacher
      igascale validate CONFIG                        everything but training
      igascale plan CONFIG --gpu h100-80gb            memory, bytes and time, before renting anything
      igascale launch CONFIG --num-processes 2        train under DeepSpeed
      igascale eval runs/first                        accuracy, consistency, ID-OOD gap
      igascale merge runs/first --out merged          a normal Hugging Face folder
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `igascale hooks | head` ends quietly
    if "IGASCALE_ENV_FILE" in os.environ:  # before any library reads its variables
        from igascale.launchers.environment import unpack

        unpack(os.environ)
    _quieten_libraries()
    if str(Path.cwd()) not in sys.path:  # hook.name=my_rules:Mine, also by the console script
        sys.path.insert(0, str(Path.cwd()))


def _quieten_libraries() -> None:
    """What libraries tell their own developers hides what igascale tells its users; the environment can bring it back."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.warnoptions:
        warnings.filterwarnings("ignore", category=FutureWarning, module="torch|transformers|peft|deepspeed")
        warnings.filterwarnings("ignore", category=UserWarning, module="torch")
