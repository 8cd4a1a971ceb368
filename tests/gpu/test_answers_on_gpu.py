"""On a CUDA device: the same texts as on the CPU in float32, at any batch size, on any number of processes, by real ones too."""

import json
import subprocess
import sys

import pytest
import torch

from igascale.evaluation.answering import Share
from igascale.evaluation.evaluate import evaluate_suites
from igascale.evaluation.suites import IsomerSuite
from igascale.isomers.dataset import generate_dataset
from igascale.isomers.schema import read_groups

import tiny

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    generate_dataset(folder / "data", groups=8, validation_groups=12, ood_groups=4, seed=0)
    return folder


def evaluated(files, dtype, device, **options):
    model = tiny.tiny_llama(dtype, max_position_embeddings=2048).to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(4)
    suite = IsomerSuite(*(read_groups(files / "data" / f"{name}.jsonl") for name in ("validation", "ood")))
    return evaluate_suites(model, tiny.tiny_tokenizer(), [suite], max_new_tokens=24, **options)


def test_float32_batches_and_devices_agree(files):
    expected = evaluated(files, torch.float32, "cpu").samples
    for batch_size in (1, 8, 32):
        assert evaluated(files, torch.float32, "cuda", batch_size=batch_size).samples == expected


def test_bfloat16_shares_agree(files, tmp_path):
    whole = evaluated(files, torch.bfloat16, "cuda", batch_size=8)
    for rank in (2, 1, 0):
        parts = evaluated(
            files, torch.bfloat16, "cuda", batch_size=8, answers=tmp_path / "answers", share=Share(rank, 3)
        )
    assert parts.samples == whole.samples


def test_more_processes_than_devices_are_refused_and_one_each_works(files, tmp_path):
    tiny.save_tiny_model_folder(files / "model")
    config = json.loads((files / "model" / "config.json").read_text()) | {"max_position_embeddings": 2048}
    (files / "model" / "config.json").write_text(json.dumps(config))
    count = torch.cuda.device_count()
    for processes, expected in ((count + 1, 2), (count, 0)):
        command = [sys.executable, "-m", "igascale", "eval", files / "model", "--id", files / "data" / "ood.jsonl"]
        command += ["--out", tmp_path / "out", "--max-new-tokens", "4", "--num-processes", str(processes)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == expected, done.stderr
    assert (
        "GPUs of this machine: one GPU each"
        in subprocess.run(
            [*command[:-1], str(count + 1), "--overwrite"], capture_output=True, text=True, check=False
        ).stderr
    )
