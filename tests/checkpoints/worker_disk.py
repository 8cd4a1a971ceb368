"""In a mount namespace of its own: train on small file systems that fill up or become read-only; print what came of it.

Usage: worker_disk.py BASE MOUNT; one JSON object per scenario on standard output, the training's own lines on standard error.
"""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from igascale import assemble
from igascale.checkpoints.inspect import examine_path
from igascale.errors import UserError
from igascale.saving import Saver

import runs


def mount(folder, options="size=4m"):
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def fill(folder):
    room = os.statvfs(folder)
    with (folder / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize)


def train(base, run, at, *overrides):
    """Six steps with a checkpoint after each; ``at[n]`` is called before that of step n."""
    original = Saver.save

    def save(self, step, **keywords):
        if step in at:
            self.close()  # what is under way in the background is not meant
            at[step]()
        original(self, step, **keywords)

    Saver.save = save
    try:
        config = runs.load(base, f"output_dir={run}", "checkpoint.every=1", "checkpoint.keep=9", *overrides)
        runs.train(config, assemble.start(config))
        error = ""
    except UserError as problem:
        error = str(problem)
    finally:
        Saver.save = original
    rows, problems = examine_path(run)
    return {
        "error": error,
        "valid": [row.step for row in rows if not row.problems],
        "damaged": [str(p) for row in rows for p in row.problems] + [str(p) for p in problems],
        "hidden": sorted(p.name for p in (run / "checkpoints").iterdir() if p.name.startswith(".")),
        "latest": (run / "checkpoints" / "latest").read_text().strip(),
        "result": (run / "adapter" / "adapter_model.safetensors").is_file(),
        "metrics": [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()],
    }


def main():
    base, place = Path(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    runs.write_quickly()
    told = {}
    for kind in ("sync", "async"):
        extra = ("eval.every=null", f"checkpoint.asynchronous={str(kind == 'async').lower()}")

        def full(name, at, *more, kind=kind, extra=extra):
            disk = place / f"{name}-{kind}"
            mount(disk)
            ballast = disk / "ballast"
            at = {step: (lambda: fill(disk)) if what == "fill" else ballast.unlink for step, what in at.items()}
            told[f"{name}-{kind}"] = train(base, disk / "run", at, *more, *extra)

        full("goes-on", {3: "fill", 5: "free"}, "checkpoint.on_error=continue")
        full("stops", {3: "fill"})
        full("full-to-the-end", {5: "fill"}, "checkpoint.on_error=continue")

        run = place / f"read-only-{kind}" / "run"
        for name, path in (("read-only", run), ("read-only-stops", run.parent.with_name(f"stops-ro-{kind}") / "run")):
            root = path / "checkpoints"

            def remount(how, root=root):
                return lambda: subprocess.run(["mount", "-o", f"remount,{how}", str(root)], check=True)

            def begin(root=root):
                mount(root)

            policy = "continue" if name == "read-only" else "stop"
            at = {1: begin, 3: remount("ro"), 5: remount("rw")}
            told[f"{name}-{kind}"] = train(base, path, at, f"checkpoint.on_error={policy}", *extra)
    return told


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        outcome = main()
    print(json.dumps(outcome))
