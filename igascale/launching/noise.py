"""What stock launchers print of themselves: on a terminal it hides what the run has to say."""

from __future__ import annotations

import re

#: DeepSpeed's own account of what it starts and ends, and that a CPU is one; by pdsh it cannot be asked to keep quiet.
_ACCOUNT = re.compile(
    r"^(\S+: )?\[[-0-9 :,]+\] (\[(INFO|ERROR)\] \[(launch|runner|multinode_runner)|\[\w+\] \[real_accelerator)\.py"
)
#: That a process has ended, which the Monitor knows with its reason.
_ENDED = re.compile(r"^pdsh@\S+: \S+: ssh exited with exit code \d+$|^[WE]\d{4} .*/torch/distributed/elastic/")
_TRACEBACK = "Traceback (most recent call last):"
_CHILD_FAILED = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError"
_RULE = "=" * 20


class Noise:
    """Leaves out of one stream what a launcher says of itself.

    torchrun ends with a traceback of its own when a rank leaves with any status but 0, a stop with a checkpoint too.
    Tracebacks are held back up to their last line, which says whose they are; everybody else's are passed on whole.

    Args:
        watched: a Monitor tells how ranks ended; without one the launcher's account of it stays.

    Example:
        >>> noise = Noise(watched=True)
        >>> noise.feed("step 1"), noise.feed("pdsh@a: b: ssh exited with exit code 75")
        (['step 1'], [])
    """

    def __init__(self, watched: bool):
        self.watched = watched
        self._held: list[str] = []
        self._rules: int | None = None  # lines of "=" seen of torchrun's report, while within it

    def feed(self, line: str) -> list[str]:
        """The lines that may be shown now."""
        if _ACCOUNT.match(line) and (self.watched or "[ERROR]" not in line):
            return []
        if not self.watched:
            return [line]
        if self._rules is not None:
            self._rules += line.startswith(_RULE)
            self._rules = None if self._rules == 2 else self._rules
            return []
        if _ENDED.match(line):
            return []
        if line == _TRACEBACK:
            return self._hold(line)
        if not self._held:
            return [line]
        self._held.append(line)
        if line.startswith(" "):
            return []
        if line.startswith(_CHILD_FAILED):
            self._held, self._rules = [], 0
        return self.flush()

    def flush(self) -> list[str]:
        """What is held back still."""
        held, self._held = self._held, []
        return held

    def _hold(self, line: str) -> list[str]:
        before, self._held = self._held, [line]
        return before
