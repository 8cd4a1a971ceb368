"""Out of memory is one line that says what to change; allocations that really fail."""

import dataclasses
import re
import resource
import subprocess
import sys

import pytest
import torch

from igascale.errors import UserError
from igascale.memory import explain, is_out_of_memory

import runs
from launching import environment

HUGE = """
import sys, torch
from igascale.cli import main
import igascale.trainer as trainer
before = trainer.model_inputs
def huge(batch, model):
    torch.empty(2**45, dtype=torch.uint8)  # 32 TiB: refused by the system
    return before(batch, model)
trainer.model_inputs = huge
main(sys.argv[1:])
"""


def failure(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate()
    return caught.value


def test_what_counts():
    assert is_out_of_memory(failure(lambda: torch.empty(2**46)))
    assert is_out_of_memory(failure(lambda: bytearray(2**62)))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_remedies_in_order(tmp_path):
    config = runs.load(runs.prepare(tmp_path), "data.max_length=512")
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2 GiB.\n If reserved but unallocated memory ..."
    )

    def told(place, config, hook, size=8):
        return str(explain(error, place, "8 instances of up to 90 tokens", config, hook, size))

    hook = dataclasses.make_dataclass("Hook", ["memory_mb"])(256.0)
    line = told("step 3, forward and backward", config, hook)
    assert "rank 0 (" in line
    assert (
        "at step 3, forward and backward of 8 instances of up to 90 tokens: CUDA out of memory. Tried to allocate 2 GiB."
        in line
    )
    assert "If reserved" not in line
    order = [
        "train.micro_batch_size (now 8)",
        "train.packing",
        "activation_checkpointing",
        "max_length (now 512)",
        "memory_mb (now 256)",
    ]
    assert [line.index(word) for word in order] == sorted(line.index(word) for word in order)
    in_hook = told("step 3, combining (the hook)", config, hook)
    assert in_hook.index("hook.memory_mb") < in_hook.index("train.micro_batch_size")
    assert "instances of up to" not in in_hook
    lean = config.model_copy(
        update={
            "train": config.train.model_copy(update={"packing": True}),
            "model": config.model.model_copy(update={"activation_checkpointing": "reentrant"}),
        }
    )
    least = told("step 3, forward and backward", lean, object(), 1)
    assert "To need less, in this order: lower data.max_length (now 512). " in least


def test_forward_pass_of_a_run(tmp_path):
    path = runs.prepare(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", HUGE, "train", str(path), "train.micro_batch_size=3"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40)),
        check=False,
    )
    assert done.returncode == 2, done.stderr
    line = done.stderr.strip().splitlines()[-1]  # above it the progress bar of transformers
    assert "Traceback" not in done.stderr
    assert re.search(r"ran out of memory at step 1, forward and backward of 3 instances of up to \d+ tokens: ", line)
    assert "lower train.micro_batch_size (now 3); set train.packing=true" in line


def test_user_error_of_a_hook_stays_one():
    assert not is_out_of_memory(UserError("out of memory"))
