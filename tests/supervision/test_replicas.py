"""The comparison of replicas: what a checksum sees, and which rank is named."""

import socket
from pathlib import Path

import pytest
import torch

from igascale.replicas import checksum

from launching import launch

HOST = socket.gethostname()


def test_every_bit_and_every_swap_counts():
    values = torch.randn(37)
    seen = {int(checksum(values))}
    for entry in range(37):
        for bit in range(32):
            changed = values.clone()
            changed.view(torch.int32)[entry] ^= -(2**31) if bit == 31 else 1 << bit
            seen.add(int(checksum(changed)))
    assert len(seen) == 37 * 32 + 1
    for i in range(37):
        for j in range(i):
            swapped = values.clone()
            swapped[[i, j]] = values[[j, i]]
            seen.add(int(checksum(swapped)))
    assert len(seen) == 37 * 32 + 1 + 37 * 36 // 2


def test_against_python_integers():
    values = torch.tensor([1.5, -0.0, float("nan"), 3e38], dtype=torch.float32)
    bits = [int(b) for b in values.view(torch.int32)]
    expected = sum((2 * p + 1) * 0x9E3779B97F4A7C15 * b for p, b in enumerate(bits)) % 2**64
    assert int(checksum(values)) % 2**64 == expected


def test_bits_not_numbers():
    nan = torch.tensor([float("nan"), 1.0])
    assert checksum(nan) == checksum(nan.clone())
    assert checksum(torch.tensor([0.0])) != checksum(torch.tensor([-0.0]))


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_minority_is_named(tmp_path, ranks):
    launch("torchrun", ranks, str(Path(__file__).parent / "worker_replicas.py"), str(tmp_path))
    told = [(tmp_path / f"rank-{rank}.txt").read_text().splitlines() for rank in range(ranks)]
    assert all(lines == told[0] for lines in told)
    for case, line in enumerate(told[0]):
        dtype, flipped = divmod(case, 6)
        if flipped < 2:
            assert line == "equal"
            continue
        assert "parted by step 7" in line
        assert "the first factor that differs is second.lora_B" in line
        if ranks == 2:
            assert f"rank 0 ({HOST}), rank 1 ({HOST}) differ and there is no majority" in line
        else:
            odd = (0, ranks - 1)[case % 2]
            assert f"rank {odd} ({HOST}) differs from the other 2 ranks" in line
