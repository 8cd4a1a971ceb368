"""Packed results come out as they went in, to the bit."""

import math

import pytest
import torch

from igascale.engine.results import pack, share_lengths, unpack
from igascale.hooks import FactorGrads

CPU = torch.device("cpu")
SHAPES = {f"m{i}": (torch.Size((2, 5 + i)), torch.Size((3 + 2 * i, 2))) for i in range(5)}


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("ranks", [[0, 1, 0, 1, 0], [2, 2, 0, 0, 3], [0] * 5], ids=str)
def test_round_trip(reference, ranks):
    owners, world, K, copies = dict(zip(SHAPES, ranks)), 4, 7, 2 if reference else 1
    results = {
        fqn: FactorGrads(*(torch.randn(s) for s in (A, B, A, B)[: 2 * copies])) for fqn, (A, B) in SHAPES.items()
    }
    figures_NK = torch.randn(len(SHAPES), K, dtype=torch.float64)
    figures_NK[1, :4] = torch.tensor([1e-300, 1e300, math.pi * 1e-24, math.nan], dtype=torch.float64)
    lengths = share_lengths(SHAPES, owners, world, K, copies)
    shares = []
    for rank in range(world):
        mine = [fqn for fqn in SHAPES if owners[fqn] == rank]
        rows = figures_NK[[list(SHAPES).index(fqn) for fqn in mine]]
        shares.append(pack({fqn: results[fqn] for fqn in mine}, rows, max(lengths), copies, CPU))
        assert shares[-1].dtype == torch.float32
        assert not shares[-1][lengths[rank] :].any()
    found, figures = unpack(torch.stack(shares), SHAPES, owners, K, copies)
    assert list(found) == list(SHAPES)
    for fqn, grad in results.items():
        for part in ("a", "b", "reference_a", "reference_b"):
            left, right = getattr(found[fqn], part), getattr(grad, part)
            assert left is right is None or torch.equal(left, right)
    assert torch.equal(figures.view(torch.int64), figures_NK.view(torch.int64))


def test_a_view_of_what_was_gathered():
    """So that one tensor holds all results, not two."""
    share = pack({"m0": FactorGrads(torch.ones(2, 5), torch.ones(3, 2))}, torch.zeros(1, 2), 20, 1, CPU)
    shares_WL = share[None]
    found, _ = unpack(shares_WL, {"m0": SHAPES["m0"]}, {"m0": 0}, 2, 1)
    assert found["m0"].a.untyped_storage().data_ptr() == shares_WL.untyped_storage().data_ptr()
