"""The further rules of TorchJD that need the Gramian of one step and nothing else.

Shape legend: D domains.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from igascale.hooks._options import number, one_of, whole
from igascale.hooks._torchjd import TorchJDHook, Weighting
from igascale.hooks.base import HookContext

Rule = Literal["aligned_mtl", "dual_proj", "fair_grad", "imtl_g", "krum"]
ScaleMode = Literal["min", "median", "rmse"]

#: The options of each rule, with their defaults.
RULES: dict[str, dict[str, Any]] = {
    "aligned_mtl": {"scale_mode": "min"},
    "dual_proj": {"reg_eps": 1e-4},
    "fair_grad": {"alpha": 1.0},
    "imtl_g": {},
    "krum": {"n_byzantine": 0, "n_selected": 1},
}

_CHECKS: dict[str, Callable[[Any], Any]] = {
    "scale_mode": lambda value: one_of("scale_mode", value, ScaleMode),
    "reg_eps": lambda value: number("reg_eps", value, positive=True),
    "alpha": lambda value: number("alpha", value),
    "n_byzantine": lambda value: whole("n_byzantine", value, 0),
    "n_selected": lambda value: whole("n_selected", value, 1),
}


class TorchJD(TorchJDHook):
    r"""Weights by a rule that TorchJD 0.18 (MIT) computes from the Gramian: Aligned-MTL, DualProj, FairGrad, IMTL-G, Krum.

    .. math:: g = \sum_n w_n g_n, \qquad w = \mathrm{rule}(J J^\top)

    * ``aligned_mtl``: the gradients are replaced by the nearest ones without correlation and of one length; their mean.
      `Independent Component Alignment <https://arxiv.org/abs/2305.19000>`_, Algorithm 1.
    * ``dual_proj``: the mean, projected onto the directions that no domain is hurt by.
      `Gradient Episodic Memory <https://arxiv.org/abs/1706.08840>`_, Eq. 11.
    * ``fair_grad``: alpha-fair progress, ``K w = w^(-1/alpha)``. Its length is not the gradients': it goes with the
      gradients' scale to the power ``(1 - alpha) / (1 + alpha)``, and not at all for alpha = 1. Where no direction lowers
      every loss there is no solution, and w is where the solver stopped.
      `Fair Resource Allocation in Multi-Task Learning <https://arxiv.org/abs/2402.15638>`_, Eq. 4.
    * ``imtl_g``: equal projections on all gradients' directions, weights of sum 1 (some may be negative). "Towards
      Impartial Multi-task Learning", 2021, as in `Jacobian Descent <https://arxiv.org/abs/2406.16232>`_.
    * ``krum``: the one gradient nearest to the others; the other domains take no part in the step. Needs n_byzantine + 3
      domains, and with just these always has a tie, which the order of the domains decides.
      `Byzantine-Tolerant Machine Learning <https://arxiv.org/abs/1703.02757>`_.

    Not here: UPGrad, CAGrad, MGDA, PCGrad and Mean have hooks of their own (``upgrad``, ``cagrad``, ``pareto``, ``pcgrad``,
    ``mean``); Sum and Constant are fixed weights. NashMTL, GradVac, PCD, CR-MOGM, MoDo, SDMGrad and ExcessMTL carry state
    from step to step, which TorchJD would have to save with a checkpoint; GradVac and Random also draw from torch's global
    generator, which ranks do not share; MoDo and SDMGrad need two batches; ConFIG, GradDrop, TrimmedMean and ExcessMTL
    need the Jacobian, which no rank has whole.

    Differs from the papers: TorchJD's choices. Krum adds up distances, where the paper adds up their squares; IMTL-G
    by a pseudo-inverse. The Gramian is divided by its trace before (FairGrad's weights are scaled back), as TorchJD's
    thresholds and FairGrad's solver would else depend on the gradients' scale.

    Args:
        rule: ``aligned_mtl``, ``dual_proj``, ``fair_grad``, ``imtl_g`` or ``krum``; see above.
        scale_mode: aligned_mtl: the common length: the smallest singular value (``min``, the default), the ``median``, or
            the root mean square (``rmse``, as in the authors' code).
        reg_eps: dual_proj: share of the summed squared norms added to each squared norm, > 0; 1e-4 if left out.
        alpha: fair_grad: 0 is the mean, large values favour the worst-served domain; >= 0; 1 if left out.
        n_byzantine: krum: domains that may be adverse, >= 0; 0 if left out.
        n_selected: krum: gradients that are averaged, >= 1; 1 if left out.

    Raises:
        ValueError: for a value that is not allowed, naming the option; an option of another rule; TorchJD is missing.

    Example:
        >>> import torch
        >>> gram = torch.tensor([[1.0, 0.0], [0.0, 4.0]]).double()
        >>> TorchJD(rule="imtl_g").weights(gram, HookContext())
        tensor([0.6667, 0.3333], dtype=torch.float64)
    """

    def __init__(
        self,
        *,
        rule: Rule = "aligned_mtl",
        scale_mode: ScaleMode | None = None,
        reg_eps: float | None = None,
        alpha: float | None = None,
        n_byzantine: int | None = None,
        n_selected: int | None = None,
    ) -> None:
        given = {k: v for k, v in locals().items() if k not in ("self", "rule", "__class__") and v is not None}
        self.rule: Rule = one_of("rule", rule, Rule)
        for name in given:
            if name not in RULES[rule]:
                raise ValueError(f"{name}: rule '{rule}' has no such option; it has {', '.join(RULES[rule]) or 'none'}")
        self.options = {name: _CHECKS[name](given.get(name, default)) for name, default in RULES[rule].items()}
        if rule == "krum":
            self.symmetric = False
            self.min_domains = max(self.options["n_byzantine"] + 3, self.options["n_selected"])
        super().__init__(self._build)

    def _build(self) -> Weighting:
        import torchjd.aggregation as rules
        from torchjd.linalg import QuadprogProjector

        if self.rule == "dual_proj":
            return rules.DualProjWeighting(projector=QuadprogProjector(**self.options))
        made = {
            "aligned_mtl": rules.AlignedMTLWeighting,
            "fair_grad": rules.FairGradWeighting,
            "imtl_g": rules.IMTLGWeighting,
            "krum": rules.KrumWeighting,
        }
        return made[self.rule](**self.options)

    def weights(self, gram: Tensor, ctx: HookContext) -> Tensor:
        """See the class."""
        w_D = super().weights(gram, ctx)
        trace = gram.diagonal().sum()
        if self.rule == "fair_grad" and trace > 0:
            # If w solves K w = w^(-1/alpha) for K / k, then k^(-alpha / (1 + alpha)) w solves it for K.
            alpha = self.options["alpha"]
            w_D = w_D * trace ** (-alpha / (1 + alpha))
        return w_D
