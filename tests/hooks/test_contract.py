"""Every built-in hook keeps the contract; a new file in hooks/ is tested without an edit here. And the contract can fail."""

import random

import numpy
import pytest
import torch

from igascale import contract, hooks
from igascale.errors import UserError
from igascale.hooks import DomainFactorGrads, HookContext
from igascale.step import check_result

import rules_that_break

#: Option sets beside the defaults.
OPTIONS = [
    ("iga", {"preset": "paper"}),
    ("iga", {"preset": "paper-stable"}),
    ("iga", {"projection": "none"}),
    ("iga", {"tau": "auto"}),
    ("iga", {"mask": "and"}),
    ("iga", {"mask": "sand"}),
    ("iga", {"space": "factor"}),
    ("iga", {"shuffled": True}),
    ("iga", {"remove_noise": True}),
    ("iga", {"second_moment": "adam"}),
    ("iga", {"warm_start": True, "power_iters": 0}),
    ("gate", {"shuffled": True}),
    ("gate", {"space": "weight"}),
    ("gate", {"remove_noise": True}),
    ("and_mask", {"threshold": 0.3, "second_moment": "max", "shuffled": True}),
    ("sand_mask", {"variance_norm": "relative"}),
    ("pcgrad", {"reduction": "mean"}),
    ("vrex", {"anneal_steps": 100}),
    ("irm", {"anneal_steps": 100, "rescale": False}),
    ("pareto", {"normalize": "loss+"}),
    *(("torchjd", {"rule": rule}) for rule in ("aligned_mtl", "dual_proj", "fair_grad", "imtl_g", "krum")),
]


def failing(make):
    """The clauses that do not hold: name -> detail."""
    return {c.name: c.detail for c in contract.check(make) if c.ok is False}


@pytest.mark.parametrize("name", hooks.available())
def test_every_hook_keeps_every_clause_with_its_defaults(name):
    cls = hooks.find(name)
    assert failing(cls) == {}
    assert "arxiv.org/abs" in cls.__doc__
    for option in hooks.options(cls):
        assert f"{option}:" in cls.__doc__, option


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda x: x if isinstance(x, str) else "-".join(map(str, x)))
def test_and_with_other_options(name, options):
    hooks.build(name, options)
    cls = hooks.find(name)
    assert failing(lambda: cls(**options)) == {}


#: Class in rules_that_break.py, the one clause that it breaks, words of the message.
BROKEN = [
    ("NotMade", "made", "KeyError: 'missing' (rules_that_break.py, line 28: self.table = {}[\"missing\"])"),
    ("NamesInAString", "made", "must be a tuple"),
    ("NoDomains", "made", "min_domains = 0"),
    ("WrongShape", "result", "layers.0.q_proj.a must be [2, 10] torch.float32 on cpu, not [10, 2]"),
    ("Float64", "result", "b must be [12, 2] torch.float32 on cpu, not [12, 2] torch.float64"),
    ("Pairs", "result", "layers.0.q_proj must be FactorGrads(a, b), not a tuple"),
    ("AList", "result", "combine returned a list, not a dict"),
    ("ForgetsOne", "result", "1 missing: layers.0.k_proj"),
    ("InventsOne", "result", "1 extra: lm_head"),
    ("SecretReference", "result", "uses_reference is False"),
    (
        "MissingReference",
        "result",
        "reference_a must be [2, 10] torch.float32 on cpu, not None; uses_reference is True",
    ),
    ("UndeclaredFigure", "result", "stats must hold exactly what `statistics` names, [], not ['norm']"),
    ("FigureOfManyNumbers", "result", "stats['norm'] must be a 0-d tensor, not shape [2]"),
    ("NeedsKnownNoise", "result", "is not finite for ordinary gradients where the noise is not known"),
    (
        "Crashes",
        "result",
        "AttributeError: 'Tensor' object has no attribute 'no_such_thing' (rules_that_break.py, line",
    ),
    ("Exits", "result", "SystemExit: enough (rules_that_break.py, line"),
    ("InPlace", "inputs", "layers.0.q_proj.a was changed in place"),
    ("ChangesTheLosses", "inputs", "a tensor of ctx was changed in place"),
    ("EmptiesItsInput", "inputs", "adds or removes adapters"),
    ("MakesInputsLeaves", "inputs", "layers.0.q_proj.a takes part in autograd"),
    ("KeepsGraph", "detached", "return a.detach()"),
    ("HiddenMomentum", "repeatable", "after another step the same input gives another result"),
    ("OnTheClass", "repeatable", "keep nothing on class or module"),
    ("TorchRandom", "randomness", "ctx.generator"),
    ("PythonRandom", "randomness", "the result depends on the global random state"),
    ("NumpyRandom", "randomness", "the result depends on the global random state"),
    ("WastesRandom", "randomness", "draws from torch's global generator"),
    ("OneGeneratorForAll", "adapter order", "key random draws"),
    ("FirstDomain", "domain order", "or say symmetric = False"),
    ("ByNorm", "zero", "where every gradient is zero"),
    ("NeverZero", "zero", "is not zero where every gradient is zero"),
    ("FourthPowers", "scale", "for gradients of the size 1e+15"),
    ("AbsoluteThreshold", "scale", "is zero for gradients of the size 1e-15 only"),
    ("HidesNaN", "nan", "do not use nan_to_num"),
    ("HidesNaNByComparison", "nan", "a NaN in layers.0.q_proj.a of one domain disappears"),
    ("NeedsTwo", "one domain", "min_domains = 2"),
    ("FailsOnNone", "no adapters", "RuntimeError: "),
    ("SumsWhereItOwns", "collective", "rank 2 returned after 0"),
    ("SumsPerAdapter", "collective", "would hang"),
    ("AsksWhereItSeesMuch", "collective", "would hang"),
    ("SumsOfOwnSize", "collective", "rank 0 [3] torch.float32, rank 1 [2] torch.float32, rank 2 [0] torch.float32"),
    ("SumsNumbers", "no adapters", "TypeError: sum_over_shards takes a tensor, not float"),
    ("MeanOverOwn", "sharded", "with three ranks"),
    ("FigureOnOneRankOnly", "sharded", "stats['norm'] differs by inf"),
    ("ForgetsItsState", "state", "a resumed hook continues differently"),
    ("StateOfSets", "state", "state_dict()['seen'] is set"),
    ("StateByNumber", "state", "has the key 0: only strings survive"),
    ("StateOfTuples", "state", "comes back as list"),
    ("StateSharesMemory", "state", "share memory"),
    ("TakesAnyState", "state", "never heard of"),
    ("StateByRank", "state on ranks", "goes under state['adapters']"),
    ("MeanStatistic", "auxiliary", "for 7 tokens it returns [], not [7]"),
    ("CentredStatistic", "auxiliary", "depends on the other tokens"),
    ("ConstantStatistic", "auxiliary", "cannot be differentiated"),
    ("OverflowingStatistic", "auxiliary", "not finite for logits of the size 10000"),
    ("AlarmedByNaN", "messages", "ValueError: cannot convert float NaN to integer (rules_that_break.py, line"),
    ("OneWarning", "messages", "must return a list of strings"),
]


@pytest.mark.parametrize(("cls", "clause", "words"), BROKEN, ids=[row[0] for row in BROKEN])
def test_a_broken_hook_fails_exactly_its_clause(cls, clause, words):
    clauses = contract.check(getattr(rules_that_break, cls))
    found = {c.name: c.detail for c in clauses if c.ok is False and c.required}
    assert list(found) == [clause], found
    assert words.lower() in found[clause].lower()
    assert not contract.holds(clauses)
    assert "\n" not in found[clause]


@pytest.mark.parametrize("cls", ["PerAdapter", "Counter", "Momentum", "Softened"])
def test_a_third_partys_correct_hook_passes(cls):
    clauses = contract.check(getattr(rules_that_break, cls))
    assert contract.holds(clauses)
    assert [c.name for c in clauses if c.ok is False] == (["documented"] if cls == "Softened" else [])


def test_documentation_is_advice_for_others_and_a_duty_here():
    (told,) = [c for c in contract.check(rules_that_break.Softened) if c.name == "documented"]
    assert (told.ok, told.required) == (False, False)
    assert "'power' is not explained" in told.detail

    def built_in():
        hook = rules_that_break.Softened()
        hook.__class__ = type("BuiltIn", (rules_that_break.Softened,), {"__module__": "igascale.hooks.own"})
        return hook

    assert not contract.holds(contract.check(built_in))


def test_what_rests_on_a_broken_clause_is_not_checked():
    clauses = {c.name: c for c in contract.check(rules_that_break.WrongShape)}
    assert clauses["sharded"].ok is None
    assert clauses["sharded"].detail == "rests on 'result'"


def test_the_check_leaves_the_global_random_states_alone():
    torch.manual_seed(5), random.seed(5), numpy.random.seed(5)
    expected = torch.rand(3), random.random(), numpy.random.rand()
    torch.manual_seed(5), random.seed(5), numpy.random.seed(5)
    contract.check(rules_that_break.TorchRandom)
    found = torch.rand(3), random.random(), numpy.random.rand()
    assert torch.equal(found[0], expected[0])
    assert found[1:] == expected[1:]


def test_the_device_of_a_result_is_looked_at():
    grads = {"q": DomainFactorGrads(torch.ones(2, 3, 5), torch.ones(2, 4, 3))}
    mean = hooks.build("mean", {})
    result = mean.combine(grads, {}, HookContext(domains=("x", "y")))
    check_result(result, grads, mean)
    elsewhere = {k: hooks.FactorGrads(g.a.to("meta"), g.b) for k, g in result.items()}
    with pytest.raises(
        UserError,
        match=r"hook Mean: q\.a must be \[3, 5\] torch\.float32 on cpu, not .* on meta .*igascale hooks check",
    ):
        check_result(elsewhere, grads, mean)


# From a name to a hook.


def test_build_refuses_by_name():
    for name, given, expected in [
        ("maen", {}, "did you mean 'mean'"),
        ("iga", {"tua": 1.0}, r"unknown key 'hook\.tua'; did you mean 'tau'"),
        ("mean", {"tau": 1.0}, r"unknown key 'hook\.tau'; 'mean' takes no options"),
        ("json:JSONDecoder", {}, "is not a subclass of"),
        ("json:Decoder", {}, r"there is no 'Decoder' in json"),
        ("no_such:Thing", {}, r"cannot import 'no_such'.*looked for in this folder"),
        ("my_rules.py:Mine", {}, "is a path; write my_rules:Mine"),
        ("rules/my_rules:Mine", {}, "is a path; write my_rules:Mine"),
        ("my_rules:", {}, "lacks a class"),
        (":Mine", {}, "lacks a module"),
        ("igascale.hooks:WeightedHook", {}, r"is not complete: it must define weights\(\)"),
    ]:
        with pytest.raises(UserError, match=expected) as refusal:
            hooks.build(name, given)
        assert "\n" not in str(refusal.value)


def test_a_weighted_hook_must_return_one_weight_per_domain():
    class Wrong(hooks.WeightedHook):
        def weights(self, gram, ctx):
            return torch.ones(len(gram) + 1)

    assert "Wrong.weights returned shape [3], expected [2]" in failing(Wrong)["result"]


RULES = """
from __future__ import annotations
from typing import TYPE_CHECKING
import torch
from igascale.hooks import WeightedHook
if TYPE_CHECKING:
    from fractions import Fraction

class First(WeightedHook):
    def __init__(self, scale: float = 1.0, kind: str = "x", steps: int | None = None):
        self.scale = scale
    def weights(self, gram, ctx):
        return self.scale * torch.eye(len(gram))[0]

class Untyped(First):
    def __init__(self, scale=1.0): pass

class Undefaulted(First):
    def __init__(self, scale: float): pass

class Neither(First):
    def __init__(self, scale): pass

class Unreadable(First):
    def __init__(self, share: Fraction = None): pass

class Failing(First):
    def __init__(self, n: int = 0):
        if n > 1:
            raise ValueError(f"n={n}: must be 0 or 1")
        self.inverse = 1 / n

class Loose(First):
    def __init__(self, *args, scale: float = 1.0, **more):
        self.scale = scale
"""


@pytest.fixture
def rules(tmp_path, monkeypatch):
    (tmp_path / "contract_rules.py").write_text(RULES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "contract_rules"


def test_a_hook_from_anywhere(rules):
    grads = {"q": DomainFactorGrads(torch.randn(3, 2, 5), torch.randn(3, 4, 2))}
    for value in (2.0, 2, "2e0"):  # YAML 1.1 reads 2e0 as text
        hook = hooks.build(f"{rules}:First", {"scale": value, "steps": None})
        result = hook.combine(grads, {}, HookContext(domains=("x", "y", "z")))
        torch.testing.assert_close(result["q"].a, 2 * grads["q"].a[0])
    assert list(hooks.options(hooks.find(f"{rules}:Loose"))) == ["scale"]


@pytest.mark.parametrize(
    ("cls", "given", "expected"),
    [
        ("First", {"scale": "big"}, r"'hook\.scale': expected float \(got 'big'\)"),
        ("First", {"scale": True}, r"'hook\.scale': expected float"),
        ("First", {"steps": 1.5}, r"'hook\.steps': expected int"),
        ("First", {"kind": 1}, r"'hook\.kind': expected str"),
        ("Untyped", {}, r"option 'scale' of Untyped\.__init__ has no type; write for instance 'scale: float = 1\.0'"),
        ("Undefaulted", {"scale": 1.0}, r"option 'scale' of Undefaulted\.__init__ has no default"),
        ("Neither", {}, "has no type and no default"),
        ("Unreadable", {}, r"the types of Unreadable\.__init__ cannot be read \(NameError: .*not under TYPE_CHECKING"),
        ("Failing", {"n": 2}, "n=2: must be 0 or 1"),
        ("Failing", {}, "ZeroDivisionError: division by zero"),
    ],
)
def test_options_of_a_third_party_are_checked(rules, cls, given, expected):
    with pytest.raises(UserError, match=expected):
        hooks.build(f"{rules}:{cls}", given)


def test_a_constructor_that_fails_is_shown_with_its_line(rules):
    told = failing(lambda: hooks.build(f"{rules}:Failing", {}))["made"]
    assert "ZeroDivisionError: division by zero (contract_rules.py, line 31: self.inverse = 1 / n)" in told


# Entry points of installed distributions.


def install(folder, distribution, entries, **modules):
    """What an installer leaves behind: modules and a .dist-info folder."""
    info = folder / f"{distribution.replace('-', '_')}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n")
    lines = "\n".join(f"{name} = {value}" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[igascale.hooks]\n{lines}\n")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)


def test_an_entry_point_is_used_by_its_name(tmp_path, monkeypatch):
    install(tmp_path, "acme-hooks", {"first_of_all": "acme_rules:First"}, acme_rules=RULES)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [entry.name for entry in hooks.installed()] == ["first_of_all"]
    assert hooks.build("first_of_all", {"scale": 3.0}).scale == 3.0
    with pytest.raises(UserError, match="did you mean 'first_of_all'"):
        hooks.build("first_of_al", {})
    with pytest.raises(UserError, match=r"unknown key 'hook\.scal'; did you mean 'scale'"):
        hooks.build("first_of_all", {"scal": 1.0})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("acme_broken:First", r"cannot import 'acme_broken' for 'acme' of acme-hooks 1\.2: ImportError: no luck"),
        ("acme_missing:First", r"cannot import 'acme_missing' for 'acme' of acme-hooks 1\.2: ModuleNotFoundError"),
        ("acme_rules:Frist", "there is no 'Frist' in acme_rules; did you mean 'First'"),
        ("acme_rules:torch", r"'acme' of acme-hooks 1\.2 is not a subclass"),
        ("acme_rules", r"'acme' of acme-hooks 1\.2 must name one GradientHook, found 7"),
    ],
)
def test_a_broken_entry_point_names_its_distribution(tmp_path, monkeypatch, value, expected):
    install(tmp_path, "acme-hooks", {"acme": value}, acme_rules=RULES, acme_broken="raise ImportError('no\\nluck')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=expected) as refusal:
        hooks.build("acme", {})
    assert "\n" not in str(refusal.value)


def test_a_built_in_name_stays_built_in_and_says_so(tmp_path, monkeypatch):
    install(tmp_path, "acme-hooks", {"mean": "acme_rules:First"}, acme_rules=RULES)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(
        UserWarning, match=r"hook 'mean' is igascale's own; that of acme-hooks 1\.2 is reached as acme_rules:First"
    ):
        assert hooks.find("mean").__module__ == "igascale.hooks.mean"


def test_two_distributions_with_one_name_are_refused(tmp_path, monkeypatch):
    install(tmp_path, "acme-hooks", {"first": "acme_rules:First"}, acme_rules=RULES)
    install(tmp_path, "best-hooks", {"first": "acme_rules:Loose"})
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"several distributions offer 'first': acme-hooks 1\.2 .*best-hooks 1\.2"):
        hooks.find("first")
