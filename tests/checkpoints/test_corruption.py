"""Every file of a checkpoint in every state but its own: found, named, the previous checkpoint used; and nothing else touched.

One prepared folder is copied per case; nothing is trained. tests/checkpoints/test_fallback.py does.
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from igascale.checkpoints import names
from igascale.checkpoints.content import check_fits, load
from igascale.checkpoints.find import find
from igascale.checkpoints.manifest import Damaged, verify
from igascale.checkpoints.publish import settle
from igascale.errors import UserError

from checkpoint_cases import FILES, NAMES, contents, file_damage, files_of, reseal, save


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Three checkpoints of one run."""
    run = tmp_path_factory.mktemp("prepared") / "run"
    for step in (1, 2, 3):
        save(run / "checkpoints", step)
    return run


@pytest.fixture
def run(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def newest(run):
    return run / "checkpoints" / "step-00000003"


def refused(run, file):
    """The newest checkpoint is damaged in ``file``: ``auto`` takes the one before, a path is refused; nothing is written."""
    root = run / "checkpoints"
    before = contents(root)
    found = find(run, "auto")
    assert found.folder == root / "step-00000002"
    assert found.damaged == (root / "step-00000003",)
    assert str(file) in found.notices[0]
    assert found.notices[0].count("\n") == 0
    assert "continuing from" in found.notices[-1]
    assert str(found.folder) in found.notices[-1]
    for path in (root / "step-00000003", run):
        with pytest.raises(UserError) as error:
            find(run, str(path))
        assert str(file) in str(error.value)
        assert f"{root / 'step-00000002'}" in str(error.value)
    with pytest.raises(Damaged):
        load(root / "step-00000003")
    assert contents(root) == before
    folder, told = settle(root, found)
    assert "step-00000003.damaged" in told[-1]
    kept = {k.replace("step-00000003.damaged", "step-00000003"): v for k, v in contents(root).items() if k != "latest"}
    assert kept == {k: v for k, v in before.items() if k != "latest"}
    assert names.read_pointer(root, "latest") == folder.name == "step-00000002"
    assert find(run, "auto") == type(found)(folder)  # and the next start has nothing to complain of


CASES = list(file_damage())


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [d for _, d in CASES], ids=[n for n, _ in CASES])
def test_a_damaged_file(run, newest, file, damage):
    damage(newest, newest / file)
    refused(run, newest / file)


@pytest.mark.parametrize("file", FILES)
def test_a_file_swapped_with_the_previous_checkpoints(run, newest, file):
    other = newest.with_name("step-00000002")
    one, two = (newest / file).read_bytes(), (other / file).read_bytes()
    (newest / file).write_bytes(two)
    (other / file).write_bytes(one)
    found = find(run, "auto")
    assert found.folder == newest.with_name("step-00000001")
    assert found.damaged == (newest, other)
    assert str(newest / file) in found.notices[0]
    assert str(other / file) in found.notices[1]
    with pytest.raises(UserError, match="step-00000001"):
        find(run, str(other))


def test_whole_folders_under_each_others_names(run, newest):
    root = run / "checkpoints"
    newest.rename(root / "x")
    (root / "step-00000002").rename(newest)
    (root / "x").rename(root / "step-00000002")
    found = find(run, "auto")
    assert found.folder == root / "step-00000001"
    assert "is that of step 2, in a folder named for step 3" in found.notices[0]


def test_a_copy_under_another_steps_name(run, newest):
    shutil.copytree(newest.with_name("step-00000001"), newest.with_name("step-00000009"))
    names.write_pointer(run / "checkpoints", "latest", "step-00000009")
    found = find(run, "auto")
    assert found.folder == newest
    assert found.damaged == (newest.with_name("step-00000009"),)


def test_a_copy_by_another_name_is_a_checkpoint_of_its_own(run, newest, tmp_path):
    shutil.copytree(newest, tmp_path / "backup")
    assert find(run, str(tmp_path / "backup")).folder == tmp_path / "backup"


@pytest.mark.parametrize("extra", ["notes.txt", "adapter/adapter_model.bin", "more/x.safetensors", "hook2.safetensors"])
def test_a_file_too_many(run, newest, extra):
    (newest / extra).parent.mkdir(exist_ok=True)
    (newest / extra).write_bytes(b"x")
    refused(run, newest / extra)


def test_a_hook_file_that_the_manifest_does_not_list(run, newest):
    reseal(newest, files=[f for f in FILES[1:] if f != "hook.safetensors"])
    refused(run, newest / "hook.safetensors")


def test_what_file_systems_and_editors_leave_is_no_damage(run, newest):
    for name in (".nfs00000001", ".DS_Store", ".state.json.swp"):
        (newest / name).write_bytes(b"x")
    assert find(run, "auto").folder == newest


def test_a_link_in_place_of_folders(run, newest, tmp_path):
    shutil.move(newest / "adapter", tmp_path / "adapter")
    (newest / "adapter").symlink_to(tmp_path / "adapter")
    refused(run, newest / "adapter")


def test_a_link_in_place_of_the_checkpoint(run, newest, tmp_path):
    shutil.move(newest, tmp_path / "moved")
    newest.symlink_to(tmp_path / "moved")
    found = find(run, "auto")
    assert found.folder == newest.with_name("step-00000002")
    assert f"{newest}: is a symbolic link" in found.notices[0]
    assert find(run, str(newest)).folder == tmp_path / "moved"  # asked for by its path, it is what it leads to


LISTS = {
    "outside": lambda d: d["files"].update({"../step-00000002/state.json": d["files"]["state.json"]}),
    "absolute": lambda d: d["files"].update({"/etc/hostname": d["files"]["state.json"]}),
    "hidden": lambda d: d["files"].update({".x": d["files"]["state.json"]}),
    "itself": lambda d: d["files"].update({"manifest.json": d["files"]["state.json"]}),
    "no-optimizer": lambda d: d["files"].pop("optimizer.safetensors"),
    "no-adapter": lambda d: d["files"].pop("adapter/adapter_model.safetensors"),
    "no-files": lambda d: d.update(files={}),
    "files-a-list": lambda d: d.update(files=[]),
    "sizes-as-text": lambda d: d["files"]["state.json"].update(bytes=str(d["files"]["state.json"]["bytes"])),
    "no-hash": lambda d: d["files"]["state.json"].pop("sha256"),
    "no-step": lambda d: d.pop("step"),
    "step-as-text": lambda d: d.update(step="3"),
    "another-step": lambda d: d.update(step=2),
    "another-format": lambda d: d.update(format=1),
    "a-key-more": lambda d: d.update(more=1),
}


@pytest.mark.parametrize("change", LISTS.values(), ids=LISTS)
def test_a_manifest_made_up_and_sealed(run, newest, change):
    data = json.loads((newest / "manifest.json").read_text())
    change(data)
    data.pop("sha256")
    reseal_text(newest, data)
    refused(run, newest / "manifest.json")


def reseal_text(folder, data):
    if isinstance(data["files"], dict):
        data["files"] = dict(sorted(data["files"].items()))
    seal = hashlib.sha256(json.dumps(data, indent=1).encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(data | {"sha256": seal}, indent=1) + "\n")


@pytest.mark.parametrize("text", ["", "null", "[]", "3", '"x"', "{}", "[" * 100_000, '{"a": ' * 50_000, "\x00\xff"])
@pytest.mark.parametrize("file", ["manifest.json", "state.json"])
def test_json_that_is_something_else(run, newest, file, text):
    (newest / file).write_bytes(text.encode("latin-1"))
    if file == "state.json":
        reseal(newest)
    refused(run, newest / file)


WRONG = {
    "step": [None, "3", 3.5, True, -1, 2],
    "optimizer_steps": [None, "3", True, -1],
    "world_size": [None, "1", 0, True],
    "validation_loss": ["low", [], True],
    "hook": [None, [], "x"],
    "counters": [None, []],
    "data": [None, 7],
    "config": [None, [], "seed: 0"],
}


@pytest.mark.parametrize("key,value", [(key, value) for key, values in WRONG.items() for value in values])
def test_state_of_the_wrong_type_and_sealed(run, newest, key, value):
    state = json.loads((newest / "state.json").read_text())
    (newest / "state.json").write_text(json.dumps(state | {key: value}))
    reseal(newest)
    refused(run, newest / "state.json")


@pytest.mark.parametrize("key", WRONG)
def test_state_without_a_key_and_sealed(run, newest, key):
    state = json.loads((newest / "state.json").read_text())
    del state[key]
    (newest / "state.json").write_text(json.dumps(state))
    reseal(newest)
    refused(run, newest / "state.json")


POINTERS = {
    "missing": (None, "is missing"),
    "empty": (b"", "is empty"),
    "line-end": (b"\n", "is empty"),
    "not-there": (b"step-00000007\n", "names 'step-00000007', which is not there"),
    "outside": (b"../checkpoints/step-00000003\n", "which is not there"),
    "itself": (b".\n", "which is not there"),
    "absolute": (b"/etc\n", "which is not there"),
    "temporary": (b".step-00000003.tmp\n", "which is not there"),
    "twice": (b"step-00000003\nstep-00000003\n", "which is not there"),
    "bytes": (b"\xff\xfe\x00", "which is not there"),
    "cut": (b"step-0000\n", "which is not there"),
    "best": (b"best\n", "which is not there"),
}


@pytest.mark.parametrize("content,told", POINTERS.values(), ids=POINTERS)
def test_a_broken_pointer(run, newest, content, told):
    pointer = run / "checkpoints" / "latest"
    pointer.unlink()
    if content is not None:
        pointer.write_bytes(content)
    found = find(run, "auto")
    assert (found.folder, found.damaged) == (newest, ())
    assert str(pointer) in found.notices[0]
    assert told in found.notices[0]
    assert f"continuing from {newest}" in found.notices[0]
    with pytest.raises(UserError, match="latest"):
        find(run, str(run))
    settle(run / "checkpoints", found)
    assert find(run, "auto") == type(found)(newest)


def test_a_folder_in_place_of_the_pointer(run, newest):
    pointer = run / "checkpoints" / "latest"
    pointer.unlink()
    pointer.mkdir()
    found = find(run, "auto")
    assert found.folder == newest
    assert str(pointer) in found.notices[0]


@pytest.mark.parametrize("position", range(14))
@pytest.mark.parametrize("bit", [0, 3])
def test_a_flipped_bit_in_the_pointer(run, newest, position, bit):
    pointer = run / "checkpoints" / "latest"
    content = bytearray(pointer.read_bytes())
    assert len(content) == 14
    content[position] ^= 1 << bit
    pointer.write_bytes(content)
    found = find(run, "auto")
    # 3 becomes 2: the name of a valid checkpoint, which gives the same run; the newer one is told of.
    assert found.folder.name == ("step-00000002" if (position, bit) == (12, 0) else "step-00000003")
    assert found.damaged == ()
    assert str(pointer) in found.notices[0]


def test_nothing_valid_is_no_fresh_start(run):
    for folder in names.published(run / "checkpoints"):
        (folder / "rng.safetensors").write_bytes(b"")
    with pytest.raises(UserError) as error:
        find(run, "auto")
    assert all(f"step-0000000{n}/rng.safetensors: 0 bytes" in str(error.value) for n in (1, 2, 3))
    assert "to start at step 0" in str(error.value)
    for folder in names.published(run / "checkpoints"):
        shutil.rmtree(folder)
    with pytest.raises(UserError, match="names 'step-00000003', which is not there, and there is no other"):
        find(run, "auto")
    (run / "checkpoints" / "latest").unlink()
    assert find(run, "auto").folder is None


def test_a_damaged_latest_goes_back_before_it_goes_forward(run, newest):
    names.write_pointer(run / "checkpoints", "latest", "step-00000002")  # resumed from 1, on purpose
    assert find(run, "auto").folder == newest.with_name("step-00000002")
    assert "though there is step-00000003" in find(run, "auto").notices[0]
    (newest.with_name("step-00000002") / "state.json").unlink()
    assert find(run, "auto").folder == newest.with_name("step-00000001")
    shutil.rmtree(newest.with_name("step-00000001"))
    assert find(run, "auto").folder == newest


def test_a_second_damaged_one_of_a_step_is_kept_too(run, newest):
    for expected in ("step-00000003.damaged", "step-00000003.damaged-2"):
        (newest / "state.json").unlink()
        _, told = settle(run / "checkpoints", find(run, "auto"))
        assert expected in told[-1]
        save(run / "checkpoints", 3)
    assert find(run, "auto").folder == newest


def test_saving_over_a_damaged_checkpoint_keeps_it(run, newest):
    (newest / "optimizer.safetensors").write_bytes(b"precious")
    notes = save(run / "checkpoints", 3).notes
    assert "optimizer.safetensors: 8 bytes" in notes[0]
    assert (newest.with_name("step-00000003.damaged") / "optimizer.safetensors").read_bytes() == b"precious"
    verify(newest)


def test_every_file_is_read_once(run, newest, monkeypatch):
    opened = []
    original = Path.open

    def counting(self, *arguments, **keywords):
        opened.append(self)
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", counting)
    assert find(run, "auto").folder == newest
    read = [str(p.relative_to(newest)) for p in opened if p.is_relative_to(newest)]
    assert sorted(read) == sorted(FILES)


SHAPES = {f"{name}.lora_{factor}": (4, 8) for name in NAMES for factor in "AB"}


def test_what_was_saved_is_what_is_loaded(newest):
    loaded, written = load(newest), files_of(3)
    check_fits(newest, loaded.master, SHAPES)
    assert all(torch.equal(loaded.master.tensors[k], t) for k, t in written["optimizer.safetensors"].items())
    assert torch.equal(loaded.hook["adapters"]["q_proj"]["a"], torch.full((4,), 3.0))
    assert (loaded.step, loaded.hook["calls"], loaded.world_size, loaded.validation_loss) == (3, 3, 1, None)


TENSORS = {
    "missing": lambda t: t.pop("q_proj.lora_A.exp_avg"),
    "another-shape": lambda t: t.update({"q_proj.lora_A.exp_avg": torch.zeros(8, 4)}),
    "another-type": lambda t: t.update({"v_proj.lora_B.master": torch.zeros(4, 8, dtype=torch.float64)}),
    "one-more": lambda t: t.update({"k_proj.lora_A.master": torch.zeros(4, 8)}),
    "none": lambda t: t.clear(),
}


@pytest.mark.parametrize("change", TENSORS.values(), ids=TENSORS)
def test_tensors_of_another_model_and_sealed(newest, change):
    tensors = load_file(newest / "optimizer.safetensors")
    change(tensors)
    save_file(tensors, newest / "optimizer.safetensors")
    reseal(newest)
    verify(newest)
    with pytest.raises(Damaged, match=r"optimizer\.safetensors: .*_proj.*is model\.path the same model\?"):
        check_fits(newest, load(newest).master, SHAPES)


RANDOM = {
    "no-rank": {"rank1.torch": torch.get_rng_state()},
    "short": {"rank0.torch": torch.zeros(7, dtype=torch.uint8)},
    "floats": {"rank0.torch": torch.zeros(5056)},
}


@pytest.mark.parametrize("tensors", RANDOM.values(), ids=RANDOM)
def test_random_states_that_are_none_and_sealed(newest, tensors):
    save_file(tensors, newest / "rng.safetensors")
    reseal(newest)
    with pytest.raises(Damaged, match=r"rng\.safetensors: .*rank0\.torch"):
        load(newest)


def test_hook_tensors_without_a_place_and_sealed(newest):
    save_file({"nowhere\x1fa": torch.zeros(1)}, newest / "hook.safetensors")
    reseal(newest)
    with pytest.raises(Damaged, match=r"hook\.safetensors: holds nowhere\.a"):
        load(newest)


def test_a_safetensors_file_that_is_none_and_sealed(newest):
    (newest / "optimizer.safetensors").write_bytes(b"no tensors at all")
    reseal(newest)
    with pytest.raises(Damaged, match=r"optimizer\.safetensors: cannot be read"):
        load(newest)
