"""Evaluation folders to compare, written as `igascale eval` writes them."""

import random
from dataclasses import replace

from igascale.evaluation.accuracy import Sample, breakdown
from igascale.evaluation.results import EvaluationResult, SplitResult, SuiteResult, write_result


def sample(number, correct=True, suite="isomers", split="ood", domain="law", group=None, **changes):
    right = str(number % 5)
    given = right if correct else "9"
    made = Sample(
        split=split,
        group_id=group or f"g{number}",
        instance_id=f"{group or f'g{number}'}/{domain}",
        domain=domain,
        kind="chain",
        problem=f"problem {number} in {domain}",
        generated=f"Thus. Answer: {given}",
        predicted=given,
        expected=right,
        correct=correct,
        new_tokens=4,
        finished=True,
        suite=suite,
    )
    return replace(made, **changes)


def grouped(seed, share, groups=40, domains=("law", "art", "sea"), lean=0.7, **where):
    """Groups told in several domains; with probability ``lean`` a group is right or wrong as a whole."""
    random_ = random.Random(seed)
    samples = []
    for k in range(groups):
        together, whole = random_.random() < lean, random_.random() < share
        samples += [
            sample(k, whole if together else random_.random() < share, domain=domain, group=f"g{k}", **where)
            for domain in domains
        ]
    return samples


def write(folder, samples, **settings):
    """``evaluation.json`` and ``samples.jsonl``, with what follows from the samples."""
    suites = {}
    for name in dict.fromkeys(s.suite for s in samples):
        sides = {}
        for side in dict.fromkeys(s.split for s in samples if s.suite == name):
            own = [s for s in samples if (s.suite, s.split) == (name, side)]
            parts = breakdown(own)
            sides[side] = SplitResult(parts.overall, parts.per_domain, parts.per_kind, None, 0.0, 1.0)
        suites[name] = SuiteResult.of(sides.get("id"), sides.get("ood"))
    settings = {"decoding": "greedy", "max_new_tokens": 512, "dtype": "float32"} | settings
    write_result(EvaluationResult(suites, settings, samples), folder)
    return str(folder)
