"""Tasks and benchmarks by name: igascale's own, of installed distributions, and package.module:Class."""

import pytest

from igascale.errors import UserError
from igascale.evaluation import benchmarks, tasks

OWN = """
from igascale.evaluation.benchmarks import find as find_benchmark
from igascale.evaluation.tasks import Task

class Riddles(type(find_benchmark("reclor"))):
    name = "riddles"

class RiddlesTask(Task):
    name = "riddles"
    version = 3
    def prompt(self, item): return item.problem
    def extract(self, text, item): return text or None
    def is_correct(self, predicted, item): return predicted == item.answer

class Unfinished(Task):
    name = "unfinished"
"""


def offer(root, monkeypatch, **groups: list[str]) -> None:
    """A distribution in a folder that is on the path."""
    (root / "own_riddles.py").write_text(OWN)
    info = root / "riddle_pack-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: riddle-pack\nVersion: 1.0\n")
    lines = [line for group, entries in groups.items() for line in (f"[igascale.{group}]", *entries)]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(root))


def test_every_benchmark_has_a_task_of_its_name():
    assert tasks.available() == benchmarks.available()
    for name in tasks.available():
        task = tasks.find(name)
        assert task.name == name and task.version >= 1


def test_an_unknown_name():
    with pytest.raises(UserError, match="unknown task 'recolr'; did you mean 'reclor'"):
        tasks.find("recolr")
    with pytest.raises(
        UserError, match=r"unknown task 'qqq'; there are arb, logiqa2, math, reclor, or package\.module:Class"
    ):
        tasks.find("qqq")


def test_a_distribution_offers_a_benchmark_and_its_task(tmp_path, monkeypatch):
    offer(
        tmp_path, monkeypatch, tasks=["riddles = own_riddles:RiddlesTask"], benchmarks=["riddles = own_riddles:Riddles"]
    )
    task, benchmark = tasks.find("riddles"), benchmarks.find("riddles")
    assert (task.name, task.version, benchmark.name) == ("riddles", 3, "riddles")
    assert tasks.find("own_riddles:RiddlesTask").version == 3
    assert [entry.name for entry in benchmarks.installed()] == ["riddles"]
    with pytest.raises(UserError, match="did you mean 'riddles'"):
        tasks.find("ridles")
    items = [benchmarks.BenchmarkItem(str(i), "riddles", "all", "?", answer=a) for i, a in enumerate(["x", "x", "y"])]
    assert task.chance(items) == pytest.approx(2 / 3)


def test_a_name_of_our_own_is_ours(tmp_path, monkeypatch):
    offer(tmp_path, monkeypatch, tasks=["math = own_riddles:RiddlesTask"])
    with pytest.warns(
        UserWarning,
        match=r"task 'math' is igascale's own; that of riddle-pack 1\.0 is reached as own_riddles:RiddlesTask",
    ):
        assert tasks.find("math").name == "math"


@pytest.mark.parametrize(
    "entry, message",
    [
        ("own_riddles:Unfinished", "is not complete: it must define extract(), is_correct(), prompt()"),
        ("own_riddles:Riddles", "is not a subclass of igascale.evaluation.tasks.Task"),
        ("own_riddles:Missing", "there is no 'Missing' in own_riddles"),
        ("no_such_module:Task", "ModuleNotFoundError"),
        ("json:", "must name one Task, found 0"),
    ],
)
def test_a_broken_entry_point(tmp_path, monkeypatch, entry, message):
    offer(tmp_path, monkeypatch, tasks=[f"broken = {entry}"])
    for name in ("broken", entry):
        with pytest.raises(UserError) as caught:
            tasks.find(name)
        expected = "'json:' lacks a class" if name == "json:" else message
        assert expected in str(caught.value) and "\n" not in str(caught.value)
        assert str(caught.value).startswith("task: ")


def test_two_offers_of_one_name(tmp_path, monkeypatch):
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        offer(
            tmp_path / version, monkeypatch, tasks=[f"riddles = own_riddles{'' if version == '1' else '2'}:RiddlesTask"]
        )
        info = tmp_path / version / "riddle_pack-1.0.dist-info"
        info.rename(info.with_name(f"riddle_pack{version}-1.0.dist-info"))
    metadata = tmp_path / "2" / "riddle_pack2-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("riddle-pack", "riddle-pack2"))
    with pytest.raises(UserError, match=r"^task: several distributions offer 'riddles': riddle-pack"):
        tasks.find("riddles")
