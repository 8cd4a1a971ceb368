"""Who is alive, who is stuck, and how every rank hears of it; no torch, no DeepSpeed: the launcher imports this too.

A :class:`Monitor` (in ``igascale launch``, else in rank 0) listens; every rank holds a :class:`Lifeline` to it, a thread that beats
once a second whatever the main thread is doing. The first thing that goes wrong becomes the run's :class:`Verdict`: it is
sent to all ranks, and each leaves with it at once, wherever its main thread waits. docs/failures.md tells the cases.
"""

from igascale.supervision.lifeline import Lifeline
from igascale.supervision.monitor import Monitor
from igascale.supervision.rank import RankLifeline
from igascale.supervision.verdict import RankStatus, Verdict

__all__ = ["Lifeline", "Monitor", "RankLifeline", "RankStatus", "Verdict"]
