"""The folder of a build: whose it is, and files that appear in it whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from igascale.errors import UserError
from igascale.files import write_atomically
from igascale.isomers.factory.recipe import Recipe, differences

STORE = "answers.sqlite"
CLAIM = "build.json"
MANIFEST = "manifest.json"


class Folder:
    """A build's folder. It belongs to one bank and one recipe, which `build.json` records.

    Args:
        path: the folder; it may not exist yet.

    Raises:
        UserError: it is no folder, or holds something that is not a build's.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: is a file; --out names a folder")
        others = (
            [p.name for p in self.path.iterdir() if not p.name.startswith((STORE, "."))] if self.path.is_dir() else []
        )
        if others and CLAIM not in others:
            raise UserError(f"{self.path}: holds other files ({sorted(others)[0]}); choose a new folder for --out")

    @property
    def store(self) -> Path:
        """The store of answers and outcomes."""
        return self.path / STORE

    @property
    def survey(self) -> Path:
        """What the last survey of the bank set aside."""
        return self.path / ".survey.json"

    def check(self, bank: Mapping[str, Any], recipe: Recipe, allow_change: bool) -> list[str]:
        """Whether the folder is new or of this bank and recipe.

        Returns:
            What changed, where that is allowed.

        Raises:
            UserError: it is of another bank or recipe; says what differs.
        """
        path = self.path / CLAIM
        if not path.exists():
            return []
        try:
            claim = json.loads(path.read_text(encoding="utf-8"))
            changes = differences(claim["recipe"], json.loads(json.dumps(recipe.parts)))
            if claim["bank"]["fingerprint"] != bank["fingerprint"]:
                old = claim["bank"]
                changes.insert(
                    0,
                    f"the bank was {old['source']} ({old['seeds']} seeds), is {bank['source']} ({bank['seeds']} seeds)",
                )
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(f"{path}: cannot be read ({error}); it says what this folder was built from") from None
        if changes and not allow_change:
            raise UserError(
                f"{self.path}: was built from something else: {'; '.join(changes)}. Choose another --out, or go on here with "
                "--allow-change: answers to questions that stay the same are used again, the files are made anew"
            )
        return changes

    def claim(self, bank: Mapping[str, Any], recipe: Recipe) -> None:
        """Write down what the folder is being built from; not where it holds files, which may be made of something else."""
        if not (self.path / MANIFEST).exists():
            write_atomically(self.path / CLAIM, claim_text(bank, recipe))


def claim_text(bank: Mapping[str, Any], recipe: Recipe) -> str:
    """What `build.json` holds."""
    return json.dumps({"bank": dict(bank), "recipe": dict(recipe.parts)}, indent=2, ensure_ascii=False) + "\n"


class LinesFile:
    """A JSONL file under way: hashed while it is written.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        self._digest = hashlib.sha256()
        self._file = path.open("wb")

    def write(self, record: Mapping[str, Any]) -> None:
        """Add a line."""
        self.write_line(json.dumps(record, ensure_ascii=False).encode() + b"\n")

    def write_line(self, line: bytes) -> None:
        """Add a line as it is."""
        self._digest.update(line)
        self._file.write(line)
        self.lines += 1

    def finish(self) -> None:
        """Nothing more comes; wait until the disk has it."""
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def about(self) -> dict[str, Any]:
        """For the manifest."""
        return {"sha256": self._digest.hexdigest(), "lines": self.lines}


class Writing:
    """Files that are written in a folder of their own and put in place together, once all are whole.

    ::

        with Writing(folder, "a.jsonl", "b.jsonl") as files:
            files["a.jsonl"].write({...})
            files.commit({"manifest.json": "..."})  # without it, or if anything fails, what was there before stays

    Args:
        folder: where they are to appear.
        names: of the JSONL files. One without a line does not appear, and an earlier one of its name goes.
    """

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.beside = folder, folder / ".new"
        self._files: dict[str, LinesFile] = {}
        self._names = names

    def __enter__(self) -> Writing:
        shutil.rmtree(self.beside, ignore_errors=True)  # of a build that was killed
        self.beside.mkdir()
        self._files = {name: LinesFile(self.beside / name) for name in self._names}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.beside, ignore_errors=True)

    def __getitem__(self, name: str) -> LinesFile:
        return self._files[name]

    def finish(self) -> dict[str, Any]:
        """No more lines; what each file holds, for the manifest."""
        for file in self._files.values():
            file.finish()
        return {name: file.about() for name, file in self._files.items() if file.lines}

    def commit(self, texts: Mapping[str, str]) -> None:
        """Put everything in place, with further files by name and text; the last of them comes last."""
        for name, text in texts.items():
            write_atomically(self.beside / name, text)
        for name, file in self._files.items():
            file.finish()
            if file.lines:
                file.path.replace(self.folder / name)
            else:
                (self.folder / name).unlink(missing_ok=True)
        for name in texts:
            (self.beside / name).replace(self.folder / name)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """A full or failing disk as one line.

    Raises:
        UserError: instead of `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be written ({error.strerror}); files made earlier are as they were, and no answer "
            "is lost: mend that and run the same command again"
        ) from None
