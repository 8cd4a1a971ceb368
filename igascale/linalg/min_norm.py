r"""The point of smallest norm in the convex hull of a few vectors, from their inner products alone.

As a problem of non-negative least squares: for every sigma > 0, the minimiser of

.. math:: \|J^\top u\|^2 + \sigma^2 (\mathbf 1^\top u - 1)^2 \quad\text{over}\quad u \ge 0

is a multiple of the weights sought (put u = t w with w on the simplex: whatever t > 0 is, the best w is the same), and not
zero. An active set solves it: exact up to rounding after a few steps, where Frank-Wolfe closes in ever more slowly.

Shape legend: D vectors, S of them active.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: A sum's rounding error, in units of the sum of the absolute values of its terms.
_ROUNDING = 1e-15


def min_norm_weights(gram_DD: Tensor) -> Tensor:
    r"""Weights of the point of smallest norm in the convex hull, :math:`\min_{w \in \Delta} w^\top K w`.

    The weights are as good as the inner products: the duality gap :math:`w^\top K w - \min_n (Kw)_n` comes out at about
    1e-15 of the terms it is the sum of, at whatever scale, of all vectors together or of each. Where several weights give
    the same point (linearly dependent vectors), which come out depends on the order. Vectors of norm zero share alike.

    Reference: Wolfe, "Finding the nearest point in a polytope" (1976), for the problem; Lawson and Hanson, "Solving Least
    Squares Problems" (1974), chapter 23, for the active set.

    Args:
        gram_DD: ``[D, D]`` on the CPU, finite, symmetric, positive semi-definite up to rounding.

    Returns:
        ``[D]``, float64, on the simplex.
    """
    K_DD = gram_DD.double()
    D, largest = len(K_DD), K_DD.diagonal().max()
    zero_D = K_DD.diagonal() <= 0
    if zero_D.any():
        return zero_D.double() / zero_D.sum()
    K_DD = K_DD / largest
    if D == 2:
        return _of_two(K_DD)
    # In vectors of length one, so that a long one does not drown the others: u_n = c_n p_n, sigma the smallest norm.
    norm_D = K_DD.diagonal().sqrt()
    p_D = norm_D.min() / norm_D
    M_DD = K_DD / norm_D / norm_D[:, None] + p_D * p_D[:, None]
    u_D = _minimise(M_DD, p_D) * p_D
    return u_D / u_D.sum()


def _of_two(K_DD: Tensor) -> Tensor:
    """In closed form: where the line through both points comes nearest to the origin, or the nearer end."""
    # What the norms exceed the inner product by; where both do, their sum is the squared distance, without cancellation.
    excess_D = (K_DD.diagonal() - K_DD[0, 1]).clamp_min(0.0)
    if not excess_D.any():  # one point twice
        return K_DD.new_full((2,), 0.5)
    return excess_D.flip(0) / excess_D.sum()


def _minimise(M_DD: Tensor, p_D: Tensor) -> Tensor:
    """The minimiser of ``c M c / 2 - p c`` over ``c >= 0``, for M positive semi-definite with a positive diagonal."""
    c_D = torch.zeros_like(p_D)
    for _ in range(10 * len(p_D)):  # finite anyway; a guard against what rounding might do
        slope_D = p_D - M_DD @ c_D
        slope_D[(c_D > 0) | (slope_D <= _ROUNDING * (p_D + M_DD.abs() @ c_D))] = 0.0
        if not slope_D.any():
            break
        entering = int(slope_D.argmax())
        c_D = _polished(M_DD, p_D, _descend(M_DD, c_D, entering, float(slope_D[entering])))
    return c_D


def _descend(M_DD: Tensor, c_D: Tensor, entering: int, slope: float) -> Tensor:
    """From the minimum over the positive entries of c to one with one entry more; what falls to zero is dropped.

    Args:
        M_DD: as in :func:`_minimise`.
        c_D: where to start; the slope is zero where it is positive.
        entering: the entry that is let grow.
        slope: the slope there, positive.
    """
    c_D, active_D = c_D.clone(), c_D > 0
    while True:
        # As the entering one grows by 1, the active ones fall by this and keep their slopes at zero.
        fall_D = torch.zeros_like(c_D)
        fall_S, singular = torch.linalg.solve_ex(M_DD[active_D][:, active_D], M_DD[active_D, entering])
        if singular:
            return c_D
        fall_D[active_D] = fall_S
        curvature = float(M_DD[entering, entering] - M_DD[entering] @ fall_D)
        step = slope / curvature if curvature > _ROUNDING else torch.inf
        reach_D = torch.where(fall_D > 0, c_D / fall_D, torch.inf)  # fall is zero where not active
        nearest = int(reach_D.argmin())
        blocked = float(reach_D[nearest]) < step
        step = min(step, float(reach_D[nearest]))
        if step == torch.inf:  # only rounding can make this so: the objective is bounded below
            return c_D
        c_D = (c_D - step * fall_D).clamp_min(0.0)
        c_D[entering] += step
        if not blocked:
            return c_D
        slope -= step * curvature
        c_D[nearest] = 0.0
        active_D[nearest] = False


def _polished(M_DD: Tensor, p_D: Tensor, c_D: Tensor) -> Tensor:
    """The minimum over the positive entries, solved for afresh, if rounding lets it stay positive."""
    active_D = c_D > 0
    target_S, singular = torch.linalg.solve_ex(M_DD[active_D][:, active_D], p_D[active_D])
    if singular or not bool((target_S > 0).all()):
        return c_D
    target_D = torch.zeros_like(c_D)
    target_D[active_D] = target_S
    return target_D
