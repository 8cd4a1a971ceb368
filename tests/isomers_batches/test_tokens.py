"""The token cache: what comes out is what encode_groups makes, whatever is changed on disk, and however many build it."""

import json
import multiprocessing
import multiprocessing.connection
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from igascale.errors import UserError
from igascale.evaluation.answers import can_be_right
from igascale.isomers import cache
from igascale.isomers.cache import Listener, cache_folder, open_tokens
from igascale.isomers.encode import encode_groups
from igascale.isomers.fingerprint import fingerprint_tokenizer
from igascale.isomers.generator import generate
from igascale.isomers.rows import Rows, extremes
from igascale.isomers.schema import Instance, IsomerGroup, read_groups, write_groups
from igascale.isomers.tokens import HEADER, Damaged, Encoded, Tokens

from tiny import tiny_tokenizer

NAMES = ("law", "médecine", "a", "b c")
TEXT = st.text("ab1 \n\tAnswer:Zé🙂<s></s>", min_size=1, max_size=30).filter(lambda text: text.strip())
ANSWER = TEXT.map(lambda text: text.replace("\n", " ")).filter(can_be_right)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IGASCALE_CACHE", str(tmp_path / "cache"))


class Heard:
    """A listener that remembers."""

    def __init__(self):
        self.lines, self.calls = [], []
        self.listener = Listener(self.lines.append, lambda *call: self.calls.append(call))


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def source(tmp_path):
    write_groups(tmp_path / "train.jsonl", generate(7, ("law", "science", "medicine"), seed=4))
    return str(tmp_path / "train.jsonl")


@st.composite
def sets(draw):
    domains = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True))
    groups = []
    for index in range(draw(st.integers(1, 5))):
        order = draw(st.permutations(domains))  # a group may have its instances in another order
        instances = [
            Instance(
                d,
                draw(TEXT),
                draw(st.one_of(st.just(""), TEXT)),
                draw(ANSWER),
                draw(st.sampled_from([f"{index}/{d}", f"é{index}{d}"])),
            )
            for d in order
        ]
        groups.append(IsomerGroup(f"g{index}", draw(st.sampled_from(["s", f"s{index}"])), tuple(instances)))
    wanted = draw(st.permutations(domains))[: draw(st.integers(1, len(domains)))]
    return groups, tuple(wanted), draw(st.integers(1, 60)), draw(st.booleans())


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(sets())
def test_the_cache_holds_what_encode_groups_makes(tmp_path, case):
    groups, wanted, max_length, template = case
    path = tmp_path / "random.jsonl"
    write_groups(path, groups)
    tokenizer = tiny_tokenizer(template)
    tokens, _ = open_tokens(path, tokenizer)
    store = Encoded(tokens, max_length)
    places = np.arange(len(store)).reshape(len(groups), -1)[:, [tokens.domains.index(d) for d in wanted]]
    rows = Rows(store, places)
    try:
        expected = encode_groups(groups, tokenizer, wanted, max_length, str(path))
    except UserError as error:  # something has no supervised token: the same is refused in the same words
        with pytest.raises(UserError) as found:
            store.check_supervised(str(path), places.ravel())
        if len(tokens.domains) > 1:
            assert str(found.value) == str(error)
        return
    store.check_supervised(str(path), places.ravel())
    assert list(rows) == expected
    assert rows == expected and rows[::-1] == expected[::-1]
    assert rows.lengths().tolist() == [[len(e.input_ids) for e in row] for row in expected]
    assert [list(row) for row in store.truncated()[places]] == [[e.truncated for e in row] for row in expected]
    assert list(tokens.seeds()) == [group.seed_id for group in groups]
    assert tokens.dtype == np.uint8  # 128 words


def test_second_opening_makes_nothing(source, heard):
    first, sha256 = open_tokens(source, tiny_tokenizer(), heard.listener)
    assert [call[1:] for call in heard.calls] == [(n, 7) for n in range(1, 8)]
    again, same = open_tokens(source, tiny_tokenizer(), heard.listener)
    assert len(heard.calls) == 7
    assert (first.folder, sha256) == (again.folder, same)
    assert heard.lines == []


def test_any_change_of_the_tokenizer_makes_other_tokens():
    plain = tiny_tokenizer()
    changed = {
        "as it was": tiny_tokenizer(),
        "template": tiny_tokenizer(True),
        "word": tiny_tokenizer(words=("zebra",)),
    }
    changed["no bos"] = tiny_tokenizer()
    changed["no bos"].bos_token = None
    changed["other eos"] = tiny_tokenizer()
    changed["other eos"].eos_token = "<pad>"
    changed["split"] = tiny_tokenizer()
    changed["split"].split_special_tokens = True
    changed["other blank"] = tiny_tokenizer(True)
    changed["other blank"].chat_template += " "
    changed["added"] = tiny_tokenizer()
    changed["added"].add_tokens(["Zürich"])
    prints = {name: fingerprint_tokenizer(tokenizer) for name, tokenizer in changed.items()}
    assert prints.pop("as it was") == fingerprint_tokenizer(plain)
    assert fingerprint_tokenizer(plain) not in prints.values()
    assert len(set(prints.values())) == len(prints)


def test_a_template_that_writes_the_time_is_found_out(monkeypatch):
    tokenizer = tiny_tokenizer(True)
    tokenizer.chat_template = "{{ day }}" + tokenizer.chat_template
    render = type(tokenizer).apply_chat_template
    days = iter("aab")
    monkeypatch.setattr(type(tokenizer), "apply_chat_template", lambda s, t, **k: render(s, t, day=today, **k))
    today = next(days)
    first = fingerprint_tokenizer(tokenizer)
    today = next(days)
    assert fingerprint_tokenizer(tokenizer) == first
    today = next(days)
    assert fingerprint_tokenizer(tokenizer) != first


def test_padding_left_on_does_not_matter():
    tokenizer = tiny_tokenizer()
    before = fingerprint_tokenizer(tokenizer)
    tokenizer(["a", "a b"], padding=True, truncation=True, max_length=3)
    assert fingerprint_tokenizer(tokenizer) == before


def test_a_tokenizer_without_a_form_keeps_nothing(source, heard):
    class Slow:
        def __init__(self):
            self.fast = tiny_tokenizer()

        def __getattr__(self, name):
            if name == "backend_tokenizer":
                raise AttributeError(name)
            return getattr(self.fast, name)

        def __call__(self, *args, **kwargs):
            return self.fast(*args, **kwargs)

    tokens, _ = open_tokens(source, Slow(), heard.listener)
    assert list(Encoded(tokens, 99)) == [
        e for row in encode_groups(read_groups(source), tiny_tokenizer(), tokens.domains, 99, "") for e in row
    ]
    assert "Slow has no serialised form" in heard.lines[0]
    assert not cache_folder().exists()


FILES = ["ids.npy", "offsets.npy", "prompts.npy", "names.npy", "cuts.npy", HEADER]


def flip(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "one bit": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_damage_is_found_said_and_mended(source, heard, file, damage):
    tokens, _ = open_tokens(source, tiny_tokenizer())
    expected = list(Encoded(tokens, 30))
    key = json.loads((tokens.folder / HEADER).read_text())["key"]
    DAMAGES[damage](tokens.folder / file)
    with pytest.raises(Damaged, match=file.replace(".", r"\.")):
        Tokens(tokens.folder, key)
    mended, _ = open_tokens(source, tiny_tokenizer(), heard.listener)
    (line,) = heard.lines
    assert f"damaged ({file}: " in line and line.endswith("is tokenized again")
    assert list(Encoded(mended, 30)) == expected
    heard.lines.clear()
    open_tokens(source, tiny_tokenizer(), heard.listener)
    assert heard.lines == []
    assert not list(cache_folder().glob(".*"))  # nothing unfinished is left


def test_every_bit_of_the_header_counts(source):
    tokens, _ = open_tokens(source, tiny_tokenizer())
    key = json.loads((tokens.folder / HEADER).read_text())["key"]
    Tokens(tokens.folder, key)
    header = json.loads((tokens.folder / HEADER).read_text())
    for change in ({"groups": 6}, {"domains": ["law"]}, {"format": 0}, {"key": {}}, {"files": {}}):
        (tokens.folder / HEADER).write_text(json.dumps(header | change))
        with pytest.raises(Damaged, match="does not agree with its own hash"):
            Tokens(tokens.folder, key)
    (tokens.folder / HEADER).write_text("[]")
    with pytest.raises(Damaged, match="not what was written"):
        Tokens(tokens.folder, key)
    (tokens.folder / HEADER).write_text(json.dumps(header))
    with pytest.raises(Damaged, match="of other data"):
        Tokens(tokens.folder, key | {"file": "x"})


def test_a_damaged_entry_that_is_open_stays_readable(source, heard):
    tokens, _ = open_tokens(source, tiny_tokenizer())
    expected = list(Encoded(tokens, 30))
    (tokens.folder / "prompts.npy").unlink()
    open_tokens(source, tiny_tokenizer(), heard.listener)
    assert list(Encoded(tokens, 30)) == expected


def no_room(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IGASCALE_CACHE", str(tmp_path / "file" / "cache"))


def no_lock(tmp_path, monkeypatch):
    real = os.open

    def refused(path, *arguments, **more):
        if str(path).endswith(".lock"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **more)

    monkeypatch.setattr(cache.os, "open", refused)


def full(tmp_path, monkeypatch):
    real = cache.write_tokens

    def write(folder, *rest):
        if str(tmp_path) in str(folder):
            raise OSError(28, "No space left on device")
        real(folder, *rest)

    monkeypatch.setattr(cache, "write_tokens", write)


@pytest.mark.parametrize(
    ("how", "reason"), [(no_room, "Not a directory"), (no_lock, "Permission denied"), (full, "No space left")]
)
def test_a_cache_that_cannot_be_written_is_said_and_done_without(source, heard, tmp_path, monkeypatch, how, reason):
    expected = list(Encoded(open_tokens(source, tiny_tokenizer())[0], 30))
    monkeypatch.setenv("IGASCALE_CACHE", str(tmp_path / "other"))
    how(tmp_path, monkeypatch)
    tokens, _ = open_tokens(source, tiny_tokenizer(), heard.listener)
    (line,) = heard.lines
    assert "cannot be kept in" in line and reason in line and "IGASCALE_CACHE" in line
    assert list(Encoded(tokens, 30)) == expected
    assert not tokens.folder.exists()  # its files have no names any more


def test_an_entry_in_a_folder_that_cannot_be_written_is_used(source, heard, monkeypatch):
    open_tokens(source, tiny_tokenizer())
    no_lock(None, monkeypatch)
    open_tokens(source, tiny_tokenizer(), heard.listener)
    assert heard.lines == heard.calls == []


def test_an_entry_that_may_not_be_read_is_left_alone(source, heard, monkeypatch):
    from igascale.isomers import tokens as module

    kept, _ = open_tokens(source, tiny_tokenizer())
    real = module._sha256

    def refused(path):
        if path.parent == kept.folder:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(module, "_sha256", refused)
    tokens, _ = open_tokens(source, tiny_tokenizer(), heard.listener)
    assert "(Permission denied), so every process tokenizes it anew" in heard.lines[0]
    assert tokens.num_groups == 7 and len(list(kept.folder.iterdir())) == 6


def test_no_home_is_said(source, heard, monkeypatch):
    monkeypatch.setenv("IGASCALE_CACHE", "~nobody-of-this-name/cache")
    tokens, _ = open_tokens(source, tiny_tokenizer(), heard.listener)
    assert "home" in heard.lines[0] and tokens.num_groups == 7


def test_no_room_anywhere_is_one_error(source, monkeypatch):
    def write(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "write_tokens", write)
    with pytest.raises(UserError, match=r"no room for its tokens in .* either \(No space left on device\).*TMPDIR"):
        open_tokens(source, tiny_tokenizer(), Heard().listener)


def test_no_locks_on_the_file_system_is_said(source, heard, monkeypatch):
    def refused(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(cache.fcntl, "lockf", refused)
    tokens, _ = open_tokens(source, tiny_tokenizer(), heard.listener)
    assert tokens.folder.exists()
    assert "its file system has no locks" in heard.lines[0]


def test_a_host_that_was_quicker_is_accepted(source, monkeypatch, heard):
    tokens, _ = open_tokens(source, tiny_tokenizer())
    kept = tokens.folder.rename(tokens.folder.parent.parent / "kept")
    real = cache.write_tokens

    def write(*arguments):
        real(*arguments)
        kept.rename(tokens.folder)  # while this process was writing

    monkeypatch.setattr(cache, "write_tokens", write)
    again, _ = open_tokens(source, tiny_tokenizer(), heard.listener)
    assert list(Encoded(again, 30)) == list(Encoded(tokens, 30))
    assert not list(cache_folder().glob(".*"))


def test_a_file_that_changes_meanwhile_is_refused(source, monkeypatch):
    real = cache.write_tokens

    def write(*arguments):
        real(*arguments)
        write_groups(source, generate(7, ("law", "science", "medicine"), seed=5))

    monkeypatch.setattr(cache, "write_tokens", write)
    with pytest.raises(UserError, match="changed while it was tokenized"):
        open_tokens(source, tiny_tokenizer())
    assert [p for p in cache_folder().iterdir() if p.suffix != ".lock"] == []


def test_bad_data_leaves_nothing(source):
    with open(source, "a") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match=r"train\.jsonl:8: field 'id'"):
        open_tokens(source, tiny_tokenizer())
    assert [p for p in cache_folder().iterdir() if p.suffix != ".lock"] == []
    Path(source).write_text("\n")
    with pytest.raises(UserError, match="no groups in it"):
        open_tokens(source, tiny_tokenizer())


def test_what_killed_processes_left_is_swept(source):
    old, young = cache_folder() / ".dead.1", cache_folder() / ".alive.2"
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "ids.npy").write_text("")
    past = time.time() - 2 * 24 * 3600
    for path in (old / "ids.npy", old):
        os.utime(path, (past, past))
    open_tokens(source, tiny_tokenizer())
    assert not old.exists() and young.exists()


def build(source, pipe):
    """In a process of its own: open the tokens, making them when it is told to; sends how often they were made, and their number."""
    real, made = cache.write_tokens, []

    def slowly(*arguments):
        made.append(1)
        pipe.send("making")
        pipe.recv()
        real(*arguments)

    cache.write_tokens = slowly
    tokens, _ = open_tokens(source, tiny_tokenizer())
    pipe.send((len(made), tokens.num_tokens))


def builder(source):
    """Forked: to import everything anew takes longer than the test."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()
    process = context.Process(target=build, args=(source, theirs))
    process.start()
    return process, mine


def test_of_three_processes_at_once_one_makes_it(source):
    all_three = [builder(source) for _ in range(3)]
    (making,) = multiprocessing.connection.wait([pipe for _, pipe in all_three])
    time.sleep(0.3)  # for the others to come to it too
    making.send("go on")
    results = []
    for process, pipe in all_three:
        while (result := pipe.recv()) == "making":
            pass
        results.append(result)
        process.join(120)
        assert process.exitcode == 0
    assert sorted(made for made, _ in results) == [0, 0, 1]
    assert len({tokens for _, tokens in results}) == 1


def test_the_next_one_takes_over_from_a_killed_one(source, heard):
    process, pipe = builder(source)
    assert pipe.recv() == "making"
    process.kill()
    process.join()
    assert len(list(cache_folder().glob(".*"))) == 1
    tokens, _ = open_tokens(source, tiny_tokenizer(), heard.listener)
    assert tokens.num_groups == 7


def test_waiting_for_another_process_is_a_sign_of_life(source, heard):
    process, pipe = builder(source)
    assert pipe.recv() == "making"

    def beat(*call):
        heard.calls.append(call)
        if len(heard.calls) == 3:
            pipe.send("go on")

    open_tokens(source, tiny_tokenizer(), Listener(heard.lines.append, beat))
    process.join()
    assert len(heard.calls) > 2
    assert set(heard.calls) == {(source, 0, 0)}


def test_an_id_that_does_not_fit_is_an_error_not_another_id(source, monkeypatch):
    monkeypatch.setattr(cache, "largest_id", lambda tokenizer: 20)  # a tokenizer that says less than it gives
    real = cache.write_tokens

    class Larger:
        def __init__(self, tokenizer):
            self.tokenizer = tokenizer

        def __getattr__(self, name):
            return getattr(self.tokenizer, name)

        def __call__(self, *args, **kwargs):
            out = self.tokenizer(*args, **kwargs)
            return {"input_ids": [[i + 300 for i in ids] for ids in out["input_ids"]]}

    monkeypatch.setattr(cache, "write_tokens", lambda f, k, g, t, *rest: real(f, k, g, Larger(t), *rest))
    with pytest.raises(OverflowError):
        open_tokens(source, tiny_tokenizer())


def test_extremes_read_two_examples(source):
    tokens, _ = open_tokens(source, tiny_tokenizer())
    rows = Rows(Encoded(tokens, 1000), np.arange(21).reshape(7, 3))
    flat = [e for row in rows for e in row]
    first = max(flat, key=lambda e: len(e.input_ids))
    other = min((e for e in flat if e.input_ids != first.input_ids), key=lambda e: len(e.input_ids))
    assert extremes(rows) == [first, other]
    same = [[replace(first), replace(first)]]
    assert extremes(same) == [first]
    assert extremes([[first, replace(first, input_ids=[1] * len(first.input_ids))]])[1].input_ids[0] == 1


def test_what_a_file_holds_is_known_from_its_tokens(source, monkeypatch):
    from igascale import loading

    read = loading.look_over(source)
    assert (read.domains, read.groups, len(read.seeds)) == (("law", "science", "medicine"), 7, 7)
    tokens, _ = open_tokens(source, tiny_tokenizer())

    def refused(*_):
        raise AssertionError("the file was read")

    with monkeypatch.context() as patch:
        patch.setattr(loading, "iter_groups", refused)
        assert loading.look_over(source) == read
    flip(tokens.folder / "names.npy")
    assert loading.look_over(source) == read  # from the file
    with open(source, "a") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match=r"train\.jsonl:8: field 'id'"):
        loading.look_over(source)
