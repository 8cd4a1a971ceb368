"""What runs cost, against the arithmetic written out."""

import json
import subprocess
import sys

import pytest

from igascale.errors import UserError
from igascale.evaluation.efficiency import WARM_UP, efficiency
from igascale.evaluation.efficiency_table import Cost, efficiency_table, significant
from igascale.evaluation.run_records import records
from igascale.tables import to_csv, to_markdown

from finished_runs import evaluate, facts, rank, step, write_adapter, write_run


def test_times_are_medians_after_the_warm_up(tmp_path):
    seconds = [50.0, 40.0, 30.0, 1.0, 2.0, 9.0, 2.0, 3.0]
    run = write_run(tmp_path / "run", [step(n, s) for n, s in enumerate(seconds, 1)], ran_seconds=7200.0)
    found = efficiency(run)
    assert WARM_UP == 3
    assert (found.timed_steps, found.seconds_per_step) == (5, 2.0)
    assert (found.seconds_low, found.seconds_high) == (2.0, 3.0)
    assert found.tokens_per_second == pytest.approx(500 / 17)
    assert found.steps_per_epoch == 100 // 8
    assert found.hours_per_epoch == pytest.approx(2.0 * 12 / 3600)
    assert (found.wall_seconds, found.compute_hours, found.devices) == (7200.0, 2.0, 1)
    assert found.per_compute_hour(77.0) == 38.5
    assert found.notes == ()


def test_steps_that_vary_are_said(tmp_path):
    """A median hides that something else used the machine."""
    unsteady = [step(n, 1.0 if n % 2 else 2.0) for n in range(1, 20)]
    found = efficiency(write_run(tmp_path / "run", unsteady))
    assert found.notes == ("steps took 1 to 2 s (quartiles): the machine was shared, or texts differ much in length",)
    table = efficiency_table([Cost("run", found)])
    header, first = [line.split(",") for line in to_csv(table).splitlines()]
    told = dict(zip(header, first))
    assert (told["s/step low"], told["s/step high"]) == ("1.0", "2.0")


def test_the_papers_own_figure():
    """77.0 at 4.6 hours an epoch is 16.74 (Table 3)."""
    from dataclasses import replace

    blank = efficiency_of_nothing()
    found = replace(blank, seconds_per_step=4.6 * 3600 / 1000, steps_per_epoch=1000)
    assert found.per_epoch_hour(77.0) == pytest.approx(16.74, abs=0.005)


def efficiency_of_nothing():
    from igascale.evaluation.efficiency import Efficiency

    nothing = dict.fromkeys(("seconds_per_step", "tokens_per_second", "steps_per_epoch", "peak_memory_bytes"))
    nothing |= dict.fromkeys(
        ("seconds_low", "seconds_high", "trainable", "modules", "r", "wall_seconds", "device_seconds")
    )
    return Efficiency(
        "run",
        "finished",
        0,
        0,
        peak_memory_by_rank=(),
        memory_of="",
        devices=1,
        hardware="",
        hardware_key=(),
        **nothing,
    )


def test_every_start_has_a_warm_up(tmp_path):
    """Steps 6 to 8 come right after a resume at 5, and step 1 to 3 after the first start."""
    seconds = {1: 99, 2: 99, 3: 99, 4: 1.0, 5: 1.0, 6: 99, 7: 99, 8: 99, 9: 3.0, 10: 3.0, 11: 5.0}
    resumed = facts(step=5, fork=False)
    run = write_run(tmp_path / "run", [step(n, float(s)) for n, s in seconds.items()], resumes=[resumed])
    found = efficiency(run)
    assert (found.timed_steps, found.seconds_per_step) == (5, 3.0)
    assert any("resumed 1 time" in note for note in found.notes)


def test_a_later_resume_from_an_earlier_step_owns_what_follows(tmp_path):
    resumes = [facts(step=8, fork=False), facts(step=4, fork=False)]
    run = write_run(tmp_path / "run", [step(n, float(n)) for n in range(1, 13)], resumes=resumes)
    # 1-3 warm up the first start, 5-7 the last one, which went back to 4; the one at 8 left nothing.
    assert efficiency(run).timed_steps == len({4, 8, 9, 10, 11, 12})


def test_devices_that_changed_share_the_time_by_the_recorded_steps(tmp_path):
    four = facts([rank(n) for n in range(4)])
    two = facts([rank(n) for n in range(2)], step=5, fork=False)
    records_ = [step(n, 1.0) for n in range(1, 6)] + [step(n, 3.0) for n in range(6, 11)]
    found = efficiency(write_run(tmp_path / "run", records_, environment=four, resumes=[two], ran_seconds=40.0))
    assert found.device_seconds == pytest.approx(40 * (4 * 5 + 2 * 15) / 20)
    assert found.devices == 2
    assert any("devices changed (4 -> 2)" in note for note in found.notes)


def test_devices_that_stayed_need_no_sharing_out(tmp_path):
    eight = facts([rank(n, gpu="H100") for n in range(8)])
    found = efficiency(write_run(tmp_path / "run", [], environment=eight, ran_seconds=1800.0))
    assert (found.compute_hours, found.devices, found.hardware) == (4.0, 8, "8 x H100 80 GiB (host one)")
    assert "no step is recorded" in found.notes


def test_skipped_steps_have_no_time(tmp_path):
    bad = step(6, 0.1, skipped="loss or gradient not finite")
    found = efficiency(write_run(tmp_path / "run", [step(4, 2.0), step(5, 2.0), bad, step(7, 4.0)]))
    assert (found.timed_steps, found.seconds_per_step) == (3, 2.0)
    assert "1 skipped step left out of the times" in found.notes


def test_a_short_run_says_that_its_times_are_warm_up(tmp_path):
    found = efficiency(write_run(tmp_path / "run", [step(1, 9.0), step(2, 5.0)]))
    assert found.seconds_per_step == 7.0
    assert any("those of the warm-up" in note for note in found.notes)


def test_what_was_not_recorded_is_none_and_said(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("hook: {name: mean}\n")
    found = efficiency(tmp_path / "run")
    assert (found.seconds_per_step, found.hours_per_epoch, found.compute_hours, found.trainable) == (None,) * 4
    assert (found.per_compute_hour(50.0), found.per_epoch_hour(50.0)) == (None, None)
    assert "the number of devices is not recorded: no compute hours" in found.notes
    assert "– |" in to_markdown(efficiency_table([Cost("run", found)]))


def test_lines_that_were_cut_off_are_told_of(tmp_path):
    run = write_run(tmp_path / "run", [step(n) for n in range(1, 9)])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st\n[1]\n{"kind": "train", "step": null}\n')
    assert [len(records(run, "train")[0]), records(run, "train")[1]] == [8, 3]
    assert any("3 lines of" in note for note in efficiency(run).notes)


def test_states_and_forks(tmp_path):
    stopped = efficiency(write_run(tmp_path / "a", [step(9)], state="interrupted"))
    assert "interrupted: the compute hours are those so far" in stopped.notes
    fork = write_run(tmp_path / "b", [step(n) for n in range(6, 12)], resumes=[facts(step=5, fork=True)])
    found = efficiency(fork)
    assert any("the 5 steps before it were another run's" in note for note in found.notes)
    assert not any("resumed" in note for note in found.notes)
    sparse = write_run(tmp_path / "c", [step(10), step(20)], config={"logging": {"every": 10}})
    assert "times from every 10th step (logging.every)" in efficiency(sparse).notes


def test_trainable_parameters_are_those_of_the_file(tmp_path):
    found = efficiency(write_run(tmp_path / "run", adapter={"x.lora_A.weight": (2, 3), "x.lora_B.weight": (5, 2)}))
    assert (found.trainable, found.modules, found.r) == (16, 1, 4)
    many = {f"layers.{n}.lora_{ab}.weight": shape for n in range(128) for ab, shape in (("A", (4, 3)), ("B", (5, 4)))}
    found = efficiency(write_run(tmp_path / "other", adapter=many))
    assert (found.trainable, found.modules) == (128 * (12 + 20), 128)


def test_without_a_final_adapter_the_newest_checkpoint_counts(tmp_path):
    import shutil

    run = write_run(tmp_path / "run")
    shutil.rmtree(run / "adapter")
    write_adapter(run / "checkpoints" / "step-00000004" / "adapter", {"x.lora_A.weight": (2, 3)})
    write_adapter(run / "checkpoints" / "step-00000020" / "adapter", {"x.lora_A.weight": (2, 5)})
    assert efficiency(run).trainable == 10
    (run / "checkpoints" / "step-00000020" / "adapter" / "adapter_model.safetensors").write_bytes(b"damaged")
    assert efficiency(run).trainable == 6


def test_real_adapter_files(tmp_path):
    import torch
    from safetensors.torch import save_file

    run = write_run(tmp_path / "run")
    tensors = {"x.lora_A.weight": torch.zeros(3, 7), "x.lora_B.weight": torch.zeros(5, 3)}
    save_file(tensors, run / "adapter" / "adapter_model.safetensors")
    assert efficiency(run).trainable == sum(t.numel() for t in tensors.values())


def test_memory_is_that_of_the_largest_rank(tmp_path):
    two = facts([rank(0, gpu="H100"), rank(1, gpu="H100")])
    steps = [
        step(1, peak_memory_bytes=70, peak_memory_by_rank=[70, 60]),
        step(2, peak_memory_bytes=95, peak_memory_by_rank=[75, 95]),
    ]
    found = efficiency(write_run(tmp_path / "a", steps, environment=two))
    assert (found.peak_memory_bytes, found.peak_memory_by_rank) == (95, (75, 95))
    assert found.memory_of == "GPU memory as PyTorch counts it of the largest rank"
    old = efficiency(write_run(tmp_path / "b", [step(1)], environment=two))
    assert old.memory_of.endswith("of rank 0 alone")
    note = next(n for n in efficiency_table([Cost("a", found), Cost("b", old)]).notes if n.startswith("peak memory"))
    assert "not of one kind" in note


def test_folders_that_are_no_runs(tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        efficiency(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a run folder"):
        efficiency(tmp_path)
    write_run(tmp_path / "run-one")
    with pytest.raises(UserError, match=r"did you mean '.*run-one'"):
        efficiency(tmp_path / "run-onf")
    (tmp_path / "run-one" / "config.yaml").write_text("[")
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read"):
        efficiency(tmp_path / "run-one")


def two_runs(tmp_path, *hosts):
    costs = []
    for name, host, seconds in zip("ab", hosts, (1.0, 2.0)):
        run = write_run(tmp_path / name, [step(n, seconds) for n in range(1, 10)], environment=facts([rank(host=host)]))
        result = evaluate(run / "evaluation", {"id": 15, "ood": 10})
        costs.append(Cost.of(name, efficiency(run), result))
    return costs


def test_one_machine_is_ranked_and_two_are_not(tmp_path):
    alike = efficiency_table(two_runs(tmp_path / "alike", "one", "one"))
    assert "**1**" in to_markdown(alike)
    other = efficiency_table(two_runs(tmp_path / "other", "one", "two"))
    assert "**1" not in to_markdown(other)
    assert any(note.startswith("DIFFERENT HARDWARE, so times are not ranked: a: 1 process") for note in other.notes)
    assert "1 a" in to_markdown(other) and "2 b" in to_markdown(other)


def test_times_whose_quartiles_overlap_have_no_best(tmp_path):
    times = {"a": [1.0, 1.0, 1.0, 1.0, 2.0, 3.0, 3.0], "b": [1.1, 1.1, 1.1, 1.1, 1.1, 1.1, 1.1]}
    costs = []
    for name, seconds in times.items():
        run = write_run(tmp_path / name, [step(n, s) for n, s in enumerate([1.0] * 3 + seconds, 1)])
        costs.append(Cost.of(name, efficiency(run), evaluate(run / "evaluation", {"id": 15, "ood": 10})))
    table = efficiency_table(costs)
    names = [column.name for column in table.columns]
    best = {names[i] for row in table.grid() for i, cell in enumerate(row) if cell.emphasis == "best"}
    assert not best & {"s/step", "h/epoch", "tokens/s", "OOD %/compute h", "OOD %/(h/epoch)"}
    assert any(note.startswith("bold: ") for note in table.notes)


def test_unknown_hardware_is_not_the_same_hardware(tmp_path):
    costs = []
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        run = write_run(tmp_path / name, [step(n, seconds) for n in range(1, 10)])
        (run / "environment.json").unlink()
        costs.append(Cost(name, efficiency(run)))
    assert "**" not in to_markdown(efficiency_table(costs, title=""))
    assert costs[0].efficiency.memory_of == "memory of unknown kind of the largest rank"


def test_brackets_without_end_are_damage(tmp_path):
    run = write_run(tmp_path / "run", [step(n) for n in range(1, 9)])
    with (run / "metrics.jsonl").open("a") as file:
        file.write("[" * 200_000 + "\n")
    assert any("1 line of" in note for note in efficiency(run).notes)
    (run / "environment.json").write_text("[" * 200_000)
    assert efficiency(run).devices == 0


def test_other_numbers_of_steps_are_not_ranked_by_compute_hours(tmp_path):
    short = Cost("short", efficiency(write_run(tmp_path / "a", [step(n) for n in range(1, 6)], ran_seconds=60.0)))
    long = Cost("long", efficiency(write_run(tmp_path / "b", [step(n) for n in range(1, 60)], ran_seconds=600.0)))
    table = efficiency_table([short, long])
    names = [column.name for column in table.columns]
    assert all(row[names.index("compute hours")].emphasis == "none" for row in table.grid())
    assert any("steps differ" in note for note in table.notes)


def test_accuracy_stands_beside_the_cost(tmp_path):
    table = efficiency_table(two_runs(tmp_path, "one", "one"))
    header, *rows = [line.split(",") for line in to_csv(table).splitlines()]
    first = dict(zip(header, rows[0]))
    assert (float(first["OOD %"]), float(first["OOD %/compute h"])) == (50.0, 50.0)
    assert float(first["OOD %/(h/epoch)"]) == pytest.approx(50 / (12 / 3600))
    assert float(first["OOD % low"]) < 50 < float(first["OOD % high"])
    assert "OOD %: of the isomer groups" in table.notes


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, None), (0.0, "0"), (0.00870485, "0.0087"), (999.4, "999"), (12345.6, "12,346"), (1000, "1,000")],
)
def test_three_figures(value, text):
    cell = significant(value)
    assert (cell and cell.text) == text


def test_no_torch_is_needed(tmp_path):
    code = (
        "import sys, igascale.evaluation.compare_runs, igascale.evaluation.tables; "
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_real_step_record_is_read(tmp_path):
    """What RunLog writes is what is read here."""
    from igascale.config import RunConfig
    from igascale.metrics import RunLog
    from igascale.step import StepReport

    run = write_run(tmp_path / "run")
    config = RunConfig(output_dir=str(run), model={"path": "m"}, data={"train": "t"})
    log = RunLog(run, config, None)
    for number in range(1, 6):
        log.train(number, StepReport([1.0, 2.0]), ("law", "maths"), memory=[5, 2**50], lr=0.1, tokens=10, seconds=0.5)
    log.close()
    record = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    assert record["peak_memory_by_rank"] == [5, 2**50]
    found = efficiency(run)
    assert (found.seconds_per_step, found.tokens_per_second, found.peak_memory_bytes) == (0.5, 20.0, 2**50)


def test_of_long_files_only_what_is_asked_for_is_kept(tmp_path):
    from igascale.evaluation.run_records import records

    run = write_run(tmp_path / "run", [step(n) for n in range(1, 4)])
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "validation", "step": 3, "id": {"law": 1.0}}\n{"kind": "tra')
    whole, damaged = records(run, "train")
    kept, _ = records(run, "train", ("seconds", "no such key"))
    assert damaged == 1 and [r["step"] for r in whole] == [1, 2, 3]
    assert kept == [{"seconds": r["seconds"], "step": r["step"]} for r in whole]
    assert records(run, "validation")[0] == [{"kind": "validation", "step": 3, "id": {"law": 1.0}}]
