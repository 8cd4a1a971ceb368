"""An ssh that dies while something is still to be written to it is told of by host; it does not take igascale along."""

import os
import subprocess
import sys


def test_every_host_whose_ssh_dies_at_once_is_named(tmp_path):
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text("#!/bin/sh\nexec 0<&-\necho 'ssh: connect to host: Connection refused' >&2\nexit 255\n")
    ssh.chmod(0o755)
    (tmp_path / "hosts").write_text("192.0.2.1 slots=1\n192.0.2.2 slots=1\n")
    # More than a pipe holds, so that the writer still writes when its reader has gone.
    environ = {**os.environ, "PATH": f"{ssh.parent}:{os.environ['PATH']}", "IGASCALE_FILLER": "x" * 100_000}
    command = [sys.executable, "-m", "igascale", "doctor", "-H", str(tmp_path / "hosts")]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 1, (done.returncode, done.stderr)
    for host in ("192.0.2.1", "192.0.2.2"):
        assert host in done.stdout
    assert "refused" in done.stdout
