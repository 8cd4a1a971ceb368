"""SAND-mask: keep what the domains' gradients agree on in sign, the more the better they agree in size."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from igascale.hooks._masking import FactorMaskHook, SecondMoment, inverse_sparsity
from igascale.hooks._options import number, one_of
from igascale.linalg.masks import SandNorm, sand_mask

Rescale = Literal["inverse-sparsity", "none"]


class SandMask(FactorMaskHook):
    r"""SAND-mask (smoothed AND), on the gradients of A and of B.

    .. math::
        M = \max\!\left(0, \tanh\!\left(\frac{k}{\sigma^2}
            \left(\left|\tfrac1D \textstyle\sum_n \mathrm{sign}(g_n)\right| - \tau\right)\right)\right), \qquad
        g = \frac{M \odot \bar g}{10^{-10} + \mathrm{mean}\,M}

    with :math:`\sigma^2` the unbiased variance (1/(D-1)) over domains.

    Reference: `SAND-mask <https://arxiv.org/abs/2106.02266>`_; the authors' code is DomainBed's ``SANDMask``.

    Differs from the paper: the authors' code divides by the mean mask of each tensor (``inverse-sparsity``), the formula
    for the mask alone does not (``none``). Its default tau = 1 gives a mask of zeros, since no agreement exceeds 1; the
    defaults here are the middle of DomainBed's sweep, tau ~ U(0, 1) and log10 k ~ U(-3, 5). Where :math:`\sigma^2 = 0`
    the mask is the formula's limit, where the code replaces a NaN by 1e-17.

    With D domains and no zeros the agreement is 1, 1 - 2/D, 1 - 4/D, ...: at 0.5 only what all agree on passes for D = 2,
    3 or 4, and from D = 5 on one dissenter may. :math:`k / \sigma^2` has the units of an inverse squared gradient:
    with gradients much smaller than 1 the mask is a step, and SAND is AND. ``relative`` does without units, but equal
    signs alone make :math:`\bar g^2 \ge \sigma^2 / D`: a step again at the published k = 10, smooth at 1.

    Statistics: see :class:`~igascale.hooks._masking.FactorMaskHook`. With rescaling ``relative_change`` may exceed 1.

    Args:
        threshold: the paper's tau, in [0, 1]. At 1 nothing passes.
        sharpness: the paper's k, > 0.
        rescale: ``inverse-sparsity``: divide by the mean mask of each tensor, as the authors' code does; or ``none``.
        variance_norm: ``none``, as published, or ``relative``: the variance is divided by the squared mean gradient.
        second_moment: ``adam`` (published), or ``max``: Adam's v follows the larger of this and the plain mean gradient.
        shuffled: control: the mask's values in random places of the same tensor.

    Raises:
        ValueError: for a value that is not allowed, naming the option.

    Example:
        >>> import torch
        >>> from igascale.hooks import DomainFactorGrads, HookContext
        >>> a = torch.tensor([[[1.0, 1.0]], [[3.0, -1.0]]])  # variance 2 and 2
        >>> grads = {"q_proj": DomainFactorGrads(a, torch.zeros(2, 1, 1))}
        >>> SandMask(sharpness=2.0, rescale="none").combine(grads, {}, HookContext())["q_proj"].a  # 2 tanh(0.5)
        tensor([[0.9242, 0.0000]])
    """

    strengthen = "Raise threshold or lower sharpness."
    weaken = "Lower threshold or raise sharpness"

    def __init__(
        self,
        *,
        threshold: float = 0.5,
        sharpness: float = 10.0,
        rescale: Rescale = "inverse-sparsity",
        variance_norm: SandNorm = "none",
        second_moment: SecondMoment = "adam",
        shuffled: bool = False,
    ) -> None:
        super().__init__(second_moment, shuffled)
        self.threshold = number("threshold", threshold, most=1.0)
        self.sharpness = number("sharpness", sharpness, positive=True)
        self.rescale: Rescale = one_of("rescale", rescale, Rescale)
        self.variance_norm: SandNorm = one_of("variance_norm", variance_norm, SandNorm)

    def mask(self, x_DXX: Tensor) -> Tensor:
        """See :func:`igascale.linalg.masks.sand_mask`."""
        return sand_mask(x_DXX, self.threshold, self.sharpness, self.variance_norm)

    def gain(self, mask_XX: Tensor) -> Tensor | float:
        """One over the mean mask."""
        return inverse_sparsity(mask_XX) if self.rescale == "inverse-sparsity" else 1.0

    def warnings(self) -> list[str]:
        """Also: a threshold that kills the mask, and a variance that makes it a step."""
        told = super().warnings()
        if self.threshold >= 1:
            told.insert(
                0,
                "threshold=1: THE MASK IS ZERO EVERYWHERE and nothing is trained, since no agreement of signs exceeds 1 "
                "(DomainBed's default is this one). Use a threshold below 1: 0.5.",
            )
        if self.variance_norm == "none":
            told.append(
                "variance_norm='none': k/variance has the units of an inverse squared gradient. With elements of 1e-4 no "
                "mask value lies between .01 and .99 at k=10: an AND-mask. Use 'relative' with sharpness 1."
            )
        elif self.sharpness > 3:
            told.append(
                f"sharpness={self.sharpness:g} with variance_norm='relative': nearly an AND-mask; of Gaussian gradients 1% of "
                "what passes lies between .01 and .99 at 10, 80% at 1. Use 1."
            )
        return told
