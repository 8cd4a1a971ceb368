"""The contract that every hook keeps; a new file in hooks/ is tested without an edit here."""

import copy

import pytest
import torch

from igascale import hooks
from igascale.errors import UserError
from igascale.hooks import AdapterFactors, DomainFactorGrads, HookContext
from igascale.step import check_result

SHAPES = {"q": (12, 10), "k": (6, 10), "v": (6, 10), "o": (10, 12)}
D, R = 3, 2


def make(seed=0, domains=D):
    g = torch.Generator().manual_seed(seed)
    grads, factors = {}, {}
    for name, (out, into) in SHAPES.items():
        a, b = torch.randn(domains, R, into, generator=g), torch.randn(domains, out, R, generator=g)
        A, B = torch.randn(R, into, generator=g), 0.3 * torch.randn(out, R, generator=g)
        grads[name], factors[name] = DomainFactorGrads(a, b), AdapterFactors(A, B, 2.0)
    context = HookContext(step=5, domains=tuple("xyz"[:domains]), losses=torch.ones(domains), seed=7)
    return grads, factors, context


@pytest.fixture(params=hooks.available())
def hook(request):
    return hooks.build(request.param, {})


def test_result_is_complete_and_inputs_are_untouched(hook):
    grads, factors, context = make()
    before = copy.deepcopy((grads, factors))
    result = hook.combine(grads, factors, context)
    check_result(result, grads, hook)
    for name in SHAPES:
        assert torch.equal(grads[name].a, before[0][name].a)
        assert torch.equal(grads[name].b, before[0][name].b)
        assert torch.equal(factors[name].A, before[1][name].A)
        assert torch.equal(factors[name].B, before[1][name].B)


def test_deterministic_whatever_was_drawn_before(hook):
    grads, factors, context = make()
    first = hook.combine(grads, factors, context)
    torch.rand(13)
    second = hook.combine(grads, factors, context)
    assert all(torch.equal(first[k].a, second[k].a) and torch.equal(first[k].b, second[k].b) for k in SHAPES)


def test_sharded_is_whole(hook):
    """Two ranks that own half of the adapters each, and see the other's share of a sum."""
    grads, factors, context = make()
    whole = hook.combine(grads, factors, context)
    for half in (["q", "v"], ["k", "o"]):
        other = [k for k in SHAPES if k not in half]
        missing = []

        def remember(tensor, missing=missing):
            missing.append(tensor.clone())
            return tensor

        def part(names, sum_over_shards):
            shard = HookContext(context.step, context.domains, context.losses, sum_over_shards, context.seed)
            return hook.combine({k: grads[k] for k in names}, {k: factors[k] for k in names}, shard)

        part(other, remember)
        shares = iter(missing)
        mine = part(half, lambda t, shares=shares: t + next(shares))
        for name in half:
            torch.testing.assert_close(mine[name].a, whole[name].a, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(mine[name].b, whole[name].b, rtol=1e-4, atol=1e-5)


def test_no_adapters_at_all(hook):
    """A rank may own none, where there are more ranks than adapters."""
    _, _, context = make()
    assert hook.combine({}, {}, context) == {}


def test_one_domain_is_that_domain(hook):
    grads, factors, context = make(domains=1)
    result = hook.combine(grads, factors, context)
    for name in SHAPES:
        torch.testing.assert_close(result[name].a, grads[name].a[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(result[name].b, grads[name].b[0], rtol=1e-4, atol=1e-5)


def test_state_round_trip(hook):
    state = hook.state_dict()
    fresh = type(hook)()
    fresh.load_state_dict(state)
    assert fresh.state_dict().keys() == state.keys()
    with pytest.raises((ValueError, KeyError)):
        fresh.load_state_dict({"never heard of": 1})


def test_documented(hook):
    assert "arxiv.org/abs" in type(hook).__doc__
    for option in hooks.options(type(hook)):
        assert f"{option}:" in type(hook).__doc__, option


def test_build_refuses_by_name():
    with pytest.raises(UserError, match="did you mean 'mean'"):
        hooks.build("maen", {})
    with pytest.raises(UserError, match=r"unknown key 'hook\.tua'; did you mean 'tau'"):
        hooks.build("iga", {"tua": 1.0})
    with pytest.raises(UserError, match="is not a subclass of"):
        hooks.build("json:JSONDecoder", {})
    with pytest.raises(UserError, match=r"there is no 'Decoder' in json"):
        hooks.build("json:Decoder", {})


def test_a_weighted_hook_must_return_one_weight_per_domain():
    class Wrong(hooks.WeightedHook):
        def weights(self, gram, ctx):
            return torch.ones(len(gram) + 1)

    with pytest.raises(ValueError, match=r"Wrong\.weights returned shape \[4\], expected \[3\]"):
        Wrong().combine(*make())


def test_a_hook_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "my_rules.py").write_text(
        "import torch\n"
        "from igascale.hooks import WeightedHook\n"
        "class First(WeightedHook):\n"
        "    def __init__(self, scale: float = 1.0):\n"
        "        self.scale = scale\n"
        "    def weights(self, gram, ctx):\n"
        "        return self.scale * torch.eye(len(gram))[0]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    grads, factors, context = make()
    result = hooks.build("my_rules:First", {"scale": 2.0}).combine(grads, factors, context)
    torch.testing.assert_close(result["q"].a, 2 * grads["q"].a[0])
    with pytest.raises(UserError, match=r"'hook\.scale': expected float"):
        hooks.build("my_rules:First", {"scale": "big"})
