"""The real `wandb` package, without a network: what it has written down for `wandb sync` is what was recorded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import runs

pytest.importorskip("wandb")
_BLOCK, _FULL, _LAST = 1 << 15, 1, 4


def records(path: Path):
    """The protobuf records of a `.wandb` file: LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if _BLOCK - at % _BLOCK < 7:  # no room for a header: the rest of a block is padding
            at += _BLOCK - at % _BLOCK
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (_FULL, _LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def test_offline_records_are_the_metrics(tmp_path):
    path, run = runs.prepare(tmp_path), tmp_path / "run"
    environ = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")} | {"WANDB_MODE": "offline"}
    environ |= {"WANDB__SERVICE_WAIT": "300", "WANDB_INIT_TIMEOUT": "300"}
    patient = (
        "from igascale.cli import main\nfrom igascale.wandb_board import WandbBoard\n"
        "WandbBoard.__init__.__defaults__ = (600.0,)\nmain()\n"  # it may take long to start, and the run is short
    )
    command = [sys.executable, "-c", patient, "train", str(path), f"output_dir={run}", "logging.wandb=true"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = (run / "wandb").glob("offline-run-*/*.wandb")
    found, configured = {}, {}
    for record in records(file):
        if record.WhichOneof("record_type") == "history":
            items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
            found[items["_step"]] = {**found.get(items["_step"], {}), **items}
        for item in record.run.config.update:
            configured[item.key] = json.loads(item.value_json)
    recorded = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = {r["step"]: r["loss"] for r in recorded if r["kind"] == "train"}
    assert len(losses) == 4
    [tag] = {key for items in found.values() for key in items if key in ("loss", "train/loss")}
    assert {step: items[tag] for step, items in found.items() if tag in items} == pytest.approx(losses)
    assert configured["hook"] == {"name": "mean"}
    assert json.loads((run / "wandb.json").read_text())["id"] in file.name
