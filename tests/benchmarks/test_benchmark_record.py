"""The operations that a benchmark counts, on tensors without data: a GPU's own products too."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.record import count_flops, hardware

LEFT, RIGHT, SUM = (torch.empty(shape, device="meta") for shape in ((3, 4, 5), (3, 5, 6), (3, 4, 6)))


@pytest.mark.parametrize(
    "product, products",
    [
        (lambda: LEFT @ RIGHT, 3),
        (lambda: torch.bmm(LEFT.bfloat16(), RIGHT.bfloat16(), out_dtype=torch.float32), 3),
        (lambda: SUM.baddbmm_(LEFT, RIGHT), 3),
        (lambda: SUM[0].addmm_(LEFT[0], RIGHT[0]), 1),
        (lambda: LEFT[0] @ RIGHT[0], 1),
    ],
)
def test_every_product_is_counted(product, products):
    assert count_flops(product) == products * 2 * 4 * 5 * 6


def test_the_commit_of_sources_without_a_history(monkeypatch):
    monkeypatch.setenv("BENCHMARK_COMMIT", "abc")
    assert hardware("cpu")["commit"] == "abc"
