"""What runs on every host that is examined: it answers questions on standard input, and ends with it.

Questions and answers are lines of JSON (:mod:`igascale.preflight.conversation`). A question that hangs does not keep the process:
when the other side is gone it leaves at once, and ends what it has started.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TextIO

from igascale.preflight import devices, disk, files, limits, link, network, port, versions
from igascale.preflight.conversation import MARK

ACTIONS: dict[str, Callable[..., Any]] = {
    "clock": time.time,
    "versions": versions.collect,
    "devices": devices.collect,
    "limits": limits.collect,
    "network": network.collect,
    "port hold": port.hold,
    "port try": port.reach,
    "port release": port.release,
    "disk": disk.collect,
    "disk need": disk.need,
    "token write": disk.write_token,
    "token read": disk.read_token,
    "token remove": disk.remove_token,
    "files": files.collect,
    "link": link.run_workers,
}


def main() -> None:
    """Answer until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print must not get between our lines
    lock = threading.Lock()
    _say(out, lock, {"ready": os.getpid()})
    for line in sys.stdin:
        threading.Thread(target=_answer, args=(json.loads(line), out, lock), daemon=True).start()
    link.end_workers()
    os._exit(0)


def _answer(question: dict[str, Any], out: TextIO, lock: threading.Lock) -> None:
    try:
        answer = {"result": ACTIONS[question["do"]](**question["with"])}
    except Exception as error:  # whatever it is, the other side has to hear of it
        answer = {"error": f"{type(error).__name__}: {error}"}
    _say(out, lock, {"id": question["id"], **answer})


def _say(out: TextIO, lock: threading.Lock, message: dict[str, Any]) -> None:
    with lock:
        out.write(f"{MARK}{json.dumps(message)}\n")
        out.flush()


if __name__ == "__main__":
    main()
