"""Banks in every form give the same seeds; what is ignored is said."""

import json

import pytest

from igascale.errors import UserError
from igascale.isomers.factory.decontaminate import Benchmarks
from igascale.isomers.factory.seed_files import Bank
from igascale.isomers.factory.survey import survey
from igascale.isomers.seeds import Seed, SeedFields, content_id, iter_seeds, read_seeds, write_seeds

SEEDS = [
    Seed("a", "What is 1 + 1?", answer="2", kind="sums", source="book", meta={"page": 3}),
    Seed("b", "Wer weiß, was «ж» heißt?\nNobody.", solution="Ask."),
]
ROWS = [
    {"nr": 7, "question": "What is 1 + 1?", "gold": 2, "level": "easy"},
    {"nr": 8, "question": "And 0.5 + 0?", "gold": 0.5, "level": None},
]
FIELDS = SeedFields(id="nr", problem="question", answer="gold")


def seeds(bank):
    return [seed for _, seed in bank]


def test_written_and_read(tmp_path):
    path = tmp_path / "seeds.jsonl"
    assert write_seeds(path, SEEDS) == 2
    assert read_seeds(path) == SEEDS == [seed for _, seed in iter_seeds(path)] == seeds(Bank(str(path)))
    path.write_text("\ufeff" + path.read_text() + "\n\n")
    assert read_seeds(path) == SEEDS
    write_seeds(path, [*SEEDS, SEEDS[0]])
    with pytest.raises(UserError, match=r"seeds.jsonl:3: field 'id': seed 'a' is there twice"):
        read_seeds(path)


def test_a_seed_without_an_id_is_named_by_its_words(tmp_path):
    path = tmp_path / "seeds.jsonl"
    path.write_text('{"problem": "a b"}\n{"problem": " a  b "}\n{"problem": "a c"}\n')
    one, again, other = read_all(path)
    assert one.id == again.id == content_id("a b") != other.id


def read_all(path):
    return [seed for _, seed in iter_seeds(path)]


def expected():
    return [Seed("7", "What is 1 + 1?", answer="2"), Seed("8", "And 0.5 + 0?", answer="0.5")]


def test_other_names(tmp_path):
    path = tmp_path / "bank.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    bank = Bank(str(path), FIELDS)
    assert seeds(bank) == expected() == seeds(bank)  # as often as asked
    assert [where for where, _ in bank] == [f"{path}:1", f"{path}:2"]
    with pytest.raises(UserError, match=r":1: field 'qestion' is missing or empty.*did you mean 'question'"):
        seeds(Bank(str(path), SeedFields(problem="qestion")))


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    table = pyarrow.table({name: [row[name] for row in ROWS] for name in ("nr", "question", "level")})
    table = table.append_column("gold", pyarrow.array(["2", "0.5"]))
    parquet.write_table(table, tmp_path / "bank.parquet")
    assert seeds(Bank(str(tmp_path / "bank.parquet"), FIELDS)) == expected()
    (tmp_path / "several").mkdir()
    for number in range(2):
        parquet.write_table(table.slice(number, 1), tmp_path / "several" / f"{number}.parquet")
    assert seeds(Bank(str(tmp_path / "several"), FIELDS)) == expected()
    with pytest.raises(UserError, match=r"bank\.parquet: row 1: field 'nr' is not a field of a seed"):
        seeds(Bank(str(tmp_path / "bank.parquet")))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"bad\.parquet: cannot be read as Parquet"):
        seeds(Bank(str(tmp_path / "bad.parquet")))


def test_folder_of_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{**row, "gold": str(row["gold"])} for row in ROWS])
    rows.save_to_disk(str(tmp_path / "one"))
    assert seeds(Bank(str(tmp_path / "one"), FIELDS)) == expected()
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(str(tmp_path / "two"))
    assert seeds(Bank(str(tmp_path / "two"), FIELDS, "test")) == expected()[1:]
    with pytest.raises(UserError, match="has several splits; choose with --split: train, test"):
        seeds(Bank(str(tmp_path / "two"), FIELDS))
    with pytest.raises(UserError, match="has no split 'dev'"):
        seeds(Bank(str(tmp_path / "two"), FIELDS, "dev"))
    with pytest.raises(UserError, match="not a folder saved by `datasets`"):
        seeds(Bank(str(tmp_path), FIELDS))


def test_hub(monkeypatch):
    """No network in the tests: what is asked of `datasets`, and what it says when there is no such set."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name, **options):
        asked.append((name, options))
        if name == "no/set":
            raise datasets.exceptions.DatasetNotFoundError("Dataset 'no/set' doesn't exist\non the Hub")
        return iter([{**row, "gold": str(row["gold"])} for row in ROWS])

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert seeds(Bank("owner/bank", FIELDS, "test")) == expected()
    assert asked == [("owner/bank", {"split": "test", "streaming": True})]
    with pytest.raises(
        UserError, match=r"no/set: not a file here, and cannot be read from the Hub, split 'train' \(Dataset"
    ):
        seeds(Bank("no/set"))


def test_survey(tmp_path):
    path = tmp_path / "seeds.jsonl"
    bank = [
        Seed("1", "Alice has 3 apples and buys 4 more. How many apples does she have?"),
        Seed("2", "Alice has 3 apples  and buys 4 more. How many apples does she have?"),
        Seed("3", "Well then. Alice has 3 apples, and buys 4 more. How many apples does she have?"),
        Seed("4", "Alice has 5 apples and buys 9 more. How many apples does she have?"),
        Seed("5", "Which planet is the third from the sun?"),
        Seed("6", "Who wrote this?"),
    ]
    write_seeds(path, bank)
    (tmp_path / "benchmark.txt").write_text("Tell me: which planet is the third from the sun?\n")
    found = survey(Bank(str(path)), None, 0.8, Benchmarks((str(tmp_path / "benchmark.txt"),), 4))
    assert {place: dropped.reason for place, dropped in found.dropped.items()} == {
        1: "duplicate",
        2: "near_duplicate",
        4: "contaminated",
    }
    assert found.dropped[1].detail == f"{path}:2 has the problem of {path}:1"
    assert [seed.id for seed in found.taken()] == ["1", "4", "6"] and found.total == 3
    limited = survey(Bank(str(path)), 2, 0.0, Benchmarks())
    assert [seed.id for seed in limited.taken()] == ["1", "3"] and limited.total == 2
    assert [seed.id for seed, _ in limited.walk()] == ["1", "2", "3"]
    assert limited.fingerprint == found.fingerprint and limited.seeds == 6
    cache = tmp_path / "cache.json"
    found.save(cache)
    benchmarks = Benchmarks((str(tmp_path / "benchmark.txt"),), 4)
    again = survey(Bank(str(path)), None, 0.8, benchmarks, cache)
    assert again.dropped == found.dropped and benchmarks.reports == {"seeds": {"texts": 6, "contaminated": 1}}
    text = cache.read_text().replace("near_duplicate", "taken from the file")
    cache.write_text(text)
    assert again.load(cache) and again.dropped[2].reason == "taken from the file"
    for other in ({"near": 0.9}, {"ngram": 5}):  # other settings: looked at anew
        anew = survey(
            Bank(str(path)), None, other.get("near", 0.8), Benchmarks(benchmarks.paths, other.get("ngram", 4)), cache
        )
        assert anew.dropped[2].reason == "near_duplicate"
    cache.write_text(text[:50])
    assert survey(Bank(str(path)), None, 0.8, benchmarks, cache).dropped == found.dropped
