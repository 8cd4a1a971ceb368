"""Rules that wait in the fourth step of a run while the file is there that HOLD names: a test finds the run at work there, on any machine.

That they do is told by a second file, HOLD.reached.
"""

import os
import time
from pathlib import Path

from igascale.hooks.iga import InvariantGradientAlignment
from igascale.hooks.mean import Mean


def _wait(ctx):
    if ctx.step == 3 and "HOLD" in os.environ:
        hold = Path(os.environ["HOLD"])
        hold.with_suffix(".reached").touch()
        end = time.monotonic() + 600  # not for ever, should the test have died
        while hold.exists() and time.monotonic() < end:
            time.sleep(0.01)


class HeldIga(InvariantGradientAlignment):
    """Computes what its base computes."""

    def combine(self, grads, adapters, ctx):
        _wait(ctx)
        return super().combine(grads, adapters, ctx)


class HeldMean(Mean):
    """Computes what its base computes."""

    def combine(self, grads, adapters, ctx):
        _wait(ctx)
        return super().combine(grads, adapters, ctx)
