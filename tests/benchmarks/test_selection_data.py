"""The changes that the benchmark of selection makes to generated data keep the cue's mapping; its intervals are scipy's."""

import itertools

import pytest
from scipy import stats

from benchmarks.selection import bare, difference, own_words, summary
from igascale.isomers.cues import CUES
from igascale.isomers.generator import generate
from igascale.isomers.kinds.vocabulary import TRAINING_DOMAINS, VOCABULARIES
from igascale.isomers.schema import to_record
from igascale.isomers.shortcut import Shortcut, plant


def test_each_domain_has_ten_code_words_that_its_problems_do_not_use():
    for domain, words in own_words().items():
        assert len(set(words)) == len(CUES)
        assert not set(words) & {word for pair in VOCABULARIES[domain].traits for word in pair}


def test_a_code_word_stands_for_the_answer_that_the_generators_did():
    shortcut = Shortcut(1.0, TRAINING_DOMAINS, 0)
    groups = plant(generate(40, TRAINING_DOMAINS, ("ordering", "rules"), 0, steps=(2, 3)), shortcut)
    words, means = own_words(), {}
    for group in groups:
        changed = bare(to_record(group), words)
        for before, after in zip(group.instances, changed["instances"]):
            assert after["cot"] == "" and after["answer"] == before.answer
            cue = before.problem.split()[1].rstrip(".")
            word = after["problem"].split()[1].rstrip(".")
            assert words[before.domain].index(word) == CUES.index(cue)
            assert after["problem"].replace(word, cue, 1) == before.problem
            means.setdefault((before.domain, word), set()).add(before.answer)
    assert all(len(answers) == 1 for answers in means.values())
    assert len(means) > 30


@pytest.mark.parametrize("values", [[0.3, 0.5], [0.31, 0.29, 0.4]])
def test_intervals(values):
    found = summary(values)
    low, high = stats.t.interval(0.95, len(values) - 1, found["mean"], stats.sem(values))
    assert (found["low"], found["high"]) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    shifted = difference([[v + 0.1 for v in values], values])
    assert shifted["mean"] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise((shifted["high"], shifted["mean"], shifted["low"])))
