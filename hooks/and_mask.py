"""AND-mask: keep what the domains' gradients agree on in sign."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from igascale.hooks._masking import FactorMaskHook, SecondMoment, inverse_sparsity
from igascale.hooks._options import number, one_of
from igascale.linalg.masks import and_mask

Rescale = Literal["inverse-sparsity", "none"]


class AndMask(FactorMaskHook):
    r"""AND-mask (invariant learning consistency), on the gradients of A and of B.

    .. math::
        M = 1\!\left[\,\left|\tfrac1D \textstyle\sum_n \mathrm{sign}(g_n)\right| \ge \tau\right], \qquad
        g = \frac{M \odot \bar g}{10^{-10} + \mathrm{mean}\,M}

    Reference: `Learning explanations that are hard to vary <https://arxiv.org/abs/2009.00329>`_ and its authors' code,
    where the rescaling is an option; DomainBed's ``ANDMask`` is the same rule with the rescaling always on.

    Differs from the paper: each factor of an adapter is a parameter tensor of its own there and here; the paper's
    geometric mean is not offered. The default is the published rule with plain Adam, unlike the other masks here.

    ``threshold`` 0 without rescaling is the plain mean. Few values mean anything: with D domains and no zeros,
    :math:`|\sum \mathrm{sign}|` is D, D-2, D-4, ..., so that D = 2 knows "all agree" only, D = 3 also "anything" (up to
    1/3), D = 4 also "three against one" (up to 1/2). A zero gradient is half a vote either way.

    Statistics: see :class:`~igascale.hooks._masking.FactorMaskHook`. With rescaling ``relative_change`` may exceed 1: what
    is kept is scaled up.

    Args:
        threshold: the paper's tau, in [0, 1].
        rescale: ``inverse-sparsity``: divide by the share of each tensor that is kept, as published; or ``none``.
        second_moment: ``adam`` (published), or ``max``: Adam's v follows the larger of this and the plain mean gradient.
        shuffled: control: the mask's values in random places of the same tensor.

    Raises:
        ValueError: for a value that is not allowed, naming the option.

    Example:
        >>> import torch
        >>> from igascale.hooks import DomainFactorGrads, HookContext
        >>> a = torch.tensor([[[1.0, 1.0]], [[3.0, -1.0]]])
        >>> grads = {"q_proj": DomainFactorGrads(a, torch.zeros(2, 1, 1))}
        >>> AndMask(rescale="none").combine(grads, {}, HookContext())["q_proj"].a
        tensor([[2., 0.]])
    """

    strengthen = "Raise threshold."
    weaken = "Lower threshold"

    def __init__(
        self,
        *,
        threshold: float = 1.0,
        rescale: Rescale = "inverse-sparsity",
        second_moment: SecondMoment = "adam",
        shuffled: bool = False,
    ) -> None:
        super().__init__(second_moment, shuffled)
        self.threshold = number("threshold", threshold, most=1.0)
        self.rescale: Rescale = one_of("rescale", rescale, Rescale)
        self.off = self.threshold == 0

    def mask(self, x_DXX: Tensor) -> Tensor:
        """See :func:`igascale.linalg.masks.and_mask`."""
        return and_mask(x_DXX, self.threshold)

    def gain(self, mask_XX: Tensor) -> Tensor | float:
        """One over the share that is kept."""
        return inverse_sparsity(mask_XX) if self.rescale == "inverse-sparsity" else 1.0
