"""The command line: verbs only. Nothing heavy is imported until a command runs, so that ``--help`` is quick."""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import click

from igascale.cli.lazy import LazyGroup
from igascale.errors import BUG, TRY_AGAIN, UserError
from igascale.version import __version__

#: Verb -> module, in the order of a first session.
COMMANDS = {
    "demo": "igascale.cli.demo",
    "data": "igascale.cli.data",
    "validate": "igascale.cli.validate",
    "plan": "igascale.cli.plan",
    "train": "igascale.cli.train",
    "launch": "igascale.cli.launch",
    "doctor": "igascale.cli.doctor",
    "checkpoint": "igascale.cli.checkpoint",
    "eval": "igascale.cli.eval",
    "compare": "igascale.cli.compare",
    "report": "igascale.cli.report",
    "tune": "igascale.cli.tune",
    "study": "igascale.cli.study",
    "merge": "igascale.cli.merge",
    "runs": "igascale.cli.runs",
    "hooks": "igascale.cli.hooks",
    "methods": "igascale.cli.methods",
}


class _Main(LazyGroup):
    """Turns what goes wrong into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            fail(error)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            if "RANK" not in os.environ:
                raise
            fail_unforeseen(error)


def fail(error: UserError) -> NoReturn:
    """Say what is wrong and exit with the error's code.

    Where ranks are watched, the first one that fails speaks for all: its message becomes the verdict that ends every rank.
    """
    from igascale.supervision.session import current

    current().last_words(str(error), error.exit_code)
    rank = os.environ.get("RANK", "0")
    click.secho(f"error: {error}" if rank == "0" else f"error (rank {rank}): {error}", err=True, fg="red")
    _leave(error.exit_code)


def fail_unforeseen(error: Exception) -> NoReturn:
    """The same for an exception on a rank that is nobody's message: other ranks were lost, or there is a bug.

    When a rank dies, the others see their connections to it fail. That is no news: the verdict is on its way.
    """
    from igascale.supervision.session import current

    lifeline, exit_code = current(), BUG
    reason = " ".join(str(error).split())[:500]
    if _lost_others(error):
        lifeline.hold()
        exit_code = TRY_AGAIN
        message = f"lost the other ranks, and nobody knows why: {type(error).__name__}: {reason}"
    else:
        traceback.print_exception(error)
        message = f"failed: {type(error).__name__}: {reason} (its traceback is in its output)"
    who = f"rank {os.environ['RANK']} ({socket.gethostname()}, pid {os.getpid()}), in {lifeline.place}, "
    lifeline.last_words(who + message, exit_code)
    click.secho(f"error: {who}{message}", err=True, fg="red")
    _leave(exit_code)


def _lost_others(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return False
    from igascale.engine.collectives import lost_others

    return lost_others(error)


def _leave(exit_code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # an orderly end could wait for the other ranks
        os._exit(exit_code)
    sys.exit(exit_code)


@click.group(
    cls=_Main,
    commands_by_module=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
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
      igascale doctor CONFIG --hostfile hosts         what goes wrong between hosts, before it does
      igascale launch CONFIG --num-processes 2        train under DeepSpeed
      igascale runs tail runs/first                   watch it, from anywhere
      igascale eval runs/first                        accuracy, consistency, ID-OOD gap
      igascale compare runs/mean runs/first           is the difference one?
      igascale report runs/mean runs/first            one page of what the runs did
      igascale tune CONFIG --out tune/first           fair learning rates, for every method the same search
      igascale study STUDY --out runs/study           methods x seeds: the paper's tables of your runs
      igascale merge runs/first --out merged          a normal Hugging Face folder
    """
    if "RANK" in os.environ:
        # A rank whose output nobody reads has lost its launcher and goes. Elsewhere Python's default stays (click ends
        # `igascale hooks | head` quietly): an ssh that dies while we write to it must be told of, not end us.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
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
