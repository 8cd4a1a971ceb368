"""SIGKILL before every call by which a save touches the disk: what was valid stays valid, the next save cleans up.

Each case is a forked child that counts its calls of the operating system's functions and kills itself at the n-th. The next
case takes n + 1, until a child gets through.
"""

import io
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from safetensors.torch import save_file

from igascale.checkpoints import content, names
from igascale.checkpoints.content import write_files
from igascale.checkpoints.find import find
from igascale.checkpoints.manifest import Damaged, verify
from igascale.checkpoints.publish import publish_result, settle
from igascale.checkpoints.writer import BackgroundWriter

from checkpoint_cases import contents, files_of, save

CALLS = ("open", "mkdir", "rename", "replace", "unlink", "rmdir", "fsync")


def killed_at(number, work):
    """Whether a child that does ``work`` was killed at its ``number``-th call, and which one that was."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            arm(number, writer)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    told = os.read(reader, 100).decode()
    os.close(reader)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, told
        return None
    assert os.WTERMSIG(status) == signal.SIGKILL
    return told


def arm(number, pipe):
    count = 0

    def at(name, first=None):
        nonlocal count
        count += 1
        if count == number:
            if first:
                first()
            os.write(pipe, name.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def deadly(name, original):
        def call(*arguments, **keywords):
            at(name)
            return original(*arguments, **keywords)

        return call

    def save_file_deadly(tensors, path, **keywords):
        at("before writing tensors")

        def half():
            save_file(tensors, path, **keywords)
            os.truncate(path, path.stat().st_size // 2)

        at("amid writing tensors", half)
        save_file(tensors, path, **keywords)

    for name in CALLS:
        setattr(os, name, deadly(name, getattr(os, name)))
    io.open = deadly("io.open", io.open)
    content.save_file = save_file_deadly


def in_the_background(work):
    def act():
        writer = BackgroundWriter()
        writer.start(0, work)
        outcome = writer.take(wait=True)
        assert outcome.error is None, outcome

    return act


def valid(root):
    steps = set()
    for folder in names.published(root):
        try:
            verify(folder)
        except Damaged:
            continue
        steps.add(names.step_of(folder))
    return steps


# name: (steps there before, best before), the save, what must be valid at any time, what may make way for the new one
SAVES = {
    "first": (((), None), {"step": 1}, (), ()),
    "second": (((1,), None), {"step": 2}, (1,), ()),
    "retention": (((1, 2, 3), None), {"step": 4, "keep": 1}, (), (3,)),
    "new-best": (((1, 2, 3), 1), {"step": 4, "keep": 1, "best": 4}, (), (3,)),
    "old-best": (((1, 2, 3), 1), {"step": 4, "keep": 1, "best": 1}, (1,), (3,)),
    "replace": (((1, 2, 3), None), {"step": 2}, (1, 2, 3), ()),
    "replace-latest": (((1, 2), None), {"step": 2, "keep": 1}, (2,), ()),
}


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where there is room: the file system's order of calls is the same, and fsync costs nothing."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="igascale-test-") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "case,background",
    [*((case, False) for case in SAVES), ("first", True), ("old-best", True), ("replace-latest", True)],
)
def test_killed_while_saving(tmp_path, case, background):
    (before, best), arguments, always, unless_new = SAVES[case]
    prepared = tmp_path / "prepared" / "checkpoints"
    prepared.mkdir(parents=True)
    for step in before:
        save(prepared, step, best=best)
    seen, number = [], 0
    while True:
        number += 1
        run = tmp_path / "run"
        shutil.copytree(prepared.parent, run)
        root = run / "checkpoints"

        def work(root=root):
            return save(root, **arguments)

        told = killed_at(number, in_the_background(work) if background else work)
        seen.append(told)
        new = arguments["step"]
        assert valid(root) == {names.step_of(p) for p in names.published(root)}, told  # none is there by half
        assert set(always) <= valid(root), told
        assert new in valid(root) or set(unless_new) <= valid(root), told
        found = find(run, "auto")
        if before:
            assert found.damaged == (), told  # nothing half-done is ever taken for a checkpoint
            newest = names.step_of(found.folder)
            assert newest in ((before[-1], new) if told else (new,)), told
            latest = names.read_pointer(root, "latest")
            assert int(latest.removeprefix("step-")) in valid(root), told
        pointer = names.read_pointer(root, "best")
        assert pointer is None or int(pointer.removeprefix("step-")) in valid(root), (told, pointer)
        # The next start, and the next save.
        settle(root, found)
        known_best = (
            arguments["best"] if arguments.get("best") in valid(root) else best
        )  # as the checkpoint's state says
        save(root, new + 1, keep=1, best=known_best)
        assert [n for n in os.listdir(root) if n.startswith(".") or "damaged" in n] == [], told
        assert find(run, "auto").folder == root / names.name_of(new + 1)
        assert valid(root) == {new + 1, known_best or new + 1}, told
        for folder in names.published(root):
            verify(folder)
        shutil.rmtree(run)
        if told is None:
            break
    assert number > 30, number
    for call in ("mkdir", "rename", "replace", "fsync", "io.open", "before writing tensors", "amid writing tensors"):
        assert call in seen, (call, seen)
    if "keep" in arguments:
        assert "unlink" in seen
        assert "rmdir" in seen


def test_killed_while_settling(tmp_path):
    """While a start sets a damaged checkpoint aside and brings back one that was being replaced."""
    prepared = tmp_path / "prepared" / "checkpoints"
    for step in (1, 2, 3, 4):
        save(prepared, step)
    (prepared / "step-00000004" / "state.json").write_text("{}")
    (prepared / "step-00000003").rename(prepared / ".step-00000003.old.tmp")
    shutil.copytree(prepared / "step-00000001", prepared / ".step-00000003.tmp")
    number, told = 0, ""
    while told is not None:
        number += 1
        run = tmp_path / "run"
        shutil.copytree(prepared.parent, run)
        root = run / "checkpoints"
        damaged = contents(root / "step-00000004")
        told = killed_at(number, lambda run=run, root=root: settle(root, find(run, "auto")))
        folder, _ = settle(root, find(run, "auto"))
        assert folder.name == "step-00000003", told
        assert valid(root) == {1, 2, 3}
        assert contents(root / "step-00000004.damaged") == damaged
        assert find(run, "auto").notices == ()
        shutil.rmtree(run)
    assert number > 20


@pytest.mark.parametrize("there", [False, True], ids=["new", "again"])
def test_killed_while_writing_the_result(tmp_path, there):
    """``adapter/`` is whole or not there at all; a second attempt writes it."""
    files = {k.removeprefix("adapter/"): v for k, v in files_of(1).items() if k.startswith("adapter/")}
    old = {k.removeprefix("adapter/"): v for k, v in files_of(2).items() if k.startswith("adapter/")}

    def write(what, run):
        return publish_result(run / "adapter", lambda folder: write_files(folder, what))

    for name, what in (("wanted", files), ("old", old)):
        (tmp_path / name).mkdir()
        write(what, tmp_path / name)
    wanted, before = contents(tmp_path / "wanted" / "adapter"), contents(tmp_path / "old" / "adapter")
    number, told = 0, ""
    while told is not None:
        number += 1
        run = tmp_path / "run"
        run.mkdir()
        if there:
            write(old, run)
        told = killed_at(number, lambda run=run: write(files, run))
        if (run / "adapter").exists():
            assert contents(run / "adapter") in ((wanted, before) if told else (wanted,))
        write(files, run)
        assert contents(run) == {f"adapter/{k}": v for k, v in wanted.items()}
        shutil.rmtree(run)
    assert number > 12
