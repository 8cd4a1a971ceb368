"""A real inference server, `transformers serve`: the same model answers alike through it and in this process."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from igascale.evaluation.endpoint import EndpointGenerator, ServerSettings
from igascale.evaluation.generation import end_tokens, generate
from igascale.evaluation.loading import load_for_evaluation
from igascale.isomers.encode import encode_prompt

from tiny import save_tiny_model_folder

pytestmark = pytest.mark.slow
PATIENCE = 120  # seconds for the server to start
PROBLEMS = ["Who is older?", "What is two and two?", "Ann is taller than Bob. Who is shorter?"]


@pytest.fixture
def served(tmp_path):
    """(URL, model folder)."""
    pytest.importorskip("fastapi", reason="transformers serve needs fastapi")
    model, log = save_tiny_model_folder(tmp_path / "model", chat_template=True), tmp_path / "log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("transformers"), "serve", model, *where],
            stdout=file,
            stderr=file,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        )
    try:
        began = time.monotonic()
        while not healthy(port):
            if process.poll() is not None or time.monotonic() - began > PATIENCE:
                pytest.skip(f"transformers serve did not start: {log.read_text()[-300:]}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(model)
    finally:
        process.kill()
        process.wait()


def healthy(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).status == 200
    except OSError:
        return False


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
