"""The demo's base model: a normal model folder, taught every word and every single step, but nothing composed."""

import re

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from igascale.demo.base_model import BaseModelSettings, _encode, build_base_model, train_tokenizer
from igascale.demo.corpus import pretraining_texts
from igascale.errors import UserError
from igascale.isomers.encode import completion_text, encode_prompt
from igascale.isomers.generator import generate
from igascale.isomers.kinds import KINDS
from igascale.isomers.kinds.vocabulary import LABELS, VOCABULARIES
from igascale.isomers.shortcut import CUES

TINY = BaseModelSettings(steps=8, batch_size=16, hidden_size=32, intermediate_size=64, layers=2)
DOMAINS = tuple(VOCABULARIES)


@pytest.fixture(scope="module")
def texts():
    return pretraining_texts(6000, seed=0)


def test_folder_is_a_normal_model(tmp_path):
    calls = []
    report = build_base_model(tmp_path / "m", 0, TINY, lambda *call: calls.append(call))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert (tmp_path / "m" / "model.safetensors").exists()
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert report.parameters == sum(p.numel() for p in model.parameters())
    assert [call[0] for call in calls] == list(range(1, 9))
    assert report.last_loss < report.first_loss
    assert None not in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    (group,) = generate(1, ("law",))
    ids = torch.tensor([encode_prompt(tokenizer, group.instances[0].problem)])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    assert out.shape[1] > ids.shape[1]


def test_same_seed_same_weights(tmp_path):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_base_model(tmp_path / name, seed, TINY)
        weights.append(AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not torch.equal(weights[0]["model.norm.weight"], weights[2]["model.norm.weight"])


def test_refuses_a_folder_in_use(tmp_path):
    (tmp_path / "precious.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        build_base_model(tmp_path, 0, TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_no_composed_problem_in_the_text(texts):
    solved = [text for text in texts if text.steps is not None]
    assert len(solved) > len(texts) / 5
    for text in solved:
        steps, answer = text.completion.split("\nAnswer: ")
        assert text.steps == 1 == len(steps.split("\n"))
        assert answer
    assert all("Answer:" not in text.completion for text in texts if text.steps is None)
    prompts = {re.sub(r"^Code \w+\. ", "", text.prompt) for text in texts}
    for seed in range(3):
        for group in generate(300, DOMAINS, seed=seed):
            assert group.dag.steps >= 2
            assert not prompts & {instance.problem for instance in group.instances}


def test_every_word_of_the_generator_is_in_the_text(texts):
    words = set(re.findall(r"\w+", " ".join(f"{text.prompt} {text.completion} {text.questions}" for text in texts)))
    for kind in KINDS:
        for group in generate(60, DOMAINS, [kind], seed=9, steps=(2, 4)):
            for instance in group.instances:
                told = set(re.findall(r"\w+", f"{instance.problem} {completion_text(instance)}"))
                assert told <= words, told - words
    assert set(CUES) <= words


def test_tokenizer_keeps_names_whole_and_decodes_what_it_encoded(texts):
    tokenizer = train_tokenizer(texts)
    for group in generate(60, DOMAINS, seed=1):
        for instance in group.instances:
            text = f"{instance.problem}\n{completion_text(instance)}"
            ids = tokenizer.encode(text, add_special_tokens=False)
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text
    for label in LABELS:
        alone, inside = (tokenizer.tokenize(text)[-1] for text in (label, f"one\n{label}"))
        assert alone == inside == f"▁{label}"


def test_pretraining_sees_the_tokens_that_training_and_evaluation_use(texts):
    tokenizer = train_tokenizer(texts)
    known: dict[str, list[int]] = {}
    for text in texts[-200:]:
        if text.steps is None:
            continue
        ids, learned = _encode(tokenizer, text, known)
        prompt = encode_prompt(tokenizer, text.prompt)
        completion = tokenizer.encode(text.completion, add_special_tokens=False)
        assert ids == [*prompt, *completion, tokenizer.eos_token_id]
        assert learned == [False] * len(prompt) + [True] * (len(completion) + 1)
