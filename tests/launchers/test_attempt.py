"""One start of all ranks: what its end is taken for."""

import sys
import time
from dataclasses import replace

from igascale.launchers.base import Command
from igascale.launching import attempt
from igascale.launching.attempt import Attempt, Signals
from igascale.supervision.verdict import RankStatus, Verdict

RANK = RankStatus(0, "here", 1, 9, 9, "finishing", 1.0, 2.0, 0.0, 0.0, None)


class LateMonitor:
    """Its thread reads what the rank said last so many seconds after the first question about it."""

    def __init__(self, seconds, **outcome):
        self.seconds, self.ended, self.final = seconds, outcome.get("ended"), outcome.get("verdict")
        self.asked = None

    @property
    def connected(self):
        self.asked = self.asked or time.monotonic()
        return set() if time.monotonic() - self.asked > self.seconds else {0}

    @property
    def ranks(self):
        return {0: replace(RANK, ended=None if self.asked is None or self.connected else self.ended)}

    @property
    def verdict(self):
        return self.final if self.asked and not self.connected else None


def run(monitor, code):
    command = Command((sys.executable, "-c", code))
    started = Attempt([command], {}, 1, monitor, Signals(), int, print, print, int)
    return started.run()


def test_a_run_that_is_done_is_not_lost_because_the_monitor_reads_late():
    assert run(LateMonitor(0.5, ended=0), "").exit_code == 0


def test_the_verdict_on_a_rank_that_is_gone_is_waited_for():
    lost = Verdict("rank 0 died without a word", 0, "here", 75)
    outcome = run(LateMonitor(0.5, verdict=lost), "import os; os.kill(os.getpid(), 9)")
    assert (outcome.reason, outcome.exit_code) == (lost.message, 75)


def test_ranks_that_live_on_are_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(attempt, "LAST_WORDS", 0.1)
    outcome = run(LateMonitor(1e9), "")
    assert outcome.exit_code == 75
    assert "not every rank said that it was done" in outcome.reason
