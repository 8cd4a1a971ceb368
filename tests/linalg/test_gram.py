"""Inner products between domains, accumulated in chunks."""

import pytest
import torch

from igascale.linalg.gram import adapter_grams, reconstruction_grams, variance_over_domains

from dense_oracle import random_adapter, reconstruct


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 20000])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_equals_the_plain_product(size, dtype, tolerance, scale):
    g = torch.Generator().manual_seed(0)
    a, b = (scale * torch.randn(3, 2, size, generator=g, dtype=torch.float64).to(dtype) for _ in range(2))
    (gram,) = adapter_grams([(a, b)], 3)
    x = torch.cat([a.flatten(1), b.flatten(1)], 1).double()
    expected = x @ x.T
    assert gram.dtype == torch.float64
    size = expected.diagonal().sqrt()
    assert ((gram - expected).abs() <= tolerance * size[:, None] * size).all()


def test_of_no_adapter():
    assert adapter_grams([], 3).shape == (0, 3, 3)


def test_of_reconstructions_equals_the_dense_products():
    a, b, A, B = random_adapter(9, 7, 3, 4)
    got = reconstruction_grams(a, b, A, B)
    hat = reconstruct(a, b, A, B).flatten(1)
    plain = torch.cat([a.flatten(1), b.flatten(1)], 1)
    torch.testing.assert_close(got[0], hat @ hat.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(got[1], plain @ plain.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(variance_over_domains(got[0]), hat.var(0, correction=0).sum(), rtol=1e-10, atol=0)
