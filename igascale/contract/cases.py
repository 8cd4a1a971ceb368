"""The synthetic step that a hook is tried on, and how two results are compared.

Shape legend: D domains, R LoRA rank, I in-features, O out-features.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from igascale.hooks.base import AdapterFactors, DomainFactorGrads, FactorGrads, GradientHook, HookContext
from igascale.linalg.gram import reconstruction_grams

#: Adapter -> (O, I, R). Two share a shape, one has a rank of its own.
SHAPES = {
    "layers.0.q_proj": (12, 10, 2),
    "layers.0.k_proj": (6, 10, 2),
    "layers.0.v_proj": (6, 10, 2),
    "layers.0.o_proj": (10, 12, 2),
    "layers.1.down_proj": (9, 7, 3),
}
#: Its B is zero, as every B is at the first step of a run; the gradient of its A is zero then.
UNTRAINED = "layers.0.v_proj"
#: Which adapters each of three ranks owns: adapters of one shape apart, and a rank that owns none.
SHARES = (
    ("layers.0.q_proj", "layers.0.v_proj", "layers.1.down_proj"),
    ("layers.0.k_proj", "layers.0.o_proj"),
    (),
)
DOMAINS = ("law", "maths", "medicine", "physics", "finance", "chemistry", "history", "sports")

#: What rounding may change, relative to the norm of a tensor.
TOLERANCE = 1e-4

Result = dict[str, FactorGrads]


@dataclass(frozen=True)
class Case:
    """The input of one call of ``combine``."""

    grads: dict[str, DomainFactorGrads]
    adapters: dict[str, AdapterFactors]
    context: HookContext

    def run(self, hook: GradientHook) -> Result:
        """What the hook returns for it."""
        return hook.combine(dict(self.grads), dict(self.adapters), self.context)

    def only(self, fqns: Iterable[str], sum_over_shards: Callable[[Tensor], Tensor]) -> Case:
        """What a rank sees that owns ``fqns``, in that order."""
        owned = list(fqns)
        aux = {fqn: self.context.aux[fqn] for fqn in owned if fqn in self.context.aux}
        context = replace(self.context, sum_over_shards=sum_over_shards, aux=aux)
        return Case({k: self.grads[k] for k in owned}, {k: self.adapters[k] for k in owned}, context)

    def permuted(self, order: Sequence[int]) -> Case:
        """The same step with its domains in another order."""
        index = torch.tensor(order)

        def reorder(g: DomainFactorGrads) -> DomainFactorGrads:
            return DomainFactorGrads(
                g.a[index], g.b[index], None if g.noise is None else g.noise[:, index][:, :, index]
            )

        old = self.context
        context = replace(
            old,
            domains=tuple(old.domains[n] for n in order),
            losses=None if old.losses is None else old.losses[index],
            aux={k: reorder(g) for k, g in old.aux.items()},
            aux_values=None if old.aux_values is None else old.aux_values[index],
        )
        return Case({k: reorder(g) for k, g in self.grads.items()}, self.adapters, context)

    def changed(self, change: Callable[[str, DomainFactorGrads], DomainFactorGrads], aux: bool = True) -> Case:
        """The same step with other gradients; ``aux`` says whether the auxiliary ones change too."""
        context = self.context
        if aux:
            context = replace(context, aux={k: change(k, g) for k, g in context.aux.items()})
        return Case({k: change(k, g) for k, g in self.grads.items()}, self.adapters, context)


def make_case(hook: GradientHook, domains: int, seed: int = 0) -> Case:
    """Random factors and the factor gradients that a random ``dL_n/dW`` of each domain gives; a function of the seed.

    Args:
        hook: says whether it wants sampling noise and an auxiliary statistic.
        domains: D.
        seed: another one gives another step of the same model.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    weights = torch.Generator().manual_seed(999)
    adapters, grads, aux = {}, {}, {}
    for fqn, (O, I, R) in SHAPES.items():  # noqa: E741
        A, B = torch.randn(R, I, generator=weights), 0.3 * torch.randn(O, R, generator=weights)
        adapters[fqn] = AdapterFactors(A, 0.0 * B if fqn == UNTRAINED else B, scaling=2.0)
        grads[fqn] = _factor_grads(adapters[fqn], domains, hook.uses_noise, generator)
        if hook.auxiliary is not None:
            aux[fqn] = _factor_grads(adapters[fqn], domains, False, generator)
    numbers = torch.rand(2, domains, generator=generator, dtype=torch.float64)
    names = tuple(DOMAINS[n] if n < len(DOMAINS) else f"domain{n}" for n in range(domains))
    context = HookContext(
        step=5 + seed,
        domains=names,
        losses=1.0 + numbers[0],
        seed=7,
        shapes=dict(SHAPES),
        aux=aux,
        aux_values=numbers[1] - 0.5 if hook.auxiliary is not None else None,
    )
    return Case(grads, adapters, context)


def _factor_grads(
    adapter: AdapterFactors, domains: int, with_noise: bool, generator: torch.Generator
) -> DomainFactorGrads:
    A, B, s = adapter.A, adapter.B, adapter.scaling
    common_OI = torch.randn(len(B), A.shape[1], generator=generator)
    G_DOI = common_OI + 0.7 * torch.randn(domains, *common_OI.shape, generator=generator)
    a, b = s * B.T @ G_DOI, s * G_DOI @ A.T
    noise = 0.1 * reconstruction_grams(a, b, A, B) if with_noise else None
    return DomainFactorGrads(a, b, noise)


def parts(grad: FactorGrads) -> dict[str, Tensor]:
    """The tensors of one adapter's result by name."""
    named = {"a": grad.a, "b": grad.b, "reference_a": grad.reference_a, "reference_b": grad.reference_b}
    return {name: t for name, t in named.items() if t is not None} | {f"stats[{k!r}]": t for k, t in grad.stats.items()}


def flatten(result: Mapping[str, FactorGrads]) -> dict[str, Tensor]:
    """Copies of every tensor of a result, by ``adapter.part``."""
    return {f"{fqn}.{name}": t.detach().clone() for fqn, g in result.items() for name, t in parts(g).items()}


def difference(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], exact: bool = False) -> str:
    """Which tensor differs most and by how much; "" where none does.

    Args:
        found: from :func:`flatten`.
        expected: the same keys.
        exact: to the bit; else up to :data:`TOLERANCE`.
    """
    if missing := sorted(expected.keys() - found.keys()):
        return f"{missing[0]} is missing"
    norms = {name: float(y.double().norm()) for name, y in expected.items()}
    floor = 1e-3 * max((n for name, n in norms.items() if ".stats[" not in name and n < math.inf), default=0.0)
    worst, told = 0.0 if exact else TOLERANCE, ""
    for name, y in expected.items():
        x = found[name]
        if x.shape != y.shape:
            return f"{name} has shape {list(x.shape)} instead of {list(y.shape)}"
        if torch.allclose(x, y, rtol=0, atol=0, equal_nan=True):
            continue
        # Rounding of a tensor that is nearly zero is measured by its neighbours, that of a figure by one.
        size = norms[name] if exact else max(norms[name], 1.0 if ".stats[" in name else floor)
        relative = float((x.double() - y.double()).norm()) / (size or 1.0)
        relative = math.inf if math.isnan(relative) else relative
        if relative > worst:
            worst, told = relative, f"{name} differs by {relative:.1g} of its norm"
    return told


@contextmanager
def global_randomness(seed: int | None = None) -> Iterator[None]:
    """Seeds the global generators of torch, Python and NumPy for the block, and puts their states back after it."""
    numpy: Any = sys.modules.get("numpy")  # if nobody has imported it, nobody draws from it
    held = torch.get_rng_state(), random.getstate(), numpy.random.get_state() if numpy else None
    try:
        if seed is not None:
            torch.manual_seed(seed)
            random.seed(seed)
            if numpy:
                numpy.random.seed(seed)
        yield
    finally:
        torch.set_rng_state(held[0])
        random.setstate(held[1])
        if numpy:
            numpy.random.set_state(held[2])
