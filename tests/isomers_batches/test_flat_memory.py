"""Loading ten times the groups takes no more memory, up to what their names and places need."""

import tracemalloc
from dataclasses import replace

import pytest

from igascale import assemble
from igascale.config import load_config
from igascale.isomers.batches import GroupSchedule
from igascale.isomers.generator import generate
from igascale.isomers.schema import write_groups

import runs
from tiny import tiny_tokenizer

FEW, MANY = 150, 1500


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flat")
    run = runs.prepare(folder)
    drawn = generate(50, seed=1)
    for name, count in (("few", FEW), ("many", MANY)):

        def told(index):
            parts = [drawn[(index + k) % 50] for k in range(10)]
            last = parts[-1]
            instances = tuple(
                replace(i, problem=" ".join(p.instances[d].problem for p in parts), id=f"{index}/{i.domain}")
                for d, i in enumerate(last.instances)
            )
            return replace(last, id=str(index), seed_id=f"s{index}", instances=instances, dag=None)

        write_groups(folder / f"{name}.jsonl", (told(i) for i in range(count)))
    return run, folder


def peak_of(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_texts(config):
    run, folder = config
    tokenizer = tiny_tokenizer()
    peaks = {}
    for name in ("few", "many"):
        settings = load_config(run, [f"data.train={folder / name}.jsonl", "data.max_length=2000"])

        def load_and_read(settings=settings):
            data = assemble.load_data(settings, tokenizer)
            assert int(data.train.lengths().max()) > 300
            for step in range(20):
                for group in data.schedule.groups_of_step(step):
                    assert len(data.train.groups[group]) == 4

        load_and_read()  # tokenizes, and fills what Python keeps
        peaks[name] = peak_of(load_and_read)
    tokens = MANY * 4 * 350
    assert peaks["many"] < 2 * peaks["few"]
    assert peaks["many"] < tokens  # a byte a token; two lists of it are sixteen
    whole = assemble.load_data(load_config(run, [f"data.train={folder}/few.jsonl", "data.max_length=2000"]), tokenizer)
    lists = peak_of(lambda: [whole.train.groups[i] for i in range(FEW)])
    assert lists > 5 * peaks["few"]  # what a list of all groups would take, so that the measure can see it


def test_the_order_of_an_epoch_is_a_tensor():
    schedule = GroupSchedule(100_000, 32, 0)
    assert len(set(schedule.groups_of_step(5))) == 32
    peak = peak_of(lambda: schedule.groups_of_step(5000))
    assert peak < 100_000
