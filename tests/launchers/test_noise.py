"""Launchers' accounts of themselves are left out of what the user sees; nobody else's lines are."""

import pytest

from igascale.launching.noise import Noise

TORCHRUN = """\
W1124 04:02:56.765000 22889 /v/lib/python3.11/site-packages/torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 23191 closing signal SIGTERM
E1124 04:02:56.880000 22889 /v/lib/python3.11/site-packages/torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 143) local_rank: 0
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
  File "/v/lib/python3.11/site-packages/torch/distributed/run.py", line 1032, in <module>
    main()
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
igascale FAILED
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  exitcode  : 143 (pid: 23190)
============================================================""".splitlines()
DEEPSPEED = [
    "node-b: [2026-11-24 04:07:14,003] [ERROR] [launch.py:259:sigkill_handler] ['python', 'train'] exits with return code = -9",
    "pdsh@node-a: node-b: ssh exited with exit code 247",
]
OURS = """\
Traceback (most recent call last):
  File "/v/rules.py", line 3, in combine
    raise ValueError("no")
ValueError: no
error: rank 0 failed""".splitlines()


def shown(noise, lines):
    return [line for given in lines for line in noise.feed(given)] + noise.flush()


@pytest.mark.parametrize("account", [TORCHRUN, DEEPSPEED])
def test_only_the_account_is_left_out(account):
    assert shown(Noise(watched=True), ["before", *account, *OURS]) == ["before", *OURS]


def test_it_stays_where_nothing_else_tells_how_ranks_ended():
    assert shown(Noise(watched=False), [*TORCHRUN, *DEEPSPEED]) == [*TORCHRUN, *DEEPSPEED]


def test_what_two_ranks_write_at_once_is_all_shown():
    mixed = [OURS[0], OURS[0], OURS[1], OURS[1], OURS[2], "between", *OURS[2:4]]
    assert shown(Noise(watched=True), mixed) == mixed
    assert shown(Noise(watched=True), OURS[:2]) == OURS[:2]  # the stream ended in the middle
