"""docs/hooks.md: its code, put into one file, keeps the contract and trains; its tables have every rule and clause."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from igascale import assemble, contract, hooks
from igascale.hooks import AdapterFactors, DomainFactorGrads, HookContext
from igascale.isomers.batches import collate
from igascale.loss import supervised_logits

import runs
from launching import igascale

PAGE = (Path(__file__).parents[2] / "docs" / "hooks.md").read_text()
CPU = torch.device("cpu")
CLASSES = ["Tilted", "Agreement", "GroupDRO"]


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run, and beside it the one file that the page tells a reader to write."""
    folder = tmp_path_factory.mktemp("hooks_page")
    (folder / "my_rules.py").write_text("\n\n".join(blocks("python")))
    runs.prepare(folder)
    return folder


@pytest.fixture
def importable(folder, monkeypatch):
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize("arguments", [[c] for c in CLASSES] + [["Tilted", "temperature=0.1"]], ids="-".join)
def test_the_pages_rules_keep_the_contract(folder, arguments):
    cls, *options = arguments
    done = igascale("hooks", "check", f"my_rules:{cls}", *options, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"my_rules:{cls} keeps the contract." in done.stdout
    assert not re.search(r"^(FAIL|note)", done.stdout, re.MULTILINE), done.stdout


def test_the_pages_command_trains(folder):
    """`igascale train run.yaml --hook my_rules:Tilted hook.temperature=2`, as the page has it."""
    (command,) = re.findall(r"^ {4}igascale (train .*)$", PAGE, re.MULTILINE)
    arguments = [*command.split(), f"output_dir={folder / 'cli'}", "train.max_steps=2", "eval.every=null"]
    done = igascale(*arguments, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    saved = yaml.safe_load((folder / "cli" / "config.yaml").read_text())
    assert saved["hook"] == {"name": "my_rules:Tilted", "temperature": 2}
    lines = (folder / "cli" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines].count("train") == 2
    assert (folder / "cli" / "adapter" / "adapter_model.safetensors").is_file()


def test_the_first_step_is_the_gradient_of_the_tilted_loss(folder, importable):
    """Against autograd through ``T log mean exp(L_n / T)`` of one batch with every row of the step."""
    temperature = 0.002  # the losses of an untrained model differ by thousandths
    overrides = [f"output_dir={folder / 'oracle'}", "train.max_steps=2", "eval.every=null", "train.micro_batch_size=8"]
    overrides += ["hook.name=my_rules:Tilted", f"hook.temperature={temperature}", "optimizer.max_grad_norm=null"]
    config = runs.load(folder / "run.yaml", *overrides)
    recorded = runs.run(config)
    assert len(recorded.losses) == 2

    student = assemble.build_student(config, CPU)
    generator = torch.Generator().manual_seed(99)  # as in runs.run
    for adapter in student.adapters.values():
        adapter.B.data.copy_(0.02 * torch.randn(adapter.B.shape, generator=generator))
    data = assemble.load_data(config, student.tokenizer)
    examples = [e for g in data.schedule.groups_of_step(0) for e in data.train.groups[g]]
    batch = collate(examples, student.tokenizer.pad_token_id, "token")
    logits = student.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    logits_NV, labels_N, row_N = supervised_logits(logits, batch.labels)
    loss_N = torch.nn.functional.cross_entropy(logits_NV, labels_N, reduction="none")
    losses = torch.stack([loss_N[batch.domain[row_N] == n].mean() for n in range(4)])
    weights = torch.softmax(losses.detach() / temperature, 0)
    assert weights.max() > 1.5 * weights.min()  # else this could not be told from the mean
    (temperature * torch.logsumexp(losses / temperature, 0)).backward()
    expected = {f"{k}.{n}": p.grad for k, a in student.adapters.items() for n, p in (("a", a.A), ("b", a.B))}
    assert runs.relative(recorded.first, expected) < 1e-3  # float32 losses, divided by the temperature


def test_a_resumed_run_of_the_rule_that_remembers_is_the_same_run(folder, importable):
    def train(name, **how):
        overrides = [f"output_dir={folder / name}", "train.max_steps=3", "eval.every=null", "hook.step_size=100"]
        return runs.train(runs.load(folder / "run.yaml", "hook.name=my_rules:GroupDRO", *overrides), CPU, **how)

    straight = train("straight").tensors
    train("stopped", stop_after=1)
    resumed = train("stopped", resume="auto").tensors
    assert all(torch.equal(resumed[k], straight[k]) for k in straight)


def test_agreement_is_its_formula(importable):
    a = torch.tensor([[[1.0, 1.0, 0.0, 2.0]], [[3.0, -1.0, 0.0, -1.0]]])
    grads = {"q": DomainFactorGrads(a, torch.zeros(2, 1, 1))}
    hook = hooks.build("my_rules:Agreement", {"power": 2.0})
    result = hook.combine(grads, {"q": AdapterFactors(torch.zeros(1, 4), torch.zeros(1, 1))}, HookContext())["q"]
    torch.testing.assert_close(result.a, torch.tensor([[2.0, 0.0, 0.0, 0.5 * (1 / 3) ** 2]]))
    assert float(result.stats["kept"]) == pytest.approx((1 + 0 + 1 + 1 / 9 + 1) / 5)
    assert "Lower power" in hook.alarms({"kept": 0.05})["starving"]


def test_group_dro_is_its_formula(importable):
    hook, q = hooks.build("my_rules:GroupDRO", {"step_size": 0.5}), torch.full((3,), 1 / 3, dtype=torch.float64)
    for step in range(4):
        losses = torch.rand(3, dtype=torch.float64)
        w = hook.weights(torch.eye(3), HookContext(step, ("x", "y", "z"), losses))
        q = q * torch.exp(0.5 * losses)
        q = q / q.sum()
        torch.testing.assert_close(w, q)


def test_the_pages_entry_points_work(folder, importable, tmp_path, monkeypatch):
    (text,) = blocks("toml")
    project = tomllib.loads(text)["project"]
    entries = project["entry-points"]["igascale.hooks"]
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "entry_points.txt").write_text("[igascale.hooks]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()))
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, value in entries.items():
        assert type(hooks.build(name, {})).__name__ == value.partition(":")[2]


def rows(heading):
    """First cell of each table row under a heading -> the whole row."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    cells = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return {row[0].strip(" `"): " | ".join(row) for row in cells[2:]}


def test_every_rule_has_its_row():
    table = rows("The rules that are here")
    assert list(table) == hooks.available()
    for name, row in table.items():
        cls = hooks.find(name)
        for identifier in re.findall(r"arxiv\.org/abs/([\d.]+\d)", row):
            assert identifier in cls.__doc__, (name, identifier)
        named = re.findall(r"`(\w+)`", row.rsplit(" | ", 1)[1])
        assert set(named) <= set(hooks.options(cls)), name
        assert bool(named) == bool(hooks.options(cls)), name


def test_every_clause_has_its_row():
    assert list(rows("The contract")) == [rule.name for rule in contract.RULES]


def test_every_field_of_the_context_is_explained():
    given = json.dumps(rows("What a hook is given"))
    for name in HookContext.__dataclass_fields__:
        assert f"ctx.{name}" in given, name
