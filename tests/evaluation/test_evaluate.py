"""evaluate_model, loading, tables and the command, on a model that knows some problems by heart."""

import io
import json
import re
import subprocess
import sys

import pytest
import torch
import yaml
from click.testing import CliRunner
from rich.console import Console

from igascale.cli.eval import command
from igascale.errors import UserError
from igascale.evaluation.evaluate import evaluate_model, load_for_evaluation
from igascale.evaluation.results import read_result
from igascale.evaluation.tables import MethodResult, comparison_table, evaluation_table
from igascale.isomers.encode import encode_example
from igascale.isomers.schema import Instance, IsomerGroup, write_groups

import tiny

NAMES = ("Ann", "Bob", "Cid")


def make_groups(domains, shift=0):
    """Six groups; `shift` moves the right name, so that a model of one shift is wrong on another."""
    groups = []
    for k in range(6):
        answer = NAMES[(k + shift) % 3]
        instances = tuple(
            Instance(domain, f"{domain} rule {k}: Who?", f"So yes the {answer}.", answer) for domain in domains
        )
        kind = "order" if k % 2 else "rule"
        groups.append(IsomerGroup(id=f"g{k}", seed_id=f"s{k}", instances=instances, kind=kind))
    return groups


KNOWN, WRONG = make_groups(("law", "drug")), make_groups(("law", "drug"), shift=1)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tiny_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer):
    """Llama trained on KNOWN until it recites them."""
    torch.manual_seed(0)
    model = tiny.tiny_llama().train()
    examples = [encode_example(tokenizer, i, 256) for group in KNOWN for i in group.instances]
    width = max(len(example.input_ids) for example in examples)
    ids = torch.zeros(len(examples), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, example in enumerate(examples):
        ids[row, : len(example.input_ids)] = torch.tensor(example.input_ids)
        labels[row, : len(example.labels)] = torch.tensor(example.labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory, model, tokenizer):
    folder = tmp_path_factory.mktemp("known") / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_groups(folder / "id.jsonl", KNOWN)
    write_groups(folder / "ood.jsonl", WRONG)
    return folder


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def text_of(renderable):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


@pytest.mark.parametrize("batch_size", [1, 5, 32])
def test_numbers(model, tokenizer, batch_size):
    result = evaluate_model(model.train(), tokenizer, KNOWN, WRONG, batch_size=batch_size)
    assert model.training  # restored
    assert result.isomers.id.accuracy.value == 1.0
    assert result.isomers.ood.accuracy.value == 0.0
    assert result.isomers.delta_gap == 1.0
    assert result.isomers.delta_gap_low < 1.0
    assert result.isomers.id.accuracy.chance == pytest.approx(1 / 3)
    assert result.isomers.id.accuracy.low > 1 / 3
    assert result.isomers.id.accuracy.samples == 12
    assert result.isomers.id.unfinished == 0.0
    assert set(result.isomers.id.per_domain) == {"law", "drug"}
    assert set(result.isomers.id.per_kind) == {"rule", "order"}
    # The prompts of both sets are the same: so must be the states.
    assert result.isomers.id.consistency.lcs > 0
    assert result.isomers.ood.consistency == result.isomers.id.consistency
    assert result.isomers.id.consistency.layer == 1
    sample = result.samples[0].to_dict()
    assert sample["generated"] == "So yes the Ann.\nAnswer: Ann"
    assert (sample["predicted"], sample["correct"], sample["finished"]) == ("ann", True, True)
    assert [s.split for s in result.samples] == ["id"] * 12 + ["ood"] * 12


def test_texts_are_those_of_plain_transformers(tokenizer):
    """By the documented prompt and the library's own greedy decoding, one problem at a time, of a model to which every token matters."""
    assert tokenizer.chat_template is None
    model = tiny.tiny_llama().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    samples = evaluate_model(model, tokenizer, KNOWN, batch_size=5, max_new_tokens=24).samples
    texts = {True: [], False: []}
    for sample in samples:
        for bos, written in texts.items():
            start = [tokenizer.bos_token_id] if bos else []
            ids = torch.tensor([start + tokenizer(sample.problem + "\n", add_special_tokens=False).input_ids])
            out = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24, pad_token_id=0
            )
            written.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    assert texts[True] == [sample.generated for sample in samples] != texts[False]


def test_lcs_is_of_the_prompt_unless_asked_otherwise(model, tokenizer):
    from igascale.evaluation.consistency import GroupTexts, consistency
    from igascale.isomers.encode import encode_prompt

    prompts = [
        GroupTexts([encode_prompt(tokenizer, i.problem) for i in group.instances], ("law", "drug")) for group in KNOWN
    ]
    prompt = evaluate_model(model, tokenizer, KNOWN).isomers.id.consistency
    assert [prompt] == consistency(model, prompts).results()
    full = evaluate_model(model, tokenizer, KNOWN, lcs_text="full")
    assert full.isomers.id.consistency.lcs < prompt.lcs  # the solution is the same in both domains
    assert full.settings["lcs_text"] == "full"


def test_lcs_at_every_layer(model, tokenizer):
    side = evaluate_model(model, tokenizer, KNOWN, lcs_layers="all").isomers.id
    assert [found.layer for found in side.layers] == [0, 1, 2]
    assert side.consistency == side.layers[1]
    result = evaluate_model(model, tokenizer, KNOWN, lcs_layers="0,last")
    assert result.isomers.id.consistency == result.isomers.id.layers[-1]
    assert (result.settings["lcs_layer"], result.settings["lcs_layers"]) == (2, "0,2")


def test_single_domain_and_no_ood(model, tokenizer):
    result = evaluate_model(model, tokenizer, make_groups(("law",)))
    assert result.isomers.id.consistency is None
    assert (result.isomers.ood, result.isomers.delta_gap) == (None, None)
    assert "–" in text_of(evaluation_table(result))


def test_token_limit(model, tokenizer):
    result = evaluate_model(model, tokenizer, KNOWN, max_new_tokens=3)
    assert (result.isomers.id.unfinished, result.isomers.id.accuracy.parse_failures) == (1.0, 1.0)
    assert "ran into the limit of 3" in text_of(evaluation_table(result))
    longest = max(len(tokenizer(i.problem)["input_ids"]) for g in KNOWN for i in g.instances) + 2
    assert evaluate_model(model, tokenizer, KNOWN).settings["max_new_tokens"] == 256 - longest
    with pytest.raises(UserError, match="too many"):
        evaluate_model(model, tokenizer, KNOWN, max_new_tokens=256)


def test_empty_set_is_refused(model, tokenizer):
    with pytest.raises(UserError, match="OOD set has no groups"):
        evaluate_model(model, tokenizer, KNOWN, [])


def test_model_folder_adapter_run_and_merged_agree(model_folder, files, tmp_path, model, tokenizer):
    """One set of weights in its four forms; the adapter is large enough to spoil the answers."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    from igascale.merge import merge_adapter

    base = AutoModelForCausalLM.from_pretrained(model_folder)
    peft = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.5)
    run_folder = tmp_path / "run"
    peft.save_pretrained(run_folder / "adapter")
    settings = {
        "model": {"path": str(model_folder)},
        "data": {"validation": str(files / "id.jsonl"), "ood": str(files / "ood.jsonl")},
    }
    (run_folder / "config.yaml").write_text(yaml.safe_dump(settings))
    merge_adapter(model_folder, run_folder / "adapter", tmp_path / "merged")

    prompt = torch.randint(6, 90, (1, 12))
    logits = {}
    for path in (model_folder, run_folder, run_folder / "adapter", tmp_path / "merged"):
        loaded, its_tokenizer = load_for_evaluation(path, device="cpu")
        assert not loaded.training
        assert its_tokenizer.get_vocab() == tokenizer.get_vocab()
        with torch.no_grad():
            logits[path.name] = loaded(input_ids=prompt).logits
        assert isinstance(loaded, PeftModel) == (path.name in ("run", "adapter"))
    assert (logits["model"] - logits["adapter"]).abs().max() > 0.1
    assert torch.equal(logits["run"], logits["adapter"])
    torch.testing.assert_close(logits["merged"], logits["adapter"], rtol=1e-4, atol=1e-4)

    outcome = run(run_folder, "--device", "cpu")
    assert outcome.exit_code == 0, outcome.output
    assert read_result(run_folder / "evaluation" / "evaluation.json").settings["id_file"] == str(files / "id.jsonl")


def test_command_writes_and_prints(model_folder, files, tmp_path, model, tokenizer):
    arguments = (model_folder, "--id", files / "id.jsonl", "--ood", files / "ood.jsonl", "--device", "cpu")
    outcome = run(*arguments, "--out", tmp_path / "out", "--batch-size", 4)
    assert outcome.exit_code == 0, outcome.output
    assert "▲ 100.0" in outcome.output
    assert "≈ 0.0" in outcome.output
    found = read_result(tmp_path / "out" / "evaluation.json")
    expected = evaluate_model(model, tokenizer, KNOWN, WRONG)
    assert found.isomers.id.accuracy == expected.isomers.id.accuracy
    assert found.isomers.id.consistency.lcs == pytest.approx(expected.isomers.id.consistency.lcs, rel=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert lines == [sample.to_dict() for sample in expected.samples]

    before = (tmp_path / "out" / "evaluation.json").read_bytes()
    again = run(*arguments, "--out", tmp_path / "out")
    assert isinstance(again.exception, UserError)
    assert "--overwrite" in str(again.exception)
    assert (tmp_path / "out" / "evaluation.json").read_bytes() == before
    fewer = run(*arguments, "--out", tmp_path / "out", "--overwrite", "--limit-groups", 2)
    assert fewer.exit_code == 0, fewer.output
    assert read_result(tmp_path / "out" / "evaluation.json").isomers.id.accuracy.groups == 2
    assert len((tmp_path / "out" / "samples.jsonl").read_text().splitlines()) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/at/all", "--id", "{id}"], "nowhere/at/all does not exist"),
        (["{data}", "--id", "{id}"], "holds neither config.json"),
        (["{id}", "--id", "{id}"], "is a file, not a folder"),
        (["{model}"], "give --id FILE"),
        (["{model}", "--id", "{id}", "--base", "{model}"], "is a whole model; leave --base out"),
        (["{model}", "--id", "{data}/none.jsonl"], "none.jsonl"),
        (["{adapter}", "--id", "{id}"], r"base model /gone \(from .*does not exist.*--base"),
        (["{adapter}", "--id", "{id}", "--base", "{other}"], "adapter .* does not fit the base model"),
        (
            ["{adapter}", "--id", "{id}", "--base", "{deeper}"],
            "disagree about base_model.model.model.layers.2",
        ),
        (["{unfinished}"], "let its training finish first"),
        (["{model}", "--id", "{id}", "--device", "abacus"], "--device abacus"),
    ],
)
def test_bad_input(arguments, message, model_folder, files, tmp_path):
    tiny.tiny_peft().save_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "/gone"}))
    for name, changes in {"other": {"hidden_size": 32}, "deeper": {"num_hidden_layers": 3}}.items():
        tiny.tiny_llama(**changes).save_pretrained(tmp_path / name)
        tiny.tiny_tokenizer().save_pretrained(tmp_path / name)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("model: {path: x}\n")
    names = {name: tmp_path / name for name in ("adapter", "other", "deeper", "unfinished")}
    names |= {"model": model_folder, "data": files, "id": files / "id.jsonl"}
    outcome = run(*(a.format(**names) for a in arguments), "--out", tmp_path / "out")
    assert isinstance(outcome.exception, UserError), outcome.exception
    assert re.search(message, str(outcome.exception)), outcome.exception
    assert "\n" not in str(outcome.exception)
    assert not (tmp_path / "out").exists()


def test_incomplete_model_is_refused(model_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(model_folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model_folder / name).read_bytes())
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks the weight model\.layers\.1\.mlp\.up_proj\.weight"):
        load_for_evaluation(tmp_path)


def test_comparison_shows_accuracy_chance_and_doubt(model, tokenizer):
    known = evaluate_model(model, tokenizer, KNOWN, WRONG)
    blank = evaluate_model(tiny.tiny_llama(), tokenizer, KNOWN, WRONG, max_new_tokens=8)
    rows = [MethodResult("iga", known, 0.1234, 300 * 2**20), MethodResult("paper [preset]", blank)]
    text = text_of(comparison_table(rows))
    for wanted in (
        "ID %",
        "OOD %",
        "gap",
        "relative LCS",
        "s/step",
        "peak memory",
        "chance: ID 33.3%, OOD 33.3%",
    ):
        assert wanted in text
    assert "▲ 100.0" in text
    assert "0.123" in text
    assert "300" in text and "MiB" in text
    assert "paper [preset]" in text
    assert f"{100 * known.isomers.id.consistency.lcs:.4g} " in text
    assert f"{100 * blank.isomers.id.consistency.lcs:.4g}?" in text  # at chance accuracy LCS is no merit


def test_result_file_errors(tmp_path):
    with pytest.raises(UserError, match="run igascale eval first"):
        read_result(tmp_path / "evaluation.json")
    (tmp_path / "evaluation.json").write_text('{"suites": {"isomers": {}}, "settings": {}}')
    with pytest.raises(UserError, match=r"not an evaluation\.json: suites\.isomers\.id"):
        read_result(tmp_path / "evaluation.json")


def test_help_and_tables_do_not_import_torch():
    modules = "igascale.cli.eval, igascale.cli.merge, igascale.evaluation.tables, igascale.evaluation.answers"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_teaches():
    text = run("--help").output
    assert "igascale eval runs/iga" in text
    assert "samples.jsonl" in text
