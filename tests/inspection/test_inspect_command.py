"""`igascale data inspect` on good and bad paths: what is chosen, how many of how many, and one line where it cannot."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.isomers.generator import generate
from igascale.isomers.inspection.browse import Selection, Wanted
from igascale.isomers.schema import write_groups

from launching import environment
from view_cases import group

COUNT = 24


@pytest.fixture(scope="module")
def groups():
    return generate(COUNT, ["law", "science", "medicine"], seed=4)


@pytest.fixture
def build(tmp_path, groups):
    """A build folder: groups, rejections, and a manifest that knows their hashes."""
    folder = tmp_path / "build"
    folder.mkdir()
    write_groups(folder / "groups.jsonl", groups)
    reasons = [("verify", "alignment", "law 0.71 is below 0.85")] * 7 + [("extract", "reply_length", "cut off")] * 2
    entries = [
        {"seed_id": f"r{number}", "stage": stage, "reason": reason, "detail": detail, "problem": f"Problem {number}"}
        for number, (stage, reason, detail) in enumerate(reasons)
    ]
    (folder / "rejected.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    digest = hashlib.sha256((folder / "groups.jsonl").read_bytes()).hexdigest()
    manifest = {"teacher": "some-model", "files": {"groups.jsonl": {"sha256": digest}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def invoke(*arguments):
    return CliRunner().invoke(main, ["data", "inspect", *map(str, arguments)], env={"COLUMNS": "140"})


def shown(*arguments):
    """The ids of the groups printed, and the last line."""
    result = invoke(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    lines = result.output.rstrip().splitlines()
    return [line.split(" ")[0] for line in lines if " · seed " in line], lines[-1]


def refused(*arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    (line,) = [line for line in result.output.splitlines() if line.lower().startswith("error: ")]
    return line


def test_the_first_five_of_all(build, groups):
    ids, last = shown(build)
    assert ids == [one.id for one in groups[:5]]
    assert last == f"the first 5 of the {COUNT} groups in groups.jsonl (--limit, --sample and --grep show others)"
    ids, last = shown(build / "groups.jsonl", "--limit", 100)
    assert ids == [one.id for one in groups]
    assert last == f"all {COUNT} groups in groups.jsonl"


def test_groups_by_id_whatever_the_limit(build, groups):
    wanted = [groups[17].id, groups[3].id]
    ids, last = shown(build, "--group", wanted[0], "--group", wanted[1], "--limit", 1)
    assert ids == wanted[::-1]  # in the file's order
    assert last.startswith(f"all 2 that match, of the {COUNT} groups in groups.jsonl")
    assert shown(build, "--group", wanted[0])[1].startswith(f"1 of the {COUNT} groups in groups.jsonl matches")


def test_groups_by_seed_kind_and_text(build, groups):
    assert shown(build, "--seed-id", groups[9].seed_id)[0] == [groups[9].id]
    kinds = [one.id for one in groups if one.kind == "rules"]
    assert shown(build, "--kind", "rules", "--limit", 50)[0] == kinds
    having = [one.id for one in groups if any("patient" in f"{i.problem} {i.cot}".lower() for i in one.instances)]
    assert 0 < len(having) < COUNT
    assert shown(build, "--grep", "PATIENT", "--limit", 50)[0] == having
    assert "none of its" in refused(build, "--grep", "patient", "--domain", "law")  # only what is shown is searched
    node = next(one for one in groups if one.kind == "arithmetic").dag.nodes[-1].text
    assert shown(build, "--grep", node, "--limit", 1)[0]  # graphs are searched too


def test_reading_stops_at_the_limit_and_says_where(build, groups):
    matching = [number for number, one in enumerate(groups, start=1) if one.kind == "rules"]
    _, last = shown(build, "--kind", "rules", "--limit", 2)
    where = f"the first 2 that match, found in the first {matching[1]} of the {COUNT} groups in groups.jsonl"
    assert last.startswith(where)
    with (build / "groups.jsonl").open("a") as file:
        file.write("not json\n")
    assert shown(build, "--limit", 3)[1].startswith(f"the first 3 of the {COUNT + 1} groups")  # counted, not checked
    assert f"groups.jsonl:{COUNT + 1}: not valid JSON" in refused(build, "--limit", COUNT + 1)


def test_a_sample_is_drawn_from_the_whole_file(build, groups):
    one, last = shown(build, "--sample", 6)
    assert one == shown(build, "--sample", 6)[0]
    assert len(set(one)) == 6
    assert [g.id for g in groups if g.id in one] == one  # in the file's order
    assert last.startswith(f"6 groups drawn at random (seed 0), of the {COUNT} groups in groups.jsonl")
    assert one != shown(build, "--sample", 6, "--seed", 1)[0]
    path = build / "groups.jsonl"
    draws = [[g.id for g in Selection(path, Wanted(sample=4, seed=seed))] for seed in range(60)]
    assert {name for draw in draws for name in draw} == {g.id for g in groups}
    rules = sum(g.kind == "rules" for g in groups)
    assert (
        f"1 group drawn at random (seed 0), of the {rules} that match"
        in shown(build, "--sample", 1, "--kind", "rules")[1]
    )
    assert len(shown(build, "--sample", 1000)[0]) == COUNT


def test_only_the_domains_asked_for(build):
    text = invoke(build, "--domain", "law", "--domain", "medicine", "--limit", 1).output
    assert "not shown: science" in text
    assert "no domain 'medicin'; its domains are law, science, medicine; did you mean 'medicine'?" in refused(
        build, "--domain", "medicin"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--group", "4-0001"], f"no group '4-0001' in its {COUNT} groups; did you mean '4-000"),
        (["--seed-id", "seed-4-0001"], "no seed 'seed-4-0001' in its"),
        (["--kind", "rule"], "did you mean 'rules'?"),
        (["--grep", "zebra"], f"none of its {COUNT} groups meets all of what was asked for"),
        (["--kind", "rules", "--grep", "zebra"], "none of its"),
        (["--sample", "2", "--limit", "3"], "--sample draws from the whole file"),
        (["--rejected", "--kind", "rules"], "--rejected goes with --seed-id, --grep and --limit only"),
        (["--rejected", "--seed-id", "r11"], "nothing of seed 'r11' was rejected; did you mean 'r1'?"),
    ],
)
def test_what_is_not_there_is_one_line(build, arguments, message):
    assert message in refused(build, *arguments)


def test_paths_that_will_not_do(tmp_path, build):
    assert "absent.jsonl: cannot read this file of groups (No such file or directory)" in refused(
        tmp_path / "absent.jsonl"
    )
    assert "give a file of groups, or the folder of a finished build" in refused(tmp_path)
    write_groups(tmp_path / "train.jsonl", [group()])
    assert "no groups.jsonl in this folder; name one of its files: train.jsonl" in refused(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    assert "empty.jsonl: no groups in it" in refused(tmp_path / "empty.jsonl")
    (tmp_path / "seeds.jsonl").write_text('{"id": "s", "problem": "p"}\n')
    assert "seeds.jsonl:1: field 'problem': is not a known field" in refused(tmp_path / "seeds.jsonl")
    os.mkfifo(tmp_path / "pipe")
    assert "pipe: is no regular file; write the groups to one first" in refused(tmp_path / "pipe")
    (build / "groups.jsonl").unlink()
    assert "groups.jsonl: cannot read" in refused(build)
    assert invoke(build, "--rejected").exit_code == 0


def test_rejections_are_listed_and_counted(build):
    text = invoke(build, "--rejected", "--limit", 3).output
    assert text.count("law 0.71 is below 0.85") == 3
    assert "Problem 2" in text
    assert "Problem 3" not in text
    rows = [line.split() for line in text.splitlines()]
    assert ["verify", "alignment", "7"] in rows
    assert ["extract", "reply_length", "2"] in rows
    assert text.rstrip().endswith("3 of 9 rejections shown")
    assert (
        "1 of 1 rejections shown (of 9 in the file, the others do not match)"
        in invoke(build, "--rejected", "--seed-id", "r8").output
    )
    assert ["extract", "reply_length", "2"] in [
        line.split() for line in invoke(build / "rejected.jsonl", "--rejected", "--grep", "CUT OFF").output.splitlines()
    ]
    with (build / "rejected.jsonl").open("a") as file:
        file.write('{"seed_id": "x", "stage": "verify"}\n')
    assert "rejected.jsonl:10: field 'reason': must be a string" in refused(build, "--rejected")
    (build / "rejected.jsonl").unlink()
    assert "rejected.jsonl: cannot read this file of rejections (No such file or directory)" in refused(
        build, "--rejected"
    )


def test_a_long_field_of_a_rejection_is_said_to_be_left_out(build):
    entry = {
        "seed_id": "s",
        "stage": "extract",
        "reason": "dag_cycle",
        "draft": {"nodes": ["x" * 400]},
        "domain": "law",
    }
    (build / "rejected.jsonl").write_text(json.dumps(entry) + "\n")
    text = invoke(build, "--rejected").output
    assert "draft: (415 characters, in rejected.jsonl and on the page)" in text
    assert "domain: law" in text
    invoke(build, "--html", build / "page.html")
    assert "x" * 400 in (build / "page.html").read_text()


def test_many_reasons_do_not_fill_the_screen(build):
    with (build / "rejected.jsonl").open("a") as file:
        for number in range(60):
            file.write(json.dumps({"seed_id": "x", "stage": "verify", "reason": f"reason {number}"}) + "\n")
    text = invoke(build, "--rejected").output
    assert "23 other reasons" in text  # 62 in all, 39 by name
    assert " 23\n" in "\n".join(line.rstrip() for line in text.splitlines())


def test_a_page_of_a_build_has_all_that_is_in_it(build, tmp_path):
    out = tmp_path / "out.html"
    result = invoke(build, "--html", out, "--kind", "rules")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"{out}: all ")
    text = out.read_text()
    assert "some-model" in text
    assert "reply_length" in text
    assert "Warning:" not in text
    assert text.count("<article") == text.count('data-kind="rules"') >= 3
    assert "of the 24 groups in groups.jsonl" in text
    assert "none of its" in refused(build, "--html", tmp_path / "none.html", "--grep", "zebra")
    assert not (tmp_path / "none.html").exists()
    assert "exists and is no page" in refused(build, "--html", build / "manifest.json")


def test_a_file_that_is_not_the_manifests_is_said_to_be(build, groups):
    assert "warning" not in invoke(build).output
    write_groups(build / "groups.jsonl", groups[1:])
    result = invoke(build, "--html", build / "page.html")
    assert "groups.jsonl: is not the file that manifest.json describes (another SHA-256)" in result.output
    assert "is not the file that manifest.json describes" in (build / "page.html").read_text()


def test_a_build_that_is_not_complete_is_said_to_be(build):
    (build / "manifest.json").write_text('{"complete": false, "unfinished": 3}')
    assert "this build is not complete (3 seeds unfinished); run it again to go on" in invoke(build).output


@pytest.mark.parametrize(
    ("manifest", "warning"),
    [("{", "cannot be read"), ("[1]", "is no JSON object"), ('{"files": 3}', None), ("{}", None)],
)
def test_a_manifest_that_cannot_be_used_is_no_obstacle(build, manifest, warning):
    (build / "manifest.json").write_text(manifest)
    result = invoke(build, "--limit", 1)
    assert result.exit_code == 0
    assert (warning in result.output) if warning else ("warning" not in result.output)


def test_a_reader_that_goes_away_is_no_error(build):
    command = f"{sys.executable} -m igascale data inspect {build} --limit 24 | head -n 2"
    done = subprocess.run(["bash", "-c", command], env=environment(), capture_output=True, text=True, timeout=240)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""


def test_a_large_file_is_never_in_memory(tmp_path):
    """Twenty times the file costs next to nothing more: the peak of a process that samples it."""
    code = (
        "import re, sys\nfrom pathlib import Path\n"
        "from igascale.isomers.inspection.browse import Selection, Wanted\n"
        "assert len(list(Selection(Path(sys.argv[1]), Wanted(sample=3)))) == 3\n"
        "print(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])"
    )
    peaks = []
    for count in (100, 2000):
        path = tmp_path / f"{count}.jsonl"
        write_groups(path, (group(f"g{number}", meta={"filler": "x" * 10_000}) for number in range(count)))
        done = subprocess.run(
            [sys.executable, "-c", code, path], env=environment(), capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout))
    assert (tmp_path / "2000.jsonl").stat().st_size > 20e6
    # KiB, of the process itself: ru_maxrss would begin with what this one has.
    assert peaks[1] - peaks[0] < 6_000  # the ids that must be unique are kept, the groups are not


def test_selection_reads_no_further_than_it_must(tmp_path, groups):
    path = tmp_path / "groups.jsonl"
    write_groups(path, groups)
    selection = Selection(path, Wanted(limit=2))
    assert len(list(selection)) == 2
    assert (selection.read, selection.total) == (2, COUNT)
    selection = Selection(path, Wanted(groups=(groups[4].id,)))
    assert [one.id for one in selection] == [groups[4].id]
    assert selection.read == 5
    os.remove(path)
