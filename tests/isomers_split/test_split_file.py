"""Splits by clusters of seeds: nothing on two sides, sizes as asked, the same whatever the order; and the files of it."""

import json
import random
from collections import Counter
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from igascale.cli import main
from igascale.errors import UserError
from igascale.isomers import split_file as split_module
from igascale.isomers.generator import generate
from igascale.isomers.leakage import form_of, prove, sha256_of
from igascale.isomers.schema import Instance, IsomerGroup, iter_groups, read_groups, write_groups
from igascale.isomers.similarity import sketch
from igascale.isomers.split import Clusters, assign, divide
from igascale.isomers.split_file import split_file

WORDS = [f"{a}{b}{c}" for a in ("ka", "lo", "mi") for b in ("ren", "tos", "vul") for c in ("da", "fex", "gor")]


def problem(number):
    """A problem that is like no other number's, and like each of its own variants."""
    return " ".join(random.Random(number).choices(WORDS, k=40))


@st.composite
def banks(draw):
    """Groups of seeds, some telling the same problem, or nearly, under different seeds."""
    count = draw(st.integers(4, 30))
    drawn = draw(
        st.lists(
            st.tuples(st.integers(0, count), st.integers(0, 3 * count), st.sampled_from(("", "Code amber. ", "So: "))),
            min_size=count,
            max_size=2 * count,
        )
    )
    return [
        IsomerGroup(f"g{i}", f"s{seed}", (Instance("law", prefix + problem(number), "", "x", f"g{i}/law"),))
        for i, (seed, number, prefix) in enumerate(drawn)
    ]


def shared(parts, key):
    """What two parts have in common."""
    sides = Counter(value for groups in parts.values() for value in {key(group) for group in groups})
    return [value for value, count in sides.items() if count > 1]


def text(group):
    return sketch(group.instances[0].problem.removeprefix("Code amber. ").removeprefix("So: ")).identity


@settings(max_examples=40, deadline=None)
@given(banks(), st.integers(0, 5), st.randoms(use_true_random=False))
def test_nothing_is_on_two_sides_whatever_the_groups(bank, seed, shuffler):
    try:
        parts, cost = divide(bank, {"validation": 0.2, "test": 0.2}, seed)
    except UserError as error:
        assert "stay together" in str(error) or "at least 3 seeds" in str(error)
        return
    assert shared(parts, lambda group: group.seed_id) == []
    assert shared(parts, text) == []
    assert sorted(g.id for groups in parts.values() for g in groups) == sorted(g.id for g in bank)
    number = len({group.seed_id for group in bank})
    assert sum(cost.given.values()) == sum(cost.asked.values()) == cost.seeds == number
    assert all(0 < cost.given[name] <= cost.asked[name] for name in ("validation", "test"))
    other = list(bank)
    shuffler.shuffle(other)
    again, _ = divide(other, {"validation": 0.2, "test": 0.2}, seed)
    assert {name: {g.id for g in groups} for name, groups in again.items()} == {
        name: {g.id for g in groups} for name, groups in parts.items()
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 200), st.floats(0.05, 0.95), st.integers(0, 3))
def test_sizes_are_exact_where_no_two_problems_are_alike(count, fraction, seed):
    clusters = Clusters()
    for i in range(count):
        clusters.add(IsomerGroup(f"g{i}", f"s{i}", (Instance("law", f"word{i} other{i}", "", "x", f"g{i}/law"),)))
    wanted = max(1, round(fraction * count))
    if wanted == count:
        with pytest.raises(UserError):
            assign(clusters, {"validation": fraction}, seed)
        return
    _, cost = assign(clusters, {"validation": fraction}, seed)
    assert cost.given == cost.asked == {"train": count - wanted, "validation": wanted}
    assert (cost.tied, cost.clusters, cost.largest) == (0, 0, 1)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 39), max_size=30), st.integers(0, 3))
def test_more_groups_of_a_seed_move_no_other_seed(again, seed):
    bank = [IsomerGroup(f"g{i}", f"s{i}", (Instance("law", problem(i), "", "x", f"g{i}/law"),)) for i in range(40)]
    more = [
        replace(bank[s], id=f"h{i}", instances=(Instance("law", problem(1000 + i), "", "x", f"h{i}/law"),))
        for i, s in enumerate(again)
    ]
    before, after = (divide(groups, {"validation": 0.25}, seed)[0] for groups in (bank, bank + more))
    for name in before:
        assert {g.seed_id for g in before[name]} == {g.seed_id for g in after[name]}


def test_a_new_seed_moves_at_most_one_other_seed():
    def bank(count):
        return [
            IsomerGroup(f"g{i}", f"s{i}", (Instance("law", problem(i), "", "x", f"g{i}/law"),)) for i in range(count)
        ]

    held_out = [
        {g.seed_id for g in divide(bank(count), {"validation": 0.2}, 0)[0]["validation"]} for count in range(50, 70)
    ]
    assert all(len(a - b) <= 1 and len(b - a) <= 2 for a, b in zip(held_out, held_out[1:]))


def test_the_papers_80_to_20():
    bank = generate(390, ("law",), ("ordering", "arithmetic"), seed=0)
    parts, cost = divide(bank, {"test": 0.2}, 0)
    assert cost.given == {"train": 312, "test": 78}
    assert [len(groups) for groups in parts.values()] == [312, 78]


def test_a_retelling_under_another_seed_stays_with_its_problem():
    bank = generate(40, ("law",), seed=0)
    retold = [
        replace(
            g, id=f"r{g.id}", seed_id=f"r{g.seed_id}", instances=tuple(replace(i, id=f"r{i.id}") for i in g.instances)
        )
        for g in generate(40, ("finance",), seed=0)
    ]
    parts, cost = divide(bank + retold, {"validation": 0.25}, 0)
    assert shared(parts, form_of) == []
    assert cost.ties["form"] == 40 and cost.tied == 80 and cost.largest >= 2
    loose, cost = divide(bank + retold, {"validation": 0.25}, 0, ignore=("form",))
    assert shared(loose, form_of) != [] and "form" not in cost.ties


def test_the_same_words_in_other_sentences_stay_with_what_is_like_either(tmp_path):
    apart = "Baker K has 5 loaves. Miller B has 7 sacks. Clerk T has 3 books. Find the total of all goods held"
    as_one = apart.replace(".", "")
    alike = [apart, as_one, as_one.replace("goods", "wares")]
    texts = [*alike, *map(problem, range(10))]
    bank = [IsomerGroup(f"g{i}", f"s{i}", (Instance("law", text, "", "1"),)) for i, text in enumerate(texts)]
    for seed in range(8):  # by one of these, the three would part
        write_groups(tmp_path / "all.jsonl", bank)
        result = split_file(tmp_path / "all.jsonl", tmp_path / f"out{seed}", {"validation": 0.4}, seed)
        assert not any(proof.leaks for proof in result.proofs)
        assert result.cost.largest_holds == ("s0", "s1", "s2")
        assert result.cost.ties["near"] == 1


def test_a_split_that_leaks_is_not_written(source, tmp_path, monkeypatch):
    def tie_nothing(self, group):
        self._parent.setdefault(group.seed_id, group.seed_id)

    lines = source.read_text().splitlines(keepends=True)
    record = json.loads(lines[0])
    record["id"], record["seed_id"] = "copy", "copy"
    for instance in record["instances"]:
        instance["id"] = f"copy/{instance['domain']}"
    source.write_text("".join([*lines, json.dumps(record) + "\n"]))
    monkeypatch.setattr(Clusters, "add", tie_nothing)
    for seed in range(20):
        try:
            split_file(source, tmp_path / f"out{seed}", {"validation": 0.5}, seed)
        except UserError as error:
            assert "would share: identical problem" in str(error) and "nothing was written" in str(error)
            assert not (tmp_path / f"out{seed}").exists()
            return
    pytest.fail("no seed parted the copies")


def test_one_cluster_cannot_be_split():
    bank = [
        IsomerGroup(f"g{i}", f"s{i}", (Instance("law", f"{problem(1)} {WORDS[i]}", "", "x", f"g{i}/law"),))
        for i in range(9)
    ]
    with pytest.raises(UserError, match=r"9 of 9 seeds must stay together.*\(ties: near 8\).*--ignore"):
        divide(bank, {"validation": 0.2}, 0)
    divide(bank, {"validation": 0.2}, 0, ignore=("near",))


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({}, "nothing to hold out"),
        ({"validation": 0.0}, "validation must be above 0"),
        ({"test": 1.0}, "test must be above 0 and below 1"),
        ({"validation": 0.5, "test": 0.5}, "leave nothing for training"),
    ],
)
def test_fractions_are_checked(fractions, message):
    with pytest.raises(UserError, match=message):
        divide(generate(6, ("law",)), fractions, 0)


# Files.


@pytest.fixture
def source(tmp_path):
    bank = generate(60, ("law", "science"), seed=1)
    twice = [
        replace(g, id=f"{g.id}b", instances=tuple(replace(i, id=f"{i.id}b") for i in g.instances)) for g in bank[:20]
    ]
    write_groups(tmp_path / "all.jsonl", bank + twice)
    return tmp_path / "all.jsonl"


def test_files_hold_the_lines_as_they_were_and_the_proof(source, tmp_path):
    out = tmp_path / "out"
    result = split_file(source, out, {"validation": 0.2, "test": 0.1}, 4)
    assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "test.jsonl", "train.jsonl", "validation.jsonl"]
    lines = source.read_text().splitlines()
    written = {name: (out / f"{name}.jsonl").read_text().splitlines() for name in ("train", "validation", "test")}
    assert sorted(line for part in written.values() for line in part) == sorted(lines)
    assert all(part == [line for line in lines if line in set(part)] for part in written.values())
    assert result.groups == {name: len(part) for name, part in written.items()}
    assert result.cost.given == {"train": 42, "validation": 12, "test": 6}
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["sha256"] == sha256_of(source)
    assert manifest["files"] == {f"{name}.jsonl": sha256_of(out / f"{name}.jsonl") for name in written}
    assert manifest["options"] == {
        "fractions": {"validation": 0.2, "test": 0.1},
        "seed": 4,
        "threshold": 0.8,
        "ignore": [],
    }
    assert [[found["file"] for found in proof["held_out"]] for proof in manifest["proofs"]] == [
        ["validation.jsonl", "test.jsonl"],
        ["test.jsonl"],
    ]
    assert all(proof["passed"] for proof in manifest["proofs"])
    proof = prove(out / "train.jsonl", [out / "validation.jsonl", out / "test.jsonl"])
    assert json.loads(json.dumps(proof.record())) == manifest["proofs"][0]
    parts, cost = divide(read_groups(source), {"validation": 0.2, "test": 0.1}, 4)
    assert cost == result.cost
    for name, groups in parts.items():
        assert groups == read_groups(out / f"{name}.jsonl")


def test_blank_lines_and_a_byte_order_mark_are_no_matter(source, tmp_path):
    split_file(source, tmp_path / "a", {"validation": 0.2}, 0)
    source.write_bytes(b"\xef\xbb\xbf" + source.read_bytes().replace(b"\n", b"\r\n\r\n"))
    split_file(source, tmp_path / "b", {"validation": 0.2}, 0)
    for name in ("train.jsonl", "validation.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_full_folder_is_never_written_to(source, tmp_path):
    (tmp_path / "out").mkdir()
    split_file(source, tmp_path / "out", {"validation": 0.2}, 0)  # an empty one may be there
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match="already exists and is not empty"):
        split_file(source, tmp_path / "out", {"validation": 0.3}, 0)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before


def test_a_bad_line_leaves_nothing_behind(source, tmp_path):
    source.write_text(source.read_text() + "{}\n")
    with pytest.raises(UserError, match=r"all\.jsonl:81: field 'id': is missing"):
        split_file(source, tmp_path / "out", {"validation": 0.2}, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["all.jsonl"]


def test_a_file_that_changes_meanwhile_is_refused(source, tmp_path, monkeypatch):
    def assign_and_touch(*arguments):
        with source.open("a") as file:
            file.write(source.read_text().splitlines()[0].replace("1-00000", "1-99999") + "\n")
        return assign(*arguments)

    monkeypatch.setattr(split_module, "assign", assign_and_touch)
    with pytest.raises(UserError, match="changed while it was being split"):
        split_file(source, tmp_path / "out", {"validation": 0.2}, 0)
    assert [p.name for p in tmp_path.iterdir()] == ["all.jsonl"]


def test_a_random_pairing_is_refused(source, tmp_path):
    groups = [group for _, group in iter_groups(source)]
    seeds = list(dict.fromkeys(group.seed_id for group in groups))
    paired = [replace(g, meta={"variant": {"kind": "random-pairing", "seeds": [g.seed_id, seeds[0]]}}) for g in groups]
    write_groups(source, paired)
    with pytest.raises(UserError, match="60 of 60 seeds must stay together"):
        split_file(source, tmp_path / "out", {"validation": 0.2}, 0)


def test_the_command(source, tmp_path):
    out = tmp_path / "out"
    arguments = ["data", "split", str(source), "--out", str(out), "--validation", "0.25"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert f"{out}/validation.jsonl: " in done.output and " groups of 15 seeds" in done.output
    assert "FAIL" not in done.output and done.output.count("pass") == 5
    assert CliRunner().invoke(main, arguments).exit_code == 2
    none = CliRunner().invoke(main, ["data", "split", str(source), "--out", str(tmp_path / "x"), "--validation", "0"])
    assert none.exit_code == 2 and "nothing to hold out" in none.output
