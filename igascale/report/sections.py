"""The report from top to bottom: which tables and figures, and what is missing where."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from igascale import status
from igascale.comparing.tables import comparison_tables
from igascale.errors import UserError
from igascale.evaluation.results import ISOMERS
from igascale.report import tabulate
from igascale.report.collect import Collected
from igascale.report.figures import accuracy, atlas, consistency, cosines, heldout, mask, training
from igascale.report.figures.frame import Figure
from igascale.report.pairs import Pairs, leaders
from igascale.report.samples import SampleChoice
from igascale.tables import Table


@dataclass(frozen=True)
class Missing:
    """What is not there, and the command that makes it."""

    what: str
    command: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table that stands on its own, and the name of its files."""

    name: str
    table: Table


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        anchor: of the page.
        lead: what the reader sees here, in a sentence or two.
        content: tables and figures in order; a list of figures is one figure of each run, of which a selector shows one.
        missing: what cannot be shown.
    """

    anchor: str
    title: str
    lead: str
    content: list[Sheet | Figure | list[Figure]] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)


def sections(
    runs: Sequence[Collected], choice: SampleChoice, comparable: bool, pairs: Pairs | None = None
) -> list[Section]:
    """Everything, in the order in which it is read.

    Args:
        runs: what was collected.
        choice: of samples.
        comparable: whether one may call one of the runs better.
        pairs: the runs compared problem by problem.
    """
    return [
        _results(runs, comparable, pairs),
        _accuracy(runs),
        _consistency(runs),
        _training(runs),
        _hook(runs),
        _atlas(runs),
        _cosines(runs),
        _efficiency(runs),
        _runs(runs),
        _samples(runs, choice),
    ]


def file_names(runs: Sequence[Collected]) -> dict[str, str]:
    """A name for the files of each run, by the run's name: letters, digits and dashes, no two alike."""
    names: dict[str, str] = {}
    for run in runs:
        base = re.sub(r"[^A-Za-z0-9]+", "-", run.name).strip("-").lower()[:60] or "run"
        name, number = base, 2
        while name in names.values():
            name, number = f"{base}-{number}", number + 1
        names[run.name] = name
    return names


def _results(runs: Sequence[Collected], comparable: bool, pairs: Pairs | None) -> Section:
    lead = "How well the runs answer in the domains they were trained on (ID) and in domains they never saw (OOD)."
    ahead = leaders(runs, pairs) if comparable else {}
    section = Section("results", "Results", lead, [Sheet("results", tabulate.headline(runs, ahead))])
    section.missing.extend(_not_evaluated(runs))
    names = ("differences", "gaps")
    compared = [Sheet(*one) for one in zip(names, comparison_tables(pairs.comparison))] if pairs else []
    matched = _if_readable(section, "matched-loss", tabulate.matched, runs)
    section = _with(section, accuracy.overview(runs), *compared, matched)
    if len(runs) > 1 and matched is None:
        why = "OOD at matched validation loss takes two runs with validation on record"
        section.missing.append(Missing(f"{why}; set", "data.validation: FILE, eval.every: N"))
    return section


def _accuracy(runs: Sequence[Collected]) -> Section:
    lead = "Where the answers are right: by domain, by kind of problem, and over the course of training."
    section = Section("accuracy", "Accuracy in detail", lead, [], _not_evaluated(runs))
    section = _with(section, accuracy.parts(runs, "domain"), accuracy.parts(runs, "kind"), accuracy.over_steps(runs))
    if not any(run.by_step for run in runs):
        command = f"igascale eval {_path(runs[0])} --watch"
        section.missing.append(Missing("No checkpoint was evaluated, so there is no accuracy over time.", command))
    return section


def _consistency(runs: Sequence[Collected]) -> Section:
    lead = (
        "How far apart the network represents one logical problem told in different domains (LCS, Eq. 11 of the paper)."
    )
    section = Section("consistency", "Consistency of representations", lead, [], _not_evaluated(runs))
    return _with(section, consistency.by_layer(runs), consistency.by_pair(runs))


def _training(runs: Sequence[Collected]) -> Section:
    lead = "Loss of each domain in training and on held-out groups."
    section = Section("training", "Loss", lead, [], _no_metrics(runs))
    if len(runs) > 1:
        section = _with(section, training.mean_losses(runs))
    section = _with(section, _each(runs, training.losses_by_domain))
    for run in runs:
        if run.metrics.train and not run.metrics.validation:
            why = "has no validation on record; name held-out groups in its configuration"
            section.missing.append(Missing(f"{run.name} {why}.", "data.validation: FILE, eval.every: N"))
    return section


def _hook(runs: Sequence[Collected]) -> Section:
    lead = "What the rule did to each step's gradient before the optimizer saw it."
    section = Section("hook", "The gradient, before and after the hook", lead, [], _no_metrics(runs))
    section = _with(section, training.gradients(runs), masks := _each(runs, mask.mask_over_time))
    shown = {figure.run for figure in masks}
    without = [run.name for run in runs if run.name not in shown and run.metrics.train]
    if without:
        hooks = ", ".join(sorted({run.hook for run in runs if run.name in without}))
        section.missing.append(Missing(f"No mask to show of {', '.join(without)}: the rule ({hooks}) records none."))
    return section


def _atlas(runs: Sequence[Collected]) -> Section:
    lead = (
        "Where in the network the domains' gradients conflict, and how much of them the mask lets through there. "
        "Each cell is one adapter; move through training with the slider."
    )
    section = _with(
        Section("atlas", "Conflict atlas", lead, [], _no_adapters(runs)),
        _each(runs, atlas.atlas),
        _each(runs, lambda run, name: heldout.held_out(run, name, runs)),
    )
    table = heldout.overall(runs)
    section = _with(section, Sheet("gir-held-out", table) if table else None)
    shown = {run.name for run in runs if any(True for _ in heldout.residuals(run))}
    without = [r for r in runs if r.evaluation and ISOMERS in r.evaluation.suites and r.name not in shown]
    if without:
        names = ", ".join(run.name for run in without)
        command = f"igascale eval {_path(without[0])} --gir --overwrite"
        section.missing.append(Missing(f"GIR on held-out groups was not measured of {names}.", command))
    return section


def _cosines(runs: Sequence[Collected]) -> Section:
    lead = "Whether the domains ask for the same step: the angle between their gradients, over all adapters."
    section = Section("cosines", "Cosines between domains", lead, [], _no_metrics(runs))
    return _with(section, cosines.pairs_over_time(runs), _each(runs, cosines.matrix))


def _samples(runs: Sequence[Collected], choice: SampleChoice) -> Section:
    lead = (
        "The same logic in different domains: problems that are answered rightly in one telling and wrongly in another."
    )
    section = Section("samples", "Samples side by side", lead)
    for run in runs:
        if run.evaluation and not run.samples.is_file():
            section.missing.append(
                Missing(f"{run.name} has no samples.jsonl.", f"igascale eval {_path(run)} --overwrite")
            )
    if not choice.groups:
        section.missing.extend(_not_evaluated(runs))
    return section


def _efficiency(runs: Sequence[Collected]) -> Section:
    lead = "What the runs cost, and what was reached for it."
    section = Section("efficiency", "Efficiency", lead, [], _no_metrics(runs))
    return _with(section, _if_readable(section, "efficiency", tabulate.cost, runs))


def _runs(runs: Sequence[Collected]) -> Section:
    return Section("runs", "The runs", "What ran, on what, from where.", [Sheet("runs", tabulate.facts(runs))])


def _with(section: Section, *content: Sheet | Figure | list[Figure] | None) -> Section:
    section.content.extend(each for each in content if each)
    return section


def _if_readable(
    section: Section, name: str, tabulate: Callable[[Sequence[Collected]], Table | None], runs: Sequence[Collected]
) -> Sheet | None:
    """A table from files that its maker reads anew: one that is damaged costs the table, not the report."""
    try:
        table = tabulate(runs)
    except UserError as error:
        section.missing.append(Missing(f"{error}."))
        return None
    return Sheet(name, table) if table else None


def _each(runs: Sequence[Collected], draw: Callable[[Collected, str], Figure | None]) -> list[Figure]:
    names = file_names(runs)
    return [figure for run in runs if (figure := draw(run, names[run.name])) is not None]


def _path(run: Collected) -> str:
    return shlex.quote(str(run.folder))


def _not_evaluated(runs: Sequence[Collected]) -> list[Missing]:
    return [Missing(f"{r.name} was not evaluated.", f"igascale eval {_path(r)}") for r in runs if r.evaluation is None]


def _no_metrics(runs: Sequence[Collected]) -> list[Missing]:
    return [
        Missing(
            f"{run.name} has recorded no training step ({_why(run, run.metrics.missing, 'metrics.jsonl')}).",
            _resume(run),
        )
        for run in runs
        if not run.metrics.train
    ]


def _no_adapters(runs: Sequence[Collected]) -> list[Missing]:
    return [
        Missing(
            f"{run.name} has no figures per adapter ({_why(run, run.adapters.missing, 'adapter_metrics.jsonl')}).",
            _resume(run),
        )
        for run in runs
        if not run.adapters.spans
    ]


def _why(run: Collected, missing: bool, file: str) -> str:
    return f"there is no {file}" if missing else f"{file} holds no whole record"


def _resume(run: Collected) -> str:
    """What makes the run's records: going on with it, or training anew where it is finished."""
    config = shlex.quote(str(run.folder / "config.yaml"))
    if run.run.state == status.FINISHED:
        return f"igascale train {config} {shlex.quote(f'output_dir={run.folder}-again')}"
    return f"igascale train {config} --resume auto"
