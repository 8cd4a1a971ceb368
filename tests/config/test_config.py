"""The configuration is strict, and tells the user what to mend."""

from pathlib import Path

import pytest

from igascale.config import load_config
from igascale.errors import UserError

MINIMAL = "output_dir: runs/x\nmodel: {path: m}\ndata: {train: t.jsonl}\n"
PAPER = Path(__file__).parents[2] / "configs" / "paper"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(MINIMAL)
    return file


def test_round_trip(path, tmp_path):
    config = load_config(path, ["optimizer.lr=1e-3", "hook.name=iga", "hook.tau=0.1", "data.domains=[a, b]"])
    assert config.optimizer.lr == 1e-3
    assert config.hook.options == {"tau": 0.1}
    again = tmp_path / "again.yaml"
    again.write_text(config.to_yaml())
    assert load_config(again) == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.lrr=3", r"unknown key 'optimizer.lrr'; did you mean 'optimizer.lr'\?"),
        ("trian.epochs=3", r"unknown key 'trian'; did you mean 'train'\?"),
        ("train.epochs=soon", "'train.epochs': .*number.*'soon'"),
        ("train.groups_per_batch=2.5", "'train.groups_per_batch': .*integer"),
        ("train.groups_per_batch=0", "'train.groups_per_batch': .*greater than or equal to 1"),
        ("train.groups_per_batch=true", "'train.groups_per_batch': .*integer"),
        ("model.dtype=float16", "'model.dtype': .*'bfloat16' or 'float32'"),
        ("data.train=null", "'data.train': .*string"),
        ("optimizer.lr=-1", "'optimizer.lr': .*greater than 0"),
        ("data.domains=[a, a]", "named twice"),
        ("seed=99999999999999999999999", "'seed': .*less than"),
        ("seed", "write key=value"),
        ("seed=[1", "not valid YAML"),
    ],
)
def test_bad_values(path, override, expected):
    with pytest.raises(UserError, match=expected):
        load_config(path, [override])


def test_missing_keys_are_all_named(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("output_dir: x\nmodel: {}\n")
    with pytest.raises(UserError) as error:
        load_config(file)
    assert "missing key 'model.path'" in str(error.value)
    assert "missing key 'data'" in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\nb: 2\n", r"run\.yaml:\d+: not valid YAML"),
        ("just words", "must hold keys and values"),
        ("{[1, 2]: 3}", "run\\.yaml"),
        (MINIMAL + "seed: 1\nseed: 2\n", r"run\.yaml:5: key 'seed' stands here twice"),
    ],
)
def test_broken_files(tmp_path, text, expected):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=expected):
        load_config(file)


def test_the_paper_preset_brings_the_papers_loss(path):
    assert load_config(path).train.loss_reduction == "token"
    assert load_config(path, ["hook.name=iga", "hook.preset=paper"]).train.loss_reduction == "instance"
    explicit = ["hook.name=iga", "hook.preset=paper", "train.loss_reduction=token"]
    assert load_config(path, explicit).train.loss_reduction == "token"


def test_yaml_merge_keys_work(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("output_dir: x\nmodel: &m {path: a, dtype: float32}\ndata: {train: t}\n")
    assert load_config(file).model.dtype == "float32"
    file.write_text(
        "output_dir: x\ntrain: &t {epochs: 2}\nmodel: {path: a}\ndata: {train: t}\neval: {<<: {every: 7}}\n"
    )
    assert load_config(file).eval.every == 7


def test_no_such_file(tmp_path):
    with pytest.raises(UserError, match="no such configuration file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize("method", ["iga", "erm"])
def test_paper_configs_say_appendix_b4(method):
    config = load_config(PAPER / f"llama2-7b-{method}.yaml")
    assert (config.lora.r, config.lora.alpha) == (16, 32)
    assert config.lora.target_modules == ("q_proj", "k_proj", "v_proj", "o_proj")
    o = config.optimizer
    assert (o.lr, o.weight_decay, o.beta1, o.beta2, o.warmup_ratio) == (2e-4, 1e-2, 0.9, 0.999, 0.03)
    assert (config.train.epochs, config.groups_per_step) == (3, 128)
    assert (config.train.groups_per_batch, config.train.gradient_accumulation_steps) == (32, 4)
    assert config.model.dtype == "bfloat16"
    assert config.hook.model_dump() == ({"name": "iga", "preset": "paper"} if method == "iga" else {"name": "mean"})


def test_the_schedule_is_as_long_as_the_run_or_longer(path):
    assert load_config(path, ["train.max_steps=5", "train.schedule_steps=9"]).train.schedule_steps == 9
    with pytest.raises(UserError, match=r"train.schedule_steps: 4 is less than train.max_steps: 5"):
        load_config(path, ["train.max_steps=5", "train.schedule_steps=4"])


def test_selection_is_kept_as_it_was_written(path, tmp_path):
    assert load_config(path).selection is None
    config = load_config(path, ["selection={by: in_domain, trials: 4, searched: {optimizer.lr: [1.0e-3, 2.0e-3]}}"])
    again = tmp_path / "again.yaml"
    again.write_text(config.to_yaml())
    assert load_config(again).selection == config.selection
    with pytest.raises(UserError, match=r"unknown key 'selection.trial'; did you mean 'selection.trials'"):
        load_config(path, ["selection={by: fixed, trial: 4}"])
    with pytest.raises(UserError, match=r"'selection.by': .*got 'guess'"):
        load_config(path, ["selection.by=guess"])
