# ruff: noqa: E741 -- O and I are the shape letters of the project
r"""The masked mean gradient as products formed by one GPU kernel, with no ``[O, I]`` matrix in memory.

Shape legend: N adapters of one shape, D domains, R LoRA rank, O out-features, I in-features, Q = 2R, P columns of a thin
matrix, T rows.

The kernel is in :mod:`igascale.linalg.fused_kernels`, with an account of its work. Triton is optional: it is imported at the
first use, and where it cannot be used :func:`fused_available` says why.
"""

from __future__ import annotations

import importlib
import os
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from igascale.linalg.contrasts import Contrasts
from igascale.linalg.extraction import TangentProducts
from igascale.linalg.histogram import sample
from igascale.linalg.tile_masks import ExpMask

#: Which code forms the products; explained where a user chooses, in :mod:`igascale.hooks.iga`.
Kernel = Literal["auto", "torch", "triton"]
#: How products of float32 are formed. Error of the projected factor gradients, emulated (benchmarks/precision.py): 1e-3, and
#: 1e-6 for the last two, as PyTorch's float32. ``ieee`` does without the tensor cores. All accumulate in float32. Triton's
#: ``bf16x3`` is not here: as Triton 3.6 compiles it for an H200, products of g^T with 16 columns are wrong or end in an illegal memory access.
Precision = Literal["tf32", "tf32x3", "ieee"]

_OLDEST_GPU = (8, 0)  # the first compute capability with TF32
_CHECKED_ROWS = 64
_CHECK_TOLERANCE = 0.01  # a wrong index or sign is off by 1, a mask left out by some .1, TF32 by .001

_failure = ""  # why the kernel is not to be used again in this process
_checked: set[tuple[Any, ...]] = set()  # compiled variants whose first rows agreed with PyTorch's


class KernelFailure(RuntimeError):
    """The kernel did not compile, could not be launched, or gave a wrong result."""


def fused_available(device: torch.device, dtype: torch.dtype, mask: str) -> str:
    """Why the kernel cannot serve; empty if it can.

    Args:
        device: of the factors.
        dtype: of the factors.
        mask: its kind (``exp``, ``and``, ``sand``), or ``shuffled``.
    """
    if mask != "exp":
        return f"it knows the mask 'exp' only, not {mask!r}"
    if dtype != torch.float32:
        return f"it computes in float32, and the factors are {str(dtype).removeprefix('torch.')}"
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" and not interpreted:
        return f"it needs a CUDA GPU, and the factors are on {device.type!r}"
    if _failure:
        return _failure
    try:
        kernels = _kernels()
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    if kernels.INTERPRETED:
        return "" if device.type == "cpu" else "TRITON_INTERPRET=1 runs it on a CPU"
    if device.type != "cuda":
        return "Triton was imported before TRITON_INTERPRET=1 was set"
    if torch.version.cuda is None:
        return "it was written for NVIDIA GPUs"
    if not torch.cuda.is_available():
        return "there is no CUDA GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST_GPU:
        return f"it needs compute capability 8.0, and the GPU has {capability[0]}.{capability[1]}"
    return ""


def give_up(failure: KernelFailure) -> None:
    """Do without the kernel for the rest of the process, and say so in one line, once."""
    global _failure
    if not _failure:
        _failure = " ".join(str(failure).split())
        warnings.warn(f"igascale: {_failure}; PyTorch takes over for the rest of this run", stacklevel=2)


@dataclass(frozen=True)
class Blocks:
    """Sizes of the kernel's blocks, powers of two of at least 16, and how it is compiled.

    Chosen by shape and not by timing: a timing would give other bits on another day.
    """

    BO: int
    BI: int
    BK: int
    BP: int
    warps: int
    stages: int

    @classmethod
    def by_shape(cls, K: int, P: int) -> Blocks:
        """Sizes for K inner columns and P columns of the thin matrix.

        A program's threads hold the tiles of the mean, the variance and one contrast, 3 BO BI floats, the result, BO BP, and
        the parts of a product that is split into three. With ``tf32x3`` that is all 255 registers of a thread on an H200, and
        no room to load ahead: one stage takes 0.67 of the time of two, to the same bits (benchmarks/blocks.py). Where a GPU
        has less, the launch tries :meth:`smaller`.

        P beyond 256 columns takes several blocks, and each generates the tiles again: twice at R = 128, three times at 256.
        """
        BP = min(256, _power_of_two(P))
        BO, BI = (128, 64) if BP <= 64 else (128, 32) if BP <= 128 else (64, 32)
        return cls(BO, BI, min(32, _power_of_two(K)), BP, warps=8, stages=1)

    def unrolled(self, D: int, K: int) -> bool:
        """Whether to unroll the loop over contrasts: left then stays on the chip while the tiles pass, if it is small enough."""
        return K <= self.BK and D * self.BK <= 128

    def smaller(self) -> Blocks | None:
        """What to try where registers or shared memory do not suffice."""
        if self.stages > 1:
            return replace(self, stages=1)
        if self.BO > 64:
            return replace(self, BO=64, warps=4)
        return replace(self, BI=self.BI // 2) if self.BI > 16 else None


class FusedMaskedMean:
    r"""The masked mean gradient, in the scaled units of the contrasts, as :class:`igascale.linalg.projection.MatrixProducts`.

    .. math:: g = \bar g \odot M, \qquad M - 1 = \mathrm{expm1}(-\tau u)

    Reference: arXiv 2606.05025, Eq. 5-7; the same g as :class:`igascale.linalg.tiles.MaskedMean`.

    Args:
        contrasts: of the reconstructed gradients, float32.
        mask: M.
        precision: how products are formed.
        blocks: sizes of the kernel's blocks; by default chosen by shape.

    Attributes:
        blocks: sizes with which the last product ran: smaller ones than asked for where the GPU has no room for those.
        mask_mean_N: mean of the mask over the elements of each adapter, float64. This and the two below are gathered by the
            first product.
        change_sq_N: ``||g - gbar||_F^2``, scaled units, float64.
        masked_sq_N: ``||g||_F^2``, scaled units, float64.
        wants_histogram: set before the first product to have the values of a sample of the mask counted too, by PyTorch.
        histogram_NK: those counts (:func:`igascale.linalg.histogram.sample`), or ``None``.

    Raises:
        ValueError: for tensors that the kernel would misread.
        KernelFailure: by a product. Nothing of its result is to be used.
    """

    PRECISION: Precision = "tf32x3"

    def __init__(
        self, contrasts: Contrasts, mask: ExpMask, precision: Precision = PRECISION, blocks: Blocks | None = None
    ) -> None:
        left, right = contrasts.left_NDOQ.contiguous(), contrasts.right_NDQI.contiguous()
        if left.dtype != torch.float32:
            raise ValueError(f"the fused kernel takes float32, not {left.dtype}")
        self.contrasts, self.precision, self._asked = contrasts, precision, blocks
        self.blocks: Blocks | None = None
        self.shape = (left.shape[0], left.shape[2], right.shape[3])
        self.dtype, self.device = left.dtype, left.device
        self.mask_mean_N = self.change_sq_N = self.masked_sq_N = torch.zeros(0)
        self.wants_histogram = False
        self.histogram_NK: Tensor | None = None
        self._mask = mask
        self._divide = mask.norm in ("relative", "smoothed", "fraction")
        share_N11 = mask.keep_N11 if mask.norm == "fraction" else torch.zeros_like(mask.keep_N11)
        self._constants_3N = torch.stack([mask.factor_N11, mask.eps_N11, share_N11]).flatten(1).contiguous()
        # The contrasts of g, and those of g^T.
        self._factors = {False: (left, right), True: (right.mT, left.mT)}

    def times(self, X_NIP: Tensor) -> Tensor:
        """``g X``, ``[N, O, P]``."""
        return self._product(X_NIP, transposed=False)

    def transposed_times(self, Q_NOP: Tensor) -> Tensor:
        """``g^T Q``, ``[N, I, P]``."""
        return self._product(Q_NOP, transposed=True)

    def change_products(self) -> TangentProducts:
        """Products of the change ``E = g - gbar`` with the factors; see :func:`igascale.linalg.extraction.change_products`."""
        c = self.contrasts
        EAt_NOR = self._product(c.A_NRI.mT, transposed=False, change_only=True)
        BtE_NRI = self._product(c.B_NOR, transposed=True, change_only=True).mT
        scale_N11 = c.scale_N[:, None, None]
        return TangentProducts(EAt_NOR.mul_(scale_N11), BtE_NRI.mul_(scale_N11))

    def _product(self, X_NIP: Tensor, transposed: bool, change_only: bool = False) -> Tensor:
        left, right = self._factors[transposed]
        N, D, O, K = left.shape
        I, P = right.shape[3], X_NIP.shape[-1]
        if X_NIP.dtype != self.dtype or X_NIP.device != left.device or X_NIP.shape not in ((N, I, P), (I, P)):
            raise ValueError(
                f"cannot multiply {N} {O}x{I} matrices of {self.dtype} by {X_NIP.dtype} {list(X_NIP.shape)}"
            )
        gather = self.mask_mean_N.numel() == 0
        Y_NOP = X_NIP.new_empty(N, O, P)
        sums_3NO = X_NIP.new_empty(3, N, O) if gather else X_NIP.new_empty(1)
        arguments = (
            *(left, right, X_NIP, self._constants_3N, Y_NOP, sums_3NO, O, I, P),
            *(left.stride()[1:] + right.stride()[1:]),
            *(X_NIP.stride(0) if X_NIP.dim() == 3 else 0, X_NIP.stride(-2), X_NIP.stride(-1)),
        )
        options = {"D": D, "K": K, "DIVIDE": self._divide, "CHANGE_ONLY": change_only, "GATHER": gather}
        self._launch(arguments, options, Y_NOP)
        variant = (*options.values(), transposed, O, I, P, self.precision, self.device)
        if variant not in _checked and self._check(X_NIP, Y_NOP, transposed, change_only):
            _checked.add(variant)
        if gather:
            sums_3N = sums_3NO.double().sum(2)
            self.mask_mean_N = 1 + sums_3N[0] / (O * I)
            self.change_sq_N, self.masked_sq_N = sums_3N[1], sums_3N[2]
            if self.wants_histogram:
                self.histogram_NK = sample(self.contrasts, self._mask)
        return Y_NOP

    def _launch(self, arguments: tuple[Any, ...], options: dict[str, Any], Y_NOP: Tensor) -> None:
        """Run the kernel, with smaller blocks where the GPU has no room for the first choice."""
        N, O, P = Y_NOP.shape
        kernels = _kernels()
        blocks: Blocks | None = self._asked or Blocks.by_shape(options["K"], P)
        # The interpreter multiplies in float32 by any name, but does not know every name.
        precision = "ieee" if kernels.INTERPRETED else self.precision
        while blocks is not None:
            b = blocks
            grid = (-(-O // b.BO), -(-P // b.BP), N)
            compiled = options | {"UNROLL": b.unrolled(options["D"], options["K"]), "PRECISION": precision}
            sizes = {"BO": b.BO, "BI": b.BI, "BK": b.BK, "BP": b.BP, "num_warps": b.warps, "num_stages": b.stages}
            try:
                with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():
                    kernels.masked_product[grid](*arguments, **compiled, **sizes)
                self.blocks = b
                return
            except kernels.OutOfResources as error:
                blocks, cause = b.smaller(), error
            except Exception as error:  # the compiler, the launcher and the driver each raise their own
                raise KernelFailure(f"the fused kernel failed ({type(error).__name__}: {error})") from error
        raise KernelFailure(f"the fused kernel does not fit this GPU ({cause})") from cause

    def _check(self, X_NIP: Tensor, Y_NOP: Tensor, transposed: bool, change_only: bool) -> bool:
        """Compare the first rows of the first adapter with PyTorch's, once for each variant; false if all is zero there.

        Compilers have bugs, and nothing downstream would notice a wrong direction. It costs what 64 rows cost.
        """
        left_DTQ, right_DQI = (x[0] for x in self._factors[transposed])
        contrasts_DTI = left_DTQ[:, :_CHECKED_ROWS] @ right_DQI
        mean_TI, u_TI = contrasts_DTI[0], contrasts_DTI[1:].square().sum(0)
        factor, eps, share = self._constants_3N[:, 0]
        if self._divide:
            u_TI = u_TI / (eps + mean_TI.square() + share * u_TI)
        minus_one_TI = torch.where(factor == 0, 0.0, torch.expm1(factor * u_TI))
        g_TI = mean_TI * (minus_one_TI if change_only else 1 + minus_one_TI)
        X_IP = X_NIP[0] if X_NIP.dim() == 3 else X_NIP
        expected = g_TI @ X_IP
        # In units of the terms that are added up too: a sum that cancels is not wrong for its rounding.
        terms = (mean_TI.square() @ X_IP.square()).sum().sqrt()
        size = float(expected.norm() + terms)
        if not float((Y_NOP[0, :_CHECKED_ROWS] - expected).norm()) <= _CHECK_TOLERANCE * size:
            raise KernelFailure("the fused kernel's first result differs from PyTorch's")
        return size > 0


def _kernels() -> Any:
    return importlib.import_module("igascale.linalg.fused_kernels")


def _power_of_two(n: int) -> int:
    """The next power of two from n on, at least 16: the least that a tensor core's product takes."""
    return max(16, 1 << (n - 1).bit_length())
