"""Tokenization of instances: one format for training and evaluation, with and without a chat template."""

import pytest

from igascale.errors import UserError
from igascale.evaluation.answers import ANSWER_PREFIX
from igascale.isomers.encode import (
    completion_text,
    encode_example,
    encode_groups,
    encode_prompt,
    mark_supervised,
)
from igascale.isomers.schema import Instance, IsomerGroup

from tiny import tiny_tokenizer

INSTANCE = Instance("law", "Who is red?", "Ann is red.\nSo it is Ann.", "Ann", "g/law")


@pytest.mark.parametrize("chat", [False, True])
def test_training_prefix_is_the_generation_prompt(chat):
    tokenizer = tiny_tokenizer(chat)
    prompt = encode_prompt(tokenizer, INSTANCE.problem)
    example = encode_example(tokenizer, INSTANCE, 512)
    assert example.input_ids[: len(prompt)] == prompt
    assert example.labels == [-100] * len(prompt) + example.input_ids[len(prompt) :]
    assert example.instance_id == "g/law" and not example.truncated


def test_text_without_chat_template():
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode(encode_prompt(tokenizer, "Who is red?")) == "<s>Who is red?\n"
    ids = encode_example(tokenizer, INSTANCE, 512).input_ids
    assert tokenizer.decode(ids) == "<s>Who is red?\nAnn is red.\nSo it is Ann.\nAnswer: Ann</s>"


def test_text_with_chat_template():
    """What the template itself would render for the whole conversation, BOS once."""
    tokenizer = tiny_tokenizer(chat_template=True)
    turns = [
        {"role": "user", "content": INSTANCE.problem},
        {"role": "assistant", "content": completion_text(INSTANCE)},
    ]
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    ids = encode_example(tokenizer, INSTANCE, 512).input_ids
    assert tokenizer.decode(ids) == whole
    assert ids.count(tokenizer.bos_token_id) == 1
    prompt = tokenizer.apply_chat_template(turns[:1], tokenize=True, add_generation_prompt=True, return_dict=True)
    assert encode_prompt(tokenizer, INSTANCE.problem) == prompt["input_ids"]


def test_no_bos():
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    assert tokenizer.decode(encode_prompt(tokenizer, "Who?")) == "Who?\n"


def test_chat_template_that_refuses():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('system turn\nneeded') }}"
    with pytest.raises(UserError, match="cannot render a user turn: system turn needed"):
        encode_prompt(tokenizer, "Who?")


def test_completion_text():
    assert completion_text(INSTANCE) == "Ann is red.\nSo it is Ann.\nAnswer: Ann"
    assert completion_text(Instance("law", "Who?", "", "Bob")) == f"{ANSWER_PREFIX} Bob"


def test_truncation_on_the_right():
    tokenizer = tiny_tokenizer()
    whole = encode_example(tokenizer, INSTANCE, 512)
    assert whole.input_ids[-1] == whole.labels[-1] == tokenizer.eos_token_id
    exact = encode_example(tokenizer, INSTANCE, len(whole.input_ids))
    assert exact == whole
    cut = encode_example(tokenizer, INSTANCE, len(whole.input_ids) - 3)
    assert cut.truncated
    assert cut.input_ids == whole.input_ids[:-3] and cut.labels == whole.labels[:-3]
    assert cut.supervised == whole.supervised - 3


def test_supervised_counts_what_the_loss_sees():
    from igascale.isomers.encode import Example

    assert Example([5, 6, 7], [-100, 6, 7]).supervised == 2
    assert Example([5, 6, 7], [5, 6, -100]).supervised == 1  # nothing predicts the first


def groups():
    return [
        IsomerGroup("g0", "s0", (INSTANCE, Instance("math", "What is 1+1?", "1+1=2", "2", "g0/math"))),
        IsomerGroup("g1", "s1", (Instance("math", "What is 1?", "", "1"), Instance("law", "Who?", "", "Bob"))),
    ]


def test_groups_come_in_the_order_of_the_domains():
    encoded = encode_groups(groups(), tiny_tokenizer(), ("math", "law"), 512, "train.jsonl")
    assert [[e.domain for e in g] for g in encoded] == [[0, 1], [0, 1]]
    assert [[e.group_id for e in g] for g in encoded] == [["g0", "g0"], ["g1", "g1"]]
    assert [[e.instance_id for e in g] for g in encoded] == [["g0/math", "g/law"], ["g1/math", "g1/law"]]
    assert "What is 1+1?" in tiny_tokenizer().decode(encoded[0][0].input_ids)


def test_a_domain_that_a_group_lacks():
    with pytest.raises(UserError, match=r"train\.jsonl: group 'g0' has no instance of domain 'med'"):
        encode_groups(groups(), tiny_tokenizer(), ("math", "med"), 512, "train.jsonl")


def test_nothing_supervised_after_truncation():
    tokenizer = tiny_tokenizer()
    prompt = len(encode_prompt(tokenizer, INSTANCE.problem))
    with pytest.raises(UserError) as caught:
        encode_groups(groups()[:1], tokenizer, ("law",), prompt, "train.jsonl")
    assert str(caught.value) == (
        "train.jsonl: group 'g0', domain 'law': no supervised token is left after cutting to "
        f"data.max_length={prompt}, the prompt alone has {prompt}; raise data.max_length or shorten the problem"
    )
    (kept,) = encode_groups(groups()[:1], tokenizer, ("law",), prompt + 1, "train.jsonl")
    assert kept[0].supervised == 1


@pytest.mark.parametrize("chat", [False, True])
def test_mark_supervised(chat):
    tokenizer = tiny_tokenizer(chat)
    pieces = mark_supervised(tokenizer, encode_example(tokenizer, INSTANCE, 512))
    prompt = "<s><|user|>Who is red?\n<|assistant|>" if chat else "<s>Who is red?\n"
    assert pieces == [(prompt, False), ("Ann is red.\nSo it is Ann.\nAnswer: Ann</s>", True)]
