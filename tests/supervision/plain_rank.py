"""A rank without torch: a lifeline, and a main thread that does what its first argument says."""

import os
import sys
import time

from igascale.supervision import RankLifeline


def main(what: str, rank: int, heartbeat_timeout: float) -> None:
    lifeline = RankLifeline(rank, heartbeat_timeout)
    lifeline.take_signals()
    if what != "early":
        lifeline.stop_gracefully()
    lifeline.attach(os.environ["IGASCALE_MONITOR"], os.environ["IGASCALE_MONITOR_TOKEN"])
    lifeline.own_log = what == "talks"
    deadline, step = time.monotonic() + 600, 0
    if what == "raises":
        lifeline.pulse("combining (the hook)", 3)
        time.sleep(0.5)
        lifeline.last_words("the hook's file is wrong", 2)
        raise SystemExit("last words returned")
    if what == "done":
        lifeline.pulse("finishing", 9)
        lifeline.goodbye(0)
        raise SystemExit(0)
    while time.monotonic() < deadline:
        if what == "hangs":
            lifeline.pulse("combining (the hook)", 3) if not step else None
        elif what == "waits":  # for the one that hangs, further on in the same step
            lifeline.pulse("gathering", 3) if not step else None
        else:
            lifeline.pulse("forward and backward", step // 10)
            lifeline.figures(100, 1.5, 1.0 if what == "slow" else 0.1, 2.5)
        lifeline.say(f"line {step}") if step < 3 else None
        step += 1
        if lifeline.stop_signal and what != "stubborn":
            lifeline.goodbye(128 + lifeline.stop_signal)
            raise SystemExit(128 + lifeline.stop_signal)
        time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
