"""One model gives the same answers at every batch size and on any number of processes."""

import pytest
import torch

from igascale.errors import UserError
from igascale.evaluation.answering import Share
from igascale.evaluation.evaluate import evaluate_suites
from igascale.evaluation.generation import enough_memory
from igascale.evaluation.local import LocalGenerator, token_limit
from igascale.evaluation.suites import IsomerSuite
from igascale.isomers.schema import Instance, IsomerGroup

import tiny

WORDS = [
    "red",
    "blue",
    "rule",
    "case",
    "drug",
    "law",
    "patient",
    "court",
    "Ann",
    "Bob",
    "Cid",
    "Dee",
    "who",
    "what",
    "which",
]


def spread(dtype, seed=0):
    """A Llama whose next token depends on all of the context."""
    model = tiny.tiny_llama(dtype, seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    return model


def suite(groups=12, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def problem():
        length = int(torch.randint(2, 30, (), generator=generator))
        return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (length,), generator=generator).tolist())

    def make(k):
        return IsomerGroup(f"g{k}", f"g{k}", tuple(Instance(d, problem(), "So.", "Ann") for d in ("law", "drug")))

    return IsomerSuite([make(k) for k in range(groups)], [make(k) for k in range(groups, groups + 4)])


def evaluated(model, **options):
    return evaluate_suites(model, tiny.tiny_tokenizer(), [suite()], max_new_tokens=16, **options)


def on_ranks(model, folder, world, **options):
    for rank in range(world - 1, -1, -1):
        result = evaluated(model, answers=folder, share=Share(rank, world), **options)
    return result


def texts(result):
    return [(s.generated, s.new_tokens, s.finished) for s in result.samples]


def test_float32_is_the_same_for_every_batch_size_and_number_of_ranks(tmp_path):
    model = spread(torch.float32)
    one = evaluated(model, batch_size=1)
    assert len({s.generated for s in one.samples}) > 15  # no constant answer
    for batch_size in (8, 32):
        other = evaluated(model, batch_size=batch_size)
        assert texts(other) == texts(one)
        for side in ("id", "ood"):
            first, second = (r.isomers.splits[side] for r in (one, other))
            assert first.accuracy == second.accuracy
            assert second.consistency.lcs == pytest.approx(first.consistency.lcs, rel=1e-6)
    for world in (2, 3):
        other = on_ranks(model, tmp_path / str(world), world, batch_size=8)
        assert other.samples == evaluated(model, batch_size=8).samples


def test_bfloat16_is_the_same_on_any_number_of_ranks(tmp_path):
    """Batches do not depend on who decodes them: bit by bit the same sums."""
    model = spread(torch.bfloat16)
    one = evaluated(model, batch_size=5)
    assert on_ranks(model, tmp_path, 3, batch_size=5).samples == one.samples


def test_an_interrupted_bfloat16_evaluation_ends_the_same(tmp_path):
    """Some batches are there from before, one in part."""
    model = spread(torch.bfloat16)
    one = on_ranks(model, tmp_path / "whole", 1, batch_size=5)
    file = tmp_path / "whole" / "rank-0000.jsonl"
    for kept in (1, 7, 20):
        (tmp_path / str(kept)).mkdir()
        lines = file.read_bytes().splitlines(keepends=True)[:kept]
        (tmp_path / str(kept) / file.name).write_bytes(b"".join(lines))
        assert on_ranks(model, tmp_path / str(kept), 1, batch_size=5).samples == one.samples


def test_another_model_does_not_use_the_answers(tmp_path):
    first = on_ranks(spread(torch.float32), tmp_path, 1, identity={"sha256": "a"})
    other = on_ranks(spread(torch.float32, seed=1), tmp_path, 1, identity={"sha256": "b"})
    assert texts(first) != texts(other)
    assert texts(other) == texts(evaluated(spread(torch.float32, seed=1)))


def test_whole_batches_put_together_again_are_the_same_batches():
    """What makes an interruption harmless, whatever the lengths."""
    torch.manual_seed(5)
    tokenizer, model = tiny.tiny_tokenizer(), tiny.tiny_llama()
    problems = ["a " * int(torch.randint(1, 9, ())) + str(k % 10) for k in range(53)]
    generator = LocalGenerator(model, tokenizer, 4, batch_size=4)
    batches = generator.batches(problems)
    assert sorted(i for batch in batches for i in batch) == list(range(53))
    for keep in (lambda n: n % 2, lambda n: n % 3 != 1, lambda n: n > 4):
        left = [batch for n, batch in enumerate(batches) if keep(n)]
        flat = [i for batch in left for i in batch]
        assert [[flat[i] for i in batch] for batch in generator.batches([problems[i] for i in flat])] == left


def test_out_of_memory_is_advice():
    with pytest.raises(UserError, match=r"smaller --batch-size \(it is 8\)"), enough_memory(8):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    with pytest.raises(UserError, match="--max-new-tokens"), enough_memory(1):
        torch.empty(1 << 60)
    with pytest.raises(RuntimeError, match="shape"), enough_memory(8):
        raise RuntimeError("shape mismatch")


def test_no_room_for_an_answer():
    with pytest.raises(UserError, match=r"the longest prompt has .* tokens, the model only 256 positions"):
        token_limit(tiny.tiny_llama(), tiny.tiny_tokenizer(), ["a " * 200], None)
