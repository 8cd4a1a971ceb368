"""Rows and jobs of a study: each run's configuration is what the same words on the command line of `train` give."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from igascale.cli import main
from igascale.config import load_config
from igascale.errors import UserError
from igascale.studies import matrix, plan, records
from igascale.studies.jobs import Launching, evaluation_command
from igascale.studies.queue import shares
from igascale.studies.schema import read_study

from study_world import finish, made_up, world, write_study


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matrix")
    world(folder)
    return folder


def rows_of(folder, overrides=(), **keys):
    return matrix.build(read_study(write_study(folder, **keys)), folder / "out", overrides)


def test_methods_times_axes_times_seeds(folder):
    rows = rows_of(
        folder,
        methods=["erm-sft", {"method": "iga", "axes": {"hook.tau": [0.1, 1e-5]}}],
        axes={"data.num_domains": [2, 4]},
        seeds=[3, 5],
        base_model=True,
    )
    names = [row.name for row in rows]
    assert names == [
        "base model",
        "erm-sft [data.num_domains=2]",
        "erm-sft [data.num_domains=4]",
        *(f"iga [data.num_domains={n}, hook.tau={tau}]" for n in (2, 4) for tau in ("0.1", "1.0e-05")),
    ]
    jobs = [job for row in rows for job in row.jobs.values()]
    assert len(jobs) == 1 + 6 * 2 == len({job.folder for job in jobs}) == len({job.name for job in jobs})
    config = rows[-1].jobs[5].resolve()
    same = load_config(
        folder / "run.yaml",
        ["data.num_domains=4", "hook.tau=0.00001", "seed=5", f"output_dir={config.output_dir}"],
        "iga",
    )
    assert config == same
    assert config.hook.options["tau"] == 1e-5  # a number, though YAML 1.1 has 1e-05 for a string
    assert not rows[0].jobs[None].trains


def test_what_is_set_comes_in_the_order_of_its_closeness(folder):
    keys = {
        "set": {"optimizer.lr": 1.0, "train.max_steps": 2},
        "methods": [{"method": "iga", "set": {"optimizer.lr": 2.0}}, "irm"],
    }
    first, second = rows_of(folder, **keys)
    assert [row.jobs[0].resolve().optimizer.lr for row in (first, second)] == [2.0, 1.0]
    first, _ = rows_of(folder, ["optimizer.lr=3"], **keys)
    assert first.jobs[0].resolve().optimizer.lr == 3.0 and first.jobs[0].resolve().train.max_steps == 2


@pytest.mark.parametrize("override", ["hook.tau=1", "seed=1", "output_dir=x", "tau", "=1"])
def test_an_override_that_the_study_itself_sets(folder, override):
    with pytest.raises(UserError, match=r"is an axis of the study|set by the study itself|write key=value"):
        rows_of(folder, [override], methods=[{"method": "iga", "axes": {"hook.tau": [1]}}])


def test_names_that_become_one_folder(folder):
    with pytest.raises(UserError, match="share"):
        rows_of(folder, methods=[{"method": "iga", "name": "a b"}, {"method": "irm", "name": "a-b"}])


def test_a_searched_base_is_not_inherited_by_another_method(folder):
    tuned = yaml.safe_load((folder / "run.yaml").read_text()) | {"selection": {"by": "in_domain", "trials": 4}}
    (folder / "tuned.yaml").write_text(yaml.safe_dump(tuned))
    base = str(folder / "tuned.yaml")
    own, other = rows_of(
        folder, methods=[{"name": "erm", "base": base, "stands_for": "erm-sft"}, {"method": "iga", "base": base}]
    )
    assert own.jobs[0].resolve().selection.by == "in_domain" and own.stands_for == "erm-sft"
    assert other.jobs[0].resolve().selection is None


def test_a_search_gives_each_method_its_own_base(folder):
    (folder / "search" / "tuned").mkdir(parents=True)
    selection = {"by": "leave_one_domain_out", "trials": 4}
    found = yaml.safe_load((folder / "run.yaml").read_text()) | {
        "hook": {"name": "iga", "tau": 3.0},
        "selection": selection,
    }
    (folder / "search" / "tuned" / "iga.yaml").write_text(yaml.safe_dump(found))
    (row,) = rows_of(folder, methods=["iga"], tuned=str(folder / "search"))
    config = row.jobs[0].resolve()
    assert config.hook.options["tau"] == 3.0 and config.selection.trials == 4  # not reset by the method of that name
    assert (row.method, row.stands_for) == ("iga", "iga")
    with pytest.raises(UserError, match=r"has no tuned/irm.yaml; search with igascale tune --method irm"):
        rows_of(folder, methods=["iga", "irm"], tuned=str(folder / "search"))


def test_evaluations_name_their_files_and_layers(folder):
    given = {"benchmarks": {"math": "data/math"}, "max_new_tokens": 9, "options": ["--gir"]}
    (row,) = rows_of(folder, methods=["iga"], eval=given, tables=[5])
    job = row.jobs[0]
    command = evaluation_command(job, job.resolve().model_dump())
    data = folder / "data"
    assert command == [
        *("eval", str(job.folder), "--id", str(data / "validation.jsonl"), "--ood", str(data / "ood.jsonl")),
        *("--max-new-tokens", "9", "--benchmark", "math=data/math", "--layers", "table5", "--gir"),
        *("--out", str(job.folder / "evaluation"), "--overwrite"),
    ]


def test_problems_before_anything_starts(folder):
    def problem(processes=None, **keys):
        study = read_study(write_study(folder, **keys))
        with pytest.raises(UserError) as error:
            plan.check(matrix.build(study, folder / "out"), study, Launching(processes))
        return str(error.value)

    assert "unknown key 'optimizer.lrs'" in problem(methods=["iga"], set={"optimizer.lrs": 1})
    assert "erm-sft, seed 0: unknown key 'hook.tau'; 'mean' takes no options" in problem(
        methods=["erm-sft", "iga"], set={"hook.tau": 1}
    )
    assert "iga, seed 0: nowhere.jsonl" in problem(methods=["iga"], set={"data.train": "nowhere.jsonl"})
    assert "eval.id: there is no file nowhere.jsonl" in problem(methods=["iga"], eval={"id": "nowhere.jsonl"})
    assert "benchmarks.math: there is no file ./m" in problem(methods=["iga"], eval={"benchmarks": {"math": "./m"}})
    assert "needs 2 domains" in problem(methods=["iga"], set={"data.num_domains": 1})
    assert "engine.name is 'single'" in problem(2, methods=["iga"])
    many = problem(methods=["iga", "irm"], set={"optimizer.lr": -1}, seeds=[0, 1])
    assert many.startswith("iga, seed 0 and 3 more jobs: ") and len(many.splitlines()) == 1


def test_a_folder_is_one_studys(folder, tmp_path):
    def run(out, *more, **keys):
        study = write_study(folder, **keys)
        return CliRunner().invoke(main, ["study", str(study), "--out", str(out), "--tables", *more])

    out = tmp_path / "out"
    first = run(out, methods=["iga", "irm"])
    assert first.exit_code == 0, first.output
    wider = run(out, methods=["iga", "irm", "erm-sft"])
    assert wider.exit_code == 0 and "1 of 3 jobs are new in this study" in wider.output
    narrower = run(out, methods=["irm", "erm-sft"])
    assert narrower.exit_code == 2 and "was made from another study: it holds 'iga, seed 0'" in narrower.output
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").touch()
    refused = run(foreign, methods=["iga"])
    assert refused.exit_code == 2 and "holds no study" in refused.output
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]
    (out / "plan.json").write_text("{")
    assert "is not a study's plan" in run(out, methods=["irm"]).output


def test_a_finished_job_is_not_used_under_other_settings(folder, tmp_path):
    def check(**keys):
        study = read_study(write_study(folder, **({"methods": ["iga"]} | keys)))
        plan.check(matrix.build(study, tmp_path), study, Launching())

    study = read_study(write_study(folder, methods=["iga"], base_model=True))
    rows = matrix.build(study, tmp_path)
    for row in rows:
        for job in row.jobs.values():
            finish(job, made_up([[True]], [[False]]))
    check()
    check(set={"logging.every": 5})
    with pytest.raises(UserError, match=r"iga, seed 0 was begun with other settings: optimizer.lr was 0.0002, is 0.1"):
        check(set={"optimizer.lr": 0.1})
    with pytest.raises(UserError, match=r"was evaluated with other settings: options were '--max-new-tokens 4"):
        check(eval={"max_new_tokens": 5})
    data = Path(folder / "data" / "ood.jsonl")
    kept = data.read_text()
    data.write_text("\n".join(kept.splitlines()[1:]) + "\n")
    with pytest.raises(UserError, match=r"ood.jsonl has other contents"):
        check()
    data.write_text(kept)
    result = tmp_path / "runs" / "iga-seed0" / "evaluation" / "evaluation.json"
    result.write_text(result.read_text() + " ")
    with pytest.raises(UserError, match="is not what this job wrote"):
        check()


def test_dry_run_writes_nothing(folder, tmp_path):
    out = tmp_path / "out"
    study = write_study(folder, methods=["iga", "irm"], seeds=[0, 1])
    result = CliRunner().invoke(
        main, ["study", str(study), "--out", str(out), "--dry-run", "--only", "iga", "--limit", "1"]
    )
    assert result.exit_code == 0, result.output
    assert "4 jobs in" in result.output and ", 1 of them to be done" in result.output
    assert not out.exists()
    unknown = CliRunner().invoke(main, ["study", str(study), "--out", str(out), "--dry-run", "--only", "ig"])
    assert unknown.exit_code == 2 and "no job is called so; there are iga, irm" in unknown.output


def test_jobs_that_run_at_once_share_the_machine(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("igascale.studies.queue.ranks.has_gpu", lambda: False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    assert [dict(share.environ) for share in shares(Launching(), 4)] == [{"OMP_NUM_THREADS": "2"}] * 4
    monkeypatch.setattr("igascale.studies.queue.ranks.has_gpu", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    given = [share.environ["CUDA_VISIBLE_DEVICES"] for share in shares(Launching(2), 2)]
    assert given == ["4,5", "6,7"]
    with pytest.raises(UserError, match="3 jobs at a time with 2 processes each need 6 GPUs; 4 are visible"):
        shares(Launching(2), 3)


def test_the_plan_is_readable(folder, tmp_path):
    study = write_study(folder, methods=["iga"])
    CliRunner().invoke(main, ["study", str(study), "--out", str(tmp_path / "o"), "--tables"])
    assert json.loads((tmp_path / "o" / "plan.json").read_text())["jobs"] == {"iga-seed0": "iga, seed 0"}


def test_values_that_json_has_no_words_for(folder, tmp_path):
    (row,) = rows_of(folder, methods=[{"method": "iga", "set": {"hook.tau": float("inf"), "x": [1, None]}}])
    assert matrix.shown(row.settings) == {"hook.tau": ".inf", "x": "[1, null]"}
    assert all(yaml.safe_load(text) == row.settings[key] for key, text in matrix.shown(row.settings).items())


def test_a_folder_that_is_evaluated_on_is_known_by_its_contents(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.jsonl").write_text("1")
    before = records.contents(tmp_path)
    assert records.contents(tmp_path) == before
    (tmp_path / "a" / "one.jsonl").write_text("2")
    assert records.contents(tmp_path) != before
    (tmp_path / "a" / "one.jsonl").write_text("1")
    assert records.contents(tmp_path) == before
    (tmp_path / "a" / "one.jsonl").rename(tmp_path / "a" / "two.jsonl")
    assert records.contents(tmp_path) != before


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"benchmarks": {"maths": "data/MATH/x"}}, r"eval: .*maths.*did you mean 'math'"),
        ({"layers": "table6"}, r"eval: --layers 'table6' is not a layer"),
        ({"options": ["--held-outs", "x"]}, r"eval: .*--held-outs"),
        ({"options": ["--endpoint", "http://localhost:1/v1"]}, r"--endpoint would have one served model answer"),
        ({"options": ["--checkpoint", "all"]}, r"--checkpoint and a job's result is that of its final adapter"),
    ],
)
def test_what_eval_would_refuse_is_told_before_anything_is_trained(folder, section, told):
    study = read_study(write_study(folder, methods=["iga"], eval=section))
    with pytest.raises(UserError, match=told):
        plan.check(matrix.build(study, folder / "out"), study, Launching())


def test_a_reference_that_is_no_row(folder):
    with pytest.raises(
        UserError, match=r"reference: no row is called 'igaa'; did you mean 'iga'\?; there are erm-sft, iga"
    ):
        rows_of(folder, methods=["erm-sft", "iga"], reference="igaa")
    rows_of(folder, methods=["erm-sft"])  # the default one may be missing; Table 2 says so
