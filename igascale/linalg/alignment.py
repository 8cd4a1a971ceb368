# ruff: noqa: E741, N815 -- O and I are shape letters; the capitals at the end of a name are its shape
r"""The stages of Invariant Gradient Alignment on a batch of adapters: reconstruct, mask, project, extract.

Shape legend: N adapters of one shape, D domains, R LoRA rank, I in-features, O out-features, Q = 2R.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from igascale.linalg import extraction as extract
from igascale.linalg.contrasts import Contrasts, build_contrasts
from igascale.linalg.fused import FusedMaskedMean
from igascale.linalg.gram import variance_over_domains
from igascale.linalg.masks import VarianceNorm
from igascale.linalg.projection import MatrixProducts, TilePasses, sketch_width, streaming_svd
from igascale.linalg.tile_masks import ExpMask, ShuffledMask, SignMask
from igascale.linalg.tiles import MaskedMean, TileMask, TilePlan, Workspace

Mask = Literal["exp", "and", "sand"]
Projection = Literal["none", "svd"]
Rank = int | Literal["R", "2R"]
Extraction = Literal["paper", "aligned", "pullback", "anchored"]


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


@dataclass(frozen=True)
class FactorBatch:
    """Adapters of one shape.

    Attributes:
        a_NDRI: gradients with respect to A.
        b_NDOR: gradients with respect to B.
        A_NRI: the factors.
        B_NOR: the factors.
        noise_NDD: estimated covariances of the reconstructions' sampling errors, float64; NaN where not known.
    """

    a_NDRI: Tensor
    b_NDOR: Tensor
    A_NRI: Tensor
    B_NOR: Tensor
    noise_NDD: Tensor


@dataclass(frozen=True)
class Aligned:
    """Gradients for the factors, the plain means, and figures of each adapter (``[N]``, float64)."""

    a_NRI: Tensor
    b_NOR: Tensor
    mean_a_NRI: Tensor
    mean_b_NOR: Tensor
    stats_N: dict[str, Tensor]


def align(
    batch: FactorBatch,
    choices: Choices,
    sketch: torch.Generator,
    shuffles: Sequence[torch.Generator] | None,
    plan: TilePlan | None,
    workspace: Workspace | None,
) -> Aligned:
    """Run the stages.

    Args:
        batch: the adapters.
        choices: what each stage does.
        sketch: draws the projection's test matrix, common to the batch.
        shuffles: one generator per adapter, to put the mask's values in random places; ``None``: where they belong.
        plan: from :func:`igascale.linalg.tiles.plan_tiles`; ``None``: the fused kernel, which has no tiles.
        workspace: for the working buffers of the tiles.

    Raises:
        igascale.linalg.fused.KernelFailure: when the fused kernel does not work here.
    """
    contrasts = build_contrasts(batch.a_NDRI, batch.b_NDOR, batch.A_NRI, batch.B_NOR)
    noise_share_N = _noise_share(contrasts, batch.noise_NDD)
    mask = _build_mask(batch, contrasts, choices, noise_share_N)
    if shuffles is not None and plan is not None:
        mask = ShuffledMask(contrasts, mask, shuffles, plan.rows)
    masked, products, change = _masked_mean(contrasts, mask, plan, workspace)
    factors, tail_energy_N = _project_and_extract(masked, products, change, choices, sketch)
    departure = extract.departure(contrasts, factors)
    mean_sq_N = contrasts.mean_sq_N
    stats_N = {
        "mean_mask": masked.mask_mean_N,
        "relative_change": (masked.change_sq_N / torch.where(mean_sq_N > 0, mean_sq_N, 1.0)).sqrt(),
        "gir": contrasts.residual_N,
        "noise_share": noise_share_N,
        "tail_energy": tail_energy_N,
        "alpha_ratio": departure.alpha_ratio,
        "beta_ratio": departure.beta_ratio,
        "grad_cosine": departure.cosine,
    }
    if choices.mask == "exp" and choices.variance_norm == "none":
        stats_N["mask_bound"] = torch.exp(-choices.tau * contrasts.largest_sq_N * contrasts.scale_N.double() ** 2)
    # A NaN was computed as zeros, so that no decomposition fails; it must reach the engine all the same.
    a, b = (torch.where(contrasts.finite_N[:, None, None], x, math.nan) for x in factors)
    stats_N = {name: torch.where(contrasts.finite_N, x, math.nan) for name, x in stats_N.items()}
    return Aligned(a, b, contrasts.mean_a_NRI, contrasts.mean_b_NOR, stats_N)


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
    left_NDOQ = torch.cat([batch.b_NDOR, batch.B_NOR[:, None].expand(-1, D, -1, -1)], 3)
    right_NDQI = torch.cat([batch.A_NRI[:, None].expand(-1, D, -1, -1), batch.a_NDRI], 2)
    norm = choices.variance_norm
    return SignMask(contrasts, left_NDOQ, right_NDQI, choices.mask, choices.threshold, choices.sharpness, norm)


def _masked_mean(
    contrasts: Contrasts, mask: TileMask, plan: TilePlan | None, workspace: Workspace | None
) -> tuple[MaskedMean | FusedMaskedMean, MatrixProducts, Callable[[], extract.TangentProducts]]:
    """The masked mean with its statistics, its products, and the products of the change: from tiles or fused."""
    if plan is None:
        if not isinstance(mask, ExpMask):
            raise TypeError(f"the fused kernel takes an ExpMask, not a {type(mask).__name__}")
        fused = FusedMaskedMean(contrasts, mask)
        return fused, fused, fused.change_products
    masked = MaskedMean(contrasts, mask, plan.rows, workspace)
    cache_NOI = workspace.take(masked.shape, masked.dtype) if plan.cached and workspace else None
    return masked, TilePasses(masked, cache_NOI), partial(extract.change_products, masked)


def _project_and_extract(
    masked: MaskedMean | FusedMaskedMean,
    products: MatrixProducts,
    change_products: Callable[[], extract.TangentProducts],
    choices: Choices,
    sketch: torch.Generator,
) -> tuple[extract.Factors, Tensor]:
    """Gradients of the factors, and the share of ``||g||^2`` that the projection drops."""
    contrasts = masked.contrasts
    _, O, I = masked.shape
    if choices.projection == "none":
        change = change_products()
        tail_energy_N = torch.zeros_like(contrasts.mean_sq_N)
    else:
        rank = choices.kept(contrasts.mean_a_NRI.shape[1])
        width = sketch_width(rank, choices.oversampling, (O, I))
        sketch_IP = torch.randn(I, width, generator=sketch, dtype=masked.dtype)
        projected = streaming_svd(products, rank, sketch_IP, choices.power_iters)
        tail_energy_N = projected.tail_energy(masked.masked_sq_N)
        if choices.extraction in ("paper", "aligned"):
            split = extract.paper if choices.extraction == "paper" else extract.aligned
            return split(contrasts, projected), tail_energy_N
        change = extract.low_rank_products(contrasts, projected)
    if choices.extraction == "anchored":
        return extract.anchored(contrasts, change, choices.rho), tail_energy_N
    return extract.pullback(contrasts, change), tail_energy_N
