# ruff: noqa: E741 -- O and I are the shape letters of the project
r"""The Triton kernel behind :class:`igascale.linalg.fused.FusedMaskedMean`. Imports Triton, so import it where that is there.

Shape legend: N adapters of one shape, D contrasts, O rows, I columns, K = 2R inner columns, P columns of the thin matrix;
BO, BI, BK, BP blocks of them.

One kernel serves both products. The contrasts of ``g^T`` are ``right_m^T left_m^T``, so ``g^T Q`` is ``g X`` with the two
factors, and the two strides of each, exchanged: here "left", "rows" and O are whichever comes first.

A program owns BO rows of one adapter and BP columns of the result. It walks along I: the tiles of the mean and of the
variance by D products, the mask, one product with BI rows of X. A tile lives in registers only. Nothing is added up across
programs, so that the bits are the same on every run and whatever else is in the batch.

Work of one pass over N adapters, and what binds. The figures are of an H100 SXM's data sheet; what an H200 took
is in docs/performance.md:

=====================  ====================================================================================================
tensor-core FLOPs      ``N O I (2 K D + 2 P)`` with K and P rounded up to their blocks; three times that with
                       ``tf32x3``; D products again for every BP columns of P
bytes from memory      ``4 N (D K + P) (O + I)``: factors, X and the result once, as one adapter's share stays in the L2 (50 MB)
bytes from the L2      ``4 N O I (D K + P) / BO`` for right and X, once for each block of rows; ``4 N O I D K / BI`` for left,
                       unless the compiler keeps it on the chip (with the loop over m unrolled it does not change along I)
special functions      two for each of the ``N O I`` elements, an exponential and a reciprocal: 16 a clock in each SM
other float32 work     about ``N O I (D + 25)``: squares, denominator, the series of expm1
=====================  ====================================================================================================

128 adapters of 4096x4096 with R = 16, D = 4, P = 42 (computed as 64), BO = 128: 2^31 elements, 384 FLOPs each. One pass takes
at least 1.7 ms in TF32 (495 TFLOP/s), 5.0 ms with ``tf32x3``; from the L2, at some
5 TB/s, 2.6 ms for right and X (left stays in 64 KB of shared memory, or 128 KB as the two parts of ``tf32x3``: so it is
compiled); special functions 1.2 ms; float32 2.1 ms; memory (0.7 GB) 0.2 ms. These overlap at best. With ``tf32x3`` the tensor
cores bind, and the four passes of one power iteration have a floor of 20 ms; with ``tf32`` it is the L2.
"""

import triton
import triton.language as tl
from triton import OutOfResources  # noqa: F401 -- for whoever launches


@triton.jit
def _expm1(x):
    """``e^x - 1`` for ``x <= 0``, to a few units in the last place; exactly 0 at 0.

    Near 0 the series, whose first term left out is x^8 / 9! (1e-8 of the result); elsewhere the result is at least 0.39, and
    the subtraction loses nothing. Triton's own expm1 belongs to one vendor's library and is not known to its interpreter.
    """
    near = tl.maximum(x, -0.5)
    series = 1.0 + near * (1.0 / 8.0)
    series = 1.0 + near * (1.0 / 7.0) * series
    series = 1.0 + near * (1.0 / 6.0) * series
    series = 1.0 + near * (1.0 / 5.0) * series
    series = 1.0 + near * (1.0 / 4.0) * series
    series = 1.0 + near * (1.0 / 3.0) * series
    series = 1.0 + near * (1.0 / 2.0) * series
    return tl.where(x > -0.5, near * series, tl.exp(x) - 1.0)


@triton.jit
def _contrast(
    left, right, slice_index, rows, cols, O, I,
    l_slice, l_row, l_k, r_slice, r_k, r_col,
    K: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The tile ``[rows, cols]`` of one contrast; zero beyond the edges, so that no later step needs a mask."""
    left += slice_index * l_slice
    right += slice_index * r_slice
    tile = tl.zeros((BO, BI), dtype=tl.float32)
    for k_start in range(0, K, BK):
        k = k_start + tl.arange(0, BK)
        l = tl.load(
            left + rows[:, None] * l_row + k[None, :] * l_k, mask=(rows < O)[:, None] & (k < K)[None, :], other=0.0
        )
        r = tl.load(
            right + k[:, None] * r_k + cols[None, :] * r_col, mask=(k < K)[:, None] & (cols < I)[None, :], other=0.0
        )
        tile = tl.dot(l, r, tile, input_precision=PRECISION)
    return tile


@triton.jit
def masked_product(
    left, right, x, constants, y, sums,
    O, I, P,
    l_slice, l_row, l_k, r_slice, r_k, r_col, x_slice, x_row, x_col,
    D: tl.constexpr, K: tl.constexpr,
    DIVIDE: tl.constexpr, CHANGE_ONLY: tl.constexpr, GATHER: tl.constexpr, UNROLL: tl.constexpr,
    PRECISION: tl.constexpr, BO: tl.constexpr, BI: tl.constexpr, BK: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    r"""``y = g x`` (``(g - gbar) x`` with CHANGE_ONLY), and sums over each row of g.

    .. math:: M - 1 = \mathrm{expm1}(f\, u), \qquad u = V / (e + \bar g^2 + s V)

    (``u = V`` without DIVIDE), with (f, e, s) an adapter's three constants.

    Grid: blocks of rows, blocks of P, N.

    Args:
        left: ``[N, D, O, K]`` by its strides; ``N D`` slices at equal distances.
        right: ``[N, D, K, I]``, the same.
        x: ``[N, I, P]``; ``x_slice`` is 0 where it is common to the adapters.
        constants: ``[3, N]``, contiguous.
        y: ``[N, O, P]``, contiguous.
        sums: ``[3, N, O]``, contiguous: sums over a row of ``M - 1``, of ``(g - gbar)^2``, of ``g^2``; written if GATHER.
        O: rows; I: columns; P: columns of x.
        l_slice: strides, in elements; D .. BP: explained above.
        PRECISION: ``input_precision`` of every product; all accumulate in float32.
        UNROLL: of the loop over contrasts.
    """
    n = tl.program_id(2).to(tl.int64)  # as any factor of an offset that may pass 2^31
    count = tl.num_programs(2)
    rows = tl.program_id(0) * BO + tl.arange(0, BO)
    p = tl.program_id(1) * BP + tl.arange(0, BP)
    factor = tl.load(constants + n)
    eps = tl.load(constants + count + n)
    share = tl.load(constants + 2 * count + n)

    result = tl.zeros((BO, BP), dtype=tl.float32)
    mask_sum = tl.zeros((BO,), dtype=tl.float32)
    change_sq = tl.zeros((BO,), dtype=tl.float32)
    masked_sq = tl.zeros((BO,), dtype=tl.float32)
    for start in range(0, I, BI):
        cols = start + tl.arange(0, BI)
        mean = _contrast(
            left, right, n * D, rows, cols, O, I, l_slice, l_row, l_k, r_slice, r_k, r_col, K, BO, BI, BK, PRECISION
        )
        variance = tl.zeros((BO, BI), dtype=tl.float32)
        if UNROLL:
            for m in tl.static_range(1, D):
                c = _contrast(
                    left, right, n * D + m, rows, cols, O, I,
                    l_slice, l_row, l_k, r_slice, r_k, r_col, K, BO, BI, BK, PRECISION,
                )  # fmt: skip
                variance += c * c
        else:
            for m in range(1, D):
                c = _contrast(
                    left, right, n * D + m, rows, cols, O, I,
                    l_slice, l_row, l_k, r_slice, r_k, r_col, K, BO, BI, BK, PRECISION,
                )  # fmt: skip
                variance += c * c
        u = variance / (eps + mean * mean + share * variance) if DIVIDE else variance
        # Not `factor * u` alone: u may be infinite where keep_N is 0, and tau = 0 must change nothing all the same.
        minus_one = _expm1(tl.where(factor == 0.0, 0.0, factor * u))
        change = mean * minus_one
        masked = mean + change
        x_tile = tl.load(
            x + n * x_slice + cols[:, None] * x_row + p[None, :] * x_col,
            mask=(cols < I)[:, None] & (p < P)[None, :],
            other=0.0,
        )
        result = tl.dot(change if CHANGE_ONLY else masked, x_tile, result, input_precision=PRECISION)
        if GATHER:
            mask_sum += tl.sum(minus_one, 1)
            change_sq += tl.sum(change * change, 1)
            masked_sq += tl.sum(masked * masked, 1)
    tl.store(y + n * O * P + rows[:, None] * P + p[None, :], result, mask=(rows < O)[:, None] & (p < P)[None, :])
    if GATHER:
        once = rows < tl.where(tl.program_id(1) == 0, O, 0)
        at = sums + n * O + rows
        tl.store(at, mask_sum, mask=once)
        tl.store(at + count.to(tl.int64) * O, change_sq, mask=once)
        tl.store(at + 2 * count.to(tl.int64) * O, masked_sq, mask=once)


#: Whether TRITON_INTERPRET=1 was set when Triton was imported, so that the kernel runs on a CPU, in NumPy.
INTERPRETED = not isinstance(masked_product, triton.JITFunction)
