"""A hook with state of both kinds that draws random numbers and returns a reference."""

import torch

from igascale.hooks import FactorGrads, GradientHook


class Drawing(GradientHook):
    uses_reference = True

    def __init__(self):
        self.calls, self.adapters = 0, {}

    def combine(self, grads, adapters, ctx):
        self.calls += 1
        result = {}
        for fqn, g in grads.items():
            held = self.adapters.get(fqn, {"a": 0.0 * g.a[0], "b": 0.0 * g.b[0]})
            weights = torch.rand(len(ctx.domains), generator=ctx.generator(fqn))
            a, b = (torch.tensordot(weights, x, 1) for x in (g.a, g.b))
            self.adapters[fqn] = {"a": 0.9 * held["a"] + a, "b": 0.9 * held["b"] + b}
            result[fqn] = FactorGrads(
                self.adapters[fqn]["a"] / self.calls, self.adapters[fqn]["b"] / self.calls, 2 * a, 2 * b
            )
        return result

    def state_dict(self):
        return {"calls": self.calls, "adapters": self.adapters}

    def load_state_dict(self, state):
        self.calls, self.adapters = state["calls"], dict(state["adapters"])
