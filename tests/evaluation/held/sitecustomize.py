"""Runs at the start of every Python process of an evaluation whose PYTHONPATH begins with this folder.

After its second batch each process waits while the file is there that HOLD names: a test finds it at work, on any machine.
"""

import os
import time

from igascale.evaluation.store import AnswerStore

_put, _puts = AnswerStore.put, []


def put(self, answers):
    _put(self, answers)
    _puts.append(1)
    end = time.monotonic() + 600  # not for ever, should the test have died
    while len(_puts) > 1 and os.path.exists(os.environ["HOLD"]) and time.monotonic() < end:
        time.sleep(0.01)


AnswerStore.put = put
