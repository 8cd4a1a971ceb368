"""ReClor: three arrays, an encrypted archive, hidden labels, and the file for the challenge server."""

import io
import json
import re
import tracemalloc

import numpy as np
import pytest

from igascale.errors import UserError
from igascale.evaluation.benchmarks import find
from igascale.evaluation.benchmarks.reclor import challenge_file, read_predictions

from published_files import encrypted_zip, reclor_folder, reclor_question, write_json, write_lines

RECLOR = find("reclor")


def test_the_published_folder(tmp_path):
    loaded = RECLOR.load(reclor_folder(tmp_path / "reclor"))
    assert [(f.name, f.split, f.rows, f.items) for f in loaded.files] == [
        ("test.json", "test", 4, 4),
        ("train.json", "train", 3, 3),
        ("val.json", "val", 2, 2),
    ]
    item = next(i for i in loaded.items if i.id == "train_1")
    assert item.question == (
        "Every lamp in hall 1 is lit. The green thing in hall 1 is a lamp.\n\nWhich one of the following must be true?"
    )
    assert item.answer == "B" and item.answer_index == 1 and item.options[1] == "The green thing is lit."
    assert item.problem.splitlines()[-4:] == [
        "A. The green thing is dark.",
        "B. The green thing is lit.",
        "C. No lamp is green.",
        "D. The hall is empty.",
    ]
    assert all(i.answer is None and i.answer_index is None for i in loaded.items if i.split == "test")
    assert loaded.notes == [
        "2 other files not read: question_type_names.json, source_list.txt",
        "4 have no label: those of the test are on the challenge server only",
    ]


def test_sides_of_the_split(tmp_path):
    items = RECLOR.load(reclor_folder(tmp_path)).items
    assert {i.split for i in RECLOR.select(items, "ood")} == {"val"}
    assert {i.split for i in RECLOR.select(items, "id")} == {"train"}
    assert len(RECLOR.select(items, "all")) == 9


def test_the_encrypted_archive(tmp_path):
    folder = reclor_folder(tmp_path / "reclor")
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    archive = encrypted_zip(tmp_path / "reclor_data.zip", files, "open sesame")
    loaded = RECLOR.load(archive, password="open sesame")
    assert loaded.items == RECLOR.load(folder).items
    with pytest.raises(UserError, match="is encrypted; give its password with --password"):
        RECLOR.load(archive)
    with pytest.raises(UserError, match="password is wrong"):
        RECLOR.load(archive, password="open barley")


def test_labels_as_text_and_cloze_questions(tmp_path):
    record = reclor_question(0, label="3", question="The author claims that _ .")
    (item,) = (loaded := RECLOR.load(write_json(tmp_path / "val.json", [record]))).items
    assert item.answer == "D" and item.meta == {"cloze": True}
    assert loaded.notes == ["1 questions have a blank '_' that the option is to fill (meta.cloze)"]
    # The loading script on the Hub spells a hidden label as an empty text.
    (hidden,) = RECLOR.load(write_json(tmp_path / "test.json", [reclor_question(0, "test", label="")])).items
    assert hidden.answer is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"label": None}, "field 'label': is missing"),
        ({"label": 4}, "field 'label': is 4, outside the options 0 to 3"),
        ({"label": -1}, "field 'label': is -1, outside the options 0 to 3"),
        ({"label": "B"}, "field 'label': must be the index of an option, 0 to 3, not 'B'"),
        ({"label": True}, "field 'label': must be the index of an option"),
        ({"answers": ["a", "b", "c"]}, "field 'answers': has 3 options; there must be 4"),
        ({"answers": ["a", "b", "c", " "]}, r"field 'answers\[3\]': is empty"),
        ({"answers": "abcd"}, "field 'answers': must be a list of texts, not a text"),
        ({"answers": [1, 2, 3, 4]}, "field 'answers': must be a list of texts"),
        ({"context": None}, "field 'context': is missing"),
        ({"id_string": None}, "field 'id_string': is missing"),
        ({"answers": None, "answer": []}, "field 'answers': is missing; is it 'answer'"),
    ],
)
def test_what_breaks_the_format(tmp_path, changes, said):
    path = write_json(tmp_path / "train.json", [reclor_question(0), reclor_question(1, **changes)])
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}\[1\]: {said}") as raised:
        RECLOR.load(path)
    assert "\n" not in str(raised.value)


def test_the_challenge_file_is_what_the_server_wants(tmp_path):
    items = RECLOR.load(reclor_folder(tmp_path)).items
    given = {"test_3": "D", "test_0": 1, "test_2": None, "test_1": "c"}
    content, notes = challenge_file(items, given, unanswered="A")
    labels = np.load(io.BytesIO(content), allow_pickle=False)
    assert labels.dtype == np.int64 and labels.shape == (4,) and labels.tolist() == [1, 2, 0, 3]
    assert notes == ["1 unanswered questions are sent as A"]


def test_the_challenge_file_goes_by_id_not_by_place(tmp_path):
    order = [2, 0, 3, 1]
    records = [reclor_question(n, "test", label=None) for n in order]
    items = RECLOR.load(write_json(tmp_path / "test.json", records)).items
    content, notes = challenge_file(items, {f"test_{n}": n for n in order})
    assert np.load(io.BytesIO(content)).tolist() == [0, 1, 2, 3]
    assert "not in the order of its id_string" in notes[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test_2": "E"}, "prediction for 'test_2': 'E' is neither A to D nor 0 to 3"),
        ({"test_2": 4}, "prediction for 'test_2': 4 is neither"),
        ({"test_2": True}, "prediction for 'test_2': True is neither"),
        ({"test_2": None}, "no answer for 'test_2' .*--unanswered A"),
        ({"test_2": ...}, "no prediction for 'test_2' .1 of 4 missing"),
        ({"val_0": 1}, "prediction for 'val_0', which is not in test.json"),
    ],
)
def test_predictions_that_cannot_be_sent(tmp_path, changes, said):
    items = RECLOR.load(reclor_folder(tmp_path)).items
    given = {f"test_{n}": n for n in range(4)} | changes
    with pytest.raises(UserError, match=said):
        challenge_file(items, {key: value for key, value in given.items() if value is not ...})


def test_only_the_servers_numbering_is_exported(tmp_path):
    records = [reclor_question(n, "test", label=None) for n in (0, 2)]
    items = RECLOR.load(write_json(tmp_path / "test.json", records)).items
    with pytest.raises(UserError, match="id_string 'test_2' is not one of test_0 to test_1"):
        challenge_file(items, {})
    with pytest.raises(UserError, match="needs the problems of test"):
        challenge_file([], {})


def test_the_file_of_predictions_is_read_strictly(tmp_path):
    path = write_lines(
        tmp_path / "p.jsonl", [{"id": "test_0", "prediction": "B"}, {"id": "test_1", "prediction": None}]
    )
    assert read_predictions(path) == {"test_0": "B", "test_1": None}
    for second, said in (
        ({"id": "test_1"}, "'prediction': is missing"),
        ({"id": "test_0", "prediction": 1}, "was there"),
    ):
        write_lines(path, [{"id": "test_0", "prediction": "B"}, second])
        with pytest.raises(UserError, match=f"p.jsonl:2: .*{said}"):
            read_predictions(path)


def test_published_counts_load_quickly_and_flat(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps([reclor_question(n) for n in range(4638)]))
    tracemalloc.start()
    loaded = RECLOR.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(loaded.items) == 4638
    assert peak < 30 * path.stat().st_size
