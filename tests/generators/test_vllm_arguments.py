"""vLLM cannot run here: a stand-in records what would be passed to it. Only the plumbing is tested."""

import json
import sys
import types
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from igascale.errors import UserError
from igascale.evaluation.generator import Answered
from igascale.evaluation.vllm_offline import VllmGenerator
from igascale.isomers.encode import encode_prompt

from tiny import save_tiny_model_folder


@pytest.fixture
def tokenizer(tmp_path):
    return AutoTokenizer.from_pretrained(save_tiny_model_folder(tmp_path / "model", chat_template=True))


@pytest.fixture
def recorded(monkeypatch, tokenizer):
    """What was passed; ``outputs`` is what the stand-in answers."""
    calls = SimpleNamespace(outputs=[], refuses=None)

    class LLM:
        def __init__(self, **arguments):
            calls.llm = arguments

        def get_tokenizer(self):
            return tokenizer

        def generate(self, prompts, sampling_params, *, use_tqdm, lora_request):
            calls.prompts, calls.sampling, calls.lora = prompts, sampling_params, lora_request
            if calls.refuses:
                raise ValueError(calls.refuses)
            return [SimpleNamespace(outputs=[output]) for output in calls.outputs]

    vllm = types.ModuleType("vllm")
    vllm.LLM, vllm.SamplingParams, vllm.__version__ = LLM, lambda **values: values, "0.0.fake"
    lora, request = types.ModuleType("vllm.lora"), types.ModuleType("vllm.lora.request")
    request.LoRARequest = lambda *arguments: arguments
    for name, module in (("vllm", vllm), ("vllm.lora", lora), ("vllm.lora.request", request)):
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def completion(text, ids, reason):
    return SimpleNamespace(text=text, token_ids=ids, finish_reason=reason)


def test_greedy_and_the_prompts_of_the_training(recorded, tokenizer):
    recorded.outputs = [completion("one", [5, 6, 2], "stop"), completion("two", [7, 8, 9], "length")]
    generator = VllmGenerator("base", max_new_tokens=3, dtype="bfloat16")
    found = dict(generator.answer(["first?", "second?"]))
    assert recorded.llm == {"model": "base", "dtype": "bfloat16", "seed": 0}
    assert recorded.sampling == {"temperature": 0.0, "max_tokens": 3, "skip_special_tokens": True}
    assert recorded.prompts == [{"prompt_token_ids": encode_prompt(tokenizer, p)} for p in ("first?", "second?")]
    assert recorded.lora is None
    assert found == {0: Answered("one", 2, True), 1: Answered("two", 3, False)}
    assert generator.settings() == {
        "generator": "vllm",
        "vllm": "0.0.fake",
        "base_model": "base",
        "adapter": None,
        "decoding": "greedy",
        "max_new_tokens": 3,
        "dtype": "bfloat16",
        "template": "chat template",
    }


@pytest.mark.parametrize("rank, room", [(4, 8), (16, 16), (24, 32)])
def test_an_adapter(recorded, tmp_path, rank, room):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": rank}))
    recorded.outputs = [completion("x", [2], "stop")]
    generator = VllmGenerator("base", tmp_path)
    assert list(generator.answer(["p"])) == [(0, Answered("x", 0, True))]
    assert recorded.llm["enable_lora"] is True and recorded.llm["max_lora_rank"] == room
    assert recorded.lora == ("adapter", 1, str(tmp_path))


def test_refusals(recorded):
    recorded.refuses = "The decoder prompt (length 900) is\nlonger than 512"
    with pytest.raises(UserError, match=r"vLLM refuses the problems: The decoder prompt .* lower --max-new-tokens"):
        list(VllmGenerator("base").answer(["p"]))
    assert list(VllmGenerator("base").answer([])) == []


def test_without_vllm(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="pip install vllm, or start `vllm serve` elsewhere and give --endpoint"):
        VllmGenerator("base")
