"""The garbage collector while libraries are imported, and a rank's quick end."""

import gc
import importlib
import subprocess
import sys

import pytest

from igascale import imports

from launching import environment


@pytest.fixture
def nothing_frozen():
    """Before and after."""
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_a_large_import_is_kept_from_the_collector(nothing_frozen, monkeypatch, tmp_path):
    (tmp_path / "made_for_this_test.py").write_text("import gc\nenabled = gc.isenabled()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imports, "_MANY", 1)
    with imports.uncollected():
        module = importlib.import_module("made_for_this_test")
    assert not module.enabled
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


def test_what_is_there_already_freezes_nothing(nothing_frozen):
    with imports.uncollected():
        import torch  # noqa: F401
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_failed_import_brings_the_collector_back(nothing_frozen):
    with pytest.raises(ImportError), imports.uncollected():
        importlib.import_module("there.is.no.such.module")
    assert gc.isenabled()


def test_who_has_switched_it_off_finds_it_off(nothing_frozen):
    gc.disable()
    try:
        with imports.uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_leave_does_what_is_left_to_do_at_exit(ranks):
    """Buffers and exit functions; only one process among several skips the rest."""
    lines = [
        "import atexit, sys",
        "class Late:",
        "    def __del__(self): print('taken apart')",
        "late = Late()",
        "from igascale.supervision import session",
        "atexit.register(lambda: print('at exit'))",
        "print('before')",
        "session.leave(7)",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(
        command, env=environment() | {"WORLD_SIZE": ranks}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout.split("\n")[:2] == ["before", "at exit"]
    assert ("taken apart" in done.stdout) == (ranks == "1")
