"""Where the fused kernel is chosen and why not; its results are tested under Triton's interpreter, in another process."""

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from igascale.hooks.iga import InvariantGradientAlignment
from igascale.linalg import fused
from igascale.linalg.cost import working_bytes
from igascale.linalg.fused import Blocks
from igascale.linalg.tiles import plan_fused

from iga_steps import combine, step_inputs

CPU = torch.device("cpu")


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_the_kernel_under_tritons_interpreter():
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", here / "fused_under_interpreter.py"]
    done = subprocess.run(
        command, cwd=here.parents[1], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("D, R, P, transposed", [(4, 16, 42, False), (16, 32, 74, True)])
def test_it_compiles_for_an_h100_and_fits_its_shared_memory(monkeypatch, tmp_path, D, R, P, transposed):
    """The interpreter takes Python that the compiler refuses. Triton brings all that it needs to compile; a GPU it does not."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from igascale.linalg import fused_kernels

    if fused_kernels.INTERPRETED:
        pytest.skip("under the interpreter")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    blocks = Blocks.by_shape(2 * R, P)
    constants = {"D": D, "K": 2 * R, "DIVIDE": True, "CHANGE_ONLY": False, "GATHER": True, "PRECISION": "tf32x3"}
    constants |= {"UNROLL": blocks.unrolled(D, 2 * R)} | {k: getattr(blocks, k) for k in ("BO", "BI", "BK", "BP")}
    constants |= dict.fromkeys(("l_row", "r_k") if transposed else ("l_k", "r_col"), 1)
    signature = dict.fromkeys(fused_kernels.masked_product.arg_names, "i32")
    signature |= dict.fromkeys(("left", "right", "x", "constants", "y", "sums"), "*fp32")
    signature |= dict.fromkeys(constants, "constexpr")
    compiled = triton.compile(
        ASTSource(fused_kernels.masked_product, signature, constants),
        target=GPUTarget("cuda", 90, 32),
        options={"num_warps": blocks.warps, "num_stages": blocks.stages},
    )
    assert compiled.metadata.shared <= 227 * 1024
    assert "wgmma" in compiled.asm["ptx"]  # the tensor cores


@pytest.mark.parametrize(
    "device, dtype, mask, reason",
    [
        ("cpu", torch.float32, "exp", "it needs a CUDA GPU, and the factors are on 'cpu'"),
        ("cuda", torch.float64, "exp", "it computes in float32, and the factors are float64"),
        ("cuda", torch.float32, "sand", "it knows the mask 'exp' only, not 'sand'"),
        ("cuda", torch.float32, "shuffled", "it knows the mask 'exp' only, not 'shuffled'"),
    ],
)
def test_why_it_cannot_be_used(monkeypatch, device, dtype, mask, reason):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert fused.fused_available(torch.device(device), dtype, mask) == reason


def test_without_triton(monkeypatch):
    monkeypatch.delitem(sys.modules, "igascale.linalg.fused_kernels", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert fused.fused_available(CPU, torch.float32, "exp").startswith("Triton cannot be imported")


def test_importing_the_hook_imports_no_triton():
    code = "import sys, igascale.hooks.iga; print('igascale.linalg.fused_kernels' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kernel": "cuda"}, "kernel='cuda': must be one of 'auto', 'torch', 'triton'"),
        ({"kernel": "triton", "space": "factor"}, "kernel='triton' masks the products of space='weight'"),
        ({"kernel": "triton", "mask": "and"}, "kernel='triton' knows mask='exp' only"),
        ({"kernel": "triton", "shuffled": True}, "kernel='triton' has no shuffled mask"),
    ],
)
def test_bad_choices_are_named(options, message):
    with pytest.raises(ValueError) as error:
        InvariantGradientAlignment(**options)
    assert str(error.value).startswith(message)


def test_asked_for_where_it_cannot_be_used(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    grads, adapters = step_inputs(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"kernel='triton': it needs a CUDA GPU.*use kernel='auto' or 'torch'"):
        combine(grads, adapters, kernel="triton")


def test_batches_stay_within_the_budget():
    held = partial(working_bytes, 4096, 4096, 16, 4, InvariantGradientAlignment().choices)
    plan = plan_fused(128, 256 * 2**20, held)
    assert held(plan.batch) <= 256 * 2**20 < held(plan.batch + 1)
    assert (plan.fused, plan.cached, plan.bytes) == (True, False, 0)
    assert plan_fused(3, 256 * 2**20, held).batch == 3
    with pytest.raises(ValueError, match=r"memory_mb=1 is too small: .* set memory_mb=\d+"):
        plan_fused(128, 2**20, held)


@pytest.mark.parametrize("K", [2, 6, 32, 130, 512])
@pytest.mark.parametrize("P", [1, 16, 42, 266, 522])
def test_blocks_are_powers_of_two_that_shrink_until_nothing_is_left(K, P):
    blocks = Blocks.by_shape(K, P)
    assert min(32, max(16, 2 ** (K - 1).bit_length())) == blocks.BK
    assert max(32, 2 * P) > blocks.BP * -(-P // blocks.BP)
    tried = []
    while blocks is not None:
        assert all(n >= 16 and n & (n - 1) == 0 for n in (blocks.BO, blocks.BI, blocks.BK, blocks.BP))
        tried.append(blocks)
        blocks = blocks.smaller()
    assert len(set(tried)) == len(tried) >= 2
