"""What the tensor cores' number formats do to the result, emulated on a CPU; errors against float64.

    python -m benchmarks.precision

The same gradients are masked, projected and split into factor gradients (``extraction: anchored``), once in float64 and once
with every product of the fused kernel (contrasts, sketch, power iteration) formed as the format prescribes:

- ``tf32``: operands cut to 10 bits of mantissa, as the hardware does to a float32 that was not rounded before;
- ``tf32 rounded``: the same, rounded to nearest;
- ``bf16x3``, ``tf32x3``: an operand is the sum of two short numbers; three of the four products of their parts are added;
- ``float32``: PyTorch's own path.

Products of such numbers are exact in float32, and here they are added up in float32. Not emulated: the order of the tensor
cores' additions and the few low bits that they drop in aligning the terms, and the approximations of the GPU's exponential
and division (2 units in the last place).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import save
from igascale.linalg import extraction
from igascale.linalg.contrasts import Contrasts, build_contrasts
from igascale.linalg.masks import VarianceNorm
from igascale.linalg.projection import MatrixProducts, TilePasses, sketch_width, streaming_svd
from igascale.linalg.tile_masks import ExpMask
from igascale.linalg.tiles import MaskedMean

TAU, RHO, OVERSAMPLING, POWER_ITERS = 0.5, 0.1, 10, 1
NORMS: tuple[VarianceNorm, ...] = ("none", "mean", "relative", "smoothed", "fraction")
Dot = Callable[[Tensor, Tensor], Tensor]


def truncated(x: Tensor) -> Tensor:
    """Float32 with the lower 13 bits of its mantissa cleared."""
    return (x.contiguous().view(torch.int32) & -8192).view(torch.float32)


def rounded(x: Tensor) -> Tensor:
    """Nearest number with 10 bits of mantissa; a tie goes away from zero."""
    return ((x.contiguous().view(torch.int32) + 4096) & -8192).view(torch.float32)


def bf16(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def split_dot(head: Callable[[Tensor], Tensor], rest: Callable[[Tensor], Tensor]) -> Dot:
    """``a b`` from ``a = head + rest``: all but the product of both rests, the small ones first."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        a_head, b_head = head(a), head(b)
        a_rest, b_rest = rest(a - a_head), rest(b - b_head)
        return (a_rest @ b_head + a_head @ b_rest) + a_head @ b_head

    return dot


FORMATS: dict[str, Dot] = {
    "tf32": lambda a, b: truncated(a) @ truncated(b),
    "tf32 rounded": lambda a, b: rounded(a) @ rounded(b),
    "bf16x3": split_dot(bf16, bf16),
    "tf32x3": split_dot(rounded, truncated),
    "float32": torch.matmul,
}


class EmulatedProducts:
    """:class:`MatrixProducts` of the masked mean of one adapter, every product formed by ``dot``."""

    def __init__(self, contrasts: Contrasts, mask: ExpMask, dot: Dot) -> None:
        self.dot, self.contrasts = dot, contrasts
        self.dtype, self.device = contrasts.left_NDOQ.dtype, contrasts.left_NDOQ.device
        c_NDOI = dot(contrasts.left_NDOQ, contrasts.right_NDQI)
        mean, V = c_NDOI[:, 0], c_NDOI[:, 1:].square().sum(1)
        if mask.norm in ("relative", "smoothed", "fraction"):
            V = V / (mask.eps_N11 + mean.square() + (mask.keep_N11 * V if mask.norm == "fraction" else 0))
        self.change_NOI = mean * torch.expm1(mask.factor_N11 * V)
        self.g_NOI = mean + self.change_NOI
        self.shape = tuple(self.g_NOI.shape)

    def times(self, X_NIP: Tensor) -> Tensor:
        return self.dot(self.g_NOI, X_NIP)

    def transposed_times(self, Q_NOP: Tensor) -> Tensor:
        return self.dot(self.g_NOI.mT, Q_NOP)

    def change_products(self) -> extraction.TangentProducts:
        c, scale = self.contrasts, self.contrasts.scale_N[:, None, None]
        EAt, EtB = self.dot(self.change_NOI, c.A_NRI.mT), self.dot(self.change_NOI.mT, c.B_NOR)
        return extraction.TangentProducts(EAt * scale, EtB.mT * scale)


@dataclass
class Outcome:
    """What is compared; matrices in the caller's units."""

    masked_gradient: Tensor
    change: Tensor
    projection: Tensor
    factors_svd: Tensor
    factors_unprojected: Tensor


def outcome(inputs: tuple[Tensor, ...], norm: VarianceNorm, dot: Dot, sketch_IP: Tensor, kept: int) -> Outcome:
    contrasts = build_contrasts(*(x[None] for x in inputs))
    scale = contrasts.scale_N.double()[:, None, None]
    # The raw variance has the square of the gradient's scale: its tau is set for much the same change.
    units = contrasts.variance_mean_N * contrasts.scale_N.double() ** 2
    mask = ExpMask(contrasts, TAU / float(units[0]) if norm == "none" else TAU, norm)
    products = EmulatedProducts(contrasts, mask, dot)
    projected = streaming_svd(products, kept, sketch_IP, POWER_ITERS)
    low_rank = projected.U_NOK.double() * projected.S_NK.double()[:, None] @ projected.Vh_NKI.double()
    return Outcome(
        products.g_NOI.double() * scale,
        products.change_NOI.double() * scale,
        low_rank * scale,
        flat(extraction.anchored(contrasts, extraction.low_rank_products(contrasts, projected), RHO)),
        flat(extraction.anchored(contrasts, products.change_products(), RHO)),
    )


def flat(factors: extraction.Factors) -> Tensor:
    return torch.cat([factors.a.flatten(), factors.b.flatten()]).double()


def make_inputs(size: int, rank: int, domains: int) -> tuple[Tensor, ...]:
    """Factors and the factor gradients of dense per-domain gradients with a common part, float32; B a tenth of A."""
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    A, B = normal(rank, size) / size**0.5, 0.1 * normal(size, rank) / size**0.5
    common = normal(size, size)
    G = [common + 0.7 * normal(size, size) for _ in range(domains)]
    return torch.stack([B.T @ x for x in G]), torch.stack([x @ A.T for x in G]), A, B


def check_emulation(inputs: tuple[Tensor, ...], sketch_IP: Tensor) -> float:
    """The float64 products here against the library's tiles: the largest relative difference."""
    contrasts = build_contrasts(*(x[None].double() for x in inputs))
    mask = ExpMask(contrasts, TAU, "relative")
    here: MatrixProducts = EmulatedProducts(contrasts, mask, torch.matmul)
    tiles = TilePasses(MaskedMean(contrasts, mask, 128))
    Y, expected = here.times(sketch_IP.double()), tiles.times(sketch_IP.double())
    return float((Y - expected).norm() / expected.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="O and I of the adapter")
    parser.add_argument("--rank", type=int, default=16, help="LoRA rank R; the projection keeps 2R, as by default")
    parser.add_argument("--domains", type=int, default=4)
    args = parser.parse_args()

    inputs, kept = make_inputs(args.size, args.rank, args.domains), 2 * args.rank
    width = sketch_width(kept, OVERSAMPLING, (args.size, args.size))
    sketch_IP = torch.randn(args.size, width, generator=torch.Generator().manual_seed(1))
    agreement = check_emulation(inputs, sketch_IP)
    if agreement > 1e-12:
        raise SystemExit(
            f"the emulation differs from the library by {agreement:.1g} in float64: its figures mean nothing"
        )

    print(f"{args.size}x{args.size}, R={args.rank}, D={args.domains}, tau={TAU}; errors relative to float64's result")
    errors: dict[str, dict[str, dict[str, Any]]] = {}
    for norm in NORMS:
        exact = outcome(tuple(x.double() for x in inputs), norm, torch.matmul, sketch_IP.double(), kept)
        errors[norm] = {}
        for name, dot in FORMATS.items():
            found = outcome(inputs, norm, dot, sketch_IP, kept)
            errors[norm][name] = {
                key: float((value - vars(exact)[key]).norm() / vars(exact)[key].norm())
                for key, value in vars(found).items()
            }
            shown = "  ".join(f"{key} {value:.1e}" for key, value in errors[norm][name].items())
            print(f"{norm:>9} {name:>12}: {shown}")
    print(
        save("precision", "cpu", {"options": vars(args) | {"tau": TAU, "power_iters": POWER_ITERS}, "errors": errors})
    )


if __name__ == "__main__":
    main()
