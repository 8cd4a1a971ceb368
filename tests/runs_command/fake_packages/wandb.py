"""Stands in for the `wandb` package: writes every call to FAKE_WANDB_CALLS, and misbehaves as FAKE_WANDB says.

Only the documented public functions are there, with their documented arguments, so that any other use fails.
"""

import json
import os
import time

_CALLS, _MISCHIEF = os.environ["FAKE_WANDB_CALLS"], os.environ.get("FAKE_WANDB", "")


def _note(call, **arguments):
    with open(_CALLS, "a") as file:
        file.write(json.dumps({"call": call, "pid": os.getpid(), **arguments}) + "\n")


class _Run:
    url = "https://wandb.example/run"

    def log(self, data, step=None):
        _note("log", data=data, step=step)
        if _MISCHIEF == "hang in log":
            time.sleep(600)
        if _MISCHIEF == "fail in log":
            raise ConnectionError("the network is gone")

    def finish(self, exit_code=None):
        if _MISCHIEF == "hang in finish":
            time.sleep(600)
        _note("finish")


def init(project=None, name=None, id=None, resume=None, dir=None, config=None, mode=None):
    _note("init", project=project, name=name, id=id, resume=resume, dir=dir, config=config, mode=mode)
    if _MISCHIEF == "hang in init":
        time.sleep(600)
    if _MISCHIEF == "no network" and mode != "offline":
        raise ConnectionError("api.wandb.ai cannot be reached")
    if _MISCHIEF == "no run at all":
        raise ValueError("no")
    if _MISCHIEF == "killed":
        os.kill(os.getpid(), 9)
    return _Run()


def teardown(exit_code=None):
    _note("teardown")
