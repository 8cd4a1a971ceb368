"""The fault campaign: many runs, each disturbed in its own way, each resumed and compared with the undisturbed run bit for bit.

``python tests/chaos/campaign.py --runs 100`` (``make chaos``) draws the faults from ``--seed`` and ends with status 1 if any run failed.
The folder of a failed run is kept; the printed command makes its fault again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent), str(HERE.parent / "hosts"), str(HERE)]

import chaos_processes as processes
import chaos_rig
from chaos_checks import compare
from chaos_plan import KINDS, Scenario, draw, inside_checkpoint, needs_two_hosts, stage
from chaos_rig import Rig, Timeline
from chaos_run import Outcome, Run

_PRIVATE = "IGASCALE_CHAOS_PRIVATE"


def main() -> int:
    """Run a campaign; 0 where every run passed."""
    arguments = _arguments()
    _isolate()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.default_int_handler)  # a campaign that is ended ends its runs
    base = Path(tempfile.mkdtemp(prefix="igascale-chaos-", dir=arguments.work))
    reasons = unavailable(arguments.one_host)
    for kind, reason in reasons.items():
        print(f"left out: {kind}: {reason}")
    kinds = [kind for kind in KINDS if kind not in reasons]
    rig = Rig(base, two_hosts=any(map(needs_two_hosts, kinds)))
    try:
        traces = {mode: undisturbed(rig, mode) for mode in ("sync", "async")}
        scenarios = draw(arguments.seed, arguments.runs, traces, kinds)
        earlier = _earlier(arguments)
        if arguments.only is not None:
            scenarios = [s for s in scenarios if s.number in arguments.only]
        elif arguments.rest:
            scenarios = [s for s in scenarios if s.number not in earlier]
        if any(s.two_hosts for s in scenarios):
            undisturbed(rig, "two hosts")
        shared_memory = _shared_memory()
        results: list[dict[str, Any]] = []
        for result in _all(rig, scenarios, arguments, shared_memory):
            results.append(result)
            together = [r for _, r in sorted((earlier | {r["number"]: r for r in results}).items())]
            record = _record(together, arguments, traces, reasons)
            _write(record, arguments.out)  # each time: what ends a campaign early does not take its results
        if lost := sorted(_shared_memory() - shared_memory):
            results[-1]["problems"].append(f"left in /dev/shm: {lost}")
            _write(record, arguments.out)
    finally:
        rig.close()
    if not results:
        raise SystemExit("no run is left to make")
    print(_table(record))
    failed = [r for r in results if r["problems"]]
    for result in failed:
        print(f"\nrun {result['number']} failed; kept in {base / _name(result['number'])}; again: {result['replay']}")
        print("\n".join(f"  {problem}" for problem in result["problems"]))
    if not failed and not arguments.keep:
        shutil.rmtree(base)
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="FILE.json", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; those on two hosts go one by one")
    parser.add_argument(
        "--only", type=int, action="append", metavar="N", help="only this run; replaces it in --out's file"
    )
    parser.add_argument("--rest", action="store_true", help="only the runs that --out's file does not hold yet")
    parser.add_argument("--one-host", action="store_true", help="no runs on two hosts")
    parser.add_argument("--work", metavar="FOLDER", help="where run folders are made [default: the system's]")
    parser.add_argument("--keep", action="store_true", help="keep the folders of runs that passed as well")
    return parser.parse_args()


def _isolate() -> None:
    """Go on in a mount table with an empty /dev/shm, so that what is found there is the campaign's own."""
    if os.geteuid() != 0 or not shutil.which("unshare") or os.environ.get(_PRIVATE) == "yes":
        return
    if _PRIVATE not in os.environ:
        probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
        if probe.returncode == 0:
            os.environ[_PRIVATE] = "entered"
            os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])
        return
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
    os.environ[_PRIVATE] = "yes"


def unavailable(one_host: bool) -> dict[str, str]:
    """Kinds of runs that this machine cannot make, with the reason."""
    two_hosts = "asked for" if one_host else chaos_rig.why_no_two_hosts()
    reasons = {kind: two_hosts for kind in KINDS if needs_two_hosts(kind)}
    reasons |= {"clock jump": chaos_rig.why_no_clock(), "disk full": chaos_rig.why_no_small_disk()}
    return {kind: reason for kind, reason in reasons.items() if reason}


def undisturbed(rig: Rig, name: str) -> list[list[str]]:
    """A run that nothing disturbs; what rank 0 did to the run folder.

    The first is the reference. One with asynchronous checkpoints and one on two hosts must give the same.

    Args:
        rig: gets the reference and the timeline.
        name: ``sync``, ``async`` or ``two hosts``.
    """
    two_hosts = name == "two hosts"
    run = Run(rig, f"undisturbed-{name.replace(' ', '-')}", Scenario(-1, name, two_hosts, name == "async", ()))
    trace = run.work / "trace"
    attempt = run.start({"trace": str(trace)})
    first = last = None
    while run.process.poll() is None:
        steps, now = run.steps(), time.monotonic() - run.started
        first = now if steps and first is None else first
        last = now if steps < chaos_rig.STEPS else last
        time.sleep(0.01)
    run.wait(attempt, 300)
    first = first or attempt.seconds  # this process may not have had a look while the run took its steps
    if attempt.status != 0 or last is None:
        log = (run.work / "attempt-0.log").read_text()
        raise SystemExit(f"the undisturbed run ({name}) failed, status {attempt.status}: {log}")
    if name != "async":
        rig.timelines[two_hosts] = Timeline(first, attempt.seconds - last, attempt.seconds)
    if name == "sync":
        shutil.copytree(run.run, rig.reference)
    if problems := compare(run.run, rig.reference, name == "async"):
        raise SystemExit(f"the undisturbed run ({name}) is not the reference: {problems}")
    print(f"undisturbed ({name}): first step after {first:.1f} s, {attempt.seconds:.1f} s in all", flush=True)
    return [json.loads(line) for line in trace.read_text().splitlines()]


def _all(
    rig: Rig, scenarios: list[Scenario], arguments: argparse.Namespace, shared: set[str]
) -> Iterator[dict[str, Any]]:
    def one(scenario: Scenario) -> dict[str, Any]:
        with rig.one_at_a_time if scenario.two_hosts else nullcontext():
            result = _result(_execute(rig, scenario, arguments, shared), arguments)
        print("\n    ".join([_line(result, arguments.runs), *result["problems"]]), flush=True)
        return result

    if arguments.jobs == 1:
        yield from map(one, scenarios)
        return
    with ThreadPoolExecutor(arguments.jobs) as pool:
        try:
            yield from pool.map(one, scenarios)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            processes.end_all(str(rig.base))  # the threads' runs; they then see a failure and end
            raise


def _execute(rig: Rig, scenario: Scenario, arguments: argparse.Namespace, shared: set[str]) -> Outcome:
    run = Run(rig, _name(scenario.number), scenario)
    try:
        outcome = run.execute()
    except Exception as error:  # the campaign goes on; the run is reported
        run.outcome.problems.append(f"the harness failed: {error!r}")
        outcome = run.outcome
    if arguments.jobs == 1 and (lost := _shared_memory() - shared):
        outcome.problems.append(f"left in /dev/shm: {sorted(lost)}")
        shared |= lost
    run.close(keep=bool(outcome.problems) or arguments.keep)
    return outcome


def _name(number: int) -> str:
    return f"run-{number:03d}"


def _shared_memory() -> set[str]:
    """Names in /dev/shm; libfaketime's own, which it leaves when its process is killed, are not igascale's."""
    names = {path.name for path in Path("/dev/shm").iterdir()}
    return {name for name in names if not name.startswith(("faketime_", "sem.faketime_"))}


def _result(outcome: Outcome, arguments: argparse.Namespace) -> dict[str, Any]:
    replay = f"python tests/chaos/campaign.py --runs {arguments.runs} --seed {arguments.seed} --only {outcome.scenario.number}"
    return {
        **outcome.scenario.to_dict(),
        "attempts": [vars(attempt) for attempt in outcome.attempts],
        "problems": outcome.problems,
        "commit": _commit(),
        "replay": replay + (" --one-host" if arguments.one_host else ""),
    }


def _line(result: dict[str, Any], runs: int) -> str:
    first, *others = result["attempts"] or [{}]
    seconds = first.get("exit_seconds")
    told = f"{first.get('fault')}; status {first.get('status')}"
    told += f", gone in {seconds:.1f} s" if seconds is not None else ""
    told += "".join(f"; {a['fault'] or 'resumed'}: status {a['status']}, {a['seconds']:.1f} s" for a in others)
    mode = "async" if result["asynchronous"] else "sync"
    verdict = "FAIL" if result["problems"] else "ok"
    return f"[{result['number']:3d}/{runs}] {verdict:4s} {result['kind']} ({mode}): {result['told'][0]} | {told}"


def _earlier(arguments: argparse.Namespace) -> dict[int, dict[str, Any]]:
    """Runs in the record that stay there where others are made (again); each has the commit it was made with."""
    if arguments.out is None or not arguments.out.exists() or (arguments.only is None and not arguments.rest):
        return {}
    record = json.loads(arguments.out.read_text())
    if record["seed"] != arguments.seed:
        raise SystemExit(f"{arguments.out} holds a campaign of seed {record['seed']}, not of {arguments.seed}")
    return {r["number"]: r for r in record["results"]}


def _write(record: dict[str, Any], out: Path | None) -> None:
    if out is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.tmp")
    partial.write_text(json.dumps(record, indent=1) + "\n")
    partial.replace(out)


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False).stdout.strip()


def _record(
    results: list[dict[str, Any]],
    arguments: argparse.Namespace,
    traces: dict[str, list[list[str]]],
    reasons: dict[str, str],
) -> dict[str, Any]:
    stages = {stage(operation) for trace in traces.values() for operation in trace if inside_checkpoint(operation)}
    met = {f["moment"]["label"] for r in results for f in r["faults"] if f["moment"]["at"] == "operation"} & stages
    packages = ("igascale", "torch", "deepspeed", "transformers", "peft", "safetensors")
    return {
        "runs": len(results),
        "failed": sum(bool(r["problems"]) for r in results),
        "seed": arguments.seed,
        "seconds": sum(attempt["seconds"] for r in results for attempt in r["attempts"]),
        "stages": {"met": len(met), "of": len(stages), "not_met": sorted(stages - met)},
        "left_out": reasons,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": {name: metadata.version(name) for name in packages},
        "commit": _commit(),
        "results": results,
    }


def _table(record: dict[str, Any]) -> str:
    lines = [f"\n{'scenario':42s} runs  pass  fail  too late  median s to exit"]
    for kind in KINDS:
        of_kind = [r for r in record["results"] if r["kind"] == kind]
        if not of_kind:
            continue
        failed = sum(bool(r["problems"]) for r in of_kind)
        late = sum(r["attempts"][0]["fault"] == "too late" for r in of_kind if r["attempts"])
        times = [a["exit_seconds"] for r in of_kind for a in r["attempts"] if a["exit_seconds"] is not None]
        median = f"{statistics.median(times):.1f}" if times else "-"
        lines.append(f"{kind:42s} {len(of_kind):4d}  {len(of_kind) - failed:4d}  {failed:4d}  {late:8d}  {median:>8s}")
    stages, two = record["stages"], sum(needs_two_hosts(r["kind"]) for r in record["results"])
    lines.append(
        f"{record['runs']} runs, {two} of them on two hosts, {record['failed']} failed; {record['seconds'] / 60:.1f} minutes; "
        f"{stages['met']} of {stages['of']} stages of a checkpoint's writing met"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
