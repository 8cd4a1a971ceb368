"""Batched greedy decoding against a loop without batches, padding or cache."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from igascale.errors import UserError
from igascale.evaluation.generation import end_tokens, generate

import tiny


def spread(model):
    """Random weights of a size at which the next token depends on all of the context."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model.eval()


def peft_model():
    return spread(tiny.tiny_peft(b_scale=0.3))


def llama():
    return spread(tiny.tiny_llama())


def gpt2():
    """Learned absolute positions: a wrong position of a padded row shows at once."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=128, n_embd=64, n_layer=2, n_head=4, n_positions=128, eos_token_id=2)
        return spread(GPT2LMHeadModel(config))


def naive(model, prompt, eos_ids, max_new_tokens):
    ids = list(prompt)
    for _ in range(max_new_tokens):
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token in eos_ids:
            return ids[len(prompt) :], True
        ids.append(token)
    return ids[len(prompt) :], False


def random_prompts(count=21):
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 30, (count,), generator=generator).tolist()
    return [torch.randint(6, 128, (length,), generator=generator).tolist() for length in lengths]


@pytest.mark.parametrize("make", [llama, peft_model, gpt2])
def test_equal_to_the_naive_loop_for_every_batch_size(make):
    model, prompts = make(), random_prompts()
    eos_ids = {2, *range(60, 66)}  # several, frequent enough that rows end at different times
    expected = [naive(model, prompt, eos_ids, 24) for prompt in prompts]
    assert 3 <= sum(finished for _, finished in expected) <= len(prompts) - 3
    assert len({tuple(tokens) for tokens, _ in expected}) > len(prompts) // 2
    for batch_size in (1, 4, 16, 64):
        found = generate(model, prompts, eos_ids=eos_ids, max_new_tokens=24, batch_size=batch_size)
        assert [(g.tokens, g.finished) for g in found] == expected, batch_size


def test_generation_config_of_the_model_is_not_used():
    model, prompts = llama(), random_prompts(3)
    expected = [g.tokens for g in generate(model, prompts, eos_ids={2}, max_new_tokens=12)]
    model.generation_config.repetition_penalty = 1.5
    model.generation_config.do_sample = True
    assert [g.tokens for g in generate(model, prompts, eos_ids={2}, max_new_tokens=12)] == expected


def test_progress_and_limits():
    model, prompts, seen = llama(), random_prompts(5), []
    generate(model, prompts, eos_ids={2}, max_new_tokens=2, batch_size=2, progress=lambda *a: seen.append(a))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert generate(model, [], eos_ids={2}, max_new_tokens=2) == []
    room = 256 - max(len(prompt) for prompt in prompts)
    with pytest.raises(UserError, match=f"leaves {room} for the answer"):
        generate(model, prompts, eos_ids={2}, max_new_tokens=room + 1)


def test_end_tokens():
    model, tokenizer = tiny.tiny_llama(), tiny.tiny_tokenizer()
    assert end_tokens(model, tokenizer) == {2}
    model.generation_config.eos_token_id = [7, 9]
    assert end_tokens(model, tokenizer) == {2, 7, 9}
    model.generation_config.eos_token_id, tokenizer.eos_token = None, None
    with pytest.raises(UserError, match="no end token"):
        end_tokens(model, tokenizer)
