"""The min-norm point against exact rational arithmetic over all supports, and its optimality where that is too slow."""

import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale.linalg import min_norm
from igascale.linalg.min_norm import min_norm_weights

from jacobians import jacobians


def solve(A, b):
    """Gauss and Jordan in rationals; None if singular."""
    rows = [[*row, y] for row, y in zip(A, b)]
    for c in range(len(rows)):
        pivot = next((r for r in range(c, len(rows)) if rows[r][c] != 0), None)
        if pivot is None:
            return None
        rows[c], rows[pivot] = rows[pivot], rows[c]
        rows[c] = [x / rows[c][c] for x in rows[c]]
        for r in range(len(rows)):
            if r != c and rows[r][c] != 0:
                rows[r] = [x - rows[r][c] * y for x, y in zip(rows[r], rows[c])]
    return [row[-1] for row in rows]


def exact_weights(J):
    """Of all faces of the hull the one whose affine hull's nearest point lies in it and is nearest; no rounding."""
    rows = [[Fraction(float(x)) for x in row] for row in J]
    K = [[sum(x * y for x, y in zip(p, q)) for q in rows] for p in rows]
    best, best_w = None, None
    for size in range(1, len(rows) + 1):
        for face in itertools.combinations(range(len(rows)), size):
            A = [[*(K[i][j] for j in face), Fraction(1)] for i in face] + [[Fraction(1)] * size + [Fraction(0)]]
            w = solve(A, [Fraction(0)] * size + [Fraction(1)])
            if w is None or min(w[:-1]) < 0:
                continue
            value = sum(x * y * K[i][j] for x, i in zip(w, face) for y, j in zip(w, face))
            if best is None or value < best:
                best, best_w = value, [w[face.index(n)] if n in face else Fraction(0) for n in range(len(rows))]
    return best_w


def relative_gap(K, w):
    """The duality gap, in units of the sum of the absolute values of its terms."""
    gap = (w @ K @ w - K @ w) / (w @ K.abs() @ w + K.abs() @ w)
    return float(gap.max())


@settings(max_examples=200, deadline=None)
@given(jacobians(most=5))
def test_the_combination_is_the_exact_one(J):
    w = min_norm_weights(J @ J.T)
    expected = J.T @ torch.tensor([float(x) for x in exact_weights(J)], dtype=torch.float64)
    assert (w >= 0).all()
    assert abs(float(w.sum()) - 1) < 1e-14
    assert float((J.T @ w - expected).norm()) <= 1e-12 * float(J.norm(dim=1).max())


@st.composite
def degenerate(draw):
    """Up to 16 vectors: twice the same, nearly so, opposite, in few dimensions, on a grid, of any lengths."""
    D, P = draw(st.integers(3, 16)), draw(st.integers(1, 12))
    kind = draw(st.sampled_from(["grid", "low rank", "twice", "opposite", "lengths", "float32"]))
    closeness = 10.0 ** -draw(st.integers(0, 16))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    J = torch.randn(D, P, generator=g, dtype=torch.float64)
    if kind == "grid":
        J = torch.randint(-2, 3, (D, P), generator=g).double()
    elif kind == "low rank":
        J = J[:, :1] @ torch.randn(1, P, generator=g, dtype=torch.float64)
    elif kind in ("twice", "opposite"):
        half = J[: (D + 1) // 2]
        J = torch.cat([half, half if kind == "twice" else -half])[:D] * (1 + closeness * J)
    elif kind == "lengths":
        J *= 10 ** (4 * torch.randn(D, 1, generator=g, dtype=torch.float64))
    else:
        J = J.float()
    return (J @ J.T).double() * 10.0 ** draw(st.integers(-24, 24))


@settings(max_examples=400, deadline=None)
@given(degenerate())
def test_optimal_up_to_rounding_also_for_singular_gramians(K):
    w = min_norm_weights(K)
    assert (w >= 0).all()
    assert abs(float(w.sum()) - 1) < 1e-14
    if (K.diagonal() > 0).all():
        assert relative_gap(K, w) <= 1e-13
    else:
        assert float(w @ K @ w) == 0


@settings(max_examples=200, deadline=None)
@given(jacobians(most=8, full_rank=True), st.randoms(use_true_random=False), st.integers(-24, 24))
def test_independent_gradients_have_one_answer_in_any_order_at_any_scale(J, random, exponent):
    order = list(range(len(J)))
    random.shuffle(order)
    w = min_norm_weights(J @ J.T)
    torch.testing.assert_close(min_norm_weights(J[order] @ J[order].T), w[order], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(min_norm_weights(J @ J.T / J.norm() ** 2 * 10.0**exponent), w, rtol=1e-9, atol=1e-11)


@settings(max_examples=200, deadline=None)
@given(jacobians(most=2))
def test_closed_form_of_two_is_the_general_solution(J):
    K = J @ J.T / (J @ J.T).diagonal().max()
    norm = K.diagonal().sqrt()
    p = norm.min() / norm
    u = min_norm._minimise(K / norm / norm[:, None] + p * p[:, None], p) * p
    found = J.T @ min_norm_weights(K)
    assert float((J.T @ (u / u.sum()) - found).norm()) <= 1e-12 * float(J.norm(dim=1).max())


@pytest.mark.parametrize(
    ("gram", "expected"),
    [
        ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], [1 / 3, 1 / 3, 1 / 3]),  # nothing to choose by
        ([[4, 0, 1], [0, 0, 0], [1, 0, 9]], [0, 1, 0]),  # a zero gradient is the nearest point
        ([[1, 1], [1, 1]], [0.5, 0.5]),  # one point twice
        ([[1, 2], [2, 9]], [1, 0]),  # the nearer end of the segment, not .999 of it
        ([[9, 2], [2, 1]], [0, 1]),
        ([[1, 0], [0, 4]], [0.8, 0.2]),
        ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [1 / 3, 1 / 3, 1 / 3]),
        ([[1, -1, 0], [-1, 1, 0], [0, 0, 5]], [0.5, 0.5, 0]),  # zero is in the hull
        ([[3]], [1]),
    ],
)
def test_by_hand(gram, expected):
    w = min_norm_weights(torch.tensor(gram, dtype=torch.float64))
    torch.testing.assert_close(w, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)


def test_the_same_bits_every_time():
    J = torch.randn(16, 5, dtype=torch.float64)
    first = min_norm_weights(J @ J.T)
    torch.rand(3)
    assert torch.equal(min_norm_weights(J @ J.T), first)
