"""The mean rule, until a file tells one rank to do something else: ``hook.what`` on ``hook.rank`` at step ``hook.at``."""

import os
import sys
import time

import torch

from igascale.hooks.mean import Mean


class Failing(Mean):
    def __init__(self, what: str = "nothing", rank: int = 1, at: int = 4, seconds: float = 0.0):
        super().__init__()
        self.what, self.rank, self.at, self.seconds = what, rank, at, seconds
        self.memory_mb = 256.0

    def combine(self, grads, adapters, ctx):
        mine = int(os.environ.get("RANK", "0")) == self.rank
        if self.seconds:
            time.sleep(self.seconds)
        if mine and ctx.step + 1 >= self.at:
            getattr(self, self.what)()
        if self.what == "asks":
            ctx.sum_over_shards(torch.ones(2))
        return super().combine(grads, adapters, ctx)

    def nothing(self):
        pass

    def hangs(self):
        time.sleep(1000)

    def raises(self):
        raise ValueError("no such domain")

    def crawls(self):
        time.sleep(0.8)

    def leaves(self):
        os._exit(3)

    def asks(self):
        os._exit(3)  # and the others wait for it in sum_over_shards

    def allocates(self):
        return torch.empty(2**45)

    def bug(self):
        sys.stdout.write("the last output\n")
        raise KeyboardInterrupt
