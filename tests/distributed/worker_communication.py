"""Run on every rank: train each case, and save what one step communicated, by two counts, and in what order.

One count is igascale's own; the other is PyTorch's profiler, which sees every operation of the process group, whoever asked.
"""

import json
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from igascale.engine.buckets import GradientBuckets
from igascale.engine.deepspeed import init_distributed

import runs


def main() -> None:
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    cases = json.loads((out / "cases.json").read_text())
    torch.set_num_threads(1)
    device = init_distributed()
    rank = torch.distributed.get_rank()
    results = {}
    for name, overrides in cases.items():
        config = runs.load(folder / "run.yaml", f"output_dir={out / name}-run", "engine.name=deepspeed", *overrides)
        watch = Watch(unused="unused" in name, fail="fail" in name)
        recorded = runs.run(config, device, watch.wrap)
        results[name] = recorded.to_dict() | watch.result()
    torch.save(results, out / f"rank{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


class Watch:
    """Profiles from the beginning of the second step to the beginning of the third, and writes down the order of events."""

    def __init__(self, unused: bool, fail: bool):
        self.unused, self.fail = unused, fail
        self.steps, self.order, self.profiled = 0, [], None

    def wrap(self, engine, hook):
        self.engine, self.hook = engine, hook
        accumulate, backward, start = engine.accumulate, engine.backward, engine.comm.start_sum_to
        new_sums, rank = engine.new_sums, engine.comm.rank

        @contextmanager
        def watched_accumulate():
            self.steps += 1
            self._profile()
            if self.unused:
                self._leave_out()
            with accumulate():
                yield
                self.order.append("leaving")
            self.order.append("left")

        def watched_backward(loss, **keywords):
            self.order.append("backward")
            backward(loss, **keywords)
            self.order.append("backward ends")

        def watched_start(tensor, owner):
            self.order.append("send")
            if self.fail and rank == 1 and self.steps == 2 and self.order.count("send") == 4:
                raise RuntimeError("rank 1 fails in the backward pass")
            return start(tensor, owner)

        class Told(GradientBuckets):
            def complete(told, fqn):
                self.order.append(fqn)
                super().complete(fqn)

        def watched_sums(*arguments):
            sums = new_sums(*arguments)
            sums.__class__ = Told
            return sums

        engine.accumulate, engine.backward, engine.new_sums = watched_accumulate, watched_backward, watched_sums
        engine.comm.start_sum_to = watched_start
        return hook

    def _profile(self):
        if self.steps == 2:
            self.order.clear()
            self.before = {k: (t.calls, t.elements, t.bytes) for k, t in self.engine.comm.traffic.items()}
            self.profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
            self.profiler.__enter__()
        if self.steps == 3:
            self.profiler.__exit__(None, None, None)
            self.profiled = [
                (event.name, sum(torch.Size(shape).numel() for shape in event.input_shapes))
                for event in self.profiler.events()
                if event.name.startswith("gloo:")
            ]
            self.traffic = {
                k: tuple(now - then for now, then in zip((t.calls, t.elements, t.bytes), self.before[k]))
                for k, t in self.engine.comm.traffic.items()
            }
            self.second = list(self.order)

    def _leave_out(self):
        """In the second step rank 1 does without one adapter; in the third no rank uses another one."""
        modules = dict(self.engine.model.get_base_model().named_modules())
        names = list(self.engine.adapters)
        for step, rank, fqn in ((2, 1, names[-1]), (3, None, names[1]), (3, 0, names[4])):
            module = modules[fqn]
            module.__dict__.pop("forward", None)
            if self.steps == step and rank in (None, self.engine.comm.rank):
                module.forward = module.base_layer.forward

    def result(self):
        engine, hook = self.engine, self.hook
        return {
            "traffic": self.traffic,
            "profiled": self.profiled,
            "order": self.second,
            "owners": engine.owners,
            "shapes": {fqn: tuple(map(tuple, shapes)) for fqn, shapes in engine.shapes.items()},
            "statistics": len(hook.statistics),
            "line": engine.describe(4, 0.01, hook.uses_reference),
        }


if __name__ == "__main__":
    main()
