"""What a user can get wrong: one line that names file, line or option, nothing spent, nothing overwritten."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from igascale.cli import main
from igascale.errors import UserError
from igascale.isomers.factory import folder as folder_module
from igascale.isomers.factory.domains import write_defaults
from igascale.isomers.factory.options import load_options
from igascale.isomers.generator import generate
from igascale.isomers.seeds import write_seeds

from builds import build, contents
from faulty_server import FaultyServer, Plan
from oracle import Oracle

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def oracle():
    return Oracle(generate(3, seed=2))


@pytest.fixture
def seeds(tmp_path, oracle):
    write_seeds(tmp_path / "seeds.jsonl", oracle.seeds())
    return tmp_path / "seeds.jsonl"


def refused(match, *args, **options):
    with pytest.raises(UserError, match=match) as caught:
        build(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_no_key(tmp_path, seeds, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("IGASCALE_TEACHER_KEY", raising=False)
    refused(
        "no key for the teacher at http.*set OPENAI_API_KEY", seeds, tmp_path / "out", base_url="http://127.0.0.1:9/v1"
    )


def test_wrong_url_and_unknown_model(tmp_path, seeds, oracle):
    refused("is no http", seeds, tmp_path / "a", base_url="localhost:8000")
    with FaultyServer(oracle) as server:
        wrong = server.url.replace("/v1", "/v2")
        refused("is not a teacher's address.*most end in /v1", seeds, tmp_path / "b", base_url=wrong)
        refused("has no model 'techer'.*did you mean 'teacher'", seeds, tmp_path / "c", server, model="techer")
        build(
            seeds, tmp_path / "c", server
        )  # nothing was answered there: the name that is right needs no --allow-change
    assert [path.parent.name for path in tmp_path.glob("*/groups.jsonl")] == ["c"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"id": "a"', ":2: not valid JSON"),
        ("[1]", ":2: a seed is a JSON object"),
        ('{"id": "a"}', ":2: field 'problem' is missing or empty"),
        ('{"problem": "p", "anwser": "x"}', ":2: field 'anwser' is not a field of a seed.*did you mean 'answer'"),
        ('{"problem": ["p"]}', ":2: field 'problem' must be text, not list"),
        ('{"problem": "p", "meta": 3}', ":2: field 'meta' must be an object"),
        ('{"problem": "\\ud800"}', ":2: field 'problem' holds half of a surrogate pair"),
        ("[" * 100_000, ":2: not JSON that can be read"),
        ('{"problem": "p", "id": ' + "7" * 5000 + "}", ":2: not JSON that can be read"),
        ('{"id": "first", "problem": "another"}', ":2: id 'first' is already .*:1, with another problem"),
    ],
)
def test_a_bad_seed_is_named_before_anything_is_spent(tmp_path, line, words):
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"id": "first", "problem": "p"}\n' + line + "\n")
    refused(words, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_seeds(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    refused("no seeds in it", tmp_path / "empty.jsonl", tmp_path / "out")
    refused("no such file or folder of seeds", tmp_path / "missing.jsonl", tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("domains:\n  - name: law\n    description: courts\n  - name: art\n", ":4: domain 'art' has no description"),
        ("domains:\n  - name: law\n    description:\n  - name: art\n", ":3: domain 'law': description is empty"),
        ("domains:\n  - {name: law, description: courts}\n", ":2: isomers need at least two domains, this file has 1"),
        (
            "domains:\n  - {name: law, description: a}\n  - {name: law, description: b}\n",
            ":3: domain 'law' is there twice",
        ),
        (
            "domains:\n  - {name: law, descripton: a}\n",
            ":2: 'descripton' is not a known key.*did you mean 'description'",
        ),
        ("domain:\n  - {name: law, description: a}\n", ":1: 'domain' is not a known key"),
        ("domains:\n  - {name: 7, description: a}\n", ":2: a domain's name must be text"),
        (
            "domains:\n  - {name: law, description: a}\n  - {name: a/law, description: b}\n",
            ":3: domain 'a/law': a name is one line without '/'",
        ),
        (
            "domains:\n  - {name: law, description: a}\n  - {name: art, description: b, description: c}\n",
            ":3: 'description' is there twice",
        ),
        ("domains: [a]\ndomains: [b]\n", ":2: 'domains' is there twice"),
        ('domains:\n  - {name: "l\\uD800w", description: a}\n', ":2: a domain's name holds half of a surrogate pair"),
        ("domains: " + "[" * 2000, ": not a domains file"),
        ("domains: [\n", ":2: not valid YAML"),
        ("", ":1: expected 'domains:'"),
    ],
)
def test_domains_file(tmp_path, seeds, text, words):
    (tmp_path / "d.yaml").write_text(text)
    refused(r"d\.yaml" + words, seeds, tmp_path / "out", domains=str(tmp_path / "d.yaml"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("---\nname", "name", r"extract\.md:1: a prompt begins with"),
        ("name: extract", "name: verify", "name is 'verify', but this file is the prompt 'extract'"),
        ("version: 1", "versoin: 1", "'versoin' is not a known key"),
        ("takes: [problem]", "takes: [riddle]", r"takes must be \[problem\]"),
        ("{{problem}}", "{{problm}}", r"extract\.md:\d+: \{\{problm\}\} is not a field.*did you mean 'problem'"),
        ("{{problem}}", "the problem", "never uses {{problem}}"),
        ("# System", "# Sytem", r"extract\.md:\d+: '# Sytem' is not a section.*did you mean 'System'"),
        ("# User", "# System", "'# System' is there twice"),
        ("`step_count`", "`steps`", "never names 'step_count'"),
        ("# System\n", "# System\n{{problem}}\n", "fields belong under '# User'"),
    ],
)
def test_prompt_file(tmp_path, seeds, old, new, words):
    write_defaults(tmp_path / "mine")
    path = tmp_path / "mine" / "prompts" / "extract.md"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    refused(words, seeds, tmp_path / "out", prompts=str(path.parent))


def test_defaults_are_not_written_over(tmp_path):
    write_defaults(tmp_path)
    with pytest.raises(UserError, match="already exists"):
        write_defaults(tmp_path)


def test_defaults_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("precious")
    for place in (tmp_path / "file", tmp_path / "file" / "x", Path("/proc/x")):
        done = CliRunner().invoke(main, ["data", "build", "--write-defaults", str(place)])
        assert done.exit_code == 2 and "cannot be written to" in done.output, done.output
    assert (tmp_path / "file").read_text() == "precious"


def test_benchmark_files(tmp_path, seeds):
    refused("missing.jsonl: cannot read this file of texts", seeds, tmp_path / "out", decontaminate="missing.jsonl")
    refused("cannot read this file of texts", seeds, tmp_path / "out", decontaminate=str(tmp_path))
    (tmp_path / "b.jsonl").write_text('{"problem": "p"}\n{"problem": ' + "[" * 100_000 + "\n")
    refused("b.jsonl:2: not JSON that can be read", seeds, tmp_path / "out", decontaminate=str(tmp_path / "b.jsonl"))
    assert not (tmp_path / "out").exists()


def test_another_recipe_that_comes_to_nothing_leaves_the_folder_what_it_was(tmp_path, seeds, oracle):
    """build.json says what the files are made of, and they are the old ones."""
    out = tmp_path / "out"
    with FaultyServer(oracle) as server:
        build(seeds, out, server)
        before, claim = contents(out), (out / "build.json").read_text()
        with pytest.raises(UserError, match="does not answer"):
            build(
                seeds, out, base_url="http://127.0.0.1:9/v1", temperature=0.1, allow_change=True, max_retries=0
            )  # nobody listens there
        assert contents(out) == before and (out / "build.json").read_text() == claim
        build(seeds, out, server)  # the old recipe needs no --allow-change
        refused("temperature was 0.7, is 0.1", seeds, out, server, temperature=0.1)
        build(seeds, out, server, temperature=0.1, allow_change=True)
        build(seeds, out, server, temperature=0.1)
    assert '"temperature": 0.1' in (out / "build.json").read_text()
    assert json.loads((out / "manifest.json").read_text())["recipe"]["temperature"] == 0.1


def test_a_folder_of_something_else(tmp_path, seeds, oracle):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    refused("holds other files \\(thesis.txt\\)", seeds, tmp_path / "full")
    refused("is a file; --out names a folder", seeds, seeds)
    with FaultyServer(oracle) as server:
        build(seeds, tmp_path / "out", server)
        before, asked = contents(tmp_path / "out"), len(server.log)
        other = tmp_path / "other.jsonl"
        write_seeds(other, oracle.seeds()[:2])
        refused(
            "the bank was .*seeds.jsonl \\(3 seeds\\), is .*other.jsonl \\(2 seeds\\)", other, tmp_path / "out", server
        )
        refused("temperature was 0.7, is 0.1", seeds, tmp_path / "out", server, temperature=0.1)
        assert contents(tmp_path / "out") == before and len(server.log) == asked
        build(other, tmp_path / "out", server, allow_change=True)
        assert len(server.log) == asked  # these two were answered
        build(seeds, tmp_path / "out", server, allow_change=True)
    assert contents(tmp_path / "out") == before


def test_an_edited_prompt_is_another_recipe(tmp_path, seeds, oracle):
    write_defaults(tmp_path / "mine")
    prompts = tmp_path / "mine" / "prompts"
    with FaultyServer(oracle) as server:
        build(seeds, tmp_path / "out", server, prompts=str(prompts))
        path = prompts / "verify.md"
        path.write_text(path.read_text().replace("trust neither", "trust none"))
        refused(r"prompts\.verify was 2-.*, is 2-", seeds, tmp_path / "out", server, prompts=str(prompts))
        asked = len(server.log)
        told = build(seeds, tmp_path / "out", server, prompts=str(prompts), allow_change=True)
        assert all("trust none" in call.system for call in server.log[asked:])
        assert len(server.log) - asked == 3 * 4  # the verdicts anew; what was extracted and told stays
    assert told.manifest["groups"] == 3


def test_a_prompt_that_is_edited_during_the_run_waits_for_the_next(tmp_path, seeds, oracle):
    write_defaults(tmp_path / "mine")
    path = tmp_path / "mine" / "prompts" / "verify.md"

    def edit(messages, body):
        path.write_text(path.read_text().replace("trust neither", "trust none"))
        return oracle(messages, body)

    with FaultyServer(edit) as server:
        told = build(seeds, tmp_path / "out", server, prompts=str(path.parent))
        assert not any("trust none" in call.system for call in server.log)
    assert "verify.md was changed meanwhile. This run used the text it began with" in told.text
    assert told.manifest["groups"] == 3


def test_a_bank_that_is_edited_during_the_run(tmp_path, seeds, oracle):
    def edit(messages, body):
        if len(server.log) == 20:
            write_seeds(seeds, oracle.seeds()[1:])
        return oracle(messages, body)

    with FaultyServer(edit) as server:
        refused("seeds.jsonl: was changed meanwhile", seeds, tmp_path / "out", server)
        assert not (tmp_path / "out" / "groups.jsonl").exists()
        told = build(seeds, tmp_path / "out", server, allow_change=True)
    assert told.manifest["groups"] == 2


def test_two_builders_of_one_store(tmp_path, seeds, oracle):
    with FaultyServer(oracle) as server:
        build(seeds, tmp_path / "out", server)
        before = contents(tmp_path / "out")
        code = "import sys; from igascale.isomers.teacher.store import Store; s = Store.open(sys.argv[1]); print(1, flush=True); input()"
        holder = subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "out" / "answers.sqlite"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert holder.stdout.readline() == "1\n"
        refused(f"is in use: process {holder.pid} on", seeds, tmp_path / "out", server)
        holder.communicate("\n")
    assert contents(tmp_path / "out") == before


def test_full_disk_while_the_files_are_made(tmp_path, seeds, oracle, monkeypatch):
    with FaultyServer(oracle) as server:
        build(seeds, tmp_path / "out", server)
    before = contents(tmp_path / "out")

    def no_space(self, line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    monkeypatch.setattr(folder_module.LinesFile, "write_line", no_space)
    message = refused("No space left on device", seeds, tmp_path / "out", offline=True)
    assert "run the same command again" in message
    assert contents(tmp_path / "out") == before and not (tmp_path / "out" / ".new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small tmpfs")
def test_a_disk_that_really_is_full(tmp_path):
    """A tmpfs of 400 kB: the store fills it. After it has grown, the same command goes on."""
    oracle = Oracle(generate(25, seed=2))
    write_seeds(tmp_path / "seeds.jsonl", oracle.seeds())
    place = tmp_path / "small"
    place.mkdir()
    script = r"""
mount -t tmpfs -o size=400k tmpfs "$1" || exit 99
shift
"$@"; echo "first: $?"
mount -o remount,size=20m "$PLACE"
"$@"; echo "second: $?"
"""
    with FaultyServer(oracle) as server:
        arguments = [*map(str, (tmp_path / "seeds.jsonl", "--out", place / "out", "--model", "teacher"))]
        command = [sys.executable, "-m", "igascale", "data", "build", *arguments, "--base-url", server.url]
        done = subprocess.run(
            ["unshare", "--mount", "bash", "-c", script, "bash", str(place), *command],
            cwd=ROOT,
            env={**os.environ, "PLACE": str(place)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        if "first:" not in done.stdout:
            pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
        assert "first: 2" in done.stdout and "second: 0" in done.stdout, done.stdout + done.stderr
        assert "disk is full" in done.stderr and "Traceback" not in done.stderr
        assert "25 groups, 100 pairs" in " ".join(done.stdout.split())
        resent = len(server.log) - len({call.content for call in server.log})
        assert resent <= 32  # what could not be stored


def test_options_file(tmp_path, seeds, oracle):
    config = tmp_path / "build.yaml"
    config.write_text(
        f"seeds: {seeds}\nout: {tmp_path / 'out'}\nmodel: teacher\nalignment: 8e-1\nvotes: 1\ndecontaminate: []\n"
    )
    options = load_options({"votes": 3}, config)
    assert (options.alignment, options.votes, options.model) == (0.8, 3, "teacher")
    for text, words in {
        "modle: x\n": "unknown key 'modle'; did you mean 'model'",
        "votes: many\n": "'votes': Input should be a valid integer",
        "alignment: 2\n": "'alignment': Input should be less than or equal to 1",
        "- a\n": "must hold keys and values",
        "seeds: a\nseeds: b\n": "twice",
        "seeds: " + "[" * 2000: "not a configuration",
    }.items():
        config.write_text(text)
        with pytest.raises(UserError, match=words):
            load_options({"seeds": "s", "out": "o", "model": "m"} if "modle" not in text else {}, config)
    with pytest.raises(UserError, match="missing option --model"):
        load_options({"seeds": "s", "out": "o"})


def test_the_command_line(tmp_path, seeds, oracle):
    with FaultyServer(oracle) as server:
        (tmp_path / "build.yaml").write_text(f"model: teacher\nbase_url: {server.url}\nconcurrency: 3\n")
        arguments = [
            "data",
            "build",
            str(seeds),
            "--out",
            str(tmp_path / "out"),
            "--config",
            str(tmp_path / "build.yaml"),
        ]
        done = CliRunner().invoke(main, [*arguments, "--preview", "2"])
        assert done.exit_code == 0, done.output
        for words in ("Nothing more was asked", oracle.groups[0].instances[1].answer, "medicine"):
            assert words in done.output
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0 and "3 groups, 12 pairs" in done.output
        done = CliRunner().invoke(main, [*arguments, "--alignment", "7"])
        assert done.exit_code == 2 and "--alignment: Input should be less than or equal to 1" in done.output
    done = CliRunner().invoke(main, ["data", "build", "--write-defaults", str(tmp_path / "mine")])
    assert done.exit_code == 0 and (tmp_path / "mine" / "prompts" / "solve.md").exists()


def test_a_teacher_that_fails_on_one_seed_leaves_it_for_the_next_run(tmp_path, seeds, oracle):
    from faulty_server import Fail

    sick = oracle.groups[1].instances[0].problem

    def answer(messages, body):
        if sick in messages[-1]["content"] and server.sick:
            raise Fail("500")
        return oracle(messages, body)

    with FaultyServer(answer, Plan(latency=0.01)) as server:
        server.sick = True
        with pytest.raises(UserError, match="1 seeds have no outcome") as caught:
            build(seeds, tmp_path / "out", server, max_retries=1)
        assert caught.value.exit_code == 75
        manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert (manifest["complete"], manifest["unfinished"], manifest["groups"]) == (False, 1, 2)
        server.sick = False
        told = build(seeds, tmp_path / "out", server)
    assert told.manifest["complete"] and told.manifest["groups"] == 3


def test_help_is_quick_and_light():
    code = (
        "import sys; from click.testing import CliRunner; from igascale.cli import main\n"
        "for a in (['--help'], ['data', '--help'], ['data', 'build', '--help']):\n"
        "    assert CliRunner().invoke(main, a).exit_code == 0\n"
        "print([m for m in ('torch', 'openai', 'datasets', 'pandas', 'pyarrow', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_build_needs_no_torch(tmp_path, seeds, oracle):
    """The whole of it, in a process of its own."""
    with FaultyServer(oracle) as server:
        code = (
            "import sys; from click.testing import CliRunner; from igascale.cli import main\n"
            "done = CliRunner().invoke(main, ['data', 'build', *sys.argv[1:]]); print(done.output)\n"
            "assert done.exit_code == 0\n"
            "print([m for m in ('torch', 'datasets', 'pandas', 'transformers') if m in sys.modules])"
        )
        arguments = [*map(str, (seeds, "--out", tmp_path / "out", "--model", "teacher", "--base-url", server.url))]
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("[]\n"), done.stdout + done.stderr


def test_answers_of_another_program(tmp_path, seeds):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "answers.sqlite").write_text("not a database, and long enough to be looked at as one" * 30)
    refused("answers.sqlite: ", seeds, tmp_path / "out", base_url="http://127.0.0.1:9/v1")
