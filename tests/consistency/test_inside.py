"""What several processes measure of their shares is the whole; what was left in the folder is used again, or not at all."""

import json
import threading

import pytest
from click.testing import CliRunner

from igascale.cli.eval import command
from igascale.errors import UserError
from igascale.evaluation.answering import Share
from igascale.evaluation.evaluate import evaluate_model
from igascale.evaluation.inside import Exchange, Inside
from igascale.isomers.schema import Instance, IsomerGroup

import tiny


def make_groups(count=7, domains=("law", "drug", "code")):
    return [
        IsomerGroup(
            f"g{k}",
            f"s{k}",
            tuple(Instance(d, f"{d} " + "rule " * (k + n) + f"{k}: Who?", "", "Ann") for n, d in enumerate(domains)),
        )
        for k in range(count)
    ]


def measured(folder, share, found, model, groups, layers="all"):
    inside = Inside(model, tiny.tiny_tokenizer(), layers, batch_size=4)
    inside.exchange = Exchange(folder, share, {"identity": "x"})
    found[share.rank] = inside.measure("id", groups)


@pytest.mark.parametrize("world", [2, 3, 9])
def test_shares_are_the_whole_on_the_first_process(tmp_path, world):
    groups = make_groups()
    whole = Inside(tiny.tiny_llama().eval(), tiny.tiny_tokenizer(), "all").measure("id", groups)
    assert [each.layer for each in whole.layers] == [0, 1, 2]
    found = {}
    threads = [
        threading.Thread(target=measured, args=(tmp_path, Share(rank, world), found, tiny.tiny_llama().eval(), groups))
        for rank in range(world)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(found[rank].layers == () for rank in range(1, world))
    assert found[0].consistency == found[0].layers[1]
    for one, expected in zip(found[0].layers, whole.layers, strict=True):
        for name in ("lcs", "relative", "mean_squared_norm", "between_groups", "standard_error"):
            assert getattr(one, name) == pytest.approx(getattr(expected, name), rel=1e-6)
        assert one.pairs == pytest.approx(expected.pairs, rel=1e-6)
        assert one.groups == 7


def test_what_was_measured_is_not_measured_again_unless_something_differs(tmp_path):
    model, groups, found = tiny.tiny_llama().eval(), make_groups(3), {}
    passes = []
    model.model.register_forward_hook(lambda *_: passes.append(1))
    measured(tmp_path, Share(), found, model, groups)
    first, once = found[0], len(passes)
    measured(tmp_path, Share(), found, model, groups)
    assert (found[0], len(passes)) == (first, once)
    measured(tmp_path, Share(), found, model, groups, "last")  # other layers
    measured(tmp_path, Share(), found, model, make_groups(4))  # other texts
    assert len(passes) > 2 * once
    for file in tmp_path.iterdir():
        file.write_text(file.read_text()[:40])  # cut off
    measured(tmp_path, Share(), found, model, groups)
    assert found[0] == first


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        Exchange(tmp_path / "file", Share(), {}).leave("name", {})


def test_the_model_is_not_asked_before_options_are_checked():
    for bad, told in ((("all", "prompts"), "lcs_text is 'prompts'"), (("7",), "the model has 2 layers")):
        with pytest.raises(UserError, match=told):
            Inside(tiny.tiny_llama(), None, *bad)


def test_benchmarks_alone_have_nothing_to_measure(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for option in (["--gir"], ["--layers", "all"]):
        outcome = CliRunner().invoke(command, [str(tmp_path), "--benchmark", f"math={tmp_path}", *option])
        assert isinstance(outcome.exception, UserError)
        assert "only benchmarks" in str(outcome.exception)


def test_evaluate_model_keeps_layers_in_its_json():
    result = evaluate_model(
        tiny.tiny_llama(), tiny.tiny_tokenizer(), make_groups(2), max_new_tokens=1, lcs_layers="0,last"
    )
    kept = json.loads(result.to_json())["suites"]["isomers"]["id"]
    assert [each["layer"] for each in kept["layers"]] == [0, 2]
    assert kept["consistency"] == kept["layers"][1]
    assert list(kept["layers"][0]["pairs"]) == ["code/drug", "code/law", "drug/law"]
