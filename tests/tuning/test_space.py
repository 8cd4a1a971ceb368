"""Settings of trials: determined, shared where they are to be compared, spread evenly; and what cannot be searched."""

import math
from collections import Counter

import pytest

from igascale.errors import UserError
from igascale.tuning import space
from igascale.tuning.space import Choice, Range, parse, settings

LR = Range(1e-4, 1e-2, True)


def test_a_trial_depends_on_nothing_but_its_number_and_the_seed():
    axes = {"optimizer.lr": LR, "hook.tau": Range(0.1, 4, True), "hook.rho": Choice((1, 2, 3))}
    first = [settings(axes, k, seed=3) for k in range(9)]
    assert first == [settings(axes, k, seed=3) for k in range(9)]
    assert settings(axes, 4, seed=3) == first[4]
    assert first != [settings(axes, k, seed=4) for k in range(9)]


def test_methods_share_learning_rates_whatever_else_they_search():
    plain = [settings({"optimizer.lr": LR}, k, 0)["optimizer.lr"] for k in range(16)]
    more = {"data.augment": Range(0.01, 0.2, False), "optimizer.lr": LR, "hook.a": Choice((True, False))}
    assert plain == [settings(more, k, 0)["optimizer.lr"] for k in range(16)]


@pytest.mark.parametrize("seed", range(20))
def test_ranges_are_covered_evenly(seed):
    """Of 2^k consecutive points of the sequence each 2^k-th of the circle has one; turned, a cell of the range has at most two."""
    rates = [settings({"optimizer.lr": LR}, k, seed)["optimizer.lr"] for k in range(8)]
    shares = sorted(math.log(rate / LR.low) / math.log(LR.high / LR.low) for rate in rates)
    gaps = [b - a for a, b in zip(shares, shares[1:])]
    assert all(abs(gap - 1 / 8) < 2e-3 for gap in gaps)  # three digits of the value
    assert all(LR.low <= rate <= LR.high for rate in rates)


def test_listed_values_form_a_latin_square_and_then_the_whole_grid():
    axes = {"optimizer.lr": Choice((1, 2, 3, 4)), "hook.a": Choice(("x", "y", "z")), "hook.b": Choice((True, False))}
    assert space.different(axes) == 24
    drawn = [tuple(settings(axes, k, 1).values()) for k in range(24)]
    assert len(set(drawn)) == 24
    for place, count in ((0, 3), (1, 4), (2, 6)):
        assert all(abs(n - count) <= 1 for n in Counter(values[place] for values in drawn[:12]).values())
    assert {values[0] for values in drawn[:4]} == {1, 2, 3, 4}
    assert {values[1] for values in drawn[:4]} == {"x", "y", "z"}


def test_the_radical_inverse_is_van_der_corputs():
    assert [space._radical_inverse(k, 2) for k in range(6)] == [0, 0.5, 0.25, 0.75, 0.125, 0.625]
    assert [round(space._radical_inverse(k, 3) * 9) for k in range(9)] == [0, 3, 6, 1, 4, 7, 2, 5, 8]


def test_parsing():
    assert parse("optimizer.lr=1e-4..1e-2:log") == ("optimizer.lr", LR)
    assert parse("hook.tau=0..2") == ("hook.tau", Range(0.0, 2.0, False))
    assert parse("hook.tau=1e-1, 2,3") == ("hook.tau", Choice((0.1, 2, 3)))
    assert parse("hook.second_moment=max,adam")[1] == Choice(("max", "adam"))
    assert parse("optimizer.max_grad_norm=null,1.0")[1] == Choice((None, 1.0))
    assert str(parse("hook.tau=0.1..4:log")[1]) == "0.1..4:log"


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("hook.tau", "write key=a,b,c"),
        ("=1,2", "write key=a,b,c"),
        ("hook.tau=", "no values to search"),
        ("hook.tau=4..0.1:log", "4 is not less than 0.1"),
        ("hook.tau=0..4:log", "begins above 0"),
        ("hook.tau=0.1..4:linear", "low..high:log with two numbers"),
        ("hook.tau=a..b", "with two numbers"),
        ("hook.tau=1..inf", "with two numbers"),
        ("hook.tau=1,2,1.0", "twice"),
        ("hook.tau=[1,2]", "single values"),
        ("hook.tau=1,{", "not valid YAML"),
        ("train.max_steps=10,20", "searched along each run"),
        ("data.train=a,b", "nothing to search"),
        ("model.path=a,b", "nothing to search"),
        ("lr=1,2", "nothing to search; there are optimizer"),
        ("hook.name=iga,mean", "nothing to search"),
        ("optimizer=1,2", "nothing to search"),
    ],
)
def test_what_cannot_be_searched(option, told):
    with pytest.raises(UserError, match=told) as error:
        parse(option)
    assert "\n" not in str(error.value)


def test_own_knobs_are_those_that_nothing_else_decides():
    assert space.own_axes("iga", []) == {"hook.tau": Range(0.1, 4, True)}
    assert space.own_axes("iga", ["tau"]) == {}
    assert space.own_axes("iga", ["preset"]) == {}
    assert space.own_axes("mean", []) == {}


def test_every_own_knob_is_an_option_of_its_rule_and_its_default_is_inside():
    import yaml

    from igascale import hooks

    for name, axes in yaml.safe_load((space.Path(space.__file__).parent / "spaces.yaml").read_text()).items():
        for key, text in axes.items():
            axis = parse(f"{key}={text}")[1]
            option = key.removeprefix("hook.")
            default = hooks.options(hooks.find(name))[option].default
            default = hooks.build(name, {}).tau if default is None else default
            assert axis.low <= default <= axis.high
            for value in (axis.low, axis.high):
                hooks.build(name, {option: value})


def test_tried_values_are_each_once_and_in_order():
    points = [{"a": 2, "b": None}, {"a": 1}, {"a": 2, "b": "x"}]
    assert space.tried(points) == {"a": [1, 2], "b": [None, "x"]}
