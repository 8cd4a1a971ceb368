"""The exceptions that the command line prints as one line, without a traceback, and the exit codes of every command."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Exit codes (docs/failures.md). ``128 + signal`` is a stop on SIGINT, SIGUSR1 or SIGTERM.
DONE = 0
BUG = 1  # an exception that nobody foresaw; its traceback is printed
BAD_INPUT = 2  # something the user can mend; trying again will not
TRY_AGAIN = 75  # a rank or the launcher was lost, hung, or diverged: --resume auto may well go on (EX_TEMPFAIL)


class UserError(Exception):
    """Something the user can mend. The message names the file, line or key, and says how."""

    exit_code = BAD_INPUT


class RunLost(UserError):
    """Nobody's mistake: ranks were lost or disagree. Trying again from the last checkpoint may well do."""

    exit_code = TRY_AGAIN


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""
