"""Variables for ranks on other hosts wait there in a private file; what a killed launch left goes with the next one."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest

from igascale.launchers.base import Host, LaunchSpec
from igascale.launching import checks

SPEC = LaunchSpec((Host("one", (0,)), Host("two", (0,))), "igascale", ("train", "run.yaml"), 29500)


@pytest.fixture
def prefix(monkeypatch, tmp_path):
    """Of a run of this test; its two hosts share this machine's /tmp, and a shell takes the place of ssh."""

    def run(host, script, config_file, port):
        return subprocess.run(["sh"], input=script, capture_output=True, text=True, check=False)

    monkeypatch.setattr(checks.ssh, "run", run)
    name = checks.private_prefix(tmp_path)
    yield name
    for path in Path("/tmp").glob(f"{name}*"):
        path.unlink()


def test_the_next_launch_of_a_run_removes_what_a_killed_one_left(prefix, tmp_path):
    other = Path("/tmp") / f"{checks.private_prefix(tmp_path / 'other')}0"
    other.touch()
    try:
        first = Path(checks.send_private_file(SPEC, "first", prefix))
        second = Path(checks.send_private_file(SPEC, "it's the second", prefix))
        assert second.read_text() == "it's the second"
        assert stat.S_IMODE(second.stat().st_mode) == 0o600
        assert not first.exists()
        assert list(Path("/tmp").glob(f"{prefix}*")) == [second]
        assert other.exists()
    finally:
        other.unlink()
