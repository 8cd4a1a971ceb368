# ruff: noqa: E741, N815 -- O and I are shape letters; the capitals at the end of a name are its shape
r"""The stages of Invariant Gradient Alignment on a batch of adapters: reconstruct, mask, project, extract.

Shape legend: N adapters of one shape, D domains, R LoRA rank, I in-features, O out-features, Q = 2R.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from igascale.linalg import extraction as extract
from igascale.linalg.contrasts import Contrasts, build_contrasts, working_dtype
from igascale.linalg.fused import FusedMaskedMean
from igascale.linalg.gram import variance_over_domains
from igascale.linalg.masks import VarianceNorm
from igascale.linalg.projection import LowRank, MatrixProducts, TilePasses, streaming_svd
from igascale.linalg.tile_masks import ExpMask, ShuffledMask, SignMask
from igascale.linalg.tiles import MaskedMean, TileMask, TilePlan, Workspace

Mask = Literal["exp", "and", "sand"]
Projection = Literal["none", "svd"]
Rank = int | Literal["R", "2R"]
Extraction = Literal["paper", "aligned", "pullback", "anchored"]

#: Height of the tiles in which a mask that is to be shuffled is computed.
SHUFFLE_ROWS = 32


@dataclass(frozen=True)
class Choices:
    """One choice for each stage; explained where a user makes it, in :mod:`igascale.hooks.iga`."""

    mask: Mask
    variance_norm: VarianceNorm
    tau: float
    threshold: float
    sharpness: float
    remove_noise: bool
    projection: Projection
    rank: Rank
    oversampling: int
    power_iters: int
    extraction: Extraction
    rho: float

    @property
    def scratch(self) -> int:
        """Working buffers that the mask takes (:class:`igascale.linalg.tiles.TileMask`)."""
        return 2 if self.mask == "sand" else 1

    def kept(self, R: int) -> int:
        """Singular triplets that the projection keeps, for adapters of rank R."""
        return self.rank if isinstance(self.rank, int) else R * {"R": 1, "2R": 2}[self.rank]

    def needs_no_matrix(self, R: int) -> bool:
        """Whether nothing is masked or cut away: then the aligned gradient is the mean, of rank 2R, exactly."""
        unmasked = self.tau == 0 if self.mask == "exp" else self.mask == "and" and self.threshold == 0
        whole = self.projection == "none" or self.kept(R) >= 2 * R
        return unmasked and whole and self.extraction in ("anchored", "pullback")


@dataclass(frozen=True)
class FactorBatch:
    """Adapters of one shape.

    Attributes:
        a_NDRI: gradients with respect to A.
        b_NDOR: gradients with respect to B.
        A_NRI: the factors.
        B_NOR: the factors.
        noise_NDD: estimated covariances of the reconstructions' sampling errors, float64; NaN where not known.
        previous: right singular vectors of the last step, ``[K, I]`` or ``None``, of each adapter, to start from; ``None`` to
            start from a random test matrix.
    """

    a_NDRI: Tensor
    b_NDOR: Tensor
    A_NRI: Tensor
    B_NOR: Tensor
    noise_NDD: Tensor
    previous: Sequence[Tensor | None] | None = None


@dataclass(frozen=True)
class Aligned:
    """Gradients for the factors, the plain means, figures of each adapter (``[N]``, float64), the projection, the mask's values."""

    a_NRI: Tensor
    b_NOR: Tensor
    mean_a_NRI: Tensor
    mean_b_NOR: Tensor
    stats_N: dict[str, Tensor]
    projected: LowRank | None
    histogram_NK: Tensor | None = None


def align(
    batch: FactorBatch,
    choices: Choices,
    sketch_IP: Tensor | None,
    shuffles: Sequence[torch.Generator] | None,
    plan: TilePlan,
    workspace: Workspace,
    wants_histogram: bool = False,
) -> Aligned:
    """Run the stages.

    Args:
        batch: the adapters.
        choices: what each stage does.
        sketch_IP: the projection's Gaussian test matrix, common to the batch; ``None`` without a projection.
        shuffles: one generator per adapter, to put the mask's values in random places; ``None``: where they belong.
        plan: from :func:`igascale.linalg.tiles.plan_tiles` or :func:`igascale.linalg.tiles.plan_fused`.
        workspace: for the working buffers of the tiles.
        wants_histogram: also count the mask's values (:mod:`igascale.linalg.histogram`): all that pass as tiles, or a sample of
            rows where the fused kernel keeps them to itself.

    Raises:
        igascale.linalg.fused.KernelFailure: when the fused kernel does not work here.
    """
    contrasts = build_contrasts(batch.a_NDRI, batch.b_NDOR, batch.A_NRI, batch.B_NOR)
    noise_share_N = _noise_share(contrasts, batch.noise_NDD)
    mask = _build_mask(batch, contrasts, choices, noise_share_N)
    masked, products = _masked_mean(contrasts, mask, shuffles, plan, workspace)
    masked.wants_histogram = wants_histogram
    R, projected = contrasts.mean_a_NRI.shape[1], None
    if choices.needs_no_matrix(R):
        assert isinstance(masked, MaskedMean)  # there is nothing to do for a kernel
        masked.leave_untouched()
    elif choices.projection == "svd":
        assert sketch_IP is not None
        test_XIP = _start_from(batch.previous, sketch_IP, masked.shape)
        projected = streaming_svd(products, choices.kept(R), test_XIP, choices.power_iters)
    factors = _extract(masked, choices, projected)
    departure = extract.departure(contrasts, factors)
    mean_sq_N = contrasts.mean_sq_N
    stats_N = {
        "mean_mask": masked.mask_mean_N,
        "relative_change": (masked.change_sq_N / torch.where(mean_sq_N > 0, mean_sq_N, 1.0)).sqrt(),
        "gir": contrasts.residual_N,
        "noise_share": noise_share_N,
        "tail_energy": (
            projected.tail_energy(masked.masked_sq_N) if projected else torch.zeros_like(contrasts.mean_sq_N)
        ),
        "alpha_ratio": departure.alpha_ratio,
        "beta_ratio": departure.beta_ratio,
        "grad_cosine": departure.cosine,
    }
    if choices.mask == "exp" and choices.variance_norm == "none":
        stats_N["mask_bound"] = torch.exp(-choices.tau * contrasts.largest_sq_N * contrasts.scale_N.double() ** 2)
    # A NaN was computed as zeros, so that no decomposition fails; it must reach the engine all the same.
    a, b = (torch.where(contrasts.finite_N[:, None, None], x, math.nan) for x in factors)
    stats_N = {name: torch.where(contrasts.finite_N, x, math.nan) for name, x in stats_N.items()}
    return Aligned(a, b, contrasts.mean_a_NRI, contrasts.mean_b_NOR, stats_N, projected, masked.histogram_NK)


def _noise_share(contrasts: Contrasts, noise_NDD: Tensor) -> Tensor:
    """Share of ``sum V`` that is sampling noise."""
    variance_N = contrasts.variance_sum_N * contrasts.scale_N.double() ** 2
    noise_N = variance_over_domains(noise_NDD).clamp_min(0).to(variance_N)
    return noise_N / torch.where(variance_N > 0, variance_N, torch.nan)


def _build_mask(batch: FactorBatch, contrasts: Contrasts, choices: Choices, noise_share_N: Tensor) -> TileMask:
    if choices.mask == "exp":
        keep_N = (1 - noise_share_N).nan_to_num(1.0).clamp(0, 1) if choices.remove_noise else None
        return ExpMask(contrasts, choices.tau, choices.variance_norm, keep_N)
    D = batch.a_NDRI.shape[1]
    dtype, norm = contrasts.left_NDOQ.dtype, choices.variance_norm
    left_NDOQ = torch.cat([x.to(dtype) for x in (batch.b_NDOR, batch.B_NOR[:, None].expand(-1, D, -1, -1))], 3)
    right_NDQI = torch.cat([x.to(dtype) for x in (batch.A_NRI[:, None].expand(-1, D, -1, -1), batch.a_NDRI)], 2)
    return SignMask(contrasts, left_NDOQ, right_NDQI, choices.mask, choices.threshold, choices.sharpness, norm)


def _masked_mean(
    contrasts: Contrasts,
    mask: TileMask,
    shuffles: Sequence[torch.Generator] | None,
    plan: TilePlan,
    workspace: Workspace,
) -> tuple[MaskedMean | FusedMaskedMean, MatrixProducts]:
    """The masked mean, and its products: by the fused kernel, or from tiles."""
    if plan.fused:
        assert isinstance(mask, ExpMask) and shuffles is None
        fused = FusedMaskedMean(contrasts, mask)
        return fused, fused
    if shuffles is not None:
        mask = ShuffledMask(contrasts, mask, shuffles, min(plan.rows, SHUFFLE_ROWS))
    masked = MaskedMean(contrasts, mask, plan.rows, workspace)
    cache_NOI = workspace.take(masked.shape, masked.dtype) if plan.cached else None
    return masked, TilePasses(masked, cache_NOI)


def draw_sketch(generator: torch.Generator, width: int, a_XRI: Tensor, b_XOR: Tensor) -> Tensor:
    """A Gaussian test matrix ``[I, width]`` for adapters with gradients like these, the same on every device."""
    dtype = working_dtype(a_XRI, b_XOR)
    return torch.randn(a_XRI.shape[-1], width, generator=generator, dtype=dtype).to(a_XRI.device)


def _start_from(previous: Sequence[Tensor | None] | None, sketch_IP: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """The test matrix with the right singular vectors of the last step in its first columns, ``[N, I, P]``."""
    if previous is None or all(right_KI is None for right_KI in previous):
        return sketch_IP
    N, _, I = shape
    test_NIP = sketch_IP.expand(N, -1, -1).clone()
    for test_IP, right_KI in zip(test_NIP, previous):
        if right_KI is not None:
            known_IK = right_KI[: test_IP.shape[1]].mT.to(test_IP)
            there_1K = known_IK.square().sum(0, keepdim=True) > 0.5  # else the matrix had a smaller rank
            start_IK = test_IP[:, : known_IK.shape[1]]
            start_IK.copy_(torch.where(there_1K, I**0.5 * known_IK, start_IK))  # as long as the random columns
    return test_NIP


def _extract(masked: MaskedMean | FusedMaskedMean, choices: Choices, projected: LowRank | None) -> extract.Factors:
    """Gradients of the factors."""
    contrasts = masked.contrasts
    if projected and choices.extraction in ("paper", "aligned"):
        return (extract.paper if choices.extraction == "paper" else extract.aligned)(contrasts, projected)
    if projected:
        change = extract.low_rank_products(contrasts, projected)
    elif choices.needs_no_matrix(contrasts.mean_a_NRI.shape[1]):
        zeros_NOR, zeros_NRI = torch.zeros_like(contrasts.mean_b_NOR), torch.zeros_like(contrasts.mean_a_NRI)
        change = extract.TangentProducts(zeros_NOR, zeros_NRI)
    else:
        change = extract.change_products(masked) if isinstance(masked, MaskedMean) else masked.change_products()
    if choices.extraction == "anchored":
        return extract.anchored(contrasts, change, choices.rho)
    return extract.pullback(contrasts, change)
