"""The command line as a user meets it: help without torch, one clear line for bad input, nothing overwritten."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from igascale.cli import COMMANDS, main
from igascale.cli.data import COMMANDS as DATA_COMMANDS

import runs
from launching import environment, igascale, interrupt_when_training


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return runs.prepare(tmp_path_factory.mktemp("cli"))


def invoke(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def refused(*arguments):
    """The message of a command that must fail for bad input: one line, status 2, no traceback."""
    result = invoke(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    assert "Traceback" not in result.output
    lines = [line for line in result.output.strip().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.output
    return lines[0]


@pytest.mark.parametrize(
    "command",
    [
        [],
        *([c] for c in COMMANDS),
        *(["data", verb] for verb in DATA_COMMANDS),
        ["runs", "ls"],
        ["runs", "tail"],
    ],
)
def test_help_needs_no_torch(command):
    code = (
        "import sys\nfrom igascale.cli import main\n"
        f"try: main({[*command, '--help']!r})\nexcept SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'transformers', 'deepspeed', 'peft'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, timeout=240
    )
    assert "heavy: []" in done.stdout
    assert "Usage:" in done.stdout
    assert "xample" in done.stdout or command in ([], ["data"])


def test_hooks_lists_and_explains():
    listing = invoke("hooks").output
    assert "iga" in listing
    assert "mean" in listing
    assert "https://arxiv.org/abs/2606.05025" in listing
    one = invoke("hooks", "iga").output
    assert "tau" in one
    assert "2008.01883" in one  # not DomainBed's method of the same name
    assert "did you mean 'iga'" in refused("hooks", "igga")


def test_validate_prints_everything_but_trains_nothing(base):
    result = invoke("validate", base, "hook.name=iga", "-n", "2")
    assert result.exit_code == 0, result.output
    for expected in (
        "8 groups = 32 instances",
        "4 groups each",
        "attention: sdpa",
        "adapters",
        "supervised",
        "hook cost",
        "Answer",
    ):
        assert expected in result.output.replace("the loss is on the marked tokens", "supervised"), expected
    assert not (base.parent / "run").exists()


@pytest.mark.parametrize("name", ["llama2-7b-iga", "llama2-7b-erm"])
def test_paper_configs_validate(name):
    result = invoke("validate", f"configs/paper/{name}.yaml", "--no-model")
    assert result.exit_code == 0, result.output
    assert "the configuration is valid" in result.output


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["hook.name=igga"], "hook.name: unknown hook 'igga'; did you mean 'iga'?"),
        (["hook.name=no.such:Thing"], "cannot import 'no.such'"),
        (["hook.name=iga", "hook.taau=1"], "unknown key 'hook.taau'; did you mean 'tau'?"),
        (["hook.name=iga", "hook.tau=hot"], "'hook.tau': expected float"),
        (["hook.name=iga", "hook.preset=papier"], "hook.preset"),
        (["hook.name=mean", "hook.tau=1"], "unknown key 'hook.tau'; 'mean' takes no options"),
        (["model.path=nowhere/at/all"], "nowhere/at/all"),
        (["data.train=missing.jsonl"], "missing.jsonl"),
        (["data.domains=[law, alchemy]"], "alchemy"),
        (["data.max_length=8"], "max_length"),
        (["train.groups_per_batch=100"], "train.groups_per_batch"),
        (["engine.name=deepspeed", "engine.ds_config=zero9"], "unknown 'zero9'"),
        (["optimizer.lrr=1"], "did you mean 'optimizer.lr'?"),
    ],
)
def test_bad_input_is_one_line(base, overrides, expected):
    assert expected in refused("validate", base, *overrides)
    assert not (base.parent / "run").exists()


def test_validate_with_an_auxiliary_hook_from_the_current_folder(base, tmp_path, monkeypatch):
    (tmp_path / "folder_rules.py").write_text(
        "from igascale.hooks import FactorGrads, GradientHook\n"
        "class Aux(GradientHook):\n"
        "    @staticmethod\n"
        "    def auxiliary(logits, labels): return logits.sum(-1)\n"
        "    def combine(self, grads, adapters, ctx):\n"
        "        return {k: FactorGrads(g.a.mean(0) + ctx.aux[k].a.mean(0), g.b.mean(0)) for k, g in grads.items()}\n"
    )
    (tmp_path / "broken_rules.py").write_text("def :\n")
    monkeypatch.chdir(tmp_path)
    result = invoke("validate", base, "hook.name=folder_rules:Aux")
    assert result.exit_code == 0, result.output
    assert "SyntaxError" in refused("validate", base, "hook.name=broken_rules:X")
    assert "cannot import" in refused("validate", base, "hook.name=.rules:X")


def test_the_deepspeed_launchers_own_argument_is_accepted(base):
    assert invoke("--local_rank=0", "hooks").exit_code == 0


def test_not_a_causal_lm(base, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    assert "causal" in refused("validate", base, f"model.path={tmp_path}")


BROKEN = {
    "cut": ('{"id": "x", "seed_id"', ":3"),
    "missing domain": (None, ":3"),
    "duplicate id": ("repeat", ":3"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_data_names_file_and_line(base, tmp_path, kind):
    lines = (base.parent / "data" / "train.jsonl").read_text().splitlines()[:4]
    if kind == "cut":
        lines[2] = lines[2][: len(lines[2]) // 2]
    elif kind == "missing domain":
        group = json.loads(lines[2])
        group["instances"].pop()
        lines[2] = json.dumps(group)
    else:
        group = json.loads(lines[2])
        group["id"] = json.loads(lines[0])["id"]
        lines[2] = json.dumps(group)
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(lines) + "\n")
    checked = invoke("data", "validate", file)  # which shows every problem, and then the summary
    assert checked.exit_code == 2
    assert f"{file}:3" in checked.output
    assert checked.output.splitlines()[-1] == f"error: not fit for training: {file}; what is wrong stands above"
    assert f"{file}:3" in refused("validate", base, f"data.train={file}")
    assert f"{file}:3" in refused("launch", base, f"data.train={file}", "engine.name=deepspeed", "-n", "2")


def test_validation_must_not_share_seeds(base):
    train = base.parent / "data" / "train.jsonl"
    assert "is also in" in refused("validate", base, f"data.validation={train}")


def test_data_generate_and_validate(tmp_path):
    out = tmp_path / "data"
    arguments = ["--groups", 12, "--validation-groups", 4, "--ood-groups", 4]
    assert invoke("data", "generate", "--out", out, *arguments).exit_code == 0
    result = invoke("data", "validate", out / "train.jsonl", out / "ood.jsonl")
    assert "12 groups, 48 instances" in result.output
    assert "finance, engineering" in result.output
    assert "not empty" in refused("data", "generate", "--out", out, *arguments)


def test_launch_dry_run_prints_the_command(base):
    result = invoke("launch", base, "engine.name=deepspeed", "-n", "2", "--dry-run", "--master-port", "29511")
    assert (
        "-m deepspeed.launcher.launch --world_info=eyJsb2NhbGhvc3QiOiBbMCwgMV19" in result.output
    )  # {"localhost": [0, 1]}
    assert "--master_port=29511" in result.output
    assert f"--module igascale train {base} engine.name=deepspeed" in result.output
    assert not (base.parent / "run").exists()


def test_launch_refuses_before_it_starts(base, tmp_path):
    deepspeed = "engine.name=deepspeed"
    assert "more ranks than the 8 groups" in refused("launch", base, deepspeed, "-n", "9")
    assert "engine.name is 'single'" in refused("launch", base, "-n", "2")
    assert "--num-processes" in refused("launch", base, deepspeed)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "x").touch()
    assert "already exists" in refused("launch", base, deepspeed, f"output_dir={tmp_path / 'run'}", "-n", "2")
    assert "needs a launcher" in refused("train", base, deepspeed)


def test_launch_trains_stops_on_ctrl_c_and_resumes(base, tmp_path):
    run = tmp_path / "run"
    overrides = [f"output_dir={run}", "engine.name=deepspeed", "train.max_steps=100000", "eval.every=null"]
    status, err = interrupt_when_training(run, "launch", str(base), *overrides, "-n", "2")
    assert status == 130, err
    assert "Traceback" not in err, err
    step = int((run / "checkpoints" / "latest").read_text().strip().removeprefix("step-"))
    assert 2 <= step < 100000
    done = igascale("launch", str(base), *overrides, "-n", "2", "--resume", "auto", "--stop-after", "2")
    assert done.returncode == 0, done.stderr
    assert f"resumed at step {step}/100000" in done.stdout
    assert (run / "checkpoints" / "latest").read_text().strip() == f"step-{step + 2:08d}"
