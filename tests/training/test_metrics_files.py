"""Records are cut back to a step whatever a crash left in them, and what cannot be written is said in one line."""

import json

import pytest

from igascale import metrics
from igascale.errors import UserError


def test_what_is_no_text_any_more_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step}).encode() for step in range(1, 6)]
    path.write_bytes(b"\n".join([*lines[:2], b'\xff\xfe{"step"', b"\0" * 30, *lines[2:], b'{"step": 2, "lo']))
    metrics._JsonLines(path, 3).close()
    assert path.read_bytes().splitlines() == lines[:3]
    assert path.read_bytes().endswith(b"\n")


def test_no_room_to_cut_back(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics, "_lines_until", full)
    with pytest.raises(
        UserError, match=r"metrics\.jsonl cannot be written: No space left on device; what is in it is intact"
    ):
        metrics._JsonLines(path, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
