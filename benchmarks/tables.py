"""Write the committed results into docs/performance.md, so that the page says what was measured.

python -m benchmarks.tables                    # every table between <!-- NAME --> and <!-- /NAME -->
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.record import RESULTS

PAGE = RESULTS.parents[1] / "docs" / "performance.md"
PAPER_GROUPS = 31_200


def read(name: str) -> dict[str, Any]:
    """A committed result."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


def markdown(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table."""
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def step(names: Iterable[str] = ("step-cpu", "step-cpu-wide-cpu")) -> str:
    """Time and memory of a step, relative to plain and mean."""
    parts = []
    for name in names:
        if not (RESULTS / f"{name}.json").exists():
            continue
        found = read(name)
        times, memory, shape = found["variants"], found["peak_bytes"], found["shape"]
        rows = []
        for variant, figures in times.items():
            seconds, combine = figures["seconds"], figures["parts"].get("combine", 0.0)
            rows.append(
                [
                    variant,
                    f"{seconds / times['plain']['seconds']:.3f}",
                    f"{seconds / times['mean']['seconds']:.3f}",
                    f"{combine / seconds:.1%}",
                    f"{memory[variant] / memory['mean']:.3f}",
                ]
            )
        title = f"{shape['layers']} layers of {shape['hidden']}, {shape['tokens']} tokens a step in {shape['accumulation']} passes, {found['steps']} steps:"
        parts.append(
            title + "\n\n" + markdown(["", "x plain", "x mean", "of it combining", "peak memory x mean"], rows)
        )
    return "\n\n".join(parts)


def table3(name: str = "step-cpu") -> str:
    """Laid out like the paper's Table 3."""
    found = read(name)
    rows = []
    for variant, figures in found["variants"].items():
        minutes = figures["seconds"] * PAPER_GROUPS / found["shape"]["groups"] / 60
        rows.append(
            [
                variant,
                f"{minutes:.0f}",
                f"{found['peak_bytes'][variant] / 2**20:.0f}",
                f"{figures['trainable'] / 1e6:.2f} M",
            ]
        )
    return markdown(["", "minutes per epoch", "peak MiB of a rank", "trainable"], rows)


def capture(name: str = "capture-cpu") -> str:
    """Forward and backward with capture, relative to plain."""
    rows = []
    for setting, found in read(name)["results"].items():
        for name, figures in found.items():
            if name != "plain":
                ratios = [f"{figures[k] / found['plain'][k]:.3f}" for k in ("seconds", "flops", "peak_bytes")]
                rows.append([setting, name, *ratios])
    return markdown(["", "", "time x plain", "FLOPs x plain", "peak bytes x plain"], rows)


def projection() -> str:
    """Streamed against naive."""
    found = read("projection-cpu")
    names = {"naive": "naive", "cached": "streamed, masked matrix kept", "uncached": "streamed, generated again"}
    rows = [
        [
            names[name],
            f"{found['speedup'][name]:.1f}x",
            f"{found['memory_ratio'][name]:.1%}",
            f"{found['error_over_optimal'][name]:.4f}" if name in found["error_over_optimal"] else "",
        ]
        for name in names
    ]
    return markdown(["", "faster", "extra memory", "error / optimal tail"], rows)


def step_cuda() -> str:
    """The same on a GPU, with what an epoch takes."""
    return step(["step-cuda"]) + "\n\n" + table3("step-cuda")


def capture_cuda() -> str:
    """The same on a GPU."""
    return capture("capture-cuda")


def projection_cuda() -> str:
    """Time of an adapter's projection on a GPU, alone and in a batch, and extra memory."""
    found = read("projection-cuda")
    seconds, count = found["seconds"], found["options"]["adapters"]
    names = {
        "naive": "naive: dense, one adapter",
        "cached": "streamed from tiles, masked matrix kept, one adapter",
        "uncached": "streamed from tiles, generated again, one adapter",
        "fused": "fused kernel, one adapter",
    }
    rows = [
        [names[k], f"{1e3 * seconds[k]:.1f}", f"{found['peak_extra_bytes'][k] / 2**20:.0f}", f"{found['error_over_optimal'].get(k, 0) or '':.6}"]
        for k in names
    ]  # fmt: skip
    for key, name in ((f"fused x{count}", f"fused kernel, {count} adapters"), (f"one product x{count}", "of it one product (there are four)")):  # fmt: skip
        rows.append([name, f"{1e3 * seconds[key]:.1f}", "", ""])
    return markdown(["", "ms", "extra MiB", "error / optimal tail"], rows)


def blocks_cuda() -> str:
    """The fused kernel by its block sizes."""
    cases = [case for case in read("blocks-cuda")["cases"] if case["seconds"]]
    fastest = min(case["seconds"] for case in cases if case["precision"] == "tf32x3")
    rows = [
        [
            c["precision"],
            f"{c['BO']}x{c['BI']}",
            *(str(c[k]) for k in ("BK", "warps", "stages")),
            f"{1e3 * c['seconds']:.1f}",
            f"{c['seconds'] / fastest:.2f}",
        ]
        for c in sorted(cases, key=lambda case: case["seconds"])
    ]
    return markdown(["precision", "rows x columns", "BK", "warps", "stages", "ms", "x the fastest tf32x3"], rows)


def scaling() -> str:
    """Exponents."""
    linear = {"O and I together": "2"}
    rows = [
        [
            name,
            ", ".join(map(str, f["values"])),
            f"{f['time exponent']:.2f}",
            f"{f['FLOP exponent']:.2f}",
            linear.get(name, "1"),
        ]
        for name, f in read("scaling-cpu")["sweeps"].items()
    ]
    return markdown(["grows", "sizes", "exponent of time", "of FLOPs", "linear"], rows)


def ranks() -> str:
    """Work and time of the slowest of several processes."""
    found = read("scaling-cpu")["ranks"]
    (alone,) = found["1"]
    rows = [
        [
            count,
            "/".join(str(r["adapters"]) for r in each),
            f"{max(r['flops'] for r in each) / alone['flops']:.3f}",
            f"{1 / int(count):.3f}",
            f"{max(r['seconds'] for r in each) / alone['seconds']:.2f}",
        ]
        for count, each in found.items()
    ]
    return markdown(
        ["ranks", "adapters of each", "most work of one", "ideal", "time of the slowest, of one rank's"], rows
    )


def precision() -> str:
    """Errors of the tensor cores' number formats."""
    found = read("precision-cpu")["errors"]["relative"]
    columns = list(next(iter(found.values())))
    rows = [[name, *(f"{found[name][c]:.1e}" for c in columns)] for name in found]
    return markdown(["format", *columns], rows)


def launching() -> str:
    """From the command to the first step, and the price of help."""
    found = read("launching-cpu")
    seconds = {name: median(values) for name, values in found["seconds"].items()}
    rows = []
    for name, ratio in found["ratios"].items():
        ours, theirs = name.split(" / ")
        rows.append([ours, theirs, f"{seconds[ours]:.2f}", f"{seconds[theirs]:.2f}", f"{ratio:.2f}"])
    return markdown(["", "beside", "median s", "median s of that", "ratio"], rows)


def checkpointing() -> str:
    """What a step waits for a checkpoint."""
    found = read("checkpointing-cpu")
    step = found["seconds"]["none"]
    rows = [
        [name, f"{1e3 * wait:.1f}", f"{1e3 * found['longest_wait'][name]:.1f}", f"{wait / step:.1%}"]
        for name, wait in found["waits"].items()
    ]
    resume = ", ".join(f"{name} {1e3 * seconds:.0f} ms" for name, seconds in found["resume"].items())
    table = markdown(["checkpoint", "a step waits, median ms", "longest", "of a step"], rows)
    size = f"{found['bytes_per_parameter']:.2f} bytes per trainable parameter ({found['trainable']} of them), all files counted"
    return f"{table}\n\n{size}. Resuming: {resume}."


def chaos() -> str:
    """The fault campaign, by what went wrong."""
    found = read("chaos-cpu")
    rows = []
    for kind in dict.fromkeys(r["kind"] for r in sorted(found["results"], key=lambda r: r["kind"])):
        runs = [r for r in found["results"] if r["kind"] == kind]
        gone = [a["exit_seconds"] for r in runs for a in r["attempts"] if a["exit_seconds"] is not None]
        passed = sum(not r["problems"] for r in runs)
        rows.append(
            [kind, str(len(runs)), str(passed), f"{median(gone):.1f}" if gone else "", f"{max(gone, default=0):.1f}"]
        )
    rows.append(["all", str(found["runs"]), str(found["runs"] - found["failed"]), "", ""])
    return markdown(["fault", "runs", "passed", "median s until nothing is left", "longest"], rows)


TABLES: dict[str, Callable[[], str]] = {
    f.__name__: f
    for f in (
        *(step, table3, capture, projection, scaling, ranks, precision, launching, checkpointing, chaos),
        *(step_cuda, capture_cuda, projection_cuda, blocks_cuda),
    )
}


def filled(page: str) -> str:
    """The page with every table as the results have it."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)"
        if not re.search(pattern, page, re.DOTALL):
            raise SystemExit(f"{PAGE}: no place for the table '{name}'")
        page = re.sub(pattern, lambda m, t=table: f"{m[1]}\n{t()}\n{m[2]}", page, flags=re.DOTALL)  # type: ignore[misc]
    return page


def main() -> None:
    Path(PAGE).write_text(filled(PAGE.read_text()))


if __name__ == "__main__":
    main()
