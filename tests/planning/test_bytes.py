"""Predicted bytes of weights, optimizer, accumulators and messages against the tensors and calls of real runs."""

import json
from pathlib import Path

import pytest
import torch

from igascale import assemble, hooks
from igascale.capture import GradientCapture
from igascale.planning.memory import accumulator_bytes, optimizer_bytes
from igascale.planning.shapes import build_meta_model, find_shapes
from igascale.planning.wire import igascale_transfers, plain_transfers

import runs
from launching import launch
from planning_cases import ATTENTION, MLP, load, real_model, write_run

BUCKET_MB = 0.02


@pytest.mark.parametrize(
    ("shape", "targets"),
    [({}, ATTENTION), ({"tie_word_embeddings": True}, ATTENTION + MLP), ({"attention_bias": True}, ("q_proj",))],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_and_bytes_are_those_of_the_real_model(tmp_path, shape, targets, dtype):
    model = {"path": str(tmp_path / "shapes"), "dtype": dtype}
    config = load(write_run(tmp_path, shape, model=model, lora={"r": 4, "target_modules": list(targets)}))
    real = real_model(config)
    shapes, adapters = find_shapes(build_meta_model(config, config.model.path))
    trained = [p for p in real.parameters() if p.requires_grad]
    frozen = [p for p in real.parameters() if not p.requires_grad]
    assert shapes.lora_parameters == sum(p.numel() for p in trained)
    assert shapes.base_parameters == sum(p.numel() for p in frozen)
    assert shapes.base_bytes == sum(t.numel() * t.element_size() for t in [*frozen, *real.buffers()])
    assert shapes.parameter_bytes == trained[0].element_size()
    assert {fqn: (a.out_features, a.in_features, a.rank) for fqn, a in assemble.find_adapters(real).items()} == (
        shapes.adapters
    )
    assert shapes.layers == 2
    assert shapes.attention_width == 64
    layer = sum(p.numel() * p.element_size() for p in real.base_model.model.model.layers[0].parameters())
    assert shapes.largest_block == max(layer, 128 * 64 * frozen[0].element_size())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rule", ["mean", "iga"])
def test_accumulators_and_optimizer_of_one_process(tmp_path, dtype, rule):
    config = runs.load(
        runs.prepare(tmp_path), f"model.dtype={dtype}", f"hook.name={rule}", "train.max_steps=1", "eval.every=null"
    )
    hook = assemble.build_hook(config)
    student = assemble.build_student(config, torch.device("cpu"))
    engine = assemble.build_engine(config, student, hook, torch.device("cpu"))
    states = [t for state in engine.optimizer.state.values() for t in state.values()]
    masters = [m for name, m in engine.masters.items() if m is not engine.parameters[name]]
    shapes, _ = find_shapes(build_meta_model(config, config.model.path))
    P, size = shapes.lora_parameters, shapes.parameter_bytes
    held = sum(t.numel() * t.element_size() for t in [*states, *masters])
    assert held == optimizer_bytes(P, size, hook.uses_reference, 1, "single")
    sums = GradientCapture(student.adapters, 4).sums()
    assert sum(t.nbytes for g in sums.values() for t in (g.a, g.b)) == accumulator_bytes(P, 4, False)


@pytest.fixture(scope="module")
def told_by_ranks(tmp_path_factory):
    """What two ranks under DeepSpeed held and sent."""
    folder = tmp_path_factory.mktemp("ranks")
    runs.prepare(folder)
    launch("torchrun", 2, "worker_bytes.py", str(folder), str(folder / "told.json"), str(BUCKET_MB))
    return folder, json.loads((folder / "told.json").read_text())


@pytest.mark.parametrize("rule", ["mean", "iga"])
def test_optimizer_is_partitioned_by_deepspeed(told_by_ranks, rule):
    folder, told = told_by_ranks
    shapes, _, hook = _planned(folder, rule)
    expected = optimizer_bytes(shapes.lora_parameters, shapes.parameter_bytes, hook.uses_reference, 2, "deepspeed")
    assert told[rule]["optimizer"] == pytest.approx(expected, rel=0.01)  # the partition is padded


@pytest.mark.parametrize("rule", ["mean", "iga"])
def test_bytes_on_the_wire(told_by_ranks, rule):
    """Every collective of a real step, by kind: what is handed to it is what was predicted."""
    folder, told = told_by_ranks
    _, adapters, hook = _planned(folder, rule)
    reduced, results, scalars, parameters = igascale_transfers(hook, adapters, 4, 2, BUCKET_MB)
    sent = told[rule]["sent"]
    assert reduced.calls == 4  # more than one for each of the two ranks
    assert sent["reduce"] == [reduced.calls, reduced.payload]
    assert sent["all_gather"] == [results.calls, results.payload]
    assert sent["all_reduce"] == [scalars.calls, scalars.payload]
    # DeepSpeed pads its partitions.
    assert told[rule]["gathered by DeepSpeed"] == pytest.approx(parameters.payload, rel=0.01)


def test_bytes_of_plain_deepspeed(told_by_ranks):
    folder, told = told_by_ranks
    _, adapters, _ = _planned(folder, "mean")
    gradients, parameters = plain_transfers(adapters, 2, zero_stage=2, micro_steps=2)
    assert told["plain"]["reduced"] == gradients.payload
    assert told["plain"]["gathered"] == pytest.approx(parameters.payload, rel=0.01)


def _planned(folder: Path, rule: str):
    config = runs.load(folder / "run.yaml", f"hook.name={rule}")
    shapes, adapters = find_shapes(build_meta_model(config, config.model.path))
    return shapes, adapters, hooks.build(rule, {})
