"""The hooks that use TorchJD's weightings: its own aggregators, at every scale, and what happens without the package."""

import ast
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchjd import aggregation
from torchjd.linalg import QuadprogProjector

from igascale import hooks
from igascale.errors import UserError
from igascale.hooks import HookContext
from igascale.hooks.cagrad import CAGrad
from igascale.hooks.mean import Mean
from igascale.hooks.torchjd import RULES, TorchJD
from igascale.hooks.upgrad import UPGrad

from jacobians import NAMES, WIDTH, combine, distance, jacobians

ALL = [UPGrad(), CAGrad(), *(TorchJD(rule=rule) for rule in RULES)]
IDS = ["upgrad", "cagrad", *RULES]
SCALE_FREE = [h for h, name in zip(ALL, IDS) if name != "fair_grad"]
EXAMPLE = torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]], dtype=torch.float64)


def weights(hook, J):
    return hook.weights(J @ J.T, HookContext(domains=NAMES[: len(J)]))


def same_as(hook, aggregator, J, exponent, tolerance=1e-8):
    """TorchJD sees the Jacobian with a norm of 1, the hook at any scale."""
    scale = 10.0**exponent
    assert distance(combine(hook, scale * J) / scale, aggregator(J), J) <= tolerance


def test_upgrad_on_the_example_of_torchjd():
    torch.testing.assert_close(
        EXAMPLE.T @ weights(UPGrad(), EXAMPLE), torch.tensor([0.2929, 1.9004, 1.9004]).double(), rtol=0, atol=1e-4
    )


@settings(max_examples=200, deadline=None)
@given(jacobians(scales=False), st.integers(-12, 12))
def test_upgrad_is_torchjd_at_every_scale(J, exponent):
    same_as(UPGrad(), aggregation.UPGrad(), J, exponent)


@settings(max_examples=200, deadline=None)
@given(jacobians(scales=False), st.integers(-12, 12), st.sampled_from([0.0, 0.2, 0.5, 0.9]))
def test_cagrad_is_torchjd_at_every_scale(J, exponent, c):
    """Clarabel stops at a duality gap of 1e-8: where the optimum is flat, rounding decides where on it. What the weights give
    is then off by more than the gap: 2e-7 was the worst of 6000 Jacobians."""
    scale = 10.0**exponent
    found, expected = combine(CAGrad(c=c), scale * J) / scale, aggregation.CAGrad(c=c)(J)
    mean = J.mean(0)
    if not expected.any():  # Pareto-stationary up to norm_eps
        assert not found.any()
        return
    assert float((found - mean).norm()) <= c * float(mean.norm()) + 1e-12  # in the ball
    assert abs(float((J @ found).min() - (J @ expected).min())) <= 1e-6  # serves the worst-served domain as well
    assert distance(found, expected, J) <= 1e-5


@settings(max_examples=200, deadline=None)
@given(jacobians(scales=False), st.integers(-12, 12))
def test_dual_proj_is_torchjd_at_every_scale(J, exponent):
    same_as(TorchJD(rule="dual_proj"), aggregation.DualProj(), J, exponent)


@settings(max_examples=200, deadline=None)
@given(jacobians(scales=False, full_rank=True), st.integers(-12, 12), st.sampled_from(["min", "median", "rmse"]))
def test_aligned_mtl_is_torchjd_at_every_scale(J, exponent, mode):
    """Of independent gradients: which eigenvalues count as zero is decided by rounding."""
    same_as(TorchJD(rule="aligned_mtl", scale_mode=mode), aggregation.AlignedMTL(scale_mode=mode), J, exponent)


@settings(max_examples=200, deadline=None)
@given(jacobians(scales=False, full_rank=True), st.integers(-12, 12))
def test_imtl_g_is_torchjd_at_every_scale(J, exponent):
    same_as(TorchJD(rule="imtl_g"), aggregation.IMTLG(), J, exponent)


@settings(max_examples=200, deadline=None)
@given(jacobians(least=4, scales=False, full_rank=True), st.integers(-12, 12))
def test_krum_is_torchjd_at_every_scale(J, exponent):
    """With four domains or more; of three the nearest two are tied."""
    same_as(TorchJD(rule="krum"), aggregation.Krum(n_byzantine=0), J, exponent)


@settings(max_examples=200, deadline=None)
@given(jacobians(full_rank=True), st.sampled_from([0.5, 1.0, 2.0]))
def test_fair_grad_solves_its_equation_at_every_scale(J, alpha):
    """K w = w^(-1/alpha) for the Gramian as it is; the solver stops at a relative change of 1e-8."""
    K, w = J @ J.T, weights(TorchJD(rule="fair_grad", alpha=alpha), J)
    right = w ** (-1 / alpha)
    assert (w > 0).all()
    assert float((K @ w - right).norm()) <= 1e-5 * float((K.abs() @ w).norm())


def test_fair_grad_is_torchjd_where_that_converges():
    expected = aggregation.FairGrad(alpha=1.0)(EXAMPLE)
    torch.testing.assert_close(EXAMPLE.T @ weights(TorchJD(rule="fair_grad"), EXAMPLE), expected, rtol=1e-4, atol=1e-5)
    tiny = 1e-9 * EXAMPLE
    assert (aggregation.FairGradWeighting(alpha=1.0)(tiny @ tiny.T) < 1e4).all()  # its solver gives up
    ratio = weights(TorchJD(rule="fair_grad"), tiny) / weights(TorchJD(rule="fair_grad"), EXAMPLE)
    torch.testing.assert_close(ratio, torch.full((2,), 1e9, dtype=torch.float64), rtol=1e-10, atol=0)


@pytest.mark.parametrize("hook", SCALE_FREE, ids=[n for n in IDS if n != "fair_grad"])
@pytest.mark.parametrize("factor", [1e-12, 1e-3, 1e12])
def test_weights_do_not_depend_on_the_scale(hook, factor):
    J = torch.randn(4, 30, dtype=torch.float64)
    torch.testing.assert_close(weights(hook, factor * J), weights(hook, J), rtol=1e-6, atol=1e-7)


def test_torchjd_alone_takes_small_gradients_for_none():
    """Why the Gramian is divided by its trace: at a norm of .01 CAGrad would stop training and UPGrad be the mean."""
    J = 1e-3 * EXAMPLE
    assert not aggregation.CAGrad(c=0.5)(J).any()
    assert distance(combine_weights(aggregation.UPGradWeighting(), J), J.mean(0), J) < 1e-12
    for hook in (CAGrad(), UPGrad()):
        assert distance(J.T @ weights(hook, J), J.mean(0), J) > 0.1


def combine_weights(weighting, J):
    return J.T @ weighting(J @ J.T)


@pytest.mark.parametrize("hook", ALL, ids=IDS)
def test_all_gradients_zero_or_one_of_them(hook):
    assert torch.equal(weights(hook, torch.zeros(4, 3).double()), torch.full((4,), 0.25, dtype=torch.float64))
    J = torch.randn(4, 30, dtype=torch.float64)
    J[2] = 0
    assert bool(weights(hook, J).isfinite().all())


@pytest.mark.parametrize("hook", [UPGrad(), TorchJD(rule="dual_proj")])
def test_without_a_conflict_the_mean(hook):
    J = torch.rand(4, WIDTH, dtype=torch.float64)
    assert distance(combine(hook, J), combine(Mean(), J), J) < 1e-12


def test_options_reach_the_weightings():
    assert weights(CAGrad(c=0.0), EXAMPLE).tolist() == [0.5, 0.5]
    assert not weights(CAGrad(norm_eps=10.0), EXAMPLE).any()
    projector = QuadprogProjector(reg_eps=0.3)
    for hook, aggregator in (
        (UPGrad(reg_eps=0.3), aggregation.UPGrad(projector=projector)),
        (TorchJD(rule="dual_proj", reg_eps=0.3), aggregation.DualProj(projector=projector)),
    ):
        torch.testing.assert_close(EXAMPLE.T @ weights(hook, EXAMPLE), aggregator(EXAMPLE))
    J = torch.randn(5, 30, dtype=torch.float64)
    krum = TorchJD(rule="krum", n_byzantine=1, n_selected=2)
    assert torch.equal(weights(krum, J), aggregation.KrumWeighting(1, 2)(J @ J.T))
    assert (krum.min_domains, krum.symmetric) == (4, False)
    assert (TorchJD().min_domains, TorchJD().symmetric) == (2, True)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("upgrad", {"reg_eps": 0.0}, "reg_eps=0.0: must be a finite number > 0"),
        ("cagrad", {"c": -0.1}, "c=-0.1: must be a finite number >= 0"),
        ("cagrad", {"norm_eps": float("nan")}, "norm_eps=nan"),
        ("torchjd", {"rule": "mgda"}, "'hook.rule': expected aligned_mtl | dual_proj | fair_grad | imtl_g | krum"),
        ("torchjd", {"rule": "fair_grad", "alpha": -1.0}, "alpha=-1.0: must be"),
        ("torchjd", {"rule": "krum", "n_selected": 0}, "n_selected=0: must be a whole number >= 1"),
        ("torchjd", {"alpha": 1.0}, "alpha: rule 'aligned_mtl' has no such option; it has scale_mode"),
        ("torchjd", {"rule": "imtl_g", "reg_eps": 1.0}, "reg_eps: rule 'imtl_g' has no such option; it has none"),
    ],
)
def test_refused_options(name, given, message):
    with pytest.raises(UserError) as error:
        hooks.build(name, given)
    assert message in str(error.value)


def test_random_states_and_default_type_are_left_alone():
    """In a process that has not imported TorchJD before."""
    code = (
        "import random, numpy as np, torch; from igascale import hooks; from igascale.hooks import HookContext\n"
        "def state(): return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate(),"
        " torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()\n"
        "before = state()\n"
        "gram = torch.tensor([[2.0, -1, 0], [-1, 3, 0], [0, 0, 1]]).double()\n"
        f"rules = [('upgrad', {{}}), ('cagrad', {{}})] + [('torchjd', {{'rule': r}}) for r in {list(RULES)}]\n"
        "for name, options in rules:\n"
        "    hooks.build(name, options).weights(gram, HookContext())\n"
        "    assert state() == before, (name, options)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Without TorchJD


@pytest.mark.parametrize("missing", ["torchjd.aggregation", "qpsolvers", "cvxpy", "scipy"])
def test_a_missing_part_is_named_with_the_remedy(monkeypatch, missing):
    name, options = {
        "cvxpy": ("cagrad", {}),
        "scipy": ("torchjd", {"rule": "fair_grad"}),
    }.get(missing, ("upgrad", {}))
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        UserError, match=rf"hook '{name}': needs TorchJD and its solvers .*pip install 'igascale\[torchjd\]'"
    ):
        hooks.build(name, options)


def test_not_installed_at_all_or_another_version(monkeypatch):
    def not_found(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", not_found)
    with pytest.raises(UserError, match=r"pip install 'igascale\[torchjd\]'"):
        hooks.build("torchjd", {})
    monkeypatch.setattr(metadata, "version", lambda name: "0.19.2")
    with pytest.raises(UserError, match=r"needs TorchJD 0\.18\.x, found 0\.19\.2"):
        hooks.build("cagrad", {})


def test_no_hook_imports_torchjd_before_it_is_built():
    for file in Path(hooks.__file__).parent.glob("*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not any(n.split(".")[0] == "torchjd" for n in names), file
    code = (
        "import sys; sys.modules['torchjd'] = None\n"
        "from igascale import hooks\n"
        "for name in hooks.available(): hooks.find(name)\n"
        "for name in ('upgrad', 'cagrad', 'torchjd'):\n"
        "    try: hooks.build(name, {}); raise SystemExit('built without TorchJD')\n"
        "    except hooks.UserError as error: assert 'igascale[torchjd]' in str(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_range_in_pyproject_is_the_one_that_is_checked():
    from igascale.hooks._torchjd import SERIES

    text = (Path(hooks.__file__).resolve().parents[1] / "pyproject.toml").read_text()
    low, high = SERIES.rstrip("."), f"0.{int(SERIES.split('.')[1]) + 1}"
    assert f">={low},<{high}" in next(line for line in text.splitlines() if line.startswith("torchjd = "))
    assert np.all([metadata.version("torchjd").startswith(SERIES)])
