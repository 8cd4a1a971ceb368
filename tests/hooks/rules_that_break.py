"""Hooks that break the contract, each in one way; and two that keep it. Used by test_contract.py."""

import random
import sys

import numpy
import torch

from igascale.hooks import FactorGrads, GradientHook, WeightedHook


def mean(g):
    return FactorGrads(g.a.mean(0), g.b.mean(0))


class PerAdapter(GradientHook):
    """The mean of each adapter; the hooks below spoil one thing of it."""

    def one(self, fqn, g, ctx):
        return mean(g)

    def combine(self, grads, adapters, ctx):
        return {fqn: self.one(fqn, g, ctx) for fqn, g in grads.items()}


class NotMade(PerAdapter):
    def __init__(self):
        self.table = {}["missing"]


class NamesInAString(PerAdapter):
    statistics = "mean_mask"


class NoDomains(PerAdapter):
    min_domains = 0


class WrongShape(PerAdapter):
    def one(self, fqn, g, ctx):
        return FactorGrads(g.a.mean(0).T, g.b.mean(0))


class Float64(PerAdapter):
    def one(self, fqn, g, ctx):
        return FactorGrads(g.a.mean(0), g.b.double().mean(0))


class Pairs(PerAdapter):
    def one(self, fqn, g, ctx):
        return g.a.mean(0), g.b.mean(0)


class AList(GradientHook):
    def combine(self, grads, adapters, ctx):
        return [mean(g) for g in grads.values()]


class ForgetsOne(PerAdapter):
    def combine(self, grads, adapters, ctx):
        result = super().combine(grads, adapters, ctx)
        return {fqn: g for fqn, g in result.items() if fqn != "layers.0.k_proj"}


class InventsOne(PerAdapter):
    def combine(self, grads, adapters, ctx):
        result = super().combine(grads, adapters, ctx)
        return {**result, "lm_head": mean(next(iter(grads.values())))} if grads else result


class SecretReference(PerAdapter):
    def one(self, fqn, g, ctx):
        return FactorGrads(g.a.mean(0), g.b.mean(0), g.a.mean(0), g.b.mean(0))


class MissingReference(PerAdapter):
    uses_reference = True


class UndeclaredFigure(PerAdapter):
    def one(self, fqn, g, ctx):
        return FactorGrads(g.a.mean(0), g.b.mean(0), stats={"norm": g.a.norm()})


class FigureOfManyNumbers(PerAdapter):
    statistics = ("norm",)

    def one(self, fqn, g, ctx):
        return FactorGrads(g.a.mean(0), g.b.mean(0), stats={"norm": g.a.flatten(1).norm(dim=1)})


class NeedsKnownNoise(PerAdapter):
    uses_noise = True

    def one(self, fqn, g, ctx):
        factor = 1.0 if g.noise is None else 1 / (1 + g.noise[1].mean().float())
        return FactorGrads(factor * g.a.mean(0), factor * g.b.mean(0))


class Crashes(PerAdapter):
    def one(self, fqn, g, ctx):
        return mean(g) if g.a.shape[1] == 2 else g.a.no_such_thing()


class Exits(PerAdapter):
    def one(self, fqn, g, ctx):
        sys.exit("enough")


class InPlace(PerAdapter):
    def one(self, fqn, g, ctx):
        g.a.mul_(0.5)
        return mean(g)


class ChangesTheLosses(PerAdapter):
    def combine(self, grads, adapters, ctx):
        ctx.losses.sub_(ctx.losses.mean())
        return super().combine(grads, adapters, ctx)


class EmptiesItsInput(PerAdapter):
    def combine(self, grads, adapters, ctx):
        return {fqn: mean(grads.pop(fqn)) for fqn in list(grads)}


class MakesInputsLeaves(PerAdapter):
    def one(self, fqn, g, ctx):
        g.a.requires_grad_()
        return FactorGrads(g.a.mean(0).detach(), g.b.mean(0))


class KeepsGraph(PerAdapter):
    def __init__(self):
        self.scale = torch.nn.Parameter(torch.ones(()))

    def one(self, fqn, g, ctx):
        return FactorGrads(self.scale * g.a.mean(0), g.b.mean(0))


class HiddenMomentum(PerAdapter):
    """With a constant input its result is constant: only another step in between tells."""

    def __init__(self):
        self.held = {}

    def one(self, fqn, g, ctx):
        before = self.held.get(fqn, g.a.mean(0))
        self.held[fqn] = 0.9 * before + 0.1 * g.a.mean(0)
        return FactorGrads(self.held[fqn], g.b.mean(0))


class OnTheClass(PerAdapter):
    calls = 0

    def one(self, fqn, g, ctx):
        OnTheClass.calls += 1
        return FactorGrads(g.a.mean(0) * (1 + 1e-3 * OnTheClass.calls), g.b.mean(0))


class TorchRandom(PerAdapter):
    def one(self, fqn, g, ctx):
        return FactorGrads(g.a.mean(0) * torch.rand(g.a.shape[1:]), g.b.mean(0))


class PythonRandom(PerAdapter):
    def one(self, fqn, g, ctx):
        return FactorGrads(g.a.mean(0) * random.random(), g.b.mean(0))


class NumpyRandom(PerAdapter):
    def one(self, fqn, g, ctx):
        return FactorGrads(g.a.mean(0) * float(numpy.random.rand()), g.b.mean(0))


class WastesRandom(PerAdapter):
    def one(self, fqn, g, ctx):
        torch.randperm(len(g.a))
        return mean(g)


class OneGeneratorForAll(PerAdapter):
    def combine(self, grads, adapters, ctx):
        generator = ctx.generator("mask")
        keep = {fqn: torch.rand(g.a.shape[1:], generator=generator) for fqn, g in grads.items()}
        return {fqn: FactorGrads(g.a.mean(0) * keep[fqn], g.b.mean(0)) for fqn, g in grads.items()}


class FirstDomain(WeightedHook):
    def weights(self, gram, ctx):
        return torch.eye(len(gram))[0]


class ByNorm(PerAdapter):
    """0 / 0 where an adapter has no gradient."""

    def one(self, fqn, g, ctx):
        a, b = g.a.mean(0), g.b.mean(0)
        norm = (a.square().sum() + b.square().sum()).sqrt()
        return FactorGrads(a / norm, b / norm)


class NeverZero(PerAdapter):
    def one(self, fqn, g, ctx):
        return FactorGrads(g.a.mean(0) + 1e-3, g.b.mean(0))


class FourthPowers(PerAdapter):
    def one(self, fqn, g, ctx):
        x = g.b.square().sum((1, 2))
        w = x.square() / (x.square().sum() + 1e-38)
        return FactorGrads(torch.tensordot(w, g.a, 1), torch.tensordot(w, g.b, 1))


class HidesNaN(PerAdapter):
    def one(self, fqn, g, ctx):
        return FactorGrads(g.a.nan_to_num().mean(0), g.b.nan_to_num().mean(0))


class HidesNaNByComparison(PerAdapter):
    def one(self, fqn, g, ctx):
        agree_a, agree_b = (x.sign().sum(0).abs() == len(x) for x in (g.a, g.b))
        return FactorGrads(torch.where(agree_a, g.a.mean(0), 0.0), torch.where(agree_b, g.b.mean(0), 0.0))


class NeedsTwo(PerAdapter):
    def one(self, fqn, g, ctx):
        return FactorGrads(g.a.mean(0) / (1 + g.a.var()), g.b.mean(0) * torch.exp(-g.b.var(0) / (1 + g.b.var(0))))


class FailsOnNone(PerAdapter):
    def combine(self, grads, adapters, ctx):
        largest = torch.stack([g.a.norm() for g in grads.values()]).max()
        return super().combine(grads, adapters, ctx) if largest >= 0 or largest.isnan() else {}


class SumsWhereItOwns(PerAdapter):
    def combine(self, grads, adapters, ctx):
        if not grads:
            return {}
        ctx.sum_over_shards(torch.ones(1))
        return super().combine(grads, adapters, ctx)


class SumsPerAdapter(PerAdapter):
    def one(self, fqn, g, ctx):
        ctx.sum_over_shards(g.a.square().sum())
        return mean(g)


class SumsOfOwnSize(PerAdapter):
    def combine(self, grads, adapters, ctx):
        ctx.sum_over_shards(torch.tensor([float(g.a.norm()) for g in grads.values()]))
        return super().combine(grads, adapters, ctx)


class SumsNumbers(PerAdapter):
    def combine(self, grads, adapters, ctx):
        total = ctx.sum_over_shards(float(len(grads)))
        return super().combine(grads, adapters, ctx) if total else {}


class MeanOverOwn(GradientHook):
    """Divides by the mean norm over the adapters of this rank instead of over all."""

    def combine(self, grads, adapters, ctx):
        norms = [float(g.b.norm(dtype=torch.float64)) for g in grads.values()]
        typical = max(sum(norms) / max(len(norms), 1), 1e-30) if norms else 1.0
        return {k: FactorGrads(g.a.mean(0) / typical, g.b.mean(0) / typical) for k, g in grads.items()}


class FigureOnOneRankOnly(FigureOfManyNumbers):
    def combine(self, grads, adapters, ctx):
        self.known = 1.0 if len(grads) == len(ctx.shapes) else float("nan")
        return super().combine(grads, adapters, ctx)

    def one(self, fqn, g, ctx):
        return FactorGrads(g.a.mean(0), g.b.mean(0), stats={"norm": g.a.norm() * self.known})


class Counter(PerAdapter):
    """A stateful hook; the ones below spoil its state. Two numbers, so that one can be forgotten."""

    def __init__(self):
        self.calls, self.offset = 0, 1

    def combine(self, grads, adapters, ctx):
        self.calls += 1
        return super().combine(grads, adapters, ctx)

    def one(self, fqn, g, ctx):
        factor = 1 / (self.calls + self.offset)
        return FactorGrads(factor * g.a.mean(0), factor * g.b.mean(0))

    def state_dict(self):
        return {"calls": self.calls, "offset": self.offset}

    def load_state_dict(self, state):
        self.calls, self.offset = state["calls"], state["offset"]


class ForgetsItsState(Counter):
    def load_state_dict(self, state):
        self.offset = state["offset"]


class StateOfSets(Counter):
    def state_dict(self):
        return super().state_dict() | {"seen": {1, 2}}


class StateByNumber(Counter):
    def state_dict(self):
        return super().state_dict() | {"by number": {0: 1.0}}


class StateOfTuples(Counter):
    def state_dict(self):
        return super().state_dict() | {"range": (0, 1)}


class StateSharesMemory(Counter):
    def state_dict(self):
        x = torch.zeros(4)
        return super().state_dict() | {"x": x, "y": x}


class TakesAnyState(Counter):
    def load_state_dict(self, state):
        vars(self).update(state)


class StateByRank(PerAdapter):
    """A momentum like that of Momentum below, but not under state["adapters"]."""

    def __init__(self):
        self.held = {}

    def one(self, fqn, g, ctx):
        self.held[fqn] = 0.9 * self.held.get(fqn, torch.zeros_like(g.a[0])) + g.a.mean(0)
        return FactorGrads(self.held[fqn], g.b.mean(0))

    def state_dict(self):
        return {"held": dict(self.held)}

    def load_state_dict(self, state):
        self.held = dict(state["held"])


class Momentum(StateByRank):
    """Keeps the contract."""

    def state_dict(self):
        return {"adapters": dict(self.held)}

    def load_state_dict(self, state):
        self.held = dict(state["adapters"])


class MeanStatistic(PerAdapter):
    @staticmethod
    def auxiliary(logits, labels):
        return logits.logsumexp(-1).mean()


class CentredStatistic(PerAdapter):
    @staticmethod
    def auxiliary(logits, labels):
        z = logits.logsumexp(-1)
        return z - z.mean()


class ConstantStatistic(PerAdapter):
    @staticmethod
    def auxiliary(logits, labels):
        return (logits.argmax(-1) == labels).float()


class OverflowingStatistic(PerAdapter):
    @staticmethod
    def auxiliary(logits, labels):
        return logits.exp().sum(-1).log()


class AlarmedByNaN(PerAdapter):
    statistics = ("norm",)

    def one(self, fqn, g, ctx):
        return FactorGrads(g.a.mean(0), g.b.mean(0), stats={"norm": g.a.norm()})

    def alarms(self, stats):
        return {"large": f"{int(stats['norm'])} is large"}


class OneWarning(PerAdapter):
    def warnings(self):
        return "be careful"


class Softened(PerAdapter):
    """Keeps the contract, but explains only one of its options.

    Args:
        strength: how much.
    """

    def __init__(self, *, strength: float = 0.5, power: int = 1) -> None:
        self.strength, self.power = strength, power

    def one(self, fqn, g, ctx):
        factor = 1 - self.strength**self.power
        return FactorGrads(factor * g.a.mean(0), factor * g.b.mean(0))


class AsksWhereItSeesMuch(GradientHook):
    """Asks for a sum only on a rank whose own gradients are large."""

    def combine(self, grads, adapters, ctx):
        own = sum(float(g.b.square().sum()) for g in grads.values())
        if own > 1e8:
            ctx.sum_over_shards(torch.ones(1))
        return {k: FactorGrads(g.a.mean(0), g.b.mean(0)) for k, g in grads.items()}


class AbsoluteThreshold(GradientHook):
    """Takes small gradients for none at all."""

    def combine(self, grads, adapters, ctx):
        def mean(x):
            return torch.where(x.abs().amax() <= 1e-6, 0.0, x).mean(0)

        return {k: FactorGrads(mean(g.a), mean(g.b)) for k, g in grads.items()}
