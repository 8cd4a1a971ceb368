"""The search: every trial's folds as jobs, what they came to, and the configurations that were chosen."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igascale.config import RunConfig, SelectionConfig
from igascale.errors import UserError
from igascale.evaluation.results import RESULT_FILE, read_result
from igascale.files import write_atomically
from igascale.launching.attempt import Signals
from igascale.studies import jobs, queue
from igascale.studies.records import held, sha256, sha256_of
from igascale.tuning import space
from igascale.tuning.folds import Fold, folder_name, write_files
from igascale.tuning.plan import ACCURACY, Asked, Contestant, facts, plan, stops
from igascale.tuning.records import (
    DIVERGED,
    FAILED,
    FINISHED,
    TRIALS,
    Trial,
    best_of,
    check_search,
    read_trials,
    write_trials,
)

METRICS = "metrics.jsonl"
TUNED, RUNS = "tuned", "runs"


@dataclass(frozen=True)
class Chosen:
    """What the search chose for a method.

    Attributes:
        contestant: the method.
        trial: the best one; ``None`` where all of them failed.
        trials: all of them.
        config: for all domains, with ``selection`` filled in; ``None`` as above.
        file: where it was written.
        notes: what is to be said of the choice.
    """

    contestant: Contestant
    trial: Trial | None
    trials: Sequence[Trial]
    config: RunConfig | None
    file: Path
    notes: Sequence[str]


class Search:
    """A search in a folder, begun or gone on with.

    Args:
        asked: what is to be searched.
        folder: of all that it writes.
        say: told a line at a time how it goes.

    Attributes:
        stopped: the signal that asked for the end, once one has.

    Raises:
        UserError: see :func:`igascale.tuning.plan.plan` and :func:`igascale.tuning.records.check_search`. Nothing was written then.
    """

    def __init__(self, asked: Asked, folder: Path, say: Callable[[str], None]):
        self.asked, self.folder, self.say = asked, folder, say
        self.stopped: int | None = None
        self.contestants = plan(asked, folder / "data")
        self.held_out = self.contestants[0].config.data.validation or ""

    def run(self, launching: jobs.Launching, at_a_time: int = 1, retry_failed: bool = False) -> list[Chosen] | None:
        """All trials that are not on record, then the choice.

        Args:
            launching: how training is started.
            at_a_time: runs at once.
            retry_failed: trials that failed or diverged before are tried again.

        Returns:
            What was chosen for each method; ``None`` where a signal asked for the end: the same command goes on.

        Raises:
            UserError: another process works in the folder, it holds another search, or the runs cannot be started this way.
        """
        for each in self.contestants:
            launching.command(each.config)
        queue.shares(launching, at_a_time)
        wanted = {"files": self._files(), "methods": {each.name: facts(each, self.asked) for each in self.contestants}}
        check_search(self.folder, wanted)
        with held(self.folder, f"the search in {self.folder}"):
            write_files(self.held_out, [fold for each in self.contestants for fold in each.folds], self.folder / "data")
            known = {(each.method, each.trial): each for each in read_trials(self.folder)}
            if retry_failed:
                known = {key: each for key, each in known.items() if each.status == FINISHED}
            board = _Board(self, known)
            with Signals() as signals:
                outcomes = queue.run_jobs(
                    board.to_do(), launching, board, at_a_time=at_a_time, retry_failed=retry_failed, signals=signals
                )
            if signals.received or any(each.state == jobs.INTERRUPTED for each in outcomes):
                self.stopped = next(iter(signals.received), None)
                return None
            return [self._choose(each, board.known) for each in self.contestants]

    def _files(self) -> dict[str, str | None]:
        """Digests of all that decides a trial beside its configuration: trials on record are of these, and of no others."""
        from igascale.resuming.sources import find_sources, fingerprint_hook

        sources = find_sources(self.contestants[0].config)
        found = {"data.train": sources.data, "data.validation": sha256(Path(self.held_out))}
        if sources.model is not None:
            found["model.path"] = sha256_of(json.dumps(sources.model, sort_keys=True))
        for name in sorted({each.config.hook.name for each in self.contestants}):
            if (digest := fingerprint_hook(name)) is not None:
                found[f"the file of hook {name}"] = digest
        return found

    def job(self, contestant: Contestant, trial: int, fold: Fold) -> jobs.Job:
        """A trial's run on one fold."""
        asked, name = self.asked, contestant.name
        values = space.settings(contestant.axes, trial, asked.seed)
        fixed = (
            f"train.max_steps={contestant.steps}",
            f"eval.every={stops(contestant.steps, asked.stops)}",
            *("checkpoint.keep=1", "checkpoint.keep_best=false", "logging.tensorboard=false", "logging.wandb=false"),
            "selection=null",
        )
        settings = (*contestant.settings, *space.overrides(values), *fold.settings, *fixed)
        place = self.folder / "trials" / name / f"{trial:03d}" / folder_name(fold)
        evaluation = ("--limit-groups", str(contestant.config.eval.max_groups)) if asked.score == ACCURACY else None
        return jobs.Job(
            f"{name}-{trial:03d}-{fold.name}", place.absolute(), asked.config, settings, contestant.method, evaluation
        )

    def _choose(self, contestant: Contestant, known: Mapping[tuple[str, int], Trial]) -> Chosen:
        trials = [known[contestant.name, number] for number in range(self.asked.trials)]
        best, path = best_of(trials), self.folder / TUNED / f"{contestant.name}.yaml"
        if best is None:
            return Chosen(contestant, None, trials, None, path, ())
        config = self._tuned(contestant, best, trials)
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, config.to_yaml())
        return Chosen(contestant, best, trials, config, path, _notes(contestant, best, trials))

    def _tuned(self, contestant: Contestant, best: Trial, trials: Sequence[Trial]) -> RunConfig:
        """The chosen settings for all domains: as many steps as were best, of the schedule that they were part of."""
        steps = best.best[1]
        selection = SelectionConfig(
            by=self.asked.by,  # type: ignore[arg-type]
            trials=len(trials),
            budget=sum(each.budget for each in trials),
            searched=space.tried([each.settings for each in trials]) | {"train.max_steps": sorted(self._steps(trials))},
            source=str((self.folder / TRIALS).absolute()),
        )
        schedule = contestant.config.train.schedule_steps or (contestant.steps if steps < contestant.steps else None)
        more = (
            f"output_dir={json.dumps(str((self.folder / RUNS / contestant.name).absolute()))}",
            f"train.max_steps={steps}",
            f"train.schedule_steps={json.dumps(schedule)}",
            f"selection={json.dumps(selection.model_dump(mode='json'))}",
        )
        return contestant.load(self.asked, [*space.overrides(best.settings), *more])

    @staticmethod
    def _steps(trials: Sequence[Trial]) -> set[int]:
        return {step for each in trials for scores in each.scores.values() for step in scores}

    def train(self, chosen: Sequence[Chosen], launching: jobs.Launching, at_a_time: int = 1) -> list[jobs.Outcome]:
        """Train and evaluate what was chosen, on all domains."""
        final = [
            jobs.Job(each.contestant.name, Path(each.config.output_dir), each.file, (), None)
            for each in chosen
            if each.config is not None
        ]
        with held(self.folder, f"the search in {self.folder}"), Signals() as signals:
            ended = queue.run_jobs(final, launching, _Teller(self.say), at_a_time=at_a_time, signals=signals)
        self.stopped = next(iter(signals.received), None)
        return ended


class _Teller(queue.Listener):
    """Says how the final runs end."""

    def __init__(self, say: Callable[[str], None]):
        self.say = say

    def ended(self, outcome: jobs.Outcome) -> None:
        told = f": {outcome.reason} ({outcome.job.log})" if outcome.reason else ""
        self.say(f"{outcome.job.name}: {outcome.state}{told}; {outcome.job.folder}")


class _Board(queue.Listener):
    """Hears how the runs end, and puts a trial on record when all of its folds have."""

    def __init__(self, search: Search, known: dict[tuple[str, int], Trial]):
        self.search, self.known = search, known
        self._of: dict[str, tuple[Contestant, int, Fold]] = {}
        self._open: dict[tuple[str, int], dict[str, jobs.Outcome]] = {}

    def to_do(self) -> list[jobs.Job]:
        """What is still to be run: trial by trial, so that the methods get on alike."""
        found = []
        for trial in range(self.search.asked.trials):
            for each in self.search.contestants:
                if (each.name, trial) in self.known:
                    self._clean(each, trial)
                    continue
                self._open[each.name, trial] = {}
                for fold in each.folds:
                    job = self.search.job(each, trial, fold)
                    self._of[job.name] = (each, trial, fold)
                    found.append(job)
        return found

    def ended(self, outcome: jobs.Outcome) -> None:
        contestant, number, fold = self._of[outcome.job.name]
        done = self._open[contestant.name, number]
        done[fold.name] = outcome
        if len(done) < len(contestant.folds) or any(each.state == jobs.INTERRUPTED for each in done.values()):
            return
        trial = self._trial(contestant, number, done)
        self.known[trial.method, trial.trial] = trial
        write_trials(self.search.folder, self.known.values())
        self._clean(contestant, number)
        self.search.say(_line(trial, len(self.known)))

    def _trial(self, contestant: Contestant, number: int, done: Mapping[str, jobs.Outcome]) -> Trial:
        scores = {fold.name: self._scores(contestant, fold, done[fold.name]) for fold in contestant.folds}
        failed = [f"{name}: {each.reason}" for name, each in done.items() if each.state == jobs.FAILED]
        finite = any(score is not None for each in scores.values() for score in each.values())
        whole = Trial(
            contestant.name,
            number,
            space.settings(contestant.axes, number, self.search.asked.seed),
            FAILED if failed else FINISHED,
            "; ".join(failed),
            contestant.steps,
            contestant.cost,
            round(sum(each.seconds for each in done.values()), 1),
            scores,
        )
        if failed or whole.best[1]:
            return whole
        reason = "no step has a finite score on every fold" if finite else "no score is finite"
        return Trial(**{**vars(whole), "status": DIVERGED, "reason": reason})

    def _scores(self, contestant: Contestant, fold: Fold, outcome: jobs.Outcome) -> dict[int, float | None]:
        """Step -> score of a run, from what it recorded."""
        if self.search.asked.score == ACCURACY:
            if outcome.state != jobs.FINISHED:
                return {}
            split = read_result(outcome.job.folder / "evaluation" / RESULT_FILE).isomers.splits[fold.split]
            return {contestant.steps: 1 - split.accuracy.value}
        found = {}
        with suppress(FileNotFoundError):
            for line in (outcome.job.folder / METRICS).read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # a last line that a killed run did not finish
                    record = json.loads(line)
                    if record["kind"] == "validation":
                        found[int(record["step"])] = fold.score(record)
        return found

    def _clean(self, contestant: Contestant, number: int) -> None:
        """A trial on record needs its checkpoints no more; its metrics and adapters stay."""
        for fold in contestant.folds:
            folder = self.search.job(contestant, number, fold).folder / "checkpoints"
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)


def _line(trial: Trial, recorded: int) -> str:
    values = " ".join(f"{key}={json.dumps(value)}" for key, value in trial.settings.items())
    score, step = trial.best
    result = (
        f"{score:.4f} at step {step}" if step else f"{trial.status.upper()} ({trial.reason}): the worst score there is"
    )
    return f"[{recorded}] {trial.method} {trial.trial}: {values} -> {result} ({trial.seconds:.0f} s)"


def _notes(contestant: Contestant, best: Trial, trials: Sequence[Trial]) -> list[str]:
    """What stands at the edge of what was tried might be better beyond it."""
    told = []
    for key, axis in contestant.axes.items():
        values = sorted({each.settings[key] for each in trials}) if _numeric(trials, key) else []
        if len(values) > 2 and best.settings[key] in (values[0], values[-1]):
            end = "smallest" if best.settings[key] == values[0] else "largest"
            told.append(f"{contestant.name}: the chosen {key} is the {end} that was tried; widen --search {key}={axis}")
    if contestant.steps == best.best[1] and len(best.means) > 1:
        told.append(f"{contestant.name}: the longest run was best; more steps (train.max_steps) might be better still")
    lost = [each for each in trials if each.status != FINISHED]
    if lost:
        told.append(f"{contestant.name}: {len(lost)} of {len(trials)} trials failed or diverged and count as the worst")
    return told


def _numeric(trials: Sequence[Trial], key: str) -> bool:
    values: list[Any] = [each.settings[key] for each in trials]
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def check_chosen(chosen: Sequence[Chosen]) -> None:
    """Say which methods have nothing to show.

    Raises:
        UserError: all trials of a method failed or diverged.
    """
    for each in chosen:
        if each.trial is None:
            raise UserError(
                f"{each.contestant.name}: none of its {len(each.trials)} trials has a finite score (the first: {each.trials[0].reason}); "
                "see trials.jsonl, lower the learning rates (--search optimizer.lr=low..high:log), or --retry-failed"
            )
