"""What decides a run beside its keys' values: the file of a hook of one's own, and what its options mean."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from igascale.checkpoints.manifest import STATE
from igascale.config import load_config
from igascale.errors import UserError
from igascale.resuming.mathematics import HOOK_SOURCE, compare
from igascale.resuming.sources import Sources, find_sources, fingerprint_hook, fingerprint_model

import runs

HOOK = '''
"""A rule."""
from igascale.hooks.base import GradientHook
from igascale.hooks.mean import Mean


class Mine(Mean):
    """Mean.

    Args:
        kernel: of my own.
        memory_mb: likewise.
        preset: likewise.
    """

    def __init__(self, kernel: str = "rbf", memory_mb: float = 1.0, preset: str = "a"):
        super().__init__()
'''


@pytest.fixture
def hook_file(tmp_path, monkeypatch):
    path = tmp_path / "rule_of_my_own.py"
    path.write_text(HOOK)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield path
    sys.modules.pop("rule_of_my_own", None)


def config(tmp_path, **options):
    text = "\n".join(f"  {key}: {value}" for key, value in options.items())
    path = tmp_path / "run.yaml"
    path.write_text(
        f"model: {{path: m}}\ndata: {{train: t}}\noutput_dir: o\nhook:\n  name: rule_of_my_own:Mine\n{text}\n"
    )
    return load_config(path)


def test_one_matrix_of_many_is_another(tmp_path):
    """Wherever in the file it lies, and however large the file is."""
    tensors = {f"layer.{k}": torch.full((128, 128), float(k)) for k in range(300)}
    (tmp_path / "config.json").write_text("{}")
    save_file(tensors, tmp_path / "model.safetensors")
    before = fingerprint_model(str(tmp_path))
    missed = []
    for k in range(0, 300, 7):
        save_file(tensors | {f"layer.{k}": tensors[f"layer.{k}"] + 1}, tmp_path / "model.safetensors")
        if fingerprint_model(str(tmp_path)) == before:
            missed.append(k)
    assert not missed
    save_file(tensors, tmp_path / "model.safetensors")
    assert fingerprint_model(str(tmp_path)) == before


@pytest.mark.parametrize("content", [b"", b"\xff" * 20, b"\x05" + bytes(7) + b"[1,2]", b"\x02" + bytes(7) + b"{}"])
def test_weights_that_are_no_safetensors_have_a_fingerprint_too(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    found = fingerprint_model(str(tmp_path))
    assert found is not None
    assert found["model.safetensors"].startswith(f"{len(content)}:")


@pytest.mark.parametrize(("key", "value"), [("kernel", "other"), ("memory_mb", 2.0), ("preset", "b")])
def test_an_option_of_someone_elses_hook_is_mathematics_whatever_its_name(tmp_path, hook_file, key, value):
    saved, now = config(tmp_path).model_dump(mode="json"), config(tmp_path, **{key: value})
    nothing = Sources(None, None)
    assert [(c.key, c.kind) for c in compare(saved, now, nothing, nothing)] == [(f"hook.{key}", "mathematics")]


def test_the_file_of_a_hook_of_ones_own(tmp_path, hook_file):
    run = config(tmp_path)
    before = find_sources(run)
    assert before.hook is not None
    hook_file.write_text(HOOK.replace("super().__init__()", "super().__init__(); self.scale = 2"))
    (change,) = compare(run.model_dump(mode="json"), run, before, find_sources(run))
    assert (change.key, change.kind) == (HOOK_SOURCE, "mathematics")
    assert "the file of hook 'rule_of_my_own:Mine' is not what it was" in str(change)
    assert fingerprint_hook("iga") is None


def test_a_run_whose_hook_was_edited_is_refused_unless_told(tmp_path, hook_file):
    path = runs.prepare(tmp_path, hook={"name": "rule_of_my_own:Mine"}, train={"max_steps": 3, "groups_per_batch": 4})
    run = runs.load(path)
    device = runs.assemble.start(run)
    runs.train(run, device, stop_after=1)
    assert "hook_source" in (tmp_path / "run/checkpoints/step-00000001" / STATE).read_text()
    hook_file.write_text(HOOK + "# more\n")
    with pytest.raises(
        UserError, match=r"hook\.source: the file of hook .* --allow-change hook\.source goes on from step 1"
    ):
        runs.train(run, device, "auto")
    runs.train(run, device, "auto", stop_after=1, allow=["hook.source"])
    runs.train(run, device, "auto")  # that file is the run's now
