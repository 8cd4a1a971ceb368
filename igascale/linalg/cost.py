# ruff: noqa: E741 -- O and I are the shape letters of the project
r"""What the alignment of one adapter costs: floating-point operations, bytes moved, bytes held. Counted, not measured.

Shape legend: D domains, R LoRA rank, I in-features, O out-features, Q = 2R, K rank kept, P = K + oversampling columns of a
product, C columns of the Krylov basis.
"""

from __future__ import annotations

from dataclasses import dataclass

from igascale.linalg.alignment import SHUFFLE_ROWS, Choices
from igascale.linalg.projection import krylov_blocks, sketch_width


@dataclass(frozen=True)
class Cost:
    """Work of one adapter.

    Attributes:
        flops: of matrix products, two for each multiplication, by stage: ``contrasts``, ``generate`` (tiles of the contrasts),
            ``products`` (of the masked matrix with tall thin ones), ``orthonormal`` and ``extract``. The decompositions of
            small matrices and what is elementwise are not in it.
        elementwise: numbers that elementwise operations write while tiles are made, statistics included.
        bytes: to and from memory at least, with tiles and their intermediates in cache or registers: factors, contrasts
            once for each time that the matrix is generated, the kept matrix once for each pass, sketches.
        cubes: sum of the cubes of the sizes of the small matrices that are decomposed.
    """

    flops: dict[str, float]
    elementwise: float
    bytes: float
    cubes: float = 0.0

    @property
    def total_flops(self) -> float:
        """Of all stages."""
        return sum(self.flops.values())

    @property
    def work(self) -> float:
        """One figure to compare adapters by, in units of a flop of a matrix product.

        The weights are rounded from times on one CPU core with AVX-512 (140 GFLOP/s in matrix products): an elementwise
        number .17 ns, ``eigh`` of 42 or 84 columns .12 or .38 ms, a hundred operators of 3 us.
        """
        return self.total_flops + 25 * self.elementwise + 100 * self.cubes + 4e7


def alignment_cost(O: int, I: int, R: int, D: int, choices: Choices, *, cached: bool = True, itemsize: int = 4) -> Cost:
    """Work of :func:`igascale.linalg.alignment.align` on one adapter.

    Args:
        O: out-features.
        I: in-features.
        R: rank of the adapter.
        D: domains.
        choices: what each stage does.
        cached: whether the masked matrix is kept between passes, or generated again for each.
        itemsize: bytes of a number.
    """
    Q, both = 2 * R, O + I
    means = 2.0 * D * R * both
    flops = {
        "contrasts": 2.0 * D * Q * Q * both + means,
        "generate": 0.0,
        "products": 0.0,
        "orthonormal": 0.0,
        "extract": 0.0,
    }
    factor_bytes = (D + 2) * R * both + D * Q * both  # gradients and factors in, results out, contrasts written
    mean_products = 4.0 * R * Q * both
    flops["extract"] = {
        "anchored": 2.0 * R * R * (5 * O + 4 * I) + 8 * R**3,
        "aligned": 4.0 * R * R * both + 2 * R**3,
        "pullback": mean_products,
        "paper": 0.0,
    }[choices.extraction]
    cubes = 2.0 * R**3
    if choices.needs_no_matrix(R):
        return Cost(flops, 0.0, itemsize * factor_bytes, cubes)

    signs = choices.mask != "exp"
    matrices = D + (D if signs else 0) - (choices.mask == "and") * (D - 1)
    per_generation = 2.0 * Q * O * I * matrices
    elementwise = O * I * (2.0 * matrices + 8)
    if choices.projection == "none":
        flops |= {"generate": per_generation, "products": 4.0 * R * O * I}
        return Cost(flops, elementwise, itemsize * (factor_bytes + D * Q * both), cubes)
    K = min(choices.kept(R), O, I)
    P = sketch_width(choices.kept(R), choices.oversampling, (O, I))
    blocks = krylov_blocks(P, choices.power_iters, (O, I))
    C, passes = blocks * P, 2 * blocks
    generations = 1 if cached else passes
    flops["generate"] = generations * per_generation
    flops["products"] = passes * 2.0 * P * O * I
    widths = [k * P for k in range(1, blocks + 1)]
    flops["orthonormal"] = (
        sum(2.0 * O * w * (w + P) for w in widths)  # Gram, then the new columns
        + (blocks - 1) * 4.0 * I * P * P  # between the two products of an iteration
        + 2.0 * I * C * C
        + 2.0 * C * K * both
    )
    if choices.extraction in ("anchored", "pullback"):
        flops["extract"] += 4.0 * R * K * both + mean_products
    moved = factor_bytes + generations * D * Q * both + (cached and passes * O * I) + passes * 2 * P * both
    cubes += C**3 + sum(w**3 for w in widths) + (blocks - 1) * P**3
    return Cost(flops, generations * elementwise, itemsize * moved, cubes)


def working_bytes(
    O: int, I: int, R: int, D: int, choices: Choices, batch: int = 1, *, shuffled: bool = False, itemsize: int = 4
) -> int:
    """Upper bound of what a batch of adapters holds at once beyond inputs, results and the workspace of its tiles.

    Args:
        O: out-features.
        I: in-features.
        R: rank of the adapter.
        D: domains.
        choices: what each stage does.
        batch: adapters; the inputs of more than one are copied.
        shuffled: whether the mask is held, to be put in random places.
        itemsize: bytes of a number.
    """
    Q, both = 2 * R, O + I
    held = D * Q * both + R * both  # contrasts and means
    if batch > 1:
        held += (D + 1) * R * both
    if choices.mask != "exp":
        held += 2 * D * Q * both
    if shuffled:
        held += 4 * O * I + 4 * SHUFFLE_ROWS * I
    building = R * max(O, I) + 8 * D * Q * Q
    projecting = 0
    K = 0
    if choices.projection == "svd" and not choices.needs_no_matrix(R):
        K = min(choices.kept(R), O, I)
        P = sketch_width(choices.kept(R), choices.oversampling, (O, I))
        C = krylov_blocks(P, choices.power_iters, (O, I)) * P
        # Basis and image, test matrices, small matrices; beside them one block made orthonormal in float64, or the truncation.
        block, truncation = max(O * (2 * C + 4 * P), I * 6 * P), I * 2 * C + K * both
        projecting = C * both + 2 * P * I + 10 * C * C + max(block, truncation)
    extracting = (2 * K + 12 * R) * both + 16 * R * R
    return batch * (itemsize * (held + max(building, projecting, extracting)) + 4096)
