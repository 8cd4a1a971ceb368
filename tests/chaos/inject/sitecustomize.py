"""Runs at the start of every Python process of a campaign's run, because its folder is first on PYTHONPATH.

It acts in ranks only, as ``plan.json`` beside it says: note this rank's pid; trace what the rank does to the files of the run folder;
kill a process when the rank comes to its n-th such operation; give the rank a clock of its own. The product knows nothing of it.
"""

import itertools
import json
import os
import signal
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
#: Audit event -> positions of its paths and of the folder descriptor that each is relative to.
_PATHS = {
    "os.rename": ((0, 2), (1, 3)),
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
}


class Watch:
    """Counts what this rank does below the run folder; each event is seen before it happens."""

    def __init__(self, folder, trace, stage):
        self.below, self.stage, self.numbers = os.path.join(folder, ""), stage, itertools.count()
        self.trace = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND) if trace else None
        self.fsync = os.fsync
        os.fsync = self._fsync
        sys.addaudithook(self._audit)

    def _audit(self, event, args):
        if event == "open":
            path, _, flags = args
            if flags & _WRITES and not isinstance(path, int):
                self._count("open", [_absolute(path, None)])
        elif event in _PATHS:
            pairs = ((args[p], None if d is None else args[d]) for p, d in _PATHS[event])
            self._count(event.removeprefix("os."), [_absolute(p, d) for p, d in pairs if not isinstance(p, int)])

    def _fsync(self, file):
        self._count("fsync", [os.readlink(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}")])
        return self.fsync(file)

    def _count(self, event, paths):
        paths = [p for p in paths if p.startswith(self.below)]
        if not paths:
            return
        number = next(self.numbers)
        names = [p.removeprefix(self.below) for p in paths]
        if self.trace is not None:
            os.write(self.trace, (json.dumps([event, *names]) + "\n").encode())
        if self.stage and number == self.stage["operation"]:
            self._fire(f"{event} {' -> '.join(names)}")

    def _fire(self, where):
        victim, delay = self.stage["victim"], self.stage["delay"]
        pid = os.getpid() if victim == "self" else int(_read(f"{victim}.pid"))

        def kill():
            _write_new("fired", json.dumps({"where": where, "time": time.monotonic()}))
            os.kill(pid, signal.SIGKILL)

        if delay:
            threading.Timer(delay, kill).start()
        else:
            kill()


def _absolute(path, folder):
    path = os.fsdecode(path)
    if isinstance(folder, int) and folder >= 0 and not os.path.isabs(path):
        return os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    return os.path.abspath(path)


def _read(name):
    with open(os.path.join(HERE, name)) as file:
        return file.read()


def _write_new(name, text):
    """Write a file that another process may be waiting for: it appears with its content."""
    path = os.path.join(HERE, name)
    with open(f"{path}.{os.getpid()}", "w") as file:
        file.write(text)
    os.rename(f"{path}.{os.getpid()}", path)


def _own_clock(clock):
    """Start this process again, with the same pid, under libfaketime."""
    os.environ.update(clock)
    os.execve(sys.executable, sys.orig_argv, os.environ)


def _sleep(seconds):
    """As ``time.sleep``, which libfaketime 0.9 breaks (EINVAL): it takes Python's monotonic deadline for one of the wall clock."""
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    threading.Event().wait(seconds)


def start():
    """Do what the plan says of this process."""
    if "FAKETIME_TIMESTAMP_FILE" in os.environ:
        time.sleep = _sleep
    rank = os.environ.get("RANK")
    if rank is None or not os.path.exists(os.path.join(HERE, "plan.json")):
        return
    plan = json.loads(_read("plan.json"))
    if int(rank) == plan.get("clock_rank") and "LD_PRELOAD" not in os.environ:
        _own_clock(plan["clock"])
    if not os.path.exists(os.path.join(HERE, f"rank-{rank}.pid")):  # a helper process of the rank is not the rank
        _write_new(f"rank-{rank}.pid", str(os.getpid()))
        if rank == "0" and (plan.get("trace") or plan.get("stage")):
            Watch(plan["folder"], plan.get("trace"), plan.get("stage"))


start()
