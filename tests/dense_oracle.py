# ruff: noqa: E741 -- O and I are the shape letters of the project
"""The method written with dense matrices, one per domain: what the streaming code must agree with."""

import torch


def random_adapter(O, I, R, D, *, seed=0, dtype=torch.float64, b_size=1.0, rank_a=None, scale=1.0):
    """Gradients as training makes them: a_n = s B' G_n, b_n = s G_n A' of dense per-domain gradients G_n."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    A = normal(R, I) / I**0.5
    if rank_a is not None:
        A[rank_a:] = A[:1]
    B = normal(O, R) * b_size / O**0.5
    G = scale * (normal(O, I) + 0.7 * normal(D, O, I))
    a, b = 2.0 * B.T @ G, 2.0 * G @ A.T
    return tuple(x.to(dtype) for x in (a, b, A, B))


def reconstruct(a, b, A, B):
    return torch.stack([b_n @ A + B @ a_n for a_n, b_n in zip(a, b)])


def mask(ghat, tau, norm):
    mean = ghat.mean(0)
    V = ghat.var(0, correction=0)
    u = {
        "none": lambda: V,
        "mean": lambda: V / V.mean(),
        "relative": lambda: V / (mean**2 + 1e-12 * V.mean()),
        "smoothed": lambda: V / (mean**2 + V.mean()),
        "fraction": lambda: V / (mean**2 + V),
    }
    return torch.exp(-tau * u[norm]())


def sign_mask(ghat, kind, threshold, sharpness=10.0, norm="none"):
    agreement = ghat.sign().mean(0).abs()
    if kind == "and":
        return (agreement >= threshold - 1e-9).to(ghat.dtype)
    variance = ghat.var(0, correction=1)
    if norm == "relative":
        variance = variance / ghat.mean(0) ** 2
    return torch.tanh(sharpness / variance * (agreement - threshold)).clamp_min(0)


def truncate(g, rank):
    U, S, Vh = torch.linalg.svd(g, full_matrices=False)
    return U[:, :rank], S[:rank], Vh[:rank]


def anchored(A, B, mean_a, mean_b, g, rho):
    """min |dB A + B dA - g|^2 + lam (|dA - mean_a|^2 + |dB - mean_b|^2), by dense least squares."""
    (R, I), O = A.shape, B.shape[0]
    lam = rho * (B.square().sum() + A.square().sum()) / R
    eye = torch.eye
    # vec is row-major: vec(dB A) = (1 x A') vec(dB), vec(B dA) = (B x 1) vec(dA)
    At = A.T.clone(memory_format=torch.contiguous_format)
    J = torch.cat([torch.kron(B, eye(I, dtype=A.dtype)), torch.kron(eye(O, dtype=A.dtype), At)], 1)
    n = J.shape[1]
    anchor = torch.cat([mean_a.flatten(), mean_b.flatten()])
    rows = torch.cat([J, lam.sqrt() * eye(n, dtype=A.dtype)])
    x = torch.linalg.lstsq(rows, torch.cat([g.flatten(), lam.sqrt() * anchor])[:, None]).solution[:, 0]
    return x[: R * I].view(R, I), x[R * I :].view(O, R)
