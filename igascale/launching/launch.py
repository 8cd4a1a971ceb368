"""The whole of a launch: attempts, what is shown and recorded of them, and starting again."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from igascale import logs, status
from igascale.config import RunConfig
from igascale.errors import TRY_AGAIN
from igascale.launchers import deepspeed, environment, network
from igascale.launchers.base import LaunchSpec, free_port
from igascale.launching import checks
from igascale.launching.attempt import Attempt, Outcome, Signals
from igascale.launching.display import Display
from igascale.launching.options import Options
from igascale.launching.specs import BUILDERS
from igascale.launching.stuck import end_stuck
from igascale.resuming import history
from igascale.supervision.monitor import Monitor

#: Seconds before a new attempt, for processes and ports on other hosts to go.
PAUSE = 3.0


@dataclass(frozen=True)
class Launch:
    """A launch whose options have been checked.

    Attributes:
        config: the run.
        options: where and how.
        spec: what to start, of the first attempt.
    """

    config: RunConfig
    options: Options
    spec: LaunchSpec

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.config.output_dir).resolve()

    def run(self) -> int:
        """Start the ranks, watch them, and start them again as ``--max-restarts`` allows; returns the exit code."""
        spec, last = self.spec, self.options.max_restarts + 1
        resumes = len(history.read(self.folder))
        with Signals() as signals:
            for number in range(1, last + 1):
                outcome = self._attempt(replace(spec, environment=self._environment(number)), number, signals)
                if outcome.exit_code != TRY_AGAIN or outcome.asked or number == last:
                    break
                again = resuming(spec.arguments, self.folder, history.read(self.folder)[resumes:])
                print(
                    f"attempt {number + 1} of {last} continues with --resume {again[-1]} in {PAUSE:.0f} s", flush=True
                )
                if not _wait(PAUSE, signals):
                    return 128 + signals.received[0]
                port = spec.master_port if self.options.master_port else free_port()
                spec = replace(spec, arguments=again, master_port=port)
        return outcome.exit_code

    def _environment(self, number: int) -> dict[str, str]:
        variables = {**self.spec.environment, "IGASCALE_ATTEMPT": str(number)}
        if not self.options.no_ssh:
            variables["IGASCALE_LOG_DIR"] = str(self.folder / "logs")
        return variables

    def _attempt(self, spec: LaunchSpec, number: int, signals: Signals) -> Outcome:
        began, started = time.time(), time.monotonic()
        backend = self.options.backend
        with Display(spec.world_size, f"{self.folder.name}: {backend}, attempt {number}") as display:
            with self._monitor(spec, display) as monitor:
                if monitor is not None:
                    address = advertised_address(spec)
                    spec = replace(spec, environment={**spec.environment, **monitor.environment(address)})
                with _delivered(spec, backend, self.folder) as spec:
                    outcome = Attempt(
                        BUILDERS[backend](spec),
                        spec.forwarded,
                        spec.world_size,
                        monitor,
                        signals,
                        lambda: display.update(monitor.ranks if monitor else {}),
                        display.line,
                        partial(logs.append, self.folder / "logs" / "launcher.log"),
                        partial(_end_stuck, spec, monitor, display),
                    ).run()
            if outcome.exit_code and not (outcome.asked and outcome.exit_code > 128):
                for line in logs.last_traceback(self.folder / "logs", outcome.rank) if outcome.rank >= 0 else ():
                    if outcome.reason not in line:
                        display.line(f"[rank {outcome.rank}] {line}", error=True)
                display.line(f"error: {outcome.reason}", error=True, style="red")
            elif outcome.exit_code:
                display.line(outcome.reason)
        self._record(number, began, time.monotonic() - started, outcome)
        return outcome

    @contextmanager
    def _monitor(self, spec: LaunchSpec, display: Display) -> Iterator[Monitor | None]:
        """The Monitor of one attempt; none where every node's ranks are started by a launcher of its own."""
        if self.options.no_ssh:
            yield None
            return
        section = self.config.supervision
        monitor = Monitor(
            spec.world_size,
            heartbeat_timeout=section.heartbeat_timeout,
            hang_timeout=section.hang_timeout,
            start_timeout=section.start_timeout,
            bind="127.0.0.1" if advertised_address(spec).startswith("127.") else "0.0.0.0",
            on_line=display.rank_line,
        )
        try:
            yield monitor
        finally:
            monitor.close()

    def _record(self, attempt: int, began: float, seconds: float, outcome: Outcome) -> None:
        """A line in ``launches.jsonl``; a run that was refused before it had a folder leaves none."""
        if not (self.folder / "config.yaml").is_file():
            return
        if outcome.exit_code:  # rank 0 may have been killed
            status.conclude(self.folder, status.FAILED, outcome.reason, outcome.exit_code)
        entry = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
            "attempt": attempt,
            "backend": self.options.backend,
            "hosts": [host.name for host in self.spec.hosts],
            "world_size": self.spec.world_size,
            "seconds": round(seconds, 1),
            "exit_code": outcome.exit_code,
            "reason": outcome.reason,
        }
        try:
            with (self.folder / "launches.jsonl").open("a") as file:
                file.write(json.dumps(entry) + "\n")
        except OSError as error:
            print(f"warning: {self.folder / 'launches.jsonl'}: {error.strerror}", flush=True)


def _end_stuck(spec: LaunchSpec, monitor: Monitor | None, display: Display) -> None:
    for line in end_stuck(spec, monitor) if spec.remote and monitor is not None else ():
        display.line(line, error=True)


def resuming(arguments: Sequence[str], run: Path, since: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The same arguments with the ``--resume`` of a restart, at their end.

    Args:
        arguments: of the start that was lost.
        run: the run folder.
        since: as of :func:`igascale.resuming.history.restart`.

    Example:
        >>> resuming(["train", "run.yaml", "--resume", "auto", "--stop-after", "3"], Path("runs/b"), [])
        ('train', 'run.yaml', '--stop-after', '3', '--resume', 'auto')
    """
    kept, resume = list(arguments), None
    if "--resume" in kept:
        at = kept.index("--resume")
        resume = kept[at + 1]
        del kept[at : at + 2]
    return (*kept, "--resume", history.restart(run, resume, since))


def advertised_address(spec: LaunchSpec) -> str:
    """Where the ranks reach this process: its address on the route to a host that is not this one."""
    address = "127.0.0.1"
    for host in spec.hosts if spec.remote or spec.hosts[0].name != "localhost" else ():
        try:
            theirs = network.address_of(host.name, spec.ssh_config)
            address = network.source_address(theirs)
        except OSError:
            continue
        if address != theirs and not theirs.startswith("127."):
            break
    return address


@contextmanager
def _delivered(spec: LaunchSpec, backend: str, run: Path) -> Iterator[LaunchSpec]:
    """For pdsh: variables wait in a private file on every host, and DeepSpeed's own file of variables names it.

    A launch that is killed leaves them; the next one of the same run removes them.
    """
    if backend != "deepspeed" or not spec.remote or spec.launcher != "pdsh":
        yield spec
        return
    sweep(run)
    prefix = checks.private_prefix(run)
    private = checks.send_private_file(spec, environment.pack({**spec.forwarded, **spec.environment}), prefix)
    try:
        with tempfile.TemporaryDirectory(prefix=prefix) as folder:  # mode 0700
            file = Path(folder) / "deepspeed_env"
            file.write_text(deepspeed.env_file(private))
            yield replace(spec, environment={}, forwarded={}, env_file=str(file))
    finally:
        checks.on_hosts(spec, f"rm -f {private}\n")


def sweep(run: Path) -> None:
    """Remove the temporary folder that a killed launch of this run left here."""
    for left in Path(tempfile.gettempdir()).glob(f"{checks.private_prefix(run)}*/"):
        shutil.rmtree(left, ignore_errors=True)


def _wait(seconds: float, signals: Signals) -> bool:
    """Whether no signal came within so many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not signals.received:
        time.sleep(0.1)
    return not signals.received
