"""IGA, half a second a step: a test that waits for a step still finds the run at work there, on any machine."""

import time

from igascale.hooks.iga import InvariantGradientAlignment


class SlowIga(InvariantGradientAlignment):
    """Computes what its base computes."""

    def combine(self, grads, adapters, ctx):
        time.sleep(0.5)
        return super().combine(grads, adapters, ctx)
