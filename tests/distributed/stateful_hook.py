"""A hook with state of both kinds: per adapter, and the same on every rank."""

from igascale.hooks import FactorGrads, GradientHook


class Momentum(GradientHook):
    def __init__(self):
        self.calls, self.adapters = 0, {}

    def combine(self, grads, adapters, ctx):
        self.calls += 1
        result = {}
        for fqn, g in grads.items():
            held = self.adapters.get(fqn, {"a": 0.0 * g.a[0], "b": 0.0 * g.b[0]})
            self.adapters[fqn] = {"a": 0.9 * held["a"] + g.a.mean(0), "b": 0.9 * held["b"] + g.b.mean(0)}
            result[fqn] = FactorGrads(self.adapters[fqn]["a"] / self.calls, self.adapters[fqn]["b"] / self.calls)
        return result

    def state_dict(self):
        return {"calls": self.calls, "adapters": self.adapters}

    def load_state_dict(self, state):
        self.calls, self.adapters = state["calls"], state["adapters"]
