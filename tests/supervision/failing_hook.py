"""The mean rule, until a file tells one rank to do something else: ``hook.what`` on ``hook.rank`` at step ``hook.at``."""

import os
import time
from dataclasses import replace
from pathlib import Path

import torch

from igascale.hooks.mean import Mean


class Failing(Mean):
    def __init__(self, what: str = "nothing", rank: int = 1, at: int = 4, seconds: float = 0.0, while_there: str = ""):
        super().__init__()
        self.what, self.rank, self.at, self.seconds, self.while_there = what, rank, at, seconds, while_there
        self.memory_mb = 256.0

        if what == "flips" and os.environ.get("RANK") == str(rank):
            self.flips()

    @property
    def uses_reference(self):
        """``loads``: the engine, which asks this, is not made while a file is there; another tells that this rank waits."""
        if self.what == "loads":
            Path(f"{self.while_there}.{os.environ['RANK']}").touch()
            while os.path.exists(self.while_there):
                time.sleep(0.02)
        return False

    def combine(self, grads, adapters, ctx):
        if self.seconds:
            time.sleep(self.seconds)
        if self.what != "flips" and os.environ.get("RANK", "0") == str(self.rank) and ctx.step + 1 >= self.at:
            getattr(self, self.what)()
        if self.what == "asks":
            ctx.sum_over_shards(torch.ones(2))
        combined = super().combine(grads, adapters, ctx)
        if self.what == "spoils" and ctx.step + 1 >= self.at:
            combined = {fqn: replace(grad, a=grad.a * float("nan")) for fqn, grad in combined.items()}
        return combined

    def flips(self):
        """Before the comparison of step ``at``: one bit of one factor, on this rank only."""
        from igascale import trainer

        check = trainer.check_replicas

        def spoiled(engine, step):
            if step >= self.at:
                next(iter(engine.adapters.values())).B.data.view(torch.int32)[0, 0] ^= 1
            check(engine, step)

        trainer.check_replicas = spoiled

    def spoils(self):
        pass

    def nothing(self):
        pass

    def loads(self):
        pass

    def hangs(self):
        time.sleep(1000)

    def raises(self):
        raise ValueError("no such domain")

    def crawls(self):
        time.sleep(2.0)

    def leaves(self):
        os._exit(3)

    def asks(self):
        os._exit(3)  # and the others wait for it in sum_over_shards

    def allocates(self):
        return torch.empty(2**45)
