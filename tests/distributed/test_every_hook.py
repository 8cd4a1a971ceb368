"""Every rule: two ranks with two micro-steps each do what one process does, and a resumed run is the undisturbed one."""

import json

import pytest
import torch

from igascale import hooks

import runs
from launching import launch

SHARED = ["optimizer.lr=2e-3", "eval.every=null", "checkpoint.every=null", "train.max_steps=3"]
#: Options that make a rule do more than its defaults would on these small gradients, and the choices of each family.
VARIANTS = {
    "and_mask-max": ["hook.name=and_mask", "hook.second_moment=max", "hook.shuffled=true"],
    "sand_mask-max": ["hook.name=sand_mask", "hook.second_moment=max", "hook.variance_norm=relative"],
    "gate-shuffled": ["hook.name=gate", "hook.shuffled=true", "hook.tau=50", "hook.remove_noise=true"],
    "iga-auto": ["hook.name=iga", "hook.tau=auto", "hook.remove_noise=true"],
    "iga-factor": ["hook.name=iga", "hook.space=factor", "hook.tau=20"],
    "iga-and": ["hook.name=iga", "hook.mask=and"],
    "iga-shuffled": ["hook.name=iga", "hook.shuffled=true", "hook.tau=20"],
    "iga-paper": ["hook.name=iga", "hook.preset=paper"],
    "iga-warm": ["hook.name=iga", "hook.warm_start=true", "hook.power_iters=0"],
    "iga-full-rank": ["lora.full_rank=true", "hook.name=iga", "hook.space=factor"],
    "iga-zero1": ["hook.name=iga", "hook.tau=20", "engine.ds_config=zero1"],
    "iga-clipped": ["hook.name=iga", "hook.tau=20", "optimizer.max_grad_norm=0.01"],
    "irm-strong": ["hook.name=irm", "hook.anneal_steps=0", "train.loss_reduction=instance"],
}
CASES = {name: [f"hook.name={name}"] for name in hooks.available()} | VARIANTS
#: Masks that jump where a sum of signs changes (a gradient near zero has another sign after another rounding), and rules
#: that divide by the smallest eigenvalue of a Gramian, which in this young model is the square of a small difference.
SENSITIVE = ("and_mask", "sand_mask", "iga-and", "torchjd")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("every-hook")
    path = runs.prepare(folder, train={"max_steps": 3, "groups_per_batch": 4, "gradient_accumulation_steps": 2})
    _set_domains_against_each_other(folder / "data" / "train.jsonl")
    return path


def _set_domains_against_each_other(path):
    """Each domain wants another word, so that what raises one domain's word lowers the others'."""
    groups = [json.loads(line) for line in path.read_text().splitlines()]
    for group in groups:
        for instance, word in zip(group["instances"], ("red", "blue", "yes", "no")):
            instance["cot"], instance["answer"] = " ".join([word] * (3 + len(group["instances"][0]["cot"]) % 5)), word
    path.write_text("".join(json.dumps(group) + "\n" for group in groups))


@pytest.fixture(scope="module")
def two_ranks(prepared):
    out = prepared.parent / "two"
    out.mkdir()
    (out / "cases.json").write_text(json.dumps({k: [*SHARED, *v] for k, v in CASES.items()}))
    launch("torchrun", 2, "worker_cases.py", str(prepared.parent), str(out), str(out / "cases.json"), timeout=1800)
    return {case: torch.load(out / f"{case}.pt") for case in CASES}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_are_one_process(two_ranks, prepared, tmp_path, case):
    # The same four micro-batches, so that the noise measured between them is the same.
    config = runs.load(prepared, f"output_dir={tmp_path / 'run'}", *SHARED, *CASES[case], "train.micro_batch_size=8")
    expected = runs.run(config).to_dict()
    found = two_ranks[case]
    limit = 1e-2 if case.startswith(SENSITIVE) else 2e-4
    assert runs.relative(found["first"], expected["first"]) <= limit
    assert all(t.isfinite().all() for t in found["masters"].values())
    losses = torch.tensor(found["losses"]), torch.tensor(expected["losses"])
    torch.testing.assert_close(*losses, rtol=1e-4, atol=0)


def test_the_rules_differ(two_ranks):
    """So that the comparison above compares something (a full-rank run has other factors).

    No pair of domains conflicts outright in so young a model, so that PCGrad and UPGrad are the mean; the contract tests
    have them on shards with conflicts.
    """
    mean = two_ranks["mean"]["first"]
    for case, found in two_ranks.items():
        if case in ("pcgrad", "upgrad"):
            assert runs.relative(found["first"], mean) <= 1e-6
        elif case not in ("mean", "iga-full-rank"):
            assert runs.relative(found["first"], mean) > 1e-3, case


@pytest.mark.parametrize("case", [c for c in CASES if not c.startswith(("iga-zero1", "iga-clipped"))])
def test_resume_is_bitwise(prepared, tmp_path, case):
    """One process here; at two ranks, with a hook that has state, see test_resume_and_skip.py."""
    device, overrides = torch.device("cpu"), [*SHARED[:3], "train.max_steps=4", *CASES[case]]

    def config(name):
        return runs.load(prepared, f"output_dir={tmp_path / name}", *overrides)

    whole = runs.train(config("whole"), device)
    runs.train(config("parts"), device, stop_after=2)
    parts = runs.train(config("parts"), device, resume="auto")
    assert whole.tensors.keys() == parts.tensors.keys()
    assert all(torch.equal(whole.tensors[k], parts.tensors[k]) for k in whole.tensors)


@pytest.mark.parametrize(
    "masked",
    [
        ["hook.name=iga", "hook.tau=0", "hook.projection=none"],
        ["hook.name=iga", "hook.tau=0", "hook.space=factor"],
        ["hook.name=gate", "hook.tau=0"],
        ["hook.name=and_mask", "hook.threshold=0", "hook.rescale=none", "hook.second_moment=max"],
    ],
    ids=" ".join,
)
def test_a_mask_that_is_off_trains_as_erm_to_the_bit(prepared, tmp_path, masked):
    """With `second_moment: max`, clipping and accumulation: the reference is then the gradient itself.

    Both runs measure noise, as masks do: micro-batches are then added up after the products and not by them, which rounds
    differently on some processors.
    """
    shared = [*SHARED, "optimizer.max_grad_norm=0.05"]
    found, expected = (
        runs.train(runs.load(prepared, f"output_dir={tmp_path / name}", *shared, *hook), torch.device("cpu"))
        for name, hook in (("masked", masked), ("mean", ["hook.name=mean_with_noise:MeanWithNoise"]))
    )
    assert all(torch.equal(found.tensors[k], expected.tensors[k]) for k in expected.tensors)
