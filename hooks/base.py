"""The interface of a gradient hook: per-domain LoRA factor gradients in, one update direction per adapter out.

Shape legend (suffixes on local names in every hook file):
    D domains, R LoRA rank, I in-features, O out-features.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from igascale.linalg.gram import adapter_grams


@dataclass(frozen=True)
class AdapterFactors:
    """The current factors of one LoRA adapter, ``W = W0 + scaling * B @ A`` (PEFT's notation).

    Attributes:
        A: ``[R, I]``, detached ``lora_A.weight``, float32.
        B: ``[O, R]``, detached ``lora_B.weight``, float32.
        scaling: ``alpha / r`` (LoRA) or ``alpha / sqrt(r)`` (rsLoRA).
    """

    A: Tensor
    B: Tensor
    scaling: float = 1.0


@dataclass(frozen=True)
class DomainFactorGrads:
    """Per-domain gradients of one adapter's factors, averaged over all ranks and micro-steps.

    Attributes:
        a: ``[D, R, I]``, gradient of each domain's mean loss with respect to A, float32.
        b: ``[D, O, R]``, the same for B.
        noise: ``[2, D, D]``, float64, or ``None`` where the hook does not ask (:attr:`GradientHook.uses_noise`): the estimated
            covariances of the domains' sampling errors, ``E <e_m, e_n>``; 0 of the reconstruction ``b_n A + B a_n``, 1 of
            ``(a_n, b_n)`` as one vector. NaN on the diagonal where the step had fewer than two micro-batches of a domain
            (see :mod:`igascale.noise`).
    """

    a: Tensor
    b: Tensor
    noise: Tensor | None = None


@dataclass(frozen=True)
class FactorGrads:
    """What a hook returns for one adapter.

    Attributes:
        a: ``[R, I]``, the gradient that the optimizer's first moment sees for A.
        b: ``[O, R]``, the same for B.
        reference_a: ``[R, I]`` or ``None``. A second gradient for the optimizer's second moment:
            ``v = b2 v + (1 - b2) max(|a|, |reference_a|)**2``. Return it for every adapter if and only if the
            hook's :attr:`GradientHook.uses_reference` is true.
        reference_b: ``[O, R]`` or ``None``, the same for B.
        stats: one 0-d tensor for each name in :attr:`GradientHook.statistics`.
        mask_histogram: where :attr:`HookContext.wants_histogram` and the hook :attr:`GradientHook.draws_mask`: how many entries of
            its mask have which value, as :mod:`igascale.linalg.histogram` lays it out.
    """

    a: Tensor
    b: Tensor
    reference_a: Tensor | None = None
    reference_b: Tensor | None = None
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    mask_histogram: Tensor | None = None


def _identity(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class HookContext:
    """What a hook may know about the step.

    Attributes:
        step: optimizer steps taken before this one.
        domains: the names of the D domains, in the order of the leading dimension of the gradients.
        losses: ``[D]``, float64 on the CPU: each domain's mean loss over the whole batch, averaged over all ranks.
        sum_over_shards: adds a tensor over the ranks that each hold a share of the adapters (a Gramian, say). The
            identity where one process holds them all.
        seed: the run's seed; see :meth:`generator`.
        shapes: ``(O, I, R)`` of every adapter of the model, in the same order on every rank, also of those that another
            rank owns.
        aux: for a hook with :attr:`GradientHook.auxiliary`: the second set of per-domain gradients by adapter.
        aux_values: ``[D]``, that statistic's mean per domain over the whole batch.
        wants_histogram: whether this step's figures are recorded, so that a hook with a mask is to count its values.
    """

    step: int = 0
    domains: tuple[str, ...] = ()
    losses: Tensor | None = None
    sum_over_shards: Callable[[Tensor], Tensor] = _identity
    seed: int = 0
    shapes: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    aux: Mapping[str, DomainFactorGrads] = field(default_factory=dict)
    aux_values: Tensor | None = None
    wants_histogram: bool = False

    def generator(self, key: str = "", device: torch.device | str = "cpu") -> torch.Generator:
        """A random generator that is the same on every rank, differs per step and per ``key``.

        It is derived from ``(seed, step, key)`` and holds no state, so that a resumed run draws the same numbers.
        A draw that belongs to one adapter must use a key that does not depend on which rank owns the adapter.
        """
        digest = hashlib.sha256(f"{self.seed}/{self.step}/{key}".encode()).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class GradientHook(ABC):
    """Combines per-domain factor gradients into one update direction per adapter.

    The contract:

    * ``grads`` are already averaged over all ranks and micro-steps. With more ranks than one a hook sees only the
      adapters that its rank owns; what needs all of them asks ``ctx.sum_over_shards``, and asks it on every rank.
    * A hook never modifies its inputs, never touches ``.grad``, never communicates, owns no autograd handle.
    * Its options are the keyword arguments of its constructor, annotated and with defaults; they become the keys of
      the ``hook:`` section of a run's configuration.
    * State that must survive a resume goes through :meth:`state_dict`.

    Attributes:
        statistics: names of the per-adapter figures that :attr:`FactorGrads.stats` carries, the same on every rank; NaN
            where a figure is not known.
        min_domains: fewest domains that the rule means anything for; a run with fewer is refused.
        symmetric: whether the result is the same in whatever order the domains come.
        uses_noise: whether ``DomainFactorGrads.noise`` is wanted.
        noise_decides: whether the result depends on it, and not only the figures; then a run cannot go on as the same run where
            its forward passes are cut in another way, since the noise is estimated from them.
        uses_reference: whether a reference gradient is returned (it doubles the bytes of the result's all-gather).
        draws_mask: whether the hook attenuates by a mask and can tell its histogram (:attr:`FactorGrads.mask_histogram`).
        auxiliary: ``None``, or a function ``(logits [T, V], labels [T]) -> [T]`` of a per-token statistic. The trainer
            backpropagates its per-domain mean too and delivers the gradients in ``ctx.aux``.
    """

    statistics: tuple[str, ...] = ()
    min_domains: int = 1
    symmetric: bool = True
    uses_noise: bool = False
    noise_decides: bool = True
    uses_reference: bool = False
    draws_mask: bool = False
    auxiliary: Callable[[Tensor, Tensor], Tensor] | None = None

    @abstractmethod
    def combine(
        self,
        grads: Mapping[str, DomainFactorGrads],
        adapters: Mapping[str, AdapterFactors],
        ctx: HookContext,
    ) -> dict[str, FactorGrads]:
        """Combine over domains.

        Args:
            grads: per adapter (keyed by its fully qualified name) the D-fold gradients, float32.
            adapters: the same keys; the current factors.
            ctx: see :class:`HookContext`.

        Returns:
            The same keys; gradients with the shapes of the factors, float32.
        """

    def warnings(self) -> list[str]:
        """What a user should be told once, before training, about this choice of options."""
        return []

    def describe(self, shapes: Mapping[str, tuple[int, int, int]], num_domains: int, device: torch.device) -> list[str]:
        """Lines that tell before training how the hook will go about its work; none by default.

        Args:
            shapes: ``(O, I, R)`` of every adapter of the model.
            num_domains: D.
            device: where ``combine`` will run.

        Raises:
            ValueError: the options do not fit these adapters.
        """
        return []

    def cost(self, O: int, I: int, R: int, D: int) -> float:  # noqa: E741
        """Work of ``combine`` for one adapter relative to another's, by which adapters are shared out among ranks.

        Args:
            O: out-features.
            I: in-features.
            R: LoRA rank.
            D: domains.
        """
        return float(R * (O + I) * D)

    def alarms(self, stats: Mapping[str, float]) -> dict[str, str]:
        """What a user should be told about one step, with the remedy.

        Args:
            stats: the :attr:`statistics` of the step, averaged over all adapters.

        Returns:
            Name -> message. The message of each name is shown once, afterwards the name is counted.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """State to be saved with a checkpoint: a (nested) dict of tensors, numbers and strings; none by default.

        What belongs to one adapter goes under ``state["adapters"][fqn]``: a checkpoint takes it from the rank that owns
        the adapter, and the rest from the first rank, so everything else must be the same on every rank.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what a checkpoint holds: every rank gets the state of all adapters, also of those it does not own."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, but the checkpoint holds {sorted(state)}")


class WeightedHook(GradientHook):
    r"""A hook whose result is ``sum_n w_n g_n`` with weights that depend on the Gramian and the losses only.

    .. math:: w = \mathrm{weights}(J J^\top, L), \qquad g = J^\top w

    with J the ``[D, N]`` matrix of all adapters' domain gradients.
    """

    @abstractmethod
    def weights(self, gram: Tensor, ctx: HookContext) -> Tensor:
        """Weights of the domains.

        Args:
            gram: ``[D, D]``, float64 on the CPU: inner products of the domain gradients over all adapters of all ranks.
            ctx: see :class:`HookContext`; ``ctx.losses`` are the domain losses.

        Returns:
            ``[D]``.
        """

    def combine(
        self,
        grads: Mapping[str, DomainFactorGrads],
        adapters: Mapping[str, AdapterFactors],
        ctx: HookContext,
    ) -> dict[str, FactorGrads]:
        """Weighted sum over domains; see the class."""
        gram_DD = ctx.sum_over_shards(adapter_grams(((g.a, g.b) for g in grads.values()), len(ctx.domains)).sum(0))
        if bool(gram_DD.isfinite().all()):
            w_D = self.weights(gram_DD, ctx)
        else:  # no solver need know what to do with a NaN; it must come out as one
            w_D = torch.full((len(ctx.domains),), torch.nan)
        if not isinstance(w_D, Tensor) or w_D.shape != (len(ctx.domains),) or w_D.is_complex():
            found = f"shape {list(w_D.shape)}" if isinstance(w_D, Tensor) else type(w_D).__name__
            raise ValueError(
                f"{type(self).__name__}.weights returned {found}, expected [{len(ctx.domains)}]: one real number per domain"
            )
        on = {
            device: w_D.to(device) for device in {g.a.device for g in grads.values()}
        }  # one transfer for all adapters
        return {
            fqn: FactorGrads(*(torch.tensordot(on[x.device].to(x.dtype), x, 1) for x in (g.a, g.b)))
            for fqn, g in grads.items()
        }
