"""`igascale data build`: bank of problems in, isomer groups out. This file is the order of things; each thing has its own.

options ─► recipe, survey of the bank ─► every seed through the pipeline ─► files, manifest, card
                    (free)                  (asks the teacher, stores)        (free, from the store)
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from igascale.errors import TRY_AGAIN, UserError
from igascale.isomers.factory.asking import decide_all
from igascale.isomers.factory.assemble import GROUPS, REJECTED, TRAIN, VALIDATION, Assembly, as_in_the_bank, proof
from igascale.isomers.factory.card import card
from igascale.isomers.factory.decontaminate import Benchmarks
from igascale.isomers.factory.domains import load_domains
from igascale.isomers.factory.folder import CLAIM, MANIFEST, Folder, Writing, claim_text, disk_errors
from igascale.isomers.factory.manifest import Tally, mean, paper, projection, said
from igascale.isomers.factory.options import BuildOptions
from igascale.isomers.factory.pipeline import ACCEPTED, Pipeline
from igascale.isomers.factory.progress import Progress
from igascale.isomers.factory.prompts import load_prompts
from igascale.isomers.factory.recipe import recipe_of
from igascale.isomers.factory.seed_files import Bank
from igascale.isomers.factory.survey import Survey, outcome_id, survey
from igascale.isomers.schema import IsomerGroup, group_of
from igascale.isomers.teacher.settings import TeacherSettings
from igascale.isomers.teacher.spending import BudgetSpent
from igascale.isomers.teacher.store import Store
from igascale.isomers.teacher.teacher import Teacher
from igascale.version import __version__

_PREVIEW_TRIES = 5  # seeds tried at most for each group shown
_TICK = 1.0  # seconds


class Stopped(Exception):
    """Stopped by a signal; everything answered is stored."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@dataclass
class Result:
    """What a build came to: `manifest` unless it was a preview, `groups` if it was."""

    manifest: dict[str, Any] | None = None
    groups: tuple[IsomerGroup, ...] = ()


class Build:
    """One run of `igascale data build`. Nothing is asked or written before :meth:`run`.

    Args:
        options: what is wanted.
        console: for what the user is told.

    Raises:
        UserError: something about options, prompts, domains, folder or bank; nothing was written or spent.
    """

    def __init__(self, options: BuildOptions, console: Console) -> None:
        self.options, self.console = options, console
        self.prompts, self.domains = load_prompts(options.prompts), load_domains(options.domains)
        sampling = {name: getattr(options, name) for name in ("model", "temperature", "seed", "max_tokens")}
        self.recipe = recipe_of(self.prompts, self.domains, options.gates, sampling)
        self.folder = Folder(options.out)
        self.settings = TeacherSettings(
            **{name: getattr(options, name) for name in TeacherSettings.__dataclass_fields__ if hasattr(options, name)}
        )
        self.benchmarks = Benchmarks(options.decontaminate, options.ngram)
        self.benchmarks.check_files()
        bank = Bank(options.seeds, options.seed_fields, options.split)
        self._bank_stamp = bank.stamp()
        self.survey: Survey = survey(bank, options.limit, options.near_duplicates, self.benchmarks, self.folder.survey)

    def run(self) -> Result:
        """Ask for every seed that has no outcome, and write the files; or preview.

        Raises:
            UserError: the teacher, the store or the disk cannot go on; what was answered is stored.
            Stopped: by SIGINT or SIGTERM, likewise.
        """
        options, bank = self.options, self._about_bank()
        with closing(Store.open(self.folder.store)) as store:
            answered = any(spent.answers for spent in store.spending().values())
            # A folder in which nothing was ever answered (a wrong model, no key) is nobody's yet.
            changes = self.folder.check(bank, self.recipe, options.allow_change) if answered else []
            self._tell_survey(changes)
            with disk_errors(self.folder.path):
                self.folder.claim(bank, self.recipe)
                self.survey.save(self.folder.survey)
            ended: UserError | None = None
            if not options.offline:
                retry = self._retry(store)
                try:
                    ended = asyncio.run(self._ask(store, retry))
                except BudgetSpent as error:
                    ended = error
            for path in self.prompts.edited():
                self._say(
                    f"warning: {path} was changed meanwhile. This run used the text it began with; the next one takes the new text, "
                    "as another recipe (--allow-change)"
                )
            if options.preview:
                if ended is not None:
                    self._say(f"warning: {ended}")
                return self._preview(store)
            with disk_errors(self.folder.path):
                result = Result(self._write(store))
        if ended is not None:
            raise ended
        return result

    async def _ask(self, store: Store, retry: Sequence[str]) -> UserError | None:
        """Every seed through the pipeline; returns why some are left for another run, if so."""
        options = self.options
        tries = _PREVIEW_TRIES * options.preview if options.preview else self.survey.total
        with Progress(self.console, min(tries, self.survey.total)) as progress:
            teacher = Teacher(self.settings, store, on_event=progress.say)
            progress.watch(teacher)
            pipeline = Pipeline(teacher, self.prompts, self.domains, options.gates, self.recipe.id, options.model)
            seeds, window, enough = self.survey.taken(), options.concurrency, options.preview
            if enough:
                seeds, window = itertools.islice(seeds, tries), enough
            deciding = asyncio.ensure_future(decide_all(pipeline, store, seeds, window, progress, enough, retry))
            ticking = asyncio.ensure_future(_every(_TICK, progress.tick))
            signals = _Signals(deciding)
            try:
                await deciding
            except asyncio.CancelledError:
                if signals.caught is None:
                    raise
                progress.say(
                    f"stopping: waiting for {teacher.in_flight} answers under way, which are paid for; "
                    "once more to stop at once"
                )
                raise Stopped(signals.caught) from None
            finally:
                ticking.cancel()
                closing_teacher = asyncio.ensure_future(teacher.close(wait=options.timeout))
                signals.then(closing_teacher)
                with suppress(asyncio.CancelledError):
                    await closing_teacher
                if closing_teacher.cancelled():
                    await teacher.close()
                signals.restore()
                self._say(progress.line())
                self._say(f"over the life of {store.path}: {teacher.spending.said()}")
                if enough and (forecast := progress.forecast(self.survey.total)):
                    self._say(forecast)
        if progress.failed and not options.preview:
            failed = UserError(
                f"{len(progress.failed)} seeds have no outcome, the teacher failed on them: run the same command again; "
                "the files hold the others"
            )
            failed.exit_code = TRY_AGAIN
            return failed
        return None

    def _retry(self, store: Store) -> list[str]:
        """Make room for what is asked again; returns the reasons that take further attempts.

        Unusable answers are not kept, so the same attempts are made anew once their failures are forgotten. Usable ones that
        a gate refused are kept, and asking the same would find them: those seeds get attempts of their own.
        """
        reasons = list(dict.fromkeys(self.options.retry))
        counts = dict.fromkeys(reasons, 0)
        for (status, _, reason), count in store.count_outcomes(self.recipe.id).items():
            if status != ACCEPTED and reason in counts:
                counts[reason] += count
        for reason, count in counts.items():
            self._say(f"{'' if count else 'warning: '}--retry {reason}: {count} seeds were rejected for it")
        if unusable := [reason for reason in reasons if reason.startswith("reply_")]:
            store.forget(unusable, self.recipe.id)
        return [reason for reason in reasons if reason not in unusable]

    def _preview(self, store: Store) -> Result:
        """The first accepted groups in the order of the bank."""
        wanted = self.options.preview or 0
        groups: list[IsomerGroup] = []
        for seed in itertools.islice(self.survey.taken(), _PREVIEW_TRIES * wanted):
            outcome = store.get_outcome(outcome_id(seed), self.recipe.id)
            if outcome is not None and outcome.status == ACCEPTED and len(groups) < wanted:
                groups.append(group_of(as_in_the_bank(json.loads(outcome.record)["group"], seed), f"{store.path}"))
        return Result(groups=tuple(groups))

    def _write(self, store: Store) -> dict[str, Any]:
        options = self.options
        if self.survey.bank.stamp() != self._bank_stamp:
            raise UserError(
                f"{options.seeds}: was changed meanwhile, so no files were made; every answer is stored. Run the same command again "
                "(--allow-change, as it is another bank)"
            )
        assembly = Assembly(
            self.survey,
            store,
            self.recipe.id,
            options.near_duplicates,
            self.benchmarks,
            options.validation_fraction,
            options.split_seed,
        )
        with Writing(self.folder.path, GROUPS, TRAIN, VALIDATION, REJECTED) as files:
            tally = assembly.write(files)
            manifest = self._manifest(tally, files[VALIDATION].lines, files.finish())
            manifest["split"]["proof"] = proof(files, options.near_duplicates)
            text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
            claim = claim_text(self._about_bank(), self.recipe)
            files.commit({"README.md": card(manifest), CLAIM: claim, MANIFEST: text})
        self._tell_result(manifest)
        return manifest

    def _manifest(self, tally: Tally, held_out: int, files: dict[str, Any]) -> dict[str, Any]:
        options, domains = self.options, [domain.name for domain in self.domains]
        prices = (options.input_price, options.output_price)
        tokens = (tally.usage["input_tokens"], tally.usage["output_tokens"])
        cost = sum(price * count / 1e6 for price, count in zip(prices, tokens))
        return {
            "igascale": __version__,
            "complete": not tally.unfinished,
            "unfinished": tally.unfinished,
            "license": options.license,
            "bank": self._about_bank() | {"limit": options.limit},
            "domains": domains,
            "groups": tally.groups,
            "instances": tally.groups * len(domains),
            "yield": round(tally.share, 4),
            "stages": tally.stages(),
            "teacher": {
                "model": options.model,
                "mean_alignment": mean(tally.kept_scores),
                "mean_alignment_all": mean(tally.scores),
                "tellings_scored": tally.scores[1],
                "yield": round(tally.share, 4),
                "answers": tally.usage["answers"],
                "input_tokens": tokens[0],
                "output_tokens": tokens[1],
                "cost": round(cost, 6) if any(prices) else None,
            },
            "split": {
                "by": "seed",
                "fraction": options.validation_fraction,
                "seed": options.split_seed,
                "train": tally.groups - held_out,
                "validation": held_out,
            },
            "near_duplicates": options.near_duplicates,
            "decontaminated": self.benchmarks.about(),
            "paper": paper(),
            "projection": projection(tally.share, len(domains), options.validation_fraction),
            "recipe": {"id": self.recipe.id, **self.recipe.parts},
            "files": files,
        }

    def _about_bank(self) -> dict[str, Any]:
        return {
            "source": self.options.seeds,
            "split": self.options.split,
            "seeds": self.survey.seeds,
            "fingerprint": self.survey.fingerprint,
        }

    def _tell_survey(self, changes: list[str]) -> None:
        for change in changes:
            self._say(f"warning: {self.folder.path}: {change}")
        seen: set[str] = set()
        for dropped in self.survey.dropped.values():
            if dropped.reason not in seen:
                seen.add(dropped.reason)
                count = self.survey.counts()[dropped.reason]
                self._say(f"warning: {count} seeds are left out as {dropped.reason}; the first: {dropped.detail}")
        if self.options.votes > 1 and self.options.temperature == 0:
            self._say("warning: at temperature 0 the votes of one teacher are much alike; they confirm little")
        names = ", ".join(domain.name for domain in self.domains)
        self._say(
            f"{self.options.seeds}: {self.survey.seeds:,} seeds, {self.survey.total:,} to tell in {names}; "
            f"teacher {self.options.model}, recipe {self.recipe.id}"
        )

    def _tell_result(self, manifest: dict[str, Any]) -> None:
        for row in manifest["stages"]:
            away = ", ".join(f"{reason} {count}" for reason, count in row["rejected"].items())
            self._say(f"  {row['left']:>7,} {row['meaning']}" + (f"  (without {away})" if away else ""))
        if not manifest["groups"]:
            self._say(f"warning: no group was accepted; {self.folder.path / REJECTED} says why")
        elif not manifest["split"]["validation"]:
            self._say(
                "warning: there is nothing to hold out: one group, or groups that are all alike; train.jsonl has everything"
            )
        if not manifest["complete"]:
            self._say(f"warning: not complete: {manifest['unfinished']:,} seeds have no outcome yet")
        split = manifest["split"]
        if split["proof"] is not None and not split["proof"]["passed"]:
            self._say(
                "warning: the held-out file shares problems with the training file (manifest.json, split.proof); "
                "--near-duplicates keeps them apart"
            )
        self._say(
            f"{self.folder.path}: {manifest['groups']:,} groups, {manifest['instances']:,} pairs; "
            f"{split['train']:,} to train on, {split['validation']:,} held out"
        )
        if manifest["groups"]:
            self._say(f"at this rate: {said(manifest['projection'])} (the paper: {said(manifest['paper'])})")

    def _say(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)


class _Signals:
    """SIGINT and SIGTERM cancel a future; a second one cancels the next."""

    def __init__(self, future: asyncio.Future[Any]) -> None:
        self.caught: int | None = None
        self._future = future
        self._loop = asyncio.get_running_loop()
        self._numbers = (signal.SIGINT, signal.SIGTERM)
        for number in self._numbers:
            with suppress(
                NotImplementedError, RuntimeError, ValueError
            ):  # not in the main thread: the caller's signals
                self._loop.add_signal_handler(number, self._catch, number)

    def then(self, future: asyncio.Future[Any]) -> None:
        """What the next signal cancels."""
        self._future = future

    def _catch(self, number: int) -> None:
        self.caught = self.caught or number
        self._future.cancel()

    def restore(self) -> None:
        """Back to the usual."""
        for number in self._numbers:
            with suppress(NotImplementedError, RuntimeError, ValueError):
                self._loop.remove_signal_handler(number)


async def _every(seconds: float, call: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        call()
