"""Invented problems in the published formats of the four benchmarks, and an encrypted zip archive."""

import json
import struct
import zipfile
import zlib
from pathlib import Path


def write_json(path, value, **options) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, **options), encoding="utf-8")
    return path


def write_lines(path, records) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    return path


def math_problem(**changes) -> dict:
    return {
        "problem": "A crate holds $3$ rows of $4$ jars. How many jars is that?",
        "level": "Level 2",
        "type": "Algebra",
        "solution": "Three rows of four are $3\\cdot 4=\\boxed{12}$ jars.",
    } | changes


def math_tree(root) -> Path:
    """MATH/{train,test}/SUBJECT/N.json, all seven subjects."""
    subjects = {
        "algebra": "Algebra",
        "counting_and_probability": "Counting & Probability",
        "geometry": "Geometry",
        "intermediate_algebra": "Intermediate Algebra",
        "number_theory": "Number Theory",
        "prealgebra": "Prealgebra",
        "precalculus": "Precalculus",
    }
    for split in ("train", "test"):
        for n, (folder, subject) in enumerate(subjects.items()):
            problem = math_problem(type=subject, problem=f"Invented {split} problem on {subject}: what is {n}+{n}?")
            problem["solution"] = f"It is $\\boxed{{{n + n}}}$."
            write_json(Path(root) / "MATH" / split / folder / f"{n + 1}.json", problem, indent=4)
    return Path(root) / "MATH"


def reclor_question(n: int = 0, split: str = "train", **changes) -> dict:
    record = {
        "context": f"Every lamp in hall {n} is lit. The green thing in hall {n} is a lamp.",
        "question": "Which one of the following must be true?",
        "answers": ["The green thing is dark.", "The green thing is lit.", "No lamp is green.", "The hall is empty."],
        "label": 1,
        "id_string": f"{split}_{n}",
    } | changes
    return {key: value for key, value in record.items() if value is not None}


def reclor_folder(root) -> Path:
    """train.json, val.json, test.json and the other files of the archive."""
    root = Path(root)
    write_json(root / "train.json", [reclor_question(n) for n in range(3)])
    write_json(root / "val.json", [reclor_question(10 + n, "val", id_string=f"val_{n}", label=n) for n in range(2)])
    write_json(
        root / "test.json",
        [reclor_question(20 + n, "test", id_string=f"test_{n}", label=None) for n in range(4)],
    )
    write_json(root / "question_type_names.json", {"0": "implication"})
    (root / "source_list.txt").write_text("an invented list\n")
    return root


def logiqa_question(n: int = 0, **changes) -> dict:
    record = {
        "id": 100 + n,
        "answer": n % 4,
        "text": f"All {n} bakers who rise early sell rolls. Ada is one of the {n} bakers and rises early.",
        "question": "Which of the following follows?",
        "options": ["Ada sells rolls", "Ada sleeps late", "Nobody sells rolls", "Ada is no baker"],
        "type": {"Sufficient Conditional Reasoning": True, "Necessry Condtional Reasoning": True},
    } | changes
    return {key: value for key, value in record.items() if value is not None}


def logiqa_folder(root) -> Path:
    """The files of logiqa/DATA/LOGIQA, and an NLI file beside them."""
    folder = Path(root) / "logiqa" / "DATA" / "LOGIQA"
    write_lines(folder / "train.txt", [logiqa_question(n) for n in range(4)])
    write_lines(folder / "dev.txt", [logiqa_question(n) for n in range(4, 6)])
    write_lines(folder / "test.txt", [logiqa_question(n) for n in range(6, 9)])
    lettered = ["A.Ada sells rolls", "B. Ada sleeps late", "C. Nobody sells rolls", "D. Ada is no baker"]
    write_lines(
        folder / "ood_test.jsonl", [logiqa_question(n, id=n, type=None, options=lettered) for n in range(9, 11)]
    )
    chinese = {"example_id": 5, "id": None, "type": None, "text": "所有的灯都亮着。", "question": "哪项为真？"}
    options = ["A.灯亮着", "B．灯灭了", "C、没有灯", "D.无法判断"]
    write_lines(folder / "dev_zh.txt", [logiqa_question(0, **chinese, options=options)])
    (folder / "datasource.txt").write_text("http://example.org\n")
    nli = {
        "label": "entailed",
        "major_premise": ["All lamps are lit."],
        "minor_premise": "L is a lamp.",
        "conclusion": "L is lit.",
    }
    write_lines(Path(root) / "logiqa2nli" / "DATA" / "QA2NLI" / "test.txt", [nli])
    return Path(root)


def arb_choice(n: int = 0, **changes) -> dict:
    """As law and MCAT routes spell it."""
    record = {
        "_id": f"64b{n:021d}",
        "Problem Statement": f"A lends B {n} kettles for a week. B keeps them. What can A claim?",
        "Problem Number": str(n),
        "Answer Candidates": ["Nothing", "The kettles", "A fine only"],
        "Final Answer": "B",
        "Problem Type": "Multiple choice",
    } | changes
    return {key: value for key, value in record.items() if value is not None}


def arb_free(n: int = 0, **changes) -> dict:
    """As mathematics and physics routes spell it."""
    record = {
        "_id": f"64c{n:021d}",
        "Problem_Statement": f"Find the sum of the first {n} odd numbers for $n={n}$.",
        "Topic": "Series",
        "Output Format Instructions": "Give a number.",
        "Solution": "It is the square.",
        "Final Answer": f"${n * n}$",
        "Problem Type": "Numerical",
        "rubric": "3 points for the square.",
        "rubric_template": "",
    } | changes
    return {key: value for key, value in record.items() if value is not None}


def arb_folder(root) -> Path:
    """One file a route, in the three ways of naming a file."""
    root = Path(root)
    write_json(root / "law.json", [arb_choice(n) for n in range(3)])
    blank = [arb_free(8, **{"Problem Type": ""}), arb_free(9, **{"Problem Type": "Symbolic"})]
    write_json(root / "math" / "numerical.json", [*(arb_free(n) for n in range(2)), *blank])
    write_json(root / "arb_math_symbolic.json", [arb_free(3, **{"Problem Type": "Symbolic", "Final Answer": "$x^2$"})])
    write_json(root / "math" / "prooflike.json", [arb_free(4, **{"Problem Type": "Proof", "Final Answer": None})])
    write_json(
        root / "physics" / "numerical" / "noimg.json",
        [arb_free(5, Images=[]), arb_free(6, Images=["http://example.org/a.png"])],
    )
    write_json(
        root / "physics" / "symbolic" / "img.json",
        [arb_free(7, Images=["http://example.org/b.png"], **{"Problem Type": None})],
    )
    subjects = ["Biology", "Biochemistry", "General Chemistry", "Physics", "Psychology"]
    write_json(
        root / "mcatScience_val_noimg.json", [arb_choice(20 + i, Subject=s, Topic="x") for i, s in enumerate(subjects)]
    )
    for split in ("val", "test"):
        write_json(root / f"mcat_reading_{split}.json", [arb_choice(30, Subject="Reading")])
    return root


def encrypted_zip(path, files: dict[str, bytes], password: str) -> Path:
    """A zip archive with the traditional PKWARE encryption, as `zip -P` makes it (appnote.txt, section 6.1)."""
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ 0xEDB88320 if value & 1 else value >> 1
        table.append(value)

    def encrypt(data: bytes, check: int) -> bytes:
        keys = [0x12345678, 0x23456789, 0x34567890]

        def step(old: int, byte: int) -> int:
            return (old >> 8) ^ table[(old ^ byte) & 0xFF]

        def update(byte: int) -> None:
            keys[0] = step(keys[0], byte)
            keys[1] = (keys[1] + (keys[0] & 0xFF)) & 0xFFFFFFFF
            keys[1] = (keys[1] * 134775813 + 1) & 0xFFFFFFFF
            keys[2] = step(keys[2], keys[1] >> 24)

        for byte in password.encode():
            update(byte)
        out = bytearray()
        for byte in bytes(11) + bytes([check]) + data:
            t = keys[2] | 2
            out.append(byte ^ (((t * (t ^ 1)) >> 8) & 0xFF))
            update(byte)
        return bytes(out)

    body, central = b"", b""
    for name, data in files.items():
        crc, secret = zlib.crc32(data), encrypt(data, zlib.crc32(data) >> 24)
        common = struct.pack("<HHHHHIIIHH", 20, 1, 0, 0, 33, crc, len(secret), len(data), len(name), 0)
        central += (
            struct.pack("<IH", 0x02014B50, 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name.encode()
        )
        body += struct.pack("<I", 0x04034B50) + common + name.encode() + secret
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, len(files), len(files), len(central), len(body), 0)
    Path(path).write_bytes(body + central + end)
    assert zipfile.is_zipfile(path)
    return Path(path)
