"""lora.full_rank: an adapter that is W itself; its gradient is W's, by a plain autograd run of the same model."""

import pytest
import torch
from peft import PeftModel

from igascale.errors import UserError
from igascale.model import add_lora

from tiny import tiny_llama

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


def full_rank(base, **changes):
    options = {
        "r": 4,
        "alpha": 8.0,
        "dropout": 0.0,
        "target_modules": TARGETS,
        "use_rslora": False,
        "init_from": None,
        "seed": 5,
        "full_rank": True,
    }
    return add_lora(base, **(options | changes))


def loss(model, ids):
    logits = model(input_ids=ids).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@pytest.fixture
def ids():
    return torch.randint(3, 100, (3, 12), generator=torch.Generator().manual_seed(0))


def named_factors(model, letter):
    """Module name in the base model -> factor."""
    end = f".lora_{letter}.default.weight"
    return {n.removeprefix("base_model.model.").removesuffix(end): p for n, p in model.named_parameters() if end in n}


def test_it_starts_as_the_base_model(ids):
    expected = tiny_llama()(input_ids=ids).logits
    assert torch.equal(full_rank(tiny_llama())(input_ids=ids).logits, expected)


def test_only_b_is_trained_and_a_is_the_identity():
    model = full_rank(tiny_llama())
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_B." in n for n in trained)
    for fqn, A in named_factors(model, "A").items():
        assert torch.equal(A, torch.eye(64)), fqn
    assert {tuple(B.shape) for B in named_factors(model, "B").values()} == {(64, 64), (32, 64)}
    assert model.peft_config["default"].lora_alpha == model.peft_config["default"].r == 64


def test_the_gradient_of_b_is_the_gradient_of_w(ids):
    base = tiny_llama(torch.float64).eval()
    loss(base, ids).backward()
    expected = {n.removesuffix(".weight"): p.grad for n, p in base.named_parameters() if n.split(".")[-2] in TARGETS}
    model = full_rank(tiny_llama(torch.float64)).eval()
    loss(model, ids).backward()
    found = {fqn: B.grad for fqn, B in named_factors(model, "B").items()}
    assert found.keys() == expected.keys()
    assert len(found) == 8
    for fqn in found:
        torch.testing.assert_close(found[fqn], expected[fqn], rtol=1e-10, atol=1e-14)
    assert all(A.grad is None for A in named_factors(model, "A").values())


def test_a_step_on_b_is_that_step_on_w(ids, tmp_path):
    base, model = tiny_llama().eval(), full_rank(tiny_llama()).eval()
    with torch.no_grad():
        for fqn, B in named_factors(model, "B").items():
            change = 0.05 * torch.randn(B.shape, generator=torch.Generator().manual_seed(1))
            B.add_(change)
            base.get_submodule(fqn).weight.add_(change)
    expected = base(input_ids=ids).logits
    torch.testing.assert_close(model(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path).eval()  # plain PEFT, which knows nothing of full_rank
    torch.testing.assert_close(loaded(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loaded.merge_and_unload()(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_base():
    model = full_rank(tiny_llama(torch.bfloat16))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_it_says_how_much_is_trained(caplog):
    full_rank(tiny_llama(), target_modules=["q_proj"])
    assert "lora.full_rank: 8,192 parameters are trained" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": ["q_proj", "down_proj"]}, r"one input width, but there are q_proj 64, down_proj 96"),
        ({"target_modules": ["q_porj"]}, "did you mean 'q_proj'"),
        ({"dropout": 0.1}, "lora.full_rank"),
        ({"use_rslora": True}, "lora.full_rank"),
        ({"init_from": "x"}, "lora.full_rank"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(UserError, match=message):
        full_rank(tiny_llama(), **changes)
