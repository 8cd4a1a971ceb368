"""``igascale hooks``: the list, one rule, and the contract tried on someone else's file."""

import re
import subprocess
import sys
import warnings

import pytest
from click.testing import CliRunner

from igascale import docstring, hooks
from igascale.cli import main

from launching import environment, igascale

RULES = '''
import torch
from igascale.hooks import FactorGrads, GradientHook, WeightedHook

class Good(WeightedHook):
    """Weights by [the] losses.

    .. math:: w = \\\\mathrm{softmax}(L / T)

    Args:
        temperature: T, in nats.
        kind: what sort.
    """
    min_domains = 2
    statistics = ()
    def __init__(self, *, temperature: float = 1.0, kind: str | None = None) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature={temperature}: must be > 0")
        self.temperature = temperature
    def weights(self, gram, ctx):
        return torch.softmax(ctx.losses / self.temperature, 0)

class Random(GradientHook):
    def combine(self, grads, adapters, ctx):
        return {k: FactorGrads(g.a.mean(0) * torch.rand(1), g.b.mean(0)) for k, g in grads.items()}

class Crashing(Good):
    def weights(self, gram, ctx):
        return torch.linalg.cholesky(-gram)[0]

class Unmakeable(Good):
    def __init__(self, temperature): pass
'''


@pytest.fixture
def rules(tmp_path, monkeypatch):
    (tmp_path / "command_rules.py").write_text(RULES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def invoke(*arguments, status=0):
    result = CliRunner().invoke(main, ["hooks", *arguments])
    assert result.exit_code == status, (result.output, result.exception)
    assert "Traceback" not in result.output
    return result.output


def words(text):
    """Wrapped output as one line."""
    return " ".join(text.split())


def test_the_list_has_every_rule_with_line_paper_and_options():
    listing = words(invoke())
    assert words(invoke("list")) == listing
    for name in hooks.available():
        cls = hooks.find(name)
        assert words(f"{name} {docstring.summary(cls)}") in listing
        assert words(" ".join(hooks.options(cls))) in listing
        assert re.search(r"https://arxiv\.org/abs/[\d.]+\d", cls.__doc__).group() in listing
    assert "from installed packages" not in listing


def test_installed_rules_are_listed_with_their_package_and_a_broken_one_hides_nothing(rules):
    info = rules / "acme_hooks-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-hooks\nVersion: 0.3\n")
    entries = ["soft = command_rules:Good", "gone = no_such_module:Rule", "mean = command_rules:Random"]
    (info / "entry_points.txt").write_text("[igascale.hooks]\n" + "\n".join(entries) + "\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the list says it itself
        listing = words(invoke())
    assert "soft Weights by [the] losses. temperature kind acme-hooks 0.3 (command_rules:Good)" in listing
    assert "cannot import 'no_such_module' for 'gone' of acme-hooks 0.3" in listing
    assert "mean acme-hooks 0.3 (command_rules:Random): not used under this name" in listing
    assert "soft keeps the contract." in invoke("check", "soft", "temperature=2")
    assert "T, in nats." in invoke("show", "soft")


@pytest.mark.parametrize("name", hooks.available())
def test_show_explains_every_option_and_leaves_no_markup(name):
    cls, shown = hooks.find(name), invoke("show", name)
    texts = docstring.option_texts(cls)
    for option, parameter in hooks.options(cls).items():
        assert option in shown
        assert words(texts[option]).split()[0] in words(shown)
        assert parameter.default is None or str(parameter.default).lower() in shown.lower()
    for markup in ("``", ":class:", ":math:", ".. math", r"\frac", r"\bar", r"\tau", ">>>", "Args:", "Raises:"):
        assert markup not in shown
    assert f"fewest domains {cls.min_domains}" in words(shown)


def test_show_in_detail():
    shown = words(invoke("show", "vrex"))
    assert "⇒ g = 1/D Σ_n (1 + 2λ (L_n - L̄)) g_n" in shown
    assert "(https://arxiv.org/abs/2003.00688), Eq. 8." in shown
    assert "penalty 10.0 lambda, >= 0, per nat." in shown
    assert "figures of each step smallest_weight, largest_weight, loss_gap" in shown
    shown = words(invoke("show", "iga"))
    assert "2008.01883" in shown  # not DomainBed's method of the same name
    assert "[default | paper | paper-stable]" in shown
    assert "the larger of the result and a reference gradient (by default)" in shown
    assert words(invoke("iga")) == shown  # the short form


def test_a_third_partys_rule_is_shown(rules):
    shown = words(invoke("show", "command_rules:Good"))
    assert "w = softmax(L / T)" in shown
    assert "temperature 1.0 T, in nats. [float]" in shown
    assert "kind - what sort. [str]" in shown
    shown = words(invoke("show", "command_rules:Unmakeable"))
    assert "temperature required" in shown
    assert "defaults cannot be made: hook 'command_rules:Unmakeable': option 'temperature'" in shown
    assert "It has no documentation." in invoke("show", "command_rules:Random")


def test_check_passes_a_good_rule(rules):
    for options in ([], ["temperature=0.5"], ["hook.temperature=5e-1", "kind=null"]):
        shown = invoke("check", "command_rules:Good", *options)
        assert "keeps the contract." in shown
        assert "FAIL" not in shown
        assert re.search(r"^pass  sharded +the result does not depend on which rank", shown, re.MULTILINE)
        assert "not checked: the hook says min_domains = 2" in shown


def test_check_names_the_clause_and_the_remedy(rules):
    shown = invoke("check", "command_rules:Random", status=1)
    assert re.search(r"^FAIL  randomness ", shown, re.MULTILINE)
    assert re.search(r"^note  documented ", shown, re.MULTILINE)
    assert "ctx.generator" in shown
    assert "not checked: rests on 'randomness'" in shown
    assert "command_rules:Random breaks the contract: randomness. docs/hooks.md" in shown


def test_check_shows_where_a_rule_crashes(rules):
    shown = invoke("check", "command_rules:Crashing", status=1)
    line = RULES.split("\n").index("        return torch.linalg.cholesky(-gram)[0]") + 1
    assert f"(command_rules.py, line {line}: return torch.linalg.cholesky(-gram)[0])" in shown
    assert re.search(r"^FAIL  result ", shown, re.MULTILINE)
    assert "has no type and no default" in invoke("check", "command_rules:Unmakeable", status=1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["igga"], "unknown hook 'igga'; did you mean 'iga'?"),
        (["show", "igga"], "unknown hook 'igga'; did you mean 'iga'?"),
        (["check", "igga"], "unknown hook 'igga'; did you mean 'iga'?"),
        (["chekc", "iga"], "igascale hooks has no command 'chekc'; did you mean 'check'?"),
        (["check", "no_such:Rule"], "cannot import 'no_such'"),
        (["check", "json:JSONDecoder"], "is not a subclass of igascale.hooks.GradientHook"),
        (["check", "iga", "tau"], "'tau': write OPTION=VALUE"),
        (["check", "iga", "tua=1"], "unknown key 'hook.tua'; did you mean 'tau'?"),
        (["check", "iga", "tau=hot"], "'hook.tau': expected float"),
        (["check", "iga", "tau=[1"], "not valid YAML"),
        (["check", "command_rules:Good", "temperature=-1"], "temperature=-1: must be > 0"),
    ],
)
def test_bad_input_is_one_line(rules, arguments, expected):
    lines = [line for line in invoke(*arguments, status=2).strip().splitlines() if line.strip()]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert expected in lines[0]


@pytest.mark.parametrize("command", [[], ["list"], ["show"], ["check"]])
def test_help_needs_no_torch(command):
    code = (
        "import sys\nfrom igascale.cli import main\n"
        f"try: main({['hooks', *command, '--help']!r})\nexcept SystemExit: pass\n"
        "print('heavy:', sorted({'torch', 'transformers', 'deepspeed', 'peft', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True, timeout=240
    )
    assert "heavy: []" in done.stdout
    assert "xample" in done.stdout


def test_a_file_in_the_current_folder_is_found_by_the_real_command(rules, tmp_path):
    done = igascale("hooks", "check", "command_rules:Random", cwd=tmp_path)
    assert done.returncode == 1
    assert "breaks the contract: randomness" in done.stdout
    assert "Traceback" not in done.stderr


def test_markup_of_docstrings():
    class Sample:
        r"""First ``line`` with `text <https://x.y/z>`_ and :class:`~a.B`.

        .. math::
            \hat g = \frac{a + b}{\sqrt{c}}, \quad
            \tilde h \le \tfrac12 \operatorname{mean} M^\top
        More, on
        two lines.

        Statistics, per adapter:
            * ``one``: first,
              second.
            * two.

        Args:
            x, y: both
                of them.
            z (int): last: with a colon.

        Example:
            >>> 1
        """

    assert docstring.summary(Sample) == "First line with text (https://x.y/z) and a.B."
    assert [(b.kind, b.text) for b in docstring.blocks(Sample)] == [
        ("math", "ĝ = (a + b)/(√(c)),\nh\u0303 ≤ 1/2 mean Mᵀ"),
        ("text", "More, on two lines."),
        ("text", "Statistics, per adapter:"),
        ("item", "one: first, second."),
        ("item", "two."),
    ]
    texts = docstring.option_texts(Sample)
    assert texts == {"x": "both of them.", "y": "both of them.", "z": "last: with a colon."}
    assert docstring.summary(type("Empty", (), {})) == ""
