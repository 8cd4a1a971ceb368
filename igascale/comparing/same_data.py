"""Whether evaluations asked the same problems in the same way: what a difference between them may be put down to."""

from __future__ import annotations

from collections.abc import Sequence

from igascale.comparing.reading import Evaluation, Key

#: Settings under which other answers or other verdicts are no difference between models.
_MUST_AGREE = ("max_new_tokens", "decoding", "task_version")
#: Settings that are said where they differ; none of them makes the problems different ones.
_WORTH_SAYING = ("dtype", "device", "generator", "batch_size", "template")
_PER_SAMPLE = {"problem": "another text", "expected": "another expected answer", "group_id": "another group"}


def what_differs(reference: Evaluation, other: Evaluation) -> list[str]:
    """What keeps two evaluations from being compared, a line each; empty where nothing does."""
    found = []
    for side in dict.fromkeys(key[:2] for key in [*reference.samples, *other.samples]):
        ours, theirs = ([key for key in e.samples if key[:2] == side] for e in (reference, other))
        for name, only in (
            (reference.name, [key for key in ours if key not in other.samples]),
            (other.name, [key for key in theirs if key not in reference.samples]),
        ):
            if only:
                found.append(f"{_side(side)}: {_problems(len(only))} only in {name} (first: {only[0][2]})")
        shared = [key for key in ours if key in other.samples]
        for field, what in _PER_SAMPLE.items():
            changed = [k for k in shared if getattr(reference.samples[k], field) != getattr(other.samples[k], field)]
            if changed:
                have = "has" if len(changed) == 1 else "have"
                found.append(f"{_side(side)}: {_problems(len(changed))} {have} {what} (first: {changed[0][2]})")
    return found + [
        f"{name} is {_said(mine)} in {reference.name}, {_said(yours)} in {other.name}"
        for name, mine, yours in _settings(reference, other, _MUST_AGREE)
    ]


def worth_saying(reference: Evaluation, other: Evaluation) -> list[str]:
    """Settings that differ without making the problems different ones, a line each."""
    return [
        f"{name}: {_said(mine)} in {reference.name}, {_said(yours)} in {other.name}"
        for name, mine, yours in _settings(reference, other, _WORTH_SAYING)
    ]


def common_keys(evaluations: Sequence[Evaluation]) -> list[Key]:
    """Samples that all have, with the same problem, expected answer and group, in the order of the first."""
    first = evaluations[0]
    return [
        key
        for key, sample in first.samples.items()
        if all(
            key in other.samples and all(getattr(other.samples[key], f) == getattr(sample, f) for f in _PER_SAMPLE)
            for other in evaluations[1:]
        )
    ]


def _settings(reference: Evaluation, other: Evaluation, names: Sequence[str]) -> list[tuple[str, object, object]]:
    """Settings of these names, of a suite's own too (``math.task_version``), that are not equal.

    A suite that only one side has is told of as missing problems; a setting that both lack says nothing.
    """
    mine, yours = reference.result.settings, other.result.settings
    shared = set(reference.result.suites) & set(other.result.suites)
    found: list[tuple[str, object, object]] = []
    for name in dict.fromkeys([*mine, *yours]):
        suite, _, plain = name.rpartition(".")
        if plain in names and (not suite or suite in shared) and mine.get(name) != yours.get(name):
            found.append((name, mine.get(name), yours.get(name)))
    return found


def _said(value: object) -> str:
    return "not stated" if value is None else str(value)


def _side(side: tuple[str, str]) -> str:
    return f"{side[0]} {side[1].upper()}"


def _problems(count: int) -> str:
    return "1 problem" if count == 1 else f"{count:,} problems"
