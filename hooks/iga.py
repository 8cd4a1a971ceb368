"""Invariant Gradient Alignment: mask where domains disagree on the change of ``B A``, project, extract.

Shape legend: N adapters of one shape, D domains, R LoRA rank, I in-features, O out-features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from igascale.hooks import _iga_advice as advice
from igascale.hooks._auto_tau import AutoTau
from igascale.hooks._iga_batches import align_all
from igascale.hooks._iga_choices import Preset, Space, check_kernel, choose, factor_mask, is_off, statistics
from igascale.hooks._iga_plans import PlannedHook
from igascale.hooks._iga_subspaces import Subspaces
from igascale.hooks._masking import FactorMaskHook, SecondMoment
from igascale.hooks._options import number
from igascale.hooks.base import AdapterFactors, DomainFactorGrads, FactorGrads, HookContext
from igascale.linalg.alignment import Choices, Extraction, Mask, Projection, Rank
from igascale.linalg.fused import Kernel
from igascale.linalg.masks import VarianceNorm


class InvariantGradientAlignment(PlannedHook, FactorMaskHook):
    r"""Invariant Gradient Alignment (arXiv 2606.05025).

    Not the Inter-environmental Gradient Alignment (arXiv 2008.01883) that DomainBed and ``pytorch-iga`` call IGA.

    .. math::
        \hat g_n = b_n A + B a_n, \quad \bar g = \tfrac1D \sum_n \hat g_n, \quad
        V = \tfrac1D \sum_n (\hat g_n - \bar g)^2, \quad g = \bar g \odot e^{-\tau u(V)}, \quad
        \tilde g = \mathrm{SVD}_r(g) \mapsto (\nabla A, \nabla B)

    Reference: `Invariant Gradient Alignment <https://arxiv.org/abs/2606.05025>`_, Eq. 4-10 and Algorithm 1.

    Differs from the paper: ``preset="paper"`` follows it to the letter. The default makes the mask scale-free, replaces
    Eq. 10 by a least-squares inverse that gives the plain mean at ``tau = 0``, and keeps Adam from dividing the mask
    away. The defaults below are the preset ``default``'s. The figures of a step are explained in docs/method.md.

    Args:
        preset: ``default``; ``paper``, to the letter; ``paper-stable``, the paper's mask with the default's extraction.
        space: mask the reconstruction (``weight``, default) or the gradients of A and B (``factor``, "LoRA grad only").
        mask: ``exp`` (default); ``and`` or ``sand`` keep by agreement of signs (the ablation "w/o continuous mask").
        variance_norm: u is V (``none``), V / mean V (``mean``), V / gbar^2 (``relative``, default), V / (gbar^2 + mean V)
            (``smoothed``) or V / (gbar^2 + V) (``fraction``).
        tau: strength of the mask, >= 0 (default .5), or ``auto``: search for ``target_change``, then hold.
        target_change: relative change of the mean gradient that ``tau: auto`` looks for (default .3).
        threshold: agreement of signs that ``and`` (1) and ``sand`` (0.5) ask for, in [0, 1].
        sharpness: k of ``sand``: 10 with ``variance_norm: none`` as published, else 1 (10 would be an AND-mask).
        remove_noise: take the estimated sampling noise out of V, one share per adapter (default false).
        projection: ``svd`` (default), randomized, or ``none``, one exact pass.
        rank: singular triplets kept: a number, ``R`` (the adapter's rank) or ``2R`` (default).
        oversampling: columns of the sketch beyond the rank, >= 0 (default 10).
        power_iters: power iterations of the sketch, >= 0 (default 1 for rank ``2R``, else 2: within 1% of the best error).
        warm_start: start the sketch from the last step's singular vectors (default false), rank x I numbers kept per adapter:
            power_iters 0 is as accurate as 1 without while gradients turn slowly; ``subspace_overlap`` near 1 shows it.
        extraction: ``paper`` (Eq. 10), ``aligned`` (Eq. 10 turned towards the mean), ``pullback`` (chain rule) or
            ``anchored`` (least squares, default).
        rho: anchor of ``anchored``, > 0 (default .1), in units of the mean eigenvalues of ``B^T B`` and ``A A^T``.
        second_moment: ``adam``, or ``max`` (default): Adam's v follows the larger of this and the plain mean gradient.
        shuffled: control: the mask's values in random places of the adapter; holds a whole mask in memory.
        memory_mb: bound on all that is held at once beside gradients and results, MiB (default 1024). It decides how many
            adapters are worked through together and whether their masked matrices are kept between passes.
        kernel: ``torch``; ``triton``, one fused GPU kernel for mask and products, for float32 on CUDA with ``mask: exp``, not
            ``shuffled``; or ``auto`` (default): ``triton`` where it can be used, with a line if it fails and PyTorch takes over.

    Raises:
        ValueError: for a value that is not allowed, naming the option.
    """

    def __init__(
        self,
        *,
        preset: Preset = "default",
        space: Space | None = None,
        mask: Mask | None = None,
        variance_norm: VarianceNorm | None = None,
        tau: float | Literal["auto"] | None = None,
        target_change: float | None = None,
        threshold: float | None = None,
        sharpness: float | None = None,
        remove_noise: bool | None = None,
        projection: Projection | None = None,
        rank: Rank | None = None,
        oversampling: int | None = None,
        power_iters: int | None = None,
        warm_start: bool | None = None,
        extraction: Extraction | None = None,
        rho: float | None = None,
        second_moment: SecondMoment | None = None,
        shuffled: bool | None = None,
        memory_mb: float = 1024.0,
        kernel: Kernel = "auto",
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "__class__", "preset", "memory_mb", "kernel")}
        self.chosen = choose(preset, given)
        self.noise_decides = self.chosen["remove_noise"]
        self.kernel = check_kernel(kernel, self.chosen)
        super().__init__(self.chosen["second_moment"], self.chosen["shuffled"])
        self.in_weight_space = self.chosen["space"] == "weight"
        self.memory_mb = number("memory_mb", memory_mb, positive=True)
        self.auto = AutoTau(self.chosen["target_change"], start=0.5) if self.chosen["tau"] == "auto" else None
        self.statistics = statistics(self.chosen)
        self.warm_start, self.subspaces = self.chosen["warm_start"], Subspaces()
        self.strengthen, self.off = advice.strengthen(self.chosen), is_off(self.chosen)

    @property
    def tau(self) -> float:
        """The mask's strength in force now."""
        return self.auto.tau if self.auto else float(self.chosen["tau"])

    @property
    def choices(self) -> Choices:
        """What each stage does, with the tau in force now."""
        return Choices(**{k: self.chosen[k] for k in Choices.__dataclass_fields__ if k != "tau"}, tau=self.tau)

    def combine(
        self,
        grads: Mapping[str, DomainFactorGrads],
        adapters: Mapping[str, AdapterFactors],
        ctx: HookContext,
    ) -> dict[str, FactorGrads]:
        """Align the gradients of each adapter; with ``tau: auto`` also learn from what the mask changed."""
        work = align_all if self.in_weight_space else FactorMaskHook.combine
        combined = work(self, grads, adapters, ctx)
        return self.auto.learn(combined, self.chosen, ctx) if self.auto else combined

    def mask(self, x_DXX: Tensor) -> Tensor:
        """The mask of one factor, for ``space: factor``."""
        return factor_mask(x_DXX, self.chosen, self.tau)

    def warnings(self) -> list[str]:
        """One line for each choice that was measured to fail or to do nothing."""
        return advice.warnings(self.chosen) + super().warnings()

    def alarms(self, stats: Mapping[str, Tensor | float]) -> dict[str, str]:
        """What a user should be told about a step, with the remedy."""
        figures = {name: float(value) for name, value in stats.items()}
        return advice.alarms(super().alarms(stats), self.chosen, figures, self.auto)

    def state_dict(self) -> dict[str, Any]:
        """The search of ``tau: auto`` and the subspaces of ``warm_start``."""
        search = self.auto.state_dict() if self.auto else {}
        return search | (self.subspaces.state_dict() if self.warm_start else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore both."""
        if self.warm_start:
            self.subspaces.load_state_dict(state.get("adapters", {}))
            state = {name: value for name, value in state.items() if name != "adapters"}
        load = self.auto.load_state_dict if self.auto else super().load_state_dict
        load(state)
