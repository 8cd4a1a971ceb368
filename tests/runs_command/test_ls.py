"""``igascale runs ls`` on folders in every state, whole and broken."""

import json
import subprocess
import sys
from datetime import timedelta

import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.runs import reading

from launching import environment
from run_folders import record, validation, write, write_metrics


def ls(*arguments):
    result = CliRunner().invoke(main, ["runs", "ls", *map(str, arguments)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def as_json(folder):
    return {run["name"]: run for run in json.loads(ls(folder, "--json"))}


def test_everything_that_a_whole_folder_tells(tmp_path):
    folder = write(tmp_path / "first", [record(1, 9.0), validation(1, 4.0), record(2, 3.5)], step=2)
    for step in (10, 20):
        (folder / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    (folder / "checkpoints" / ".step-00000030.tmp").mkdir()
    (found,) = as_json(tmp_path).values()
    assert found | {"silent_seconds": 0} == {
        "path": str(folder),
        "name": "first",
        "state": "running",
        "message": "",
        "hook": "pcgrad",
        "method": "pcgrad",
        "step": 2,
        "total": 100,
        "loss": 3.5,
        "validation": {"id": 4.0, "ood": 8.0},
        "checkpoints": [10, 20],
        "world_size": 4,
        "started": "2026-03-01T12:00:00+00:00",
        "ran_seconds": 60.0,
        "silent_seconds": 0,
    }
    shown = ls(tmp_path)
    for expected in ("first", "pcgrad", "running", "2/100", "3.5000", "4.0000", "8.0000", "2, last 20", "1m"):
        assert expected in shown


@pytest.mark.parametrize(
    ("age", "told", "seconds", "expected"),
    [
        (0, {}, 2.0, "running"),
        (9, {}, 2.0, "running"),
        (11, {}, 2.0, "stalled?"),
        (11, {}, 60.0, "running"),  # its steps are that slow
        (21, {}, 60.0, "stalled?"),
        (999, {"state": "finished"}, 2.0, "finished"),
        (999, {"state": "interrupted"}, 2.0, "interrupted"),
        (0, {"state": "failed", "message": "rank 3 was lost\nmore"}, 2.0, "failed"),
        (0, {"process": {"pid": 1, "started_ticks": 5, "machine": "another"}}, 2.0, "running"),
    ],
)
def test_states(tmp_path, age, told, seconds, expected):
    write(tmp_path / "run", [record(1, seconds=seconds)], timedelta(minutes=age), **told)
    assert as_json(tmp_path)["run"]["state"] == expected
    shown = ls(tmp_path)
    assert expected in shown
    assert ("run: rank 3 was lost" in shown) == (expected == "failed")
    assert "more" not in shown


BROKEN = {
    "config missing": ("config.yaml", None, "config.yaml is missing"),
    "config cut": ("config.yaml", "hook: {name: [", "config.yaml is damaged"),
    "config a list": ("config.yaml", "- 1", "config.yaml is damaged"),
    "config not text": ("config.yaml", b"\xff\xfe\x00", "config.yaml is damaged"),
    "config without hook": ("config.yaml", "hook: 3\n", ""),
    "environment missing": ("environment.json", None, "environment.json is missing: the start was cut off"),
    "environment cut": ("environment.json", '{"world_size": 4, "star', "environment.json is damaged"),
    "environment a list": ("environment.json", "[]", "environment.json is damaged"),
    "environment odd": ("environment.json", '{"world_size": "four", "started": 7}', ""),
    "status cut": ("status.json", '{"state": "runn', "status.json is damaged"),
    "status odd": ("status.json", '{"state": "running", "step": "x", "updated": 3, "process": 7}', ""),
    "metrics missing": ("metrics.jsonl", None, ""),
    "metrics rubbish": ("metrics.jsonl", b"\x00\xff{{{\n[1]\n7\n", ""),
    "metrics odd": ("metrics.jsonl", '{"kind": "validation", "step": 1, "id": {"law": null}, "ood": {}}\n', ""),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_is_named_and_the_others_are_listed(tmp_path, kind):
    name, content, problem = BROKEN[kind]
    whole = [record(1, 2.0)]
    write(tmp_path / "whole", whole, state="finished")
    path = write(tmp_path / "hurt", whole, state="finished") / name
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = as_json(tmp_path)
    assert found["whole"]["state"] == "finished"
    assert problem in found["hurt"]["message"]
    assert (f"hurt: {problem}" in ls(tmp_path)) if problem else True
    assert found["hurt"]["state"] == {"status.json": "broken" if problem else "running"}.get(name, "finished")


def test_folders_of_earlier_versions_have_no_status(tmp_path):
    for name in ("going", "done"):
        (write(tmp_path / name, [record(7)]) / "status.json").unlink()
    (tmp_path / "done" / "adapter").mkdir()
    (tmp_path / "done" / "adapter" / "adapter_config.json").write_text("{}")
    found = as_json(tmp_path)
    assert found["going"]["state"] == "unknown"
    assert found["done"]["state"] == "finished"
    assert found["going"]["step"] == 7


def test_the_last_records_of_a_long_file(tmp_path):
    """The validation lies blocks before the end; the last line was cut off."""
    folder = write(tmp_path / "run", [])
    filler = {"more": "é" * 700}
    write_metrics(
        folder, [validation(1, 9.0), validation(3, 6.0), *(record(s, s / 1000, **filler) for s in range(4, 900))]
    )
    assert (folder / "metrics.jsonl").stat().st_size > 8 * reading._BLOCK
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 900, "lo')
    (found,) = as_json(tmp_path).values()
    assert (found["step"], found["loss"], found["validation"]["id"]) == (899, 0.899, 6.0)


def test_records_are_read_backwards_across_blocks(tmp_path, monkeypatch):
    """With blocks so small that their borders fall on every place of a line."""
    records = [record(step, step / 10) for step in range(40)]
    folder = write(tmp_path / "run", records)
    for block in (1, 7, 64, 1000, 1 << 20):
        monkeypatch.setattr(reading, "_BLOCK", block)
        assert list(reading._records_backwards(folder / "metrics.jsonl")) == records[::-1], block


def test_runs_are_found_below_and_not_inside_of_runs(tmp_path):
    write(tmp_path / "demo" / "a", [])
    write(tmp_path / "b", [])
    write(tmp_path / "b" / "inner", [])
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    assert set(as_json(tmp_path)) == {"demo/a", "b"}
    assert set(as_json(tmp_path / "b")) == {"b"}
    assert "no runs in" in ls(tmp_path / "empty")
    missing = CliRunner().invoke(main, ["runs", "ls", str(tmp_path / "x")])
    assert missing.exit_code == 2
    assert "no such folder" in missing.output


def test_oldest_first(tmp_path):
    for name, day in (("a", 3), ("b", 1), ("c", 2)):
        folder = write(tmp_path / name, [])
        (folder / "environment.json").write_text(json.dumps({"started": f"2026-03-0{day}T12:00:00+00:00"}))
    assert list(as_json(tmp_path)) == ["b", "c", "a"]


def test_neither_torch_nor_pydantic_is_imported(tmp_path):
    write(tmp_path / "run", [record(1)], state="finished")
    code = (
        "import sys\nfrom igascale.cli import main\n"
        "for verb in (['ls'], ['tail', '--once']):\n"
        f"    try: main(['runs', verb[0], {str(tmp_path)!r} + ('/run' if verb[0] == 'tail' else ''), *verb[1:]])\n"
        "    except SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'numpy', 'transformers', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stdout
    assert "finished at step 1/100" in done.stdout


def test_a_run_is_listed_once_whatever_links_lead_to_it(tmp_path):
    write(tmp_path / "runs" / "first", [record(1, 9.0)], step=1)
    (tmp_path / "runs" / "all").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "a-link").symlink_to(tmp_path / "runs" / "first")
    (tmp_path / "runs" / "gone").symlink_to(tmp_path / "nowhere")
    elsewhere = write(tmp_path / "elsewhere", [record(1, 9.0)], step=1)
    (tmp_path / "runs" / "moved").symlink_to(elsewhere)
    assert sorted(as_json(tmp_path / "runs")) == ["first", "moved"]
