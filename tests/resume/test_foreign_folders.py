"""--resume with a path that is no run and no checkpoint of igascale: one line that says what it is and what to do."""

import pytest

from igascale import runfolder
from igascale.errors import UserError

import runs


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign")
    return runs.prepare(folder)


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")


PEFT = ("adapter_config.json", "adapter_model.safetensors")
SHARDS = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt")
FOREIGN = {
    "empty": ((), "an empty folder"),
    "peft": (PEFT, "a PEFT adapter, .*lora.init_from="),
    "trainer": (
        ("trainer_state.json", "optimizer.pt", "rng_state_0.pth", *PEFT),
        "Hugging Face Trainer, .*lora.init_from=",
    ),
    "trainer-run": (("checkpoint-500/trainer_state.json",), "the output of a Hugging Face Trainer"),
    "deepspeed-tag": (SHARDS, r"a checkpoint of DeepSpeed; .*--input_folder \S*deepspeed-tag .*checkpoint import"),
    "deepspeed": (("latest", *(f"step5/{s}" for s in SHARDS)), r"--input_folder \S*deepspeed/step5 "),
    "deepspeed-bf16": (("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt",), "a checkpoint of DeepSpeed"),
    "universal": (
        ("zero/a.weight/fp32.pt", *SHARDS[:1]),
        r"a universal checkpoint.*`igascale checkpoint import \S*universal CONFIG`",
    ),
    "distributed": ((".metadata", "__0_0.distcp"), "torch.distributed.checkpoint"),
    "model": (("config.json", "model.safetensors"), "a model folder, not a run"),
    "data": (("manifest.json", "train.jsonl"), "a data set, not a run"),
    "checkpoints": (("step-00000002/manifest.json", "latest"), "the checkpoints of a run; name the run, --resume "),
    "thesis": (("thesis.txt",), "neither a run nor a checkpoint"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_it_is_named_and_nothing_is_touched(base, tmp_path, name):
    files, told = FOREIGN[name]
    folder = tmp_path / name
    folder.mkdir()
    write(folder, *files)
    if name == "deepspeed":
        (folder / "latest").write_text("step5\n")
    before = sorted(p for p in tmp_path.rglob("*"))
    config = runs.load(base, f"output_dir={tmp_path / 'run'}")
    with pytest.raises(UserError, match=told) as error:
        runfolder.check_start(config, str(folder))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"no checkpoint in {folder}: ")
    assert sorted(p for p in tmp_path.rglob("*")) == before
    if files:  # and as an output_dir
        with pytest.raises(UserError, match="already exists"):
            runfolder.check_start(runs.load(base, f"output_dir={folder}"), "auto")


@pytest.mark.parametrize(("make", "told"), [(False, "there is no such folder"), (True, "a file; name a run folder")])
def test_no_folder(base, tmp_path, make, told):
    if make:
        (tmp_path / "it").write_text("")
    with pytest.raises(UserError, match=told):
        runfolder.check_start(runs.load(base, f"output_dir={tmp_path / 'run'}"), str(tmp_path / "it"))


def test_a_run_that_has_no_checkpoint_yet(base, tmp_path):
    run = tmp_path / "run"
    write(run, "config.yaml", "environment.json")
    with pytest.raises(UserError, match=r"no checkpoint in .*run: .*latest is missing"):
        runfolder.check_start(runs.load(base, f"output_dir={tmp_path / 'other'}"), str(run))
