"""One run of the campaign: start, fault, wait for the end, resume, verify."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chaos_faults as faults
import chaos_processes as processes
from chaos_checks import broken_latest, compare
from chaos_plan import STEPS, Fault, Scenario
from chaos_rig import START_TIMEOUT, Rig, Timeline

_DISK_MB = 24  # a run needs about three
_POLL = 0.004
TRY_AGAIN = 75  # of `igascale launch`: with --resume auto


@dataclass
class Attempt:
    """One start of the run.

    Attributes:
        status: of ``igascale launch``; ``None`` where it did not end.
        seconds: from its start to the end of its last process.
        fault: what went wrong and when; ``too late`` where the run ended before.
        exit_seconds: from the fault to the end of the last process.
    """

    status: int | None = None
    seconds: float = 0
    fault: str = ""
    exit_seconds: float | None = None


@dataclass
class Outcome:
    """What became of a scenario."""

    scenario: Scenario
    attempts: list[Attempt] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Run:
    """A run folder and the starts of the run.

    Args:
        rig: what runs share.
        name: of its folder below the rig's.
        scenario: how it is disturbed.
    """

    def __init__(self, rig: Rig, name: str, scenario: Scenario):
        self.rig, self.scenario = rig, scenario
        self.work = rig.base / name
        self.inject, self.temporary = self.work / "inject", self.work / "tmp"
        for folder in (self.work, self.inject, self.temporary):
            folder.mkdir()
        shutil.copy(Path(__file__).with_name("inject") / "sitecustomize.py", self.inject)
        self.marker = str(self.inject)
        self.disk = self.work / "disk" if any(f.do == "disk" for f in scenario.faults) else None
        self.run = (self.disk or self.work) / "run"
        self.clock = self.inject / "clock"
        if self.disk:
            self.disk.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", str(self.disk)], check=True)
        self.outcome = Outcome(scenario)

    def execute(self) -> Outcome:
        """All of it."""
        try:
            for fault in self.scenario.faults:
                self._disturbed(fault)
            if self.outcome.attempts[-1].status != 0:
                self._resume()
            self._check("after the resume", compare(self.run, self.rig.reference, self.scenario.asynchronous))
            self._check("temporary files", self._temporary_files())
        finally:
            processes.end_all(self.marker)
        return self.outcome

    def close(self, keep: bool) -> None:
        """Remove the run's folder, or what makes it hard to look into."""
        if self.disk:
            if keep:
                shutil.copytree(self.disk, self.work / "kept", dirs_exist_ok=True)
            subprocess.run(["umount", "--lazy", str(self.disk)], check=False)
        if not keep:
            shutil.rmtree(self.work)

    # One start

    def start(self, plan: dict[str, Any] | None = None) -> Attempt:
        """Start the run, or start it again."""
        resume = bool(self.outcome.attempts)
        for old in self.inject.glob("*.pid"):
            old.unlink()
        (self.inject / "fired").unlink(missing_ok=True)
        (self.inject / "plan.json").write_text(json.dumps({"folder": str(self.run), **(plan or {})}))
        two_hosts = self.scenario.two_hosts
        argv = self.rig.command(self.run, two_hosts, self.scenario.asynchronous, resume)
        environment = self.rig.environment(two_hosts, self.inject, self.temporary)
        if (plan or {}).get("clock_for_all"):
            environment |= plan["clock"]
        self.before = _inode(self.run / "metrics.jsonl")
        with (self.work / f"attempt-{len(self.outcome.attempts)}.log").open("w") as log:
            self.started = time.monotonic()
            self.process = subprocess.Popen(
                self.rig.hosts.a.enter(argv, self.work) if two_hosts else argv,
                cwd=self.work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        (self.inject / "launcher.pid").write_text(str(self.process.pid))
        attempt = Attempt()
        self.outcome.attempts.append(attempt)
        return attempt

    def wait(self, attempt: Attempt, limit: float) -> dict[int, str]:
        """Wait until nothing of the run is left; what is left at the limit."""
        deadline = time.monotonic() + limit
        while (left := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.03)
        attempt.status = self.process.poll()
        attempt.seconds = time.monotonic() - self.started
        return left

    def steps(self) -> int:
        """Records of steps that this attempt has in ``metrics.jsonl``: a resumed run writes the file anew."""
        path = self.run / "metrics.jsonl"
        if _inode(path) == self.before:
            return 0
        try:
            return path.read_bytes().count(b'"kind": "train"')
        except OSError:
            return 0

    @property
    def timeline(self) -> Timeline:
        """Of the undisturbed run."""
        return self.rig.timelines[self.scenario.two_hosts]

    def _alive(self) -> dict[int, str]:
        left = processes.of_run(self.marker)
        if self.process.poll() is None:
            left.setdefault(self.process.pid, "igascale launch")
        return left

    # The disturbed start

    def _disturbed(self, fault: Fault) -> None:
        attempt = self.start(faults.plan(self, fault))
        if self._reach(fault):
            moment = time.monotonic()
            attempt.fault = faults.apply(self, fault)
            if (fired := self.inject / "fired").exists():
                told = json.loads(fired.read_text())
                moment, attempt.fault = told["time"], f"kill {fault.victim} at {told['where']}"
            harmless = fault.do == "clock"
            # Whoever is cut off or stopped before it has come to the Monitor is not missed before then.
            arriving = START_TIMEOUT if fault.do in ("link", "stop") and fault.moment.at == "start" else 0
            left = self.wait(attempt, 600 if harmless else self.timeline.exit_limit + arriving)
            attempt.exit_seconds = time.monotonic() - moment
        else:
            attempt.fault = "too late"
            left = self.wait(attempt, self.timeline.exit_limit)
        if left:
            self._check(f"alive {attempt.exit_seconds or 60:.0f} s after {fault}", [processes.shown(left)])
            processes.end_all(self.marker)
            self.process.wait()
        faults.undo(self, fault)
        self._check_hosts(f"on the hosts after {fault}", patience=60)
        self._check_status(fault, attempt)
        self._check(f"after {fault}", broken_latest(self.run))

    def _reach(self, fault: Fault) -> bool:
        """Wait for the fault's moment; false where the run ended before."""
        moment, timeline = fault.moment, self.timeline
        if moment.at == "start":
            return self._sleep(timeline.first * moment.share)
        if moment.at == "operation":
            return self._until(lambda: (self.inject / "fired").exists())
        wanted = moment.step if moment.at == "step" else STEPS
        delay = moment.delay if moment.at == "step" else timeline.end * moment.share
        return self._until(lambda: self.steps() >= wanted) and self._sleep(delay)

    def _until(self, reached: Any) -> bool:
        while not reached():
            if self.process.poll() is not None or time.monotonic() - self.started > 600:
                return bool(reached())
            time.sleep(_POLL)
        return True

    def _sleep(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                return False
            time.sleep(min(_POLL, max(0.0, end - time.monotonic())))
        return self.process.poll() is None

    def _check_status(self, fault: Fault, attempt: Attempt) -> None:
        """The exit code that a scheduler acts on, and the line that a person reads."""
        finished, status = complete(self.run), attempt.status
        if attempt.fault.startswith("kill launcher"):
            expected = {-signal.SIGKILL, 0} if finished else {-signal.SIGKILL}  # it may have ended just before
        elif attempt.fault == "too late" or fault.do == "clock":
            expected = {0}
        elif fault.do == "link" and fault.moment.at == "start" and "nothing was started" in self.log():
            expected = {2}  # it came before the hosts were asked
        elif fault.do == "disk":
            expected = {0} if finished else {2, TRY_AGAIN}
        else:
            expected = {0, TRY_AGAIN} if finished else {TRY_AGAIN}
        if status not in expected:
            self._check("status", [f"{status} after {fault} ({attempt.fault}), not one of {sorted(expected)}"])
        if status == TRY_AGAIN and fault.moment.at == "step" and fault.victim.startswith("rank-"):
            name = fault.victim.replace("-", " ")
            if name not in self.log():
                self._check("message", [f"{name} is not named after {fault}: ...{self.log()[-600:]}"])

    def log(self) -> str:
        """What the last attempt showed on its terminal."""
        return (self.work / f"attempt-{len(self.outcome.attempts) - 1}.log").read_text()

    # The resume

    def _resume(self) -> None:
        attempt = self.start()
        left = self.wait(attempt, 300 + 4 * self.timeline.total)
        if left:
            self._check("resume", [f"alive after {attempt.seconds:.0f} s: {processes.shown(left)}"])
        elif attempt.status != 0:
            self._check("resume", [f"status {attempt.status}: ...{self.log()[-600:]}"])
        self._check_hosts("on the hosts after the resume", patience=60)

    def _check_hosts(self, when: str, patience: float) -> None:
        """Sessions of sshd, which carry no marker. After a cut they end when TCP has sent again what was lost."""
        if self.scenario.two_hosts:
            left = self.rig.hosts.left_over(patience)
            self._check(when, [f"{host}: {what}" for host, what in left.items()])
            self.rig.hosts.tidy()

    def _temporary_files(self) -> list[str]:
        """Temporary files of the run, in its own folder or, by their content, in the machine's."""
        found = [str(p) for p in self.temporary.rglob("*")]
        for path in Path("/tmp").glob("igascale*"):
            with suppress(OSError):  # somebody else's, and gone again
                if not path.is_relative_to(self.rig.base) and self.marker.encode() in path.read_bytes():
                    found.append(str(path))
        return found

    def _check(self, when: str, problems: list[str]) -> None:
        self.outcome.problems += [f"{when}: {problem}" for problem in problems]


def complete(run: Path) -> bool:
    """Whether the run has written its result."""
    return (run / "adapter" / "adapter_model.safetensors").is_file()


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
