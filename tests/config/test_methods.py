"""Every row of the paper's tables is one word; the word fixes the row, key=value still wins, and what ran is written out."""

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from igascale import hooks, methods
from igascale.cli import main
from igascale.config import load_config
from igascale.errors import UserError

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "configs" / "paper"

# The paper's rows as printed, each with the method that stands for it.
TABLE_1 = {
    "ERM-SFT": "erm-sft",
    "LoRA-SFT": "lora-sft",
    "CoT-Distill": "cot-distill",
    "IRM": "irm",
    "V-REx": "v-rex",
    "PCGrad": "pcgrad",
    "SAND-Mask": "sand-mask",
    "Pareto-GS": "pareto-gs",
    "IGA (Ours)": "iga",
}
TABLE_2 = {
    "Full IGA": "iga",
    "w/o Subspace Projection (full-rank)": "full-rank",
    "w/o Subspace Proj., LoRA grad only": "lora-grad-only",
    "w/o Continuous Mask (binary AND-mask)": "and-mask",
    "τ=0.1 (near-uniform mask)": "tau-0.1",
    "τ=2.0 (near-binary mask)": "tau-2.0",
    "w/o Isomer Sets (random pairing)": "random-pairing",
    "w/o Isomer Sets (single domain)": "single-domain",
    "w/o Seed-level Split (data leakage)": "leakage",
    "Single domain (2 isomers, not 4)": "two-domains",
    "All 4 domains but no masking (avg)": "no-masking",
    "ERM-SFT (for reference)": "erm-sft",
}
BEYOND = {
    "iga-paper", "iga-paper-stable", "no-projection", "and-mask-factor", "gate", "iga-mixed", "iga-shuffled",
}  # fmt: skip

RUN = """
output_dir: runs/x
model: {path: m, dtype: float32}
lora: {r: 8, alpha: 16, dropout: 0.1}
data: {train: t.jsonl, validation: v.jsonl, ood: o.jsonl, max_length: 256}
hook: {name: iga, preset: paper, tau: 3.0}
train: {max_steps: 10, groups_per_batch: 8, gradient_accumulation_steps: 1}
optimizer: {lr: 4e-3}
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(RUN)
    return file


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_both_tables_are_complete_and_in_order():
    tables = methods.tables()
    assert [(label, name) for name, label in tables["Table 1"]] == list(TABLE_1.items())
    assert [(label, name) for name, label in tables["Table 2"]] == list(TABLE_2.items())
    assert {name for name, _ in tables["Beyond the tables"]} == BEYOND
    assert set(methods.available()) == {*TABLE_1.values(), *TABLE_2.values(), *BEYOND}


@pytest.mark.parametrize("name", methods.available())
def test_every_method_loads_and_its_hook_builds(path, name):
    config = load_config(path, method=name)
    hooks.build(config.hook.name, config.hook.options)
    # The user's own keys stay.
    assert (config.train.max_steps, config.optimizer.lr, config.data.max_length) == (10, 4e-3, 256)


@pytest.mark.parametrize("name", methods.available())
def test_the_resolved_configuration_is_complete(path, tmp_path, name):
    config = load_config(path, method=name)
    written = tmp_path / "resolved.yaml"
    written.write_text(config.to_yaml())
    assert written.read_text().startswith(f"# method: {name}\n")
    again = load_config(written)
    assert again == config
    assert again.model_dump() == config.model_dump()
    assert load_config(written, method=name) == config
    assert "# method" not in again.to_yaml()


@pytest.mark.parametrize("name", methods.available())
def test_a_method_is_the_same_row_on_any_configuration(path, tmp_path, name):
    expected = load_config(path, ["lora.dropout=0"], method=name)
    for other in methods.available():
        before = tmp_path / f"{other}.yaml"
        before.write_text(load_config(path, ["lora.dropout=0"], method=other).to_yaml())
        found = load_config(before, method=name)
        # The loss that the paper's preset brings has become the file's own by then.
        assert found.model_copy(update={"train": expected.train}) == expected, other


def test_the_hook_section_is_replaced_and_others_merged(path):
    config = load_config(path, method="tau-0.1")
    assert config.hook.model_dump() == {"name": "iga", "tau": 0.1}
    full = load_config(path, method="full-rank")
    assert (full.lora.full_rank, full.lora.dropout, full.lora.r) == (True, 0.0, 8)


def test_an_override_beats_the_method(path):
    config = load_config(path, ["hook.tau=0.7", "data.pairing=isomers", "hook.rank=R"], method="random-pairing")
    assert config.hook.options == {"tau": 0.7, "rank": "R"}
    assert config.data.pairing == "isomers"


def test_the_paper_preset_of_a_method_brings_the_papers_loss(path):
    assert load_config(path, method="iga-paper").train.loss_reduction == "instance"
    assert load_config(path, ["train.loss_reduction=token"], method="iga-paper").train.loss_reduction == "token"
    assert load_config(path, method="pcgrad").train.loss_reduction == "token"  # the file's preset is gone


def test_hook_replaces_the_section(path):
    config = load_config(path, ["hook.tau=1"], hook="iga")
    assert config.hook.model_dump() == {"name": "iga", "tau": 1}
    assert load_config(path, hook="mean").hook.model_dump() == {"name": "mean"}
    assert load_config(path, hook="pkg.rules:Mine").hook.name == "pkg.rules:Mine"
    assert load_config(path, hook="mean").data == load_config(path).data


@pytest.mark.parametrize("name", ["iga", "erm"])
def test_methods_on_the_papers_configurations(name):
    file = PAPER / f"llama2-7b-{name}.yaml"
    assert load_config(file, method="erm-sft").data.pool == "instances"
    two = load_config(file, method="two-domains").data
    assert (len(two.domains), two.num_domains) == (4, 2)


def test_bad_names(path):
    with pytest.raises(
        UserError, match=r"--method: unknown method 'pcgrat'; did you mean 'pcgrad'\?; there are and-mask"
    ):
        load_config(path, method="pcgrat")
    with pytest.raises(UserError, match=r"unknown method '\.\./iga'"):
        load_config(path, method="../iga")
    with pytest.raises(UserError, match="--method iga brings a hook of its own: leave out --hook mean"):
        load_config(path, method="iga", hook="mean")


def test_method_is_no_key(path):
    expected = r"unknown key 'method': a method is named on the command line, --method NAME"
    with pytest.raises(UserError, match=rf"override 'method=iga': {expected}"):
        load_config(path, ["method=iga"])
    path.write_text(RUN + "method: iga\n")
    with pytest.raises(UserError, match=rf"run.yaml: {expected}"):
        load_config(path)


def test_a_broken_section_is_still_named(path):
    path.write_text(RUN.replace("lora: {r: 8, alpha: 16, dropout: 0.1}", "lora: 3"))
    with pytest.raises(UserError, match="'lora': "):
        load_config(path, method="full-rank")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["lora.dropout=0.1"], r"lora.full_rank trains W itself: set lora.dropout: 0 \(it is 0.1\)"),
        (["lora.use_rslora=true"], "set lora.use_rslora: false"),
        (["lora.init_from=x"], "set lora.init_from: null"),
    ],
)
def test_full_rank_goes_with_no_other_lora(path, overrides, message):
    with pytest.raises(UserError, match=message):
        load_config(path, overrides, method="full-rank")


def test_the_files_are_packaged():
    globs = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["igascale"]
    for name in methods.available():
        assert any(fnmatch.fnmatch(f"methods/{name}.yaml", glob) for glob in globs)


def test_every_file_says_what_it_is():
    for file in (ROOT / "igascale" / "methods").glob("*.yaml"):
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert raw["description"].endswith("."), file
        assert "\n" not in raw["description"]
        assert raw["settings"]["hook"]["name"]


def test_the_command_lists_them():
    output = CliRunner(env={"COLUMNS": "250"}).invoke(main, ["methods"]).output
    for name in methods.available():
        assert re.search(rf"^ *{re.escape(name)} ", output, re.MULTILINE), name
    for label in (*TABLE_1, *TABLE_2):
        assert label in output
    assert "data.pool=seeds data.augment=0.1" in output


def test_the_command_line_takes_and_refuses_them(path):
    good = invoke("validate", path, "--no-model", "--method", "lora-sft", "engine.name=single")
    assert good.exit_code == 0, good.output
    assert "pool: seeds" in good.output
    assert "# method: lora-sft" in good.output
    named = invoke("validate", path, "--no-model", "--hook", "mean", "engine.name=single")
    assert named.exit_code == 0, named.output
    for verb in ("validate", "train", "launch"):
        bad = invoke(verb, path, "--method", "pcgrat")
        assert bad.exit_code == 2
        assert "did you mean 'pcgrad'" in bad.output
        both = invoke(verb, path, "--method", "iga", "--hook", "mean")
        assert "leave out --hook mean" in both.output
    unknown = invoke("validate", path, "--no-model", "--hook", "igga")
    assert "unknown hook 'igga'; did you mean 'iga'" in unknown.output


def test_launch_hands_them_to_the_ranks(path):
    for option in ("--method", "--hook"):
        shown = invoke("launch", path, option, "pcgrad" if option == "--method" else "mean", "-n", "2", "--dry-run")
        assert f"train {path} {option} " in shown.output


def test_the_documentation_has_every_method_and_every_row():
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for name in methods.available():
        row = re.search(rf"^\| `{re.escape(name)}` .*$", text, re.MULTILINE)
        assert row, name
        for section, values in methods.find(name).settings.items():
            for key, value in values.items():
                if (
                    (section, key) == ("hook", "name")
                    or section == "data"
                    or key in ("full_rank", "tau", "space", "mask")
                ):
                    shown = {True: "true"}.get(value, value) if isinstance(value, bool) else value
                    assert f"{section}.{key}={shown}" in row.group(), (name, key)
    for label in (*TABLE_1, *TABLE_2):
        assert label in text, label
