"""One job: a run that is trained and evaluated by real processes, once, however often it is asked for.

>>> job = Job("iga-seed1", Path("runs/iga-seed1"), Path("run.yaml"), ("seed=1",), "iga")   # doctest: +SKIP
>>> run_job(job).state                                                                      # doctest: +SKIP
'finished'

Beside the run folder lies ``NAME.job/``: ``job.yaml`` (what training is started with), ``job.json`` (what is known of it), ``log.txt``
(what its processes printed) and ``lock``. A process that is killed, this one included, costs what was not in a checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from igascale import runlock, status
from igascale.config import RunConfig, load_config
from igascale.errors import UserError
from igascale.evaluation.results import RESULT_FILE
from igascale.files import write_atomically
from igascale.studies import records
from igascale.studies.processes import Processes

FINISHED, FAILED, INTERRUPTED, RUNNING = "finished", "failed", "interrupted", "running"
TRAINING, EVALUATION, WAITING = "training", "evaluation", "waiting"
_ADAPTER = "adapter/adapter_model.safetensors"

Stage = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A run to be trained and evaluated.

    Attributes:
        name: shown to the user.
        folder: the run folder.
        config: the YAML file that it starts from.
        overrides: ``key=value``, after the method.
        method: of :mod:`igascale.methods`, or ``None`` for the file's own hook.
        evaluation: further arguments of ``igascale eval``; ``None``: train only.
        trains: ``False`` evaluates the configuration's model as it is.
    """

    name: str
    folder: Path
    config: Path
    overrides: tuple[str, ...] = ()
    method: str | None = None
    evaluation: tuple[str, ...] | None = ()
    trains: bool = True

    @property
    def records(self) -> Path:
        """The folder of what is known about it."""
        return self.folder.with_name(f"{self.folder.name}.job")

    @property
    def log(self) -> Path:
        """What its processes printed."""
        return self.records / records.LOG

    @property
    def result(self) -> Path:
        """Its ``evaluation.json``, once it is finished."""
        return self.folder / "evaluation" / RESULT_FILE

    @property
    def settings(self) -> tuple[str, ...]:
        """All its overrides, the run folder's among them."""
        return (*self.overrides, f"output_dir={json.dumps(str(self.folder))}")

    def resolve(self) -> RunConfig:
        """The configuration.

        Raises:
            UserError: it is wrong; see :func:`igascale.config.load_config`.
        """
        return load_config(self.config, self.settings, self.method)


@dataclass(frozen=True)
class Launching:
    """How training is started: ``igascale train`` for ``engine.name: single``, else ``igascale launch``.

    Attributes:
        num_processes: ranks; ``None``: one per GPU.
        options: further options of ``igascale launch``, such as ``("--backend", "local")``.
        environ: variables on top of this process's.
        at_a_time: how many jobs share this machine, which its times suffer from.
    """

    num_processes: int | None = None
    options: tuple[str, ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    at_a_time: int = 1

    def command(self, config: RunConfig) -> list[str]:
        """The verb and its options.

        Raises:
            UserError: several processes are asked of an engine that has one.
        """
        if config.engine.name == "single":
            if (self.num_processes or 1) > 1:
                raise UserError(
                    f"{self.num_processes} processes, but engine.name is 'single': set engine.name: deepspeed, or leave "
                    "the number of processes out"
                )
            return ["train"]
        number = ["--num-processes", str(self.num_processes)] if self.num_processes else []
        return ["launch", *number, *self.options]


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        job: it.
        state: :data:`FINISHED`, :data:`FAILED` or :data:`INTERRUPTED`.
        reason: why it failed, one line.
        before: it ended so in an earlier start; nothing was done now.
        seconds: of its processes, over all starts.
    """

    job: Job
    state: str
    reason: str = ""
    before: bool = False
    seconds: float = 0.0


def check_job(job: Job) -> RunConfig:
    """Whether a job may start, go on, or count as finished; writes nothing.

    Raises:
        UserError: its configuration is wrong, or its folder holds another training or evaluation; names every difference.
    """
    config = job.resolve()
    _check(job, config, records.Wanted.of(config, job.evaluation), records.read(job.records))
    return config


def run_job(
    job: Job,
    launching: Launching = Launching(),
    processes: Processes | None = None,
    on_stage: Stage = lambda stage: None,
    retry_failed: bool = False,
) -> Outcome:
    """Train, resuming what was interrupted, and evaluate, each in a process of its own; what is done is not done again.

    Args:
        job: what to do.
        launching: how to start the training.
        processes: where a stop is passed on from; of this call alone by default.
        on_stage: told ``waiting``, ``training``, ``evaluation`` as they begin.
        retry_failed: a job that failed before is tried again.

    Raises:
        UserError: as of :func:`check_job`, or another process works on the job. What its processes fail of is in the outcome.
    """
    processes = processes or Processes()
    config = job.resolve()
    command = launching.command(config)
    with records.held(job.records, f"job {job.name}"):
        wanted, record = records.Wanted.of(config, job.evaluation), records.read(job.records)
        _check(job, config, wanted, record)
        if finished_before(job, record):
            return Outcome(job, FINISHED, "", True, record.seconds)
        if record.state == FAILED and not retry_failed:
            return Outcome(job, FAILED, record.reason, True, record.seconds)
        record.wanted, record.state, record.reason = wanted, RUNNING, ""
        record.at_a_time = max(record.at_a_time, launching.at_a_time)
        record.write(job.records)
        write_atomically(job.records / records.CONFIG, config.to_yaml())
        work = _Work(job, record, launching.environ, processes, on_stage)
        state, reason = work.do(command)
        record.state, record.reason = state, reason
        record.write(job.records)
        return Outcome(job, state, reason, False, record.seconds)


def _check(job: Job, config: RunConfig, wanted: records.Wanted, record: records.Record) -> None:
    if record.wanted is None:
        if job.folder.exists() and (not job.folder.is_dir() or any(job.folder.iterdir())):
            raise UserError(f"job {job.name}: {job.folder} exists and was not made by this job; move it away")
        return
    if not job.folder.exists():
        return  # nothing came of it, or the user removed it: it begins anew
    if job.trains and (changes := records.training_changes(record.wanted, config, wanted)):
        raise UserError(
            f"job {job.name} was begun with other settings: {'; '.join(changes)}. Put them back, or remove {job.folder} "
            "to begin it anew"
        )
    evaluation = job.folder / "evaluation"
    if not evaluation.exists():
        return
    changes = records.evaluation_changes(record.wanted, wanted)
    if not job.trains and record.wanted.model != wanted.model:
        changes.append(f"{config.model.path} is another model")
    if changes:
        raise UserError(
            f"job {job.name} was evaluated with other settings: {'; '.join(changes)}. Put them back, or remove {evaluation} to "
            "evaluate it again"
        )
    if record.evaluation is not None and records.digest_or_none(job.result) not in (record.evaluation, None):
        raise UserError(
            f"job {job.name}: {job.result} is not what this job wrote; remove {evaluation} to evaluate it again"
        )


def finished_before(job: Job, record: records.Record) -> bool:
    """Nothing is left to do: adapter and result are there as this job wrote them."""
    return _trained(job, record) and _evaluated(job, record)


def _trained(job: Job, record: records.Record) -> bool:
    """The run's end was seen, and the adapter is still the one that it wrote."""
    return not job.trains or (
        record.adapter is not None and records.digest_or_none(job.folder / _ADAPTER) == record.adapter
    )


def _evaluated(job: Job, record: records.Record) -> bool:
    return job.evaluation is None or (
        record.evaluation is not None and records.digest_or_none(job.result) == record.evaluation
    )


@dataclass
class _Work:
    """A job that this process has the lock of."""

    job: Job
    record: records.Record
    environ: Mapping[str, str]
    processes: Processes
    on_stage: Stage

    def do(self, command: Sequence[str]) -> tuple[str, str]:
        """State and reason at the end."""
        job, record = self.job, self.record
        if not _trained(job, record):
            if not self._wait():
                return INTERRUPTED, ""
            resolved = str(job.records / records.CONFIG)
            method = ["--method", job.method] if job.method else []
            # The method and the overrides say nothing that the file does not, but the run is recorded under their names.
            ended = self._run(TRAINING, [*command, resolved, *job.settings, *method, "--resume", "auto"])
            if ended != (FINISHED, ""):
                return ended
            if problem := self._check_trained():
                return FAILED, problem
            record.adapter, record.evaluation = records.sha256(job.folder / _ADAPTER), None
            record.write(job.records)
        if not _evaluated(job, record) and job.evaluation is not None:
            assert record.wanted
            ended = self._run(EVALUATION, evaluation_command(job, record.wanted.config))
            if ended != (FINISHED, ""):
                return ended
            if not job.result.is_file():
                return FAILED, f"igascale eval ended well, but there is no {job.result}"
            record.evaluation = records.sha256(job.result)
        return FINISHED, ""

    def _wait(self) -> bool:
        """Until nobody trains in the run folder: what a killed study had started writes its last checkpoint."""
        while user := runlock.user_of(self.job.folder):
            self.on_stage(f"{WAITING}: {user}")
            if self.processes.stopped is not None:
                return False
            time.sleep(0.2)
        return True

    def _run(self, stage: str, arguments: Sequence[str]) -> tuple[str, str]:
        self.on_stage(stage)
        started = time.monotonic()
        ended = self.processes.run(arguments, self.job.log, self.environ)
        self.record.seconds = round(self.record.seconds + time.monotonic() - started, 1)
        if ended.code == 0:
            return FINISHED, ""
        if ended.asked:
            return INTERRUPTED, ""
        return FAILED, f"{stage}: {ended.reason}"

    def _check_trained(self) -> str:
        """What is wrong with a run whose process ended well."""
        told = status.read(self.job.folder)
        if told.get("state") != status.FINISHED or not (self.job.folder / _ADAPTER).is_file():
            return f"training ended at step {told.get('step')} of {told.get('total')}, without an adapter"
        assert self.record.wanted
        data = json.loads((self.job.folder / "environment.json").read_text())["data"]["train"].get("sha256")
        if data != self.record.wanted.data:
            return f"{self.record.wanted.config['data']['train']} changed while the job began; remove {self.job.folder}"
        return ""


def evaluation_command(job: Job, config: Mapping[str, Mapping[str, str | None]]) -> list[str]:
    """``igascale eval`` of a job that is trained; the configuration's held-out files are named, since a benchmark would displace them.

    Args:
        job: with an evaluation.
        config: its resolved configuration.
    """
    data, given = config["data"], job.evaluation or ()
    files = [("--id", data["validation"]), ("--ood", data["ood"])]
    named = [part for option, file in files if file and option not in given for part in (option, file)]
    subject = str(job.folder) if job.trains else str(config["model"]["path"])
    # Answers that an interrupted evaluation had are kept, and used again, also with --overwrite.
    return ["eval", subject, *named, *given, "--out", str(job.folder / "evaluation"), "--overwrite"]
