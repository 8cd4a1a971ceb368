"""Evaluate a run's checkpoints one after the other, those that are there or each as it appears. Plain Python."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from igascale.checkpoints import names
from igascale.checkpoints.manifest import Damaged
from igascale.errors import UserError
from igascale.evaluation import checkpoints
from igascale.evaluation.answering import Progress
from igascale.evaluation.request import Request
from igascale.evaluation.results import RESULT_FILE, EvaluationResult
from igascale.evaluation.store import ANSWERS
from igascale.runs.reading import BROKEN, ENDED, UNKNOWN, read_run

_POLL = 1.0  # seconds between two looks at the run
_PATIENCE = 10.0  # seconds that a folder may lack what tells of its run: one that has just begun

#: Carries a request out, in this process or in others.
Perform = Callable[[Request, Progress | None], EvaluationResult]


@dataclass
class Trail:
    """Evaluations of one run's checkpoints, by step.

    Attributes:
        run: the run folder.
        request: for all of them, with the base model; its ``out`` holds a folder for each step.
        perform: evaluates one.
        overwrite: replace the results that are there.
        tell: hears of what was passed over.
        on_row: called with step and result as each comes.
        progress: called with (stage, done, in all) of the one that is being evaluated.
        following: the run may still go on: what it may prune is copied while another checkpoint is evaluated.
        results: by step, ascending.
    """

    run: Path
    request: Request
    perform: Perform
    overwrite: bool = False
    tell: Callable[[str], None] = print
    on_row: Callable[[int, EvaluationResult], None] | None = None
    progress: Progress | None = None
    following: bool = False
    results: dict[int, EvaluationResult] = field(default_factory=dict)
    _settled: dict[tuple[int, str | None], bool] = field(default_factory=dict)  # whether there is a copy to evaluate
    _looked: float = 0.0

    def __post_init__(self) -> None:
        self._digest = self.request.digest()

    def evaluate(self, steps: Iterable[int]) -> None:
        """Each of these, unless it has a result of the same options already.

        Raises:
            UserError: see :class:`Request`; or a result is there that was made with other options.
        """
        for step in steps:
            if not self._take(step):
                continue
            request = checkpoints.request_for(step, replace(self.request, out=str(self._out(step))))
            result = self.perform(request, self._progress)
            shutil.rmtree(self._out(step) / ANSWERS, ignore_errors=True)
            self._add(step, result)

    def watch(self) -> str:
        """Evaluate each checkpoint as it becomes complete, the oldest first, until the run has ended.

        Returns:
            How the run ended.

        Raises:
            UserError: as :meth:`evaluate`; or the run has ended without a checkpoint.
        """
        doubtful_since = None
        while True:
            state = read_run(self.run).state  # before the list: what was written until the end is in it
            waiting = [step for step in self.waiting() if self._take(step)]
            if state not in (UNKNOWN, BROKEN):
                doubtful_since = None
            elif doubtful_since is None:
                doubtful_since = time.monotonic()
            if waiting:
                self.evaluate(waiting[:1])
            elif state in ENDED or (doubtful_since and time.monotonic() - doubtful_since > _PATIENCE):
                if not self.results and not checkpoints.published(self.run):
                    raise UserError(f"{self.run} has no checkpoints and is {state}; there is nothing to watch")
                return state
            else:
                time.sleep(_POLL)

    def waiting(self) -> list[int]:
        """Checkpoints that have not been looked at, and those of which an earlier watch has left a result or a copy."""
        left = [
            step
            for path in Path(self.request.out).glob("step-*")
            if (step := names.step_of(path)) is not None
            and (checkpoints.adapter_copy(path).is_dir() or (path / RESULT_FILE).is_file())
        ]
        return sorted({*checkpoints.published(self.run), *left} - self.results.keys())

    def _out(self, step: int) -> Path:
        return Path(self.request.out) / names.name_of(step)

    def _progress(self, stage: str, done: int, total: int) -> None:
        """Meanwhile the run goes on: what it may prune soon is copied now."""
        if self.following and time.monotonic() - self._looked > _POLL:
            self._looked = time.monotonic()
            for step in self.waiting():
                self._take(step)
        if self.progress is not None:
            self.progress(stage, done, total)

    def _take(self, step: int) -> bool:
        """Whether a checkpoint is to be evaluated; then its adapter has been copied."""
        digest = checkpoints.adapter_digest(self.run, step)
        if (step, digest) not in self._settled and step not in self.results:
            self._settled[step, digest] = self._settle(step)
        return step not in self.results and self._settled[step, digest]

    def _settle(self, step: int) -> bool:
        out = self._out(step)
        has_result = (out / RESULT_FILE).is_file()
        if has_result and not self.overwrite:
            if self._take_earlier(step, out):
                return False
            self.tell(f"step {step}: the run has come to this step anew; it is evaluated again")
        try:
            if checkpoints.take(self.run, step, out):
                return True
            self.tell(f"step {step}: the run has removed this checkpoint before it could be read")
        except Damaged as damage:
            self.tell(f"step {step}: left out: {damage}")
        if has_result and self.overwrite and self._take_earlier(step, out):
            self.tell(f"step {step}: its earlier result stands")
        return False

    def _take_earlier(self, step: int, out: Path) -> bool:
        found = checkpoints.earlier(self.run, step, out, self._digest)
        if found is None:
            return False
        shutil.rmtree(out / ANSWERS, ignore_errors=True)
        self._add(step, found)
        return True

    def _add(self, step: int, result: EvaluationResult) -> None:
        self.results = dict(sorted({**self.results, step: result}.items()))
        if self.on_row is not None:
            self.on_row(step, result)
