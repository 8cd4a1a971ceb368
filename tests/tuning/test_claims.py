"""What a comparison cannot show is said, and only that."""

import pytest

from igascale.evaluation.selection_marks import selection_mark
from igascale.tuning import Compared, claims, departures, describe_selection


def selection(by="leave_one_domain_out", trials=8, **more):
    return {"by": by, "trials": trials, **more}


def run(name, hook, chosen, **data):
    config = {"hook": {"name": hook}, "data": data}
    return Compared.of(name, config if chosen is None else config | {"selection": chosen})


ERM = run("erm-sft", "mean", selection(), pool="instances")
IGA = run("iga", "iga", selection())
MIXED = run("iga-mixed", "iga", selection(), pairing="mixed")


def test_a_whole_comparison_needs_no_warning():
    assert claims([ERM, IGA, MIXED]) == []
    assert claims([ERM]) == []


def test_no_erm_and_an_erm_that_was_not_tuned():
    (told,) = claims([IGA, MIXED])
    assert "NO TUNED ERM beside iga: there is no ERM" in told
    told = claims([run("plain", "mean", None), IGA, MIXED])
    assert "NO TUNED ERM beside iga: plain was not tuned" in told[0]
    assert any("of plain were chosen is not stated" in line for line in told)
    one_trial = run("plain", "mean", selection(trials=1))
    assert "plain was not tuned" in claims([one_trial, IGA, MIXED])[0]


@pytest.mark.parametrize(
    "data",
    [{"pool": "seeds"}, {"pairing": "random"}, {"num_domains": 1, "pool": "instances"}],
    ids=["seeds", "random", "one domain"],
)
def test_the_mean_of_other_data_is_no_erm(data):
    other = run("other", "mean", selection(), **data)
    assert "there is no ERM" in claims([other, IGA, MIXED])[0]


def test_a_control_is_one_of_the_same_rule():
    (told,) = claims([ERM, IGA])
    assert "NO MIXED CONTROL beside iga" in told
    gate = run("gate", "gate", selection())
    (told,) = claims([ERM, IGA, MIXED, gate])
    assert "NO MIXED CONTROL beside gate:" in told


def test_controls_claim_nothing():
    shuffled = Compared.of("s", {"hook": {"name": "iga", "shuffled": True}, "selection": selection()})
    assert claims([ERM, IGA, MIXED, shuffled, run("r", "iga", selection(), pairing="random")]) == []
    assert claims([shuffled]) == []


def test_gains_narrow_what_is_claimed():
    gate = run("gate", "gate", selection())
    assert claims([ERM, IGA, MIXED, gate], gains=["iga"]) == []
    assert claims([ERM, IGA], gains=[]) == []


def test_the_way_of_selecting_is_told():
    told = "\n".join(claims([run("erm", "mean", selection("in_domain")), IGA, MIXED]))
    assert "only in-domain validation chose the settings of erm" in told
    assert "not selected in one way (in-domain validation, leave-one-domain-out)" in told
    told = "\n".join(claims([ERM, run("iga", "iga", selection("ood_oracle")), MIXED]))
    assert "SELECTED ON THE OUT-OF-DISTRIBUTION DATA: iga" in told
    told = "\n".join(claims([run("erm", "mean", selection("fixed", 1))]))
    assert "erm ran at fixed settings" in told


def test_unequal_budgets_by_training_or_by_trials():
    more = run("iga", "iga", selection(trials=20))
    assert "in trials: iga 20, erm-sft 8, iga-mixed 8" in claims([ERM, more, MIXED])[-1]
    pair = [run("erm", "mean", selection(budget=900)), run("iga-mixed", "iga", selection(budget=1800), pairing="mixed")]
    assert "in steps x domains: iga-mixed 1800, erm 900" in claims(pair)[-1]
    equal = [run("erm", "mean", selection(trials=4, budget=900)), run("x", "mean", selection(trials=2, budget=900))]
    assert claims(equal) == []


def test_configurations_of_older_versions():
    old = Compared.of("old", {"data": {"train": "t.jsonl"}, "hook": {"name": "mean"}})
    assert (old.role, old.by) == ("erm", None)
    assert Compared.of("null", {"data": None, "hook": None, "selection": None}).role == "rule"


def test_a_selection_in_a_cell():
    assert describe_selection(None) == describe_selection({}) == "selection not stated"
    assert describe_selection(selection()) == "leave-one-domain-out, 8 trials"
    assert describe_selection(selection("in_domain", 1)) == "in-domain validation, 1 trial"
    assert describe_selection({"by": "fixed"}) == "fixed settings"


def test_settings_that_the_search_never_tried_were_not_chosen_by_it():
    chosen = selection(searched={"optimizer.lr": [1e-4, 1e-3], "hook.tau": [0.5, 2.0], "train.max_steps": [10, 20]})
    as_chosen = {
        "hook": {"name": "iga", "tau": 2},
        "optimizer": {"lr": 1e-3},
        "train": {"max_steps": 10},
        "selection": chosen,
    }
    assert departures(as_chosen) == [] and departures({"selection": chosen}) == [] and departures({}) == []
    other = as_chosen | {"optimizer": {"lr": 5e-3}, "hook": {"name": "mean"}}
    assert departures(other) == ["optimizer.lr", "hook.tau"]
    told = describe_selection(chosen, departures(other))
    assert told == "leave-one-domain-out, 8 trials, then changed: optimizer.lr, hook.tau"
    assert selection_mark(other).text.endswith(told)
    erm = Compared.of("erm", other)
    assert erm.role == "erm" and not erm.tuned
    told = claims([erm, IGA, MIXED])
    assert "NO TUNED ERM beside iga: erm was not tuned" in told[0]
    assert any("erm was searched, but optimizer.lr and hook.tau are now what the search never tried" in t for t in told)
