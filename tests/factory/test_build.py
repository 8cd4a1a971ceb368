"""Seeds to files against a server that knows the truth, errs where it is told to and fails at known rates."""

import json
import os
from collections import Counter
from dataclasses import replace

import pytest

from igascale.isomers.factory.manifest import arithmetic
from igascale.isomers.generator import generate
from igascale.isomers.schema import read_groups
from igascale.isomers.seeds import Seed, write_seeds
from igascale.isomers.teacher.spending import BudgetSpent
from igascale.isomers.teacher.store import Store

from builds import FILES, build, contents, lines
from faulty_server import FaultyServer, Plan
from oracle import PLANTED, Oracle, depends_on, joined

FAULTS = {"429": 0.03, "500": 0.03, "cut": 0.02, "cut_early": 0.02, "truncated": 0.03, "schema": 0.03, "length": 0.02}


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "a key")


@pytest.fixture(scope="module")
def groups():
    return generate(30, seed=11)


def write(path, oracle):
    write_seeds(path, oracle.seeds())
    return path


def planted_in(groups):
    """One of each kind, on groups with enough steps to have a structure."""
    return {group.id: kind for group, kind in zip(groups, PLANTED)}


def check_content(built, truth):
    """Word for word, and in the bank's order."""
    assert [group.id for group in built] == [group.id for group in truth]
    for group, true in zip(built, truth):
        assert group.seed_id == true.id and group.kind == true.kind
        assert [(i.domain, i.problem, i.cot, i.answer) for i in group.instances] == [
            (i.domain, i.problem, i.cot, i.answer) for i in true.instances
        ]
        assert group.dag.nodes == true.dag.nodes and group.dag.edges == tuple(joined(true))
        assert group.dag.steps == true.dag.steps
        assert group.meta["steps"] == {i.domain: len(depends_on(true)) for i in true.instances}
        assert list(group.meta["alignment"].values()) == [0.9, 0.91, 0.92, 0.93]


def test_every_good_group_is_recovered_and_every_planted_one_rejected_for_its_reason(tmp_path, groups):
    planted = planted_in(groups)
    oracle = Oracle(groups, planted)
    seeds = write(tmp_path / "seeds.jsonl", oracle)
    with FaultyServer(oracle, Plan(rates=FAULTS, seed=1)) as server:
        told = build(seeds, tmp_path / "out", server, votes=3, concurrency=16)
        faults = Counter(call.fault for call in server.log)
    assert all(faults[name] for name in FAULTS), faults
    good = [group for group in groups if group.id not in planted]
    check_content(read_groups(tmp_path / "out" / "groups.jsonl"), good)
    rejected = {line["seed_id"]: line for line in lines(tmp_path / "out" / "rejected.jsonl")}
    assert {name: (line["stage"], line["reason"]) for name, line in rejected.items()} == {
        name: PLANTED[kind] for name, kind in planted.items()
    }
    low = next(name for name, kind in planted.items() if kind == "low")
    assert "0.84, below 0.85: A rule is missing." in rejected[low]["detail"]
    assert rejected[low]["domain"] == "science" and rejected[low]["draft"]["problem"]
    manifest = told.manifest
    assert manifest["complete"] and manifest["groups"] == len(good) and manifest["instances"] == 4 * len(good)
    assert manifest["yield"] == round(len(good) / len(groups), 4)
    assert manifest["stages"][-1]["left"] == len(good)
    assert sum(n for row in manifest["stages"] for n in row["rejected"].values()) == len(planted)


def test_a_hanging_server_costs_time_and_no_group(tmp_path, groups):
    oracle = Oracle(groups[:6])
    with FaultyServer(oracle, Plan(faults=[None, None, "hang", None, "hang"])) as server:
        build(write(tmp_path / "seeds.jsonl", oracle), tmp_path / "out", server, timeout=1.5, concurrency=4)
    check_content(read_groups(tmp_path / "out" / "groups.jsonl"), groups[:6])


def test_a_rerun_asks_nothing_and_writes_the_same_bytes(tmp_path, groups):
    oracle = Oracle(groups[:10], planted_in(groups[:3]))
    seeds = write(tmp_path / "seeds.jsonl", oracle)
    with FaultyServer(oracle) as server:
        build(seeds, tmp_path / "out", server)
        first, asked = contents(tmp_path / "out"), len(server.log)
        assert set(first) == set(FILES)
        told = build(seeds, tmp_path / "out", server)
        assert len(server.log) == asked
    assert contents(tmp_path / "out") == first
    assert "10/10 seeds (10 from before), 7 accepted" in told.text
    for name in ("groups.jsonl", "manifest.json"):
        (tmp_path / "out" / name).unlink()
    build(seeds, tmp_path / "out", offline=True)
    assert contents(tmp_path / "out") == first
    other = build(seeds, tmp_path / "other", offline=True)  # nothing stored there
    assert not other.manifest["complete"] and other.manifest["unfinished"] == 10
    assert not (tmp_path / "other" / "groups.jsonl").exists() and "no group was accepted" in other.text


def test_the_order_of_arrival_does_not_show(tmp_path, groups):
    oracle = Oracle(groups[:12], planted_in(groups[:4]))
    seeds = write(tmp_path / "seeds.jsonl", oracle)
    with FaultyServer(oracle, Plan(latency=0.005)) as server:
        build(seeds, tmp_path / "one", server, concurrency=1)
        build(seeds, tmp_path / "many", server, concurrency=32)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


def test_a_refused_answer_is_asked_for_again_with_the_reason(tmp_path, groups):
    """A teacher that heeds what it is told: everything but the verifier's own verdicts is mended."""
    planted = {name: kind for name, kind in planted_in(groups).items() if kind not in ("low", "no", "elsewhere")}
    oracle = Oracle(groups[: len(PLANTED)], planted, mend_after=1)
    seeds = write(tmp_path / "seeds.jsonl", oracle)
    with FaultyServer(oracle) as server:
        build(seeds, tmp_path / "out", server, votes=1)
        again = [call.user for call in server.log if "was refused, for this reason" in call.user]
    check_content(read_groups(tmp_path / "out" / "groups.jsonl"), groups[: len(PLANTED)])
    assert len(again) == len(planted)
    for words in (
        "hold the cycle",
        "'THING'",
        "step counts differ by more than 2",
        "hang together differently",
        "got 0 of 1",
    ):
        assert any(words in user for user in again), words


def test_no_regeneration_asks_once(tmp_path, groups):
    oracle = Oracle(groups[:1], {groups[0].id: "low"})
    with FaultyServer(oracle) as server:
        build(write(tmp_path / "seeds.jsonl", oracle), tmp_path / "out", server, regenerate=0)
    assert oracle.asked == {"extract": 1, "instantiate": 4, "verify": 4}


def test_more_seeds_later_ask_for_those_alone(tmp_path, groups):
    oracle = Oracle(groups[:8])
    seeds = write(tmp_path / "seeds.jsonl", oracle)
    with FaultyServer(oracle) as server:
        told = build(seeds, tmp_path / "out", server, limit=3)
        assert told.manifest["groups"] == 3 and oracle.asked["extract"] == 3
        build(seeds, tmp_path / "out", server)
    assert oracle.asked == {"extract": 8, "instantiate": 32, "verify": 32}
    check_content(read_groups(tmp_path / "out" / "groups.jsonl"), groups[:8])


def test_other_gates_take_the_stored_answers(tmp_path, groups):
    oracle = Oracle(groups[:5], {groups[0].id: "low"})
    seeds = write(tmp_path / "seeds.jsonl", oracle)
    with FaultyServer(oracle) as server:
        build(seeds, tmp_path / "out", server)
        asked = len(server.log)
        told = build(seeds, tmp_path / "out", server, alignment=0.8, allow_change=True)
        assert len(server.log) == asked  # the first telling of the refused one is good enough now
    assert told.manifest["groups"] == 5
    assert "gates.alignment was 0.85, is 0.8" in told.text


def test_retry_asks_again_for_what_could_not_be_used(tmp_path, groups):
    """A server that answered with nothing for a while: what it spoilt is asked again, the rest is not."""
    oracle = Oracle(groups[:4], {groups[3].id: "low"})
    seeds, out = write(tmp_path / "seeds.jsonl", oracle), tmp_path / "out"
    spoilt = [groups[0].instances[0].problem, groups[1].instances[2].problem]
    sick = True

    def answer(messages, body):
        lost = sick and any(problem in messages[-1]["content"] for problem in spoilt)
        return "no JSON at all" if lost else oracle(messages, body)

    with FaultyServer(answer) as server:
        told = build(seeds, out, server, regenerate=0)
        assert told.manifest["groups"] == 1
        assert told.manifest["stages"][1]["rejected"] == {"reply_not_json": 1}
        assert told.manifest["stages"][3]["rejected"] == {"reply_not_json": 1, "low_alignment": 1}
        sick, asked = False, len(server.log)
        build(seeds, out, server, regenerate=0)
        assert len(server.log) == asked
        told = build(seeds, out, server, regenerate=0, retry=("reply_not_json", "reply_schema"))
        assert "--retry reply_not_json: 2 seeds were" in told.text
        assert "warning: --retry reply_schema: 0 seeds were" in told.text
        assert len(server.log) - asked == 9 + 1
        assert told.manifest["groups"] == 3 and told.manifest["complete"]
        after = contents(out)
        build(seeds, out, server, regenerate=0)
        assert contents(out) == after and len(server.log) == asked + 10


def test_retry_gives_a_refused_telling_further_attempts(tmp_path, groups):
    """The refused answers are stored, so only another attempt is another answer."""
    oracle = Oracle(groups[:3], {groups[1].id: "no_answer"})
    seeds, out = write(tmp_path / "seeds.jsonl", oracle), tmp_path / "out"
    options = {"regenerate": 1, "concurrency": 2}
    with FaultyServer(oracle, Plan(latency=0.005)) as server:
        assert build(seeds, out, server, **options).manifest["groups"] == 2
        asked, before = len(server.log), contents(out)
        oracle.planted.clear()
        with pytest.raises(BudgetSpent):  # told, not verified
            build(seeds, out, server, **options, retry=("answer_missing",), max_requests=asked + 1)
        assert contents(out) == before  # the old outcome holds until there is another
        told = build(seeds, out, server, **options, retry=("answer_missing",))
        assert told.manifest["groups"] == 3 and len(server.log) == asked + 2
        after = contents(out)
        build(seeds, out, server, **options)
        assert contents(out) == after and len(server.log) == asked + 2


def test_preview_spends_on_three_groups_and_the_build_goes_on_from_them(tmp_path, groups):
    oracle = Oracle(groups[:12], {groups[1].id: "cycle"})
    seeds = write(tmp_path / "seeds.jsonl", oracle)
    with FaultyServer(oracle, Plan(latency=0.01)) as server:
        told = build(seeds, tmp_path / "out", server, preview=3)
        assert [group.id for group in told.result.groups] == [groups[i].id for i in (0, 2, 3)]
        assert oracle.asked["instantiate"] <= 6 * 4
        assert not (tmp_path / "out" / "groups.jsonl").exists()
        assert "at this rate all 12 seeds take about" in told.text
        asked = len(server.log)
        assert build(seeds, tmp_path / "out", server, preview=3).result.groups == told.result.groups
        assert len(server.log) == asked
        build(seeds, tmp_path / "out", server)
        assert len(server.log) == len({call.content for call in server.log})
    assert len(read_groups(tmp_path / "out" / "groups.jsonl")) == 11


def test_duplicates_and_near_duplicates_are_not_asked_for(tmp_path, groups):
    oracle = Oracle(groups[:4])
    seeds = oracle.seeds()
    again = [Seed("twin", seeds[1].problem), Seed("shout", f"Well now. {seeds[2].problem.upper()}")]
    write_seeds(tmp_path / "seeds.jsonl", [*seeds, *again])
    with FaultyServer(oracle) as server:
        told = build(tmp_path / "seeds.jsonl", tmp_path / "out", server)
        assert oracle.asked["extract"] == 4
    assert told.manifest["stages"][0]["rejected"] == {"duplicate": 1, "near_duplicate": 1}
    assert "seeds.jsonl:5 has the problem of" in told.text
    reasons = {line["seed_id"]: line["reason"] for line in lines(tmp_path / "out" / "rejected.jsonl")}
    assert reasons == {"twin": "duplicate", "shout": "near_duplicate"}
    assert told.manifest["yield"] == 1.0


def test_a_group_that_retells_an_earlier_one_is_removed(tmp_path, groups):
    """Two seeds that share no word, told as the same problem."""
    oracle = Oracle(groups[:3])
    twin = "Completely unrelated wording describes precisely this thing once more."
    oracle.by_seed[twin] = groups[0]
    write_seeds(tmp_path / "seeds.jsonl", [*oracle.seeds(), Seed("twin", twin)])
    oracle.verify = lambda seed, problem: {
        **dict.fromkeys(("dependencies_preserved", "same_step_count", "same_reasoning", "in_domain"), "yes"),
        "alignment_score": 0.9,
        "issues": [],
    }
    with FaultyServer(oracle) as server:
        told = build(tmp_path / "seeds.jsonl", tmp_path / "out", server)
    (line,) = lines(tmp_path / "out" / "rejected.jsonl")
    assert (line["seed_id"], line["stage"]) == ("twin", "near_duplicates")
    assert f"100% like {groups[0].id}/" in line["detail"]
    assert told.manifest["groups"] == 3 and told.manifest["stages"][-1]["rejected"] == {"near_duplicate": 1}
    assert told.manifest["split"]["proof"]["passed"]


def test_what_overlaps_with_a_benchmark_is_removed(tmp_path, groups):
    """A seed that is in it is never asked for; a problem that turns out like one is removed afterwards."""
    oracle = Oracle(groups[:6])
    told_in_law = next(i for i in groups[2].instances if i.domain == "law")
    benchmark = tmp_path / "benchmark.jsonl"
    write_seeds(
        benchmark,
        [
            Seed("b1", f"Question 7. {groups[4].instances[0].problem}"),
            Seed("b2", told_in_law.problem),
            Seed("b3", "x " * 40),
        ],
    )
    seeds = write(tmp_path / "seeds.jsonl", oracle)
    with FaultyServer(oracle) as server:
        told = build(seeds, tmp_path / "out", server, decontaminate=(str(benchmark),))
        assert oracle.asked["extract"] == 5
        first, asked = contents(tmp_path / "out"), len(server.log)
        build(seeds, tmp_path / "out", server, decontaminate=(str(benchmark),))
        assert contents(tmp_path / "out") == first and len(server.log) == asked
    rejected = {line["seed_id"]: line for line in lines(tmp_path / "out" / "rejected.jsonl")}
    assert {name: line["stage"] for name, line in rejected.items()} == {
        groups[4].id: "bank",
        groups[2].id: "contamination",
    }
    assert "with benchmark.jsonl, b2" in rejected[groups[2].id]["detail"] and rejected[groups[2].id]["domain"] == "law"
    about = told.manifest["decontaminated"]
    assert about["seeds"] == {"texts": 6, "contaminated": 1} and about["problems"] == {"texts": 20, "contaminated": 1}
    assert told.manifest["groups"] == 4


def test_split_and_hashes(tmp_path, groups):
    import hashlib

    oracle = Oracle(groups)
    with FaultyServer(oracle) as server:
        told = build(
            write(tmp_path / "seeds.jsonl", oracle), tmp_path / "out", server, concurrency=64, license="cc-by-4.0"
        )
    split = told.manifest["split"]
    train, held_out = (read_groups(tmp_path / "out" / f"{side}.jsonl") for side in ("train", "validation"))
    assert (len(train), len(held_out)) == (24, 6) == (split["train"], split["validation"])
    assert not {group.seed_id for group in train} & {group.seed_id for group in held_out}
    assert split["proof"]["passed"] and split["proof"]["groups"] == 24
    for name, about in told.manifest["files"].items():
        content = (tmp_path / "out" / name).read_bytes()
        assert about == {"sha256": hashlib.sha256(content).hexdigest(), "lines": content.count(b"\n")}
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-4.0\n") and "30 problems" in card
    assert told.manifest["teacher"]["mean_alignment"] == 0.915
    with Store.open_readonly(tmp_path / "out" / "answers.sqlite") as store:
        answers = store.count_answers()
    assert told.manifest["teacher"]["answers"] == sum(answers.values()) == 30 * 9


def test_kind_and_source_are_those_the_bank_has_now(tmp_path, groups):
    """They decide no outcome, so a bank in which they were edited asks nothing; but the files say what it says."""
    oracle = Oracle(groups[:3])
    bank, out = tmp_path / "seeds.jsonl", tmp_path / "out"
    with FaultyServer(oracle) as server:
        write_seeds(bank, [replace(seed, source="old") for seed in oracle.seeds()])
        build(bank, out, server)
        asked = len(server.log)
        for kind, source in (("algebra", "new/train"), (None, None)):
            write_seeds(bank, [replace(seed, kind=kind, source=source) for seed in oracle.seeds()])
            build(bank, out, server)
            for group in read_groups(out / "groups.jsonl"):
                assert (group.kind, group.meta.get("source")) == (kind, source)
        rows = [{"nr": seed.id, "task": seed.problem, "subject": f"about {seed.id}"} for seed in oracle.seeds()]
        bank.write_text("".join(json.dumps(row) + "\n" for row in rows))
        names = {"id_field": "nr", "problem_field": "task", "kind_field": "subject"}
        shown = build(bank, out, server, **names, preview=1).result.groups
        build(bank, out, server, **names)
        assert len(server.log) == asked
    built = read_groups(out / "groups.jsonl")
    assert [group.kind for group in built] == [f"about {group.id}" for group in built]
    assert shown[0].kind == built[0].kind


def test_a_teacher_that_copies_the_seed_is_refused_before_it_is_verified(tmp_path, groups):
    oracle = Oracle(groups[:1])
    tell = oracle.instantiate
    oracle.instantiate = lambda name, *rest: tell(name, *rest) | {"problem": groups[0].instances[0].problem}
    with FaultyServer(oracle) as server:
        told = build(write(tmp_path / "seeds.jsonl", oracle), tmp_path / "out", server, regenerate=0)
    assert told.manifest["stages"][2]["rejected"] == {"copied": 1} and told.manifest["groups"] == 0
    assert oracle.asked["verify"] == 1  # of the first telling: the bank's problem has a domain of its own
    (line,) = lines(tmp_path / "out" / "rejected.jsonl")
    assert line["domain"] == "medicine" and "repeats that of mathematics" in line["detail"]


def test_the_verifier_sees_the_domain_and_what_each_step_uses(tmp_path, groups):
    oracle = Oracle(groups[:1])
    tell = oracle.instantiate

    def wordy(*args):
        told = tell(*args)
        told["cot_solution"][0]["step"] = "First:\n\n" + told["cot_solution"][0]["step"]
        return told

    oracle.instantiate = wordy
    with FaultyServer(oracle) as server:
        build(write(tmp_path / "seeds.jsonl", oracle), tmp_path / "out", server)
        asked = [call.user for call in server.log if call.user.startswith("First problem")]
    (group,) = read_groups(tmp_path / "out" / "groups.jsonl")
    assert len(asked) == 4
    for instance in group.instances:
        (user,) = [text for text in asked if f"must be set in: {instance.domain}\n" in text]
        solution = user.split("Its solution:\n\n")[1].split("\n\nThe field")[0].splitlines()
        uses = [", ".join(map(str, used)) or "the problem alone" for used in depends_on(groups[0])]
        # What was verified is what stands in the data, line for line.
        steps = zip(instance.cot.split("\n"), uses, strict=True)
        assert solution == [
            *(f"{number}. {step} (uses {used})" for number, (step, used) in enumerate(steps, start=1)),
            f"Answer: {instance.answer}",
        ]
        assert instance.cot.startswith("First: ")


def test_the_papers_arithmetic():
    paper = arithmetic(50_000, 0.78, 4, 0.2)
    assert paper == {
        "seeds": 50_000,
        "groups": 39_000,
        "pairs": 156_000,
        "train_groups": 31_200,
        "validation_groups": 7_800,
    }


def test_costs_are_those_of_the_answers(tmp_path, groups):
    oracle = Oracle(groups[:3])
    with FaultyServer(oracle) as server:
        told = build(
            write(tmp_path / "seeds.jsonl", oracle), tmp_path / "out", server, input_price=1.0, output_price=10.0
        )
    teacher = told.manifest["teacher"]
    with Store.open_readonly(tmp_path / "out" / "answers.sqlite") as store:
        spent = sum((s.cost for s in store.spending().values()), 0.0)
    assert spent > 0 and teacher["cost"] == pytest.approx(spent, abs=1e-6)


def test_a_budget_stops_and_a_higher_one_goes_on(tmp_path, groups):
    oracle = Oracle(groups[:10])
    seeds = write(tmp_path / "seeds.jsonl", oracle)
    with FaultyServer(oracle) as server:
        with pytest.raises(BudgetSpent, match="max_requests 40 is reached"):
            build(seeds, tmp_path / "out", server, max_requests=40, concurrency=3)
        assert len(server.log) == 40
        part = json.loads((tmp_path / "out" / "manifest.json").read_text())
        assert not part["complete"] and part["groups"] + part["unfinished"] == 10 and part["groups"] > 0
        build(seeds, tmp_path / "out", server, max_requests=1000)
        assert len(server.log) == 90
    check_content(read_groups(tmp_path / "out" / "groups.jsonl"), groups[:10])


def test_two_domains_and_a_file_of_them(tmp_path, groups):
    (tmp_path / "d.yaml").write_text(
        "domains:\n  - {name: law, description: courts}\n  - {name: science, description: labs, hints: [be brief]}\n"
    )
    oracle = Oracle(groups[:3])
    with FaultyServer(oracle) as server:
        build(write(tmp_path / "seeds.jsonl", oracle), tmp_path / "out", server, domains=str(tmp_path / "d.yaml"))
        assert any("labs\n- be brief" in call.user for call in server.log)
    for group in read_groups(tmp_path / "out" / "groups.jsonl"):
        assert [instance.domain for instance in group.instances] == ["law", "science"]


def test_garbage_accepts_nothing(tmp_path, groups):
    oracle = Oracle(groups[:4])
    seeds = write(tmp_path / "seeds.jsonl", oracle)
    with FaultyServer(lambda messages, body: "lorem { ipsum [" * 5) as server:
        told = build(seeds, tmp_path / "out", server)
    assert told.manifest["groups"] == 0 and told.manifest["complete"]
    assert told.manifest["stages"][1]["rejected"] == {"reply_not_json": 4}
    assert os.listdir(tmp_path / "out").count("rejected.jsonl") == 1
