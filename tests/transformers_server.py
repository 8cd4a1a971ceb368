"""`transformers serve`, a real inference server, with a tiny random model."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from tiny import save_tiny_model_folder

_PATIENCE = 300  # seconds for the server to start


@contextmanager
def transformers_server(folder):
    """(URL, model folder, process); the test is skipped, and says why, where the server does not start."""
    pytest.importorskip("fastapi", reason="transformers serve needs fastapi")
    model, log = save_tiny_model_folder(folder / "model", chat_template=True), folder / "log"
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
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() - began > _PATIENCE:
                pytest.skip(f"transformers serve did not start: {log.read_text()[-300:]}")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(model), process
    finally:
        process.kill()
        process.wait()


def _healthy(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10).status == 200
    except OSError:
        return False
