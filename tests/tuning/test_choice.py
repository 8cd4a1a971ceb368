"""The right trial and step are chosen from planted runs: what training would have recorded is written in its place."""

import json
import math

import pytest
import yaml
from click.testing import CliRunner

from igascale.cli import main
from igascale.config import load_config
from igascale.errors import UserError
from igascale.evaluation.accuracy import Accuracy
from igascale.evaluation.results import EvaluationResult, SplitResult, SuiteResult, write_result
from igascale.studies.jobs import FAILED, FINISHED, INTERRUPTED, Launching, Outcome
from igascale.tuning import search as module
from igascale.tuning.plan import Asked
from igascale.tuning.records import Trial, best_of, read_trials
from igascale.tuning.search import Search, check_chosen

from runs import prepare

LISTED = ("optimizer.lr=1e-3,2e-3,4e-3", "hook.tau=0.5,2")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("choice"))


class Planted:
    """Stands in for :func:`run_jobs`: writes the metrics that ``loss(config, domain, step)`` says, in the order given."""

    def __init__(self, loss, ends=lambda config: FINISHED, backwards=False):
        self.loss, self.ends, self.backwards, self.configs = loss, ends, backwards, []

    def __call__(self, jobs, launching, listener, **options):
        outcomes = []
        for job in reversed(jobs) if self.backwards else jobs:
            config = job.resolve()
            self.configs.append(config)
            job.folder.mkdir(parents=True, exist_ok=True)
            left_out = config.data.ood and config.data.ood.rpartition("left-out-")[2].removesuffix(".jsonl")
            with (job.folder / "metrics.jsonl").open("w") as file:
                for step in range(config.eval.every, config.train.max_steps + 1, config.eval.every):
                    record = {"kind": "validation", "step": step, "id": {"a": self.loss(config, None, step), "b": 3.0}}
                    if left_out:
                        record["ood"] = {left_out: self.loss(config, left_out, step)}
                    file.write(json.dumps(record) + "\n")
            state = self.ends(config)
            outcome = Outcome(job, state, "training: it broke" if state == FAILED else "", False, 1.0)
            listener.ended(outcome)
            outcomes.append(outcome)
        return outcomes


def searched(monkeypatch, path, folder, planted, say=lambda line: None, **asked):
    monkeypatch.setattr(module.queue, "run_jobs", planted)
    wanted = {"methods": ("erm-sft", "iga"), "trials": 3, "stops": 4, "search": LISTED[:1], "seed": 1} | asked
    overrides = ("train.max_steps=8",)
    found = Search(Asked(path, overrides, **wanted), folder, say)
    return found.run(Launching())


def valley(config, domain, step):
    """Best at lr 2e-3 and step 4 for ERM, at 4e-3 and step 6 for IGA; law is harder than the others by a constant."""
    lr, at = (2e-3, 4) if config.hook.name == "mean" else (4e-3, 6)
    return abs(math.log(config.optimizer.lr / lr)) + 0.1 * abs(step - at) + (domain == "law")


def test_the_best_setting_and_step_are_chosen_and_written_for_all_domains(monkeypatch, path, tmp_path):
    chosen = searched(monkeypatch, path, tmp_path / "t", Planted(valley))
    found = {each.contestant.name: each for each in chosen}
    for name, lr, steps in (("erm-sft", 2e-3, 4), ("iga", 4e-3, 6)):
        config = load_config(tmp_path / "t" / "tuned" / f"{name}.yaml")
        assert config == found[name].config
        assert (config.optimizer.lr, config.train.max_steps, config.train.schedule_steps) == (lr, steps, 8)
        assert found[name].trial.best == (pytest.approx(0.25), steps)
        plain = load_config(path, method=name)
        assert config.data == plain.data and config.seed == plain.seed
        assert config.selection.by == "leave_one_domain_out"
        assert (config.selection.trials, config.selection.budget) == (3, 3 * 4 * 8 * 3)
        assert config.selection.searched["optimizer.lr"] == [1e-3, 2e-3, 4e-3]
        assert config.selection.searched["train.max_steps"] == [2, 4, 6, 8]
    assert found["iga"].config.hook.options.keys() == {"tau"}


def test_in_domain_scores_the_mean_of_the_training_domains(monkeypatch, path, tmp_path):
    planted = Planted(valley)
    (erm, _) = searched(monkeypatch, path, tmp_path / "t", planted, by="in_domain")
    assert erm.trial.best == (pytest.approx((0 + 3) / 2), 4)
    assert all(config.data.ood is None for config in planted.configs)
    assert erm.config.data.ood is not None  # the user's own is back


def test_every_method_gets_the_same_training(monkeypatch, path, tmp_path):
    """Counted from the configurations that were run, not from what the search says of itself."""
    planted = Planted(valley)
    methods = ("erm-sft", "iga", "iga-mixed", "pcgrad", "v-rex")
    searched(monkeypatch, path, tmp_path / "t", planted, methods=methods, search=())
    spent, rates = {}, {}
    for config in planted.configs:
        spent[config._method] = spent.get(config._method, 0) + config.train.max_steps * len(config.data.domains)
        rates.setdefault(config._method, []).append(config.optimizer.lr)
    assert set(spent) == set(methods) and len(set(spent.values())) == 1
    assert len({tuple(each) for each in rates.values()}) == 1
    seen = {config.data.domains for config in planted.configs}
    assert len(seen) == 4 and all(len(domains) == 3 for domains in seen)


def test_failed_and_diverged_trials_are_the_worst_and_are_told(monkeypatch, path, tmp_path):
    def ends(config):
        return FAILED if config.optimizer.lr == 2e-3 and config.data.domains[0] == "medicine" else FINISHED

    def loss(config, domain, step):
        return math.nan if config.optimizer.lr == 4e-3 else valley(config, domain, step)

    def null(*arguments):
        return None if math.isnan(value := loss(*arguments)) else value

    told = []
    (erm,) = searched(monkeypatch, path, tmp_path / "t", Planted(null, ends), told.append, methods=("erm-sft",))
    assert erm.config.optimizer.lr == 1e-3
    states = {each.settings["optimizer.lr"]: each for each in read_trials(tmp_path / "t")}
    assert (states[2e-3].status, states[2e-3].reason) == ("failed", "mathematics: training: it broke")
    assert (states[4e-3].status, states[4e-3].reason) == ("diverged", "no score is finite")
    assert states[2e-3].best[0] == states[4e-3].best[0] == math.inf
    assert sum("FAILED" in line for line in told) == sum("DIVERGED" in line for line in told) == 1
    assert any("2 of 3 trials failed or diverged" in note for note in erm.notes)


def test_a_method_whose_trials_all_fail_does_not_take_the_others_along(monkeypatch, path, tmp_path):
    chosen = searched(
        monkeypatch, path, tmp_path / "t", Planted(valley, lambda c: FAILED if c.hook.name == "iga" else FINISHED)
    )
    assert [each.config is None for each in chosen] == [False, True]
    assert not (tmp_path / "t" / "tuned" / "iga.yaml").exists()
    with pytest.raises(
        UserError, match=r"iga: none of its 3 trials has a finite score \(the first: mathematics: training: it broke"
    ):
        check_chosen(chosen)


def test_a_rule_of_the_users_own_beside_the_methods(monkeypatch, path, tmp_path):
    planted = Planted(valley)
    chosen = searched(monkeypatch, path, tmp_path / "t", planted, methods=("erm-sft",), hooks=("gate",), search=())
    assert [each.contestant.name for each in chosen] == ["erm-sft", "gate"]
    assert all(0.1 <= config.hook.options["tau"] <= 4 for config in planted.configs if config.hook.name == "gate")
    assert load_config(chosen[1].file).hook.name == "gate"


def test_accuracy_scores_the_end_of_each_run(monkeypatch, path, tmp_path):
    def accuracy(value):
        return Accuracy(value, 0.0, 1.0, 0.1, 0.0, 10, 10)

    class Answering(Planted):
        def __call__(self, jobs, launching, listener, **options):
            for job in jobs:
                config = job.resolve()
                assert job.evaluation == ("--limit-groups", "4")
                split = SplitResult(accuracy(0.8 if config.optimizer.lr == 2e-3 else 0.3), {}, {}, None, 0.0, 1.0)
                other = SplitResult(accuracy(1.0), {}, {}, None, 0.0, 1.0)
                result = EvaluationResult({"isomers": SuiteResult(other, split)}, {})
                write_result(result, job.folder / "evaluation")
            return super().__call__(jobs, launching, listener, **options)

    (erm,) = searched(monkeypatch, path, tmp_path / "t", Answering(valley), methods=("erm-sft",), score="accuracy")
    assert erm.config.optimizer.lr == 2e-3 and erm.config.train.max_steps == 8
    assert erm.trial.best == (pytest.approx(0.2), 8)


def lines(folder):
    return (folder / "trials.jsonl").read_text()


def test_the_order_in_which_runs_end_makes_no_difference(monkeypatch, path, tmp_path):
    for name, backwards in (("a", False), ("b", True)):
        searched(monkeypatch, path, tmp_path / name, Planted(valley, backwards=backwards))
    assert lines(tmp_path / "a") == lines(tmp_path / "b")


def test_more_trials_and_methods_go_on_with_what_is_there(monkeypatch, path, tmp_path):
    searched(monkeypatch, path, tmp_path / "t", Planted(valley), trials=2)
    first = lines(tmp_path / "t")
    planted = Planted(valley)
    searched(monkeypatch, path, tmp_path / "t", planted, methods=("erm-sft", "iga", "pcgrad"))
    assert len(planted.configs) == 4 * (1 + 1 + 3)
    assert set(first.splitlines()) <= set(lines(tmp_path / "t").splitlines())
    whole = searched(monkeypatch, path, tmp_path / "w", Planted(valley), methods=("erm-sft", "iga", "pcgrad"))
    assert lines(tmp_path / "t") == lines(tmp_path / "w") and len(whole) == 3


def test_a_stopped_search_records_whole_trials_only(monkeypatch, path, tmp_path):
    def stops(config):
        return INTERRUPTED if config.optimizer.lr == 4e-3 and config.data.domains[-1] == "law" else FINISHED

    assert searched(monkeypatch, path, tmp_path / "t", Planted(valley, stops)) is None
    assert {each.settings["optimizer.lr"] for each in read_trials(tmp_path / "t")} == {1e-3, 2e-3}
    assert not (tmp_path / "t" / "tuned").exists()


def test_retrying_failed_trials(monkeypatch, path, tmp_path):
    searched(monkeypatch, path, tmp_path / "t", Planted(valley, lambda c: FAILED), methods=("erm-sft",))
    planted = Planted(valley)
    searched(monkeypatch, path, tmp_path / "t", planted, methods=("erm-sft",))
    assert planted.configs == []
    monkeypatch.setattr(module.queue, "run_jobs", planted)
    found = Search(
        Asked(path, ("train.max_steps=8",), ("erm-sft",), (), trials=3, stops=4, search=LISTED[:1], seed=1),
        tmp_path / "t",
        print,
    )
    (chosen,) = found.run(Launching(), retry_failed=True)
    assert len(planted.configs) == 12 and chosen.config.optimizer.lr == 2e-3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stops": 2}, "erm-sft: stops was 4, is 2"),
        ({"seed": 2}, "erm-sft: seed was 1, is 2"),
        ({"by": "in_domain"}, 'by was "leave_one_domain_out", is "in_domain"'),
        ({"search": ("optimizer.lr=1e-3,2e-3,5e-3",)}, r"erm-sft: searched.optimizer.lr was .*"),
        ({"folds": 2}, "erm-sft: folds was"),
    ],
)
def test_the_folder_of_another_search_is_refused(monkeypatch, path, tmp_path, change, told):
    searched(monkeypatch, path, tmp_path / "t", Planted(valley))
    before = lines(tmp_path / "t")
    with pytest.raises(UserError, match=f"holds another search: .*{told}"):
        searched(monkeypatch, path, tmp_path / "t", Planted(valley), **change)
    assert lines(tmp_path / "t") == before


def test_other_folders_and_damaged_records_are_refused(monkeypatch, path, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="already exists and holds no search"):
        searched(monkeypatch, path, tmp_path / "mine", Planted(valley))
    assert [each.name for each in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    searched(monkeypatch, path, tmp_path / "t", Planted(valley))
    with (tmp_path / "t" / "trials.jsonl").open("a") as file:
        file.write('{"method": "erm-sft", "tri')
    with pytest.raises(UserError, match=r"trials.jsonl:7: not a trial"):
        searched(monkeypatch, path, tmp_path / "t", Planted(valley))


def test_equal_scores_go_to_the_fewest_steps_then_the_first_trial():
    def trial(number, **scores):
        return Trial("m", number, {}, "finished", "", 4, 1, 0.0, {"f": {int(k[1:]): v for k, v in scores.items()}})

    assert best_of([trial(0, s2=2.0, s4=1.0), trial(1, s2=1.0, s4=1.0), trial(2, s2=1.0)]).trial == 1
    assert trial(1, s2=1.0, s4=1.0).best == (1.0, 2)
    assert best_of([trial(0, s2=None)]) is None
    two = Trial("m", 0, {}, "finished", "", 4, 1, 0.0, {"f": {2: 1.0, 4: 5.0}, "g": {2: None, 4: 1.0}})
    assert two.means == {4: 3.0}


def test_choices_at_the_edge_are_noted(monkeypatch, path, tmp_path):
    def slope(config, domain, step):
        return 1 / config.optimizer.lr / step

    (erm, _) = searched(monkeypatch, path, tmp_path / "t", Planted(slope))
    assert any(
        "optimizer.lr is the largest that was tried; widen --search optimizer.lr=0.001,0.002,0.004" in n
        for n in erm.notes
    )
    assert any("the longest run was best" in note for note in erm.notes)
    assert erm.config.train.schedule_steps is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--search", "hook.tua=1,2"], "--search hook.tua: is no option of any of the rules .*did you mean 'hook.tau'"),
        (["--method", "erm-sft", "--search", "hook.tau=1,2"], "--search hook.tau: is no option .*they have no options"),
        (["--method", "tau-2.0", "--search", "hook.tau=1,2"], "is what makes tau-2.0 that method"),
        (["--search", "hook.tau="], "no values to search"),
        (["--search", "optimizer.lr=1e-3,2e-3"], "erm-sft: there are 2 different settings .* not 8"),
        (["--search", "optimizer.lrr=1e-3,2e-3"], "unknown key 'optimizer.lrr'"),
        (["--search", "optimizer.lr=-1..2"], "'optimizer.lr': .*greater than 0"),
        (["--search", "hook.tau=-1..2"], "--search hook.tau=-1..2, for iga: hook 'iga'"),
        (["--search", "optimizer.lr=1..2", "optimizer.lr=3"], "override 'optimizer.lr=...': it is searched"),
        (["--search", "lora.r=4,8", "--search", "lora.r=2,4"], "a key stands there twice"),
        (["output_dir=x"], "override 'output_dir=...': the search sets it"),
        (["--method", "igaa"], "unknown method 'igaa'; did you mean 'iga'"),
        (["--method", "iga", "--method", "iga"], "'iga' is named twice"),
        (["--hook", "nothing"], "nothing"),
        (["--folds", "some"], "--folds some: write all, or how many"),
        (["--folds", "0"], "--folds 0: write all"),
        (["--method", "two-domains"], r"two-domains: 2 training domain\(s\)"),
        (["data.domains=[law, science]"], r"erm-sft: 2 training domain\(s\) .* takes 3 or more"),
        (["data.validation=null"], "data.validation: nothing to select by"),
        (["--method", "leakage"], "leakage .* were trained on"),
        (["--search", "data.augment=0.1,0.2"], "none of the methods augments its data"),
        (["data.train=nowhere.jsonl"], "nowhere.jsonl"),
        (["train.groups_per_batch=99"], "64 groups, but one optimizer step takes 198"),
        (["-n", "2"], "engine.name is 'single'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(path, tmp_path, arguments, told):
    out = tmp_path / "t"
    result = CliRunner().invoke(main, ["tune", str(path), "--out", str(out), *arguments])
    assert result.exit_code == 2
    error = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    import re

    assert re.search(told, error[0]), error[0]
    assert not out.exists()


def test_a_dry_run_tells_the_price_and_writes_nothing(path, tmp_path):
    result = CliRunner().invoke(main, ["tune", str(path), "--out", str(tmp_path / "t"), "--dry-run"])
    assert result.exit_code == 0
    assert "budget of each method: 8 trials x 4 folds x 4 steps x 3 domains = 384 steps x domains" in result.output
    assert "iga: optimizer.lr=2e-05..0.002:log hook.tau=0.1..4:log" in result.output
    assert not (tmp_path / "t").exists()
    result = CliRunner().invoke(
        main, ["tune", str(path), "--out", str(tmp_path / "t"), "--dry-run", "--by", "in-domain"]
    )
    assert "only in-domain validation will choose" in result.output
    assert "8 trials x 1 fold x 4 steps x 4 domains = 128 steps x domains" in result.output


def test_the_written_selection_is_what_validate_shows(monkeypatch, path, tmp_path):
    searched(monkeypatch, path, tmp_path / "t", Planted(valley))
    text = (tmp_path / "t" / "tuned" / "iga.yaml").read_text()
    assert text.startswith("# method: iga\n")
    assert yaml.safe_load(text)["selection"]["by"] == "leave_one_domain_out"
    result = CliRunner().invoke(main, ["validate", str(tmp_path / "t" / "tuned" / "iga.yaml"), "--no-model"])
    assert "by: leave_one_domain_out" in result.output
    assert "selection: leave-one-domain-out, 3 trials" in result.output
    result = CliRunner().invoke(main, ["validate", str(path), "--no-model"])
    assert "selection: not stated" in result.output
