"""A real inference server, `transformers serve`: the same model answers alike through it and in this process."""

import pytest

from igascale.evaluation.endpoint import EndpointGenerator, ServerSettings
from igascale.evaluation.generation import end_tokens, generate
from igascale.evaluation.loading import load_for_evaluation
from igascale.isomers.encode import encode_prompt

from transformers_server import transformers_server

pytestmark = pytest.mark.slow
PROBLEMS = ["Who is older?", "What is two and two?", "Ann is taller than Bob. Who is shorter?"]


@pytest.fixture
def served(tmp_path):
    """(URL, model folder)."""
    with transformers_server(tmp_path) as (url, folder, _):
        yield url, folder


def test_served_and_in_this_process(served, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    url, folder = served
    model, tokenizer = load_for_evaluation(folder, dtype="auto", device="cpu")
    prompts = [encode_prompt(tokenizer, problem) for problem in PROBLEMS]
    here = generate(model, prompts, eos_ids=end_tokens(model, tokenizer), max_new_tokens=12)
    said = []
    generator = EndpointGenerator(
        ServerSettings(url, folder, 12, concurrency=2), tmp_path / "store.sqlite", said.append
    )
    there = dict(generator.answer(PROBLEMS))
    for index, generation in enumerate(here):
        assert there[index].text == tokenizer.decode(generation.tokens, skip_special_tokens=True)
        assert there[index].finished == generation.finished
        if not generation.finished:
            assert there[index].new_tokens == 12
