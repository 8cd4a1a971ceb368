"""Where tokens are kept between runs, and who makes them: one process of each host that shares the folder, while the others wait.

The folder is ``$IGASCALE_CACHE``, or ``~/.cache/igascale``. Entries are named by a hash of the file's bytes, of the tokenizer with its chat
template, and of the format; an entry is made beside its place and moved there whole. Any of it may be deleted at any time.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.isomers.fingerprint import fingerprint_tokenizer, hash_file, largest_id
from igascale.isomers.schema import IsomerGroup, count_groups, iter_groups
from igascale.isomers.tokens import FORMAT, HEADER, Damaged, Tokens, write_tokens

_LOG = logging.getLogger(__name__)
_TAKEN = (errno.EACCES, errno.EAGAIN)
#: A half-made entry that nobody has touched for so long, in seconds, is of a process that was killed.
_ABANDONED = 24 * 3600.0


def _silent(source: str, done: int, total: int) -> None:
    pass


@dataclass(frozen=True)
class Listener:
    """Who hears what the cache does.

    Attributes:
        say: takes a line that the user should see.
        progress: called with (file, groups done, groups in all) every moment, also while another process makes the tokens.
    """

    say: Callable[[str], object] = _LOG.warning
    progress: Callable[[str, int, int], object] = _silent


@dataclass(frozen=True)
class Variant:
    """Other texts than the file's own, made from its groups.

    Attributes:
        key: all that decides them, as JSON.
        tell: the groups to tokenize in place of a group of the file, given its place; each of a single instance.
    """

    key: dict[str, Any]
    tell: Callable[[int, IsomerGroup], Iterator[IsomerGroup]]


def cache_folder() -> Path:
    """Where tokens are kept.

    Raises:
        OSError: there is no home folder.
    """
    try:
        return Path(os.environ.get("IGASCALE_CACHE") or "~/.cache/igascale").expanduser() / "tokens"
    except RuntimeError as error:
        raise OSError(str(error)) from None


def open_tokens(
    source: str | Path, tokenizer: Any, listener: Listener | None = None, variant: Variant | None = None
) -> tuple[Tokens, str]:
    """The tokens of a file, from the cache or made now; and the file's SHA-256.

    What cannot be kept (no room, no permission, a tokenizer without a fingerprint) goes to a temporary folder that is gone with this
    process, and that is said.

    Args:
        source: a file of groups.
        tokenizer: a Hugging Face tokenizer.
        listener: hears what is done.
        variant: other texts made from the file's.

    Raises:
        UserError: the file breaks the schema or changes while it is read, or there is no room for the tokens anywhere.
    """
    work = _Work(str(source), tokenizer, listener or Listener(), variant, hash_file(source))
    identity = fingerprint_tokenizer(tokenizer)
    if identity is None:
        work.say(f"{source}: {type(tokenizer).__name__} has no serialised form to know it by; its tokens are not kept")
        return work.in_temporary_folder({}), work.sha256
    key = {"file": work.sha256, "tokenizer": identity, "variant": variant.key if variant else None}
    name = hashlib.sha256(json.dumps([FORMAT, key], sort_keys=True).encode()).hexdigest()[:24]
    try:
        return work.in_cache(cache_folder() / name, key), work.sha256
    except OSError as error:
        work.say(
            f"{source}: its tokens cannot be kept in {os.environ.get('IGASCALE_CACHE') or '~/.cache/igascale'} "
            f"({error.strerror or error}), so every process tokenizes it anew, into a temporary folder; set IGASCALE_CACHE to a "
            "folder that can be written"
        )
    return work.in_temporary_folder(key), work.sha256


def known_tokens(source: str | Path) -> Tokens | None:
    """The file's tokens by whatever tokenizer, if it has been tokenized as it is now: what it holds is then known without reading it.

    Raises:
        UserError: the file cannot be read.
    """
    sha256 = hash_file(source)
    with suppress(OSError):
        for header in sorted(cache_folder().glob(f"*/{HEADER}")):
            with suppress(Damaged, OSError, ValueError, KeyError, TypeError):  # others say what is wrong with it
                key = json.loads(header.read_text(encoding="utf-8"))["key"]
                if (key["file"], key["variant"]) == (sha256, None):
                    return Tokens(header.parent, key)
    return None


@dataclass(frozen=True)
class _Work:
    source: str
    tokenizer: Any
    listener: Listener
    variant: Variant | None
    sha256: str

    def say(self, line: str) -> None:
        self.listener.say(line)

    def in_cache(self, place: Path, key: dict[str, Any]) -> Tokens:
        """Open the entry, or make it, once."""
        if place.exists():
            with suppress(Damaged):
                return Tokens(place, key)
        place.parent.mkdir(parents=True, exist_ok=True)
        with self.alone(place.with_name(f"{place.name}.lock")):
            if place.exists():  # made by another process while this one waited, or damaged
                try:
                    return Tokens(place, key)
                except Damaged as error:
                    self.say(f"{place}: damaged ({error}); {self.source} is tokenized again")
                    _remove(place)
            _sweep(place.parent)
            unfinished = _unfinished(place)
            unfinished.mkdir()
            try:
                self.make(unfinished, key)
                _move(unfinished, place)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            return self.reopen(place, key)

    def in_temporary_folder(self, key: dict[str, Any]) -> Tokens:
        """Tokens that nobody else finds: the files lose their names as soon as they are mapped."""
        try:
            with tempfile.TemporaryDirectory(prefix="igascale-tokens-") as folder:
                self.make(Path(folder), key)
                return self.reopen(Path(folder), key)
        except OSError as error:
            raise UserError(
                f"{self.source}: no room for its tokens in {tempfile.gettempdir()} either ({error.strerror or error}); set "
                "IGASCALE_CACHE to a folder that can be written, or TMPDIR"
            ) from None

    def reopen(self, place: Path, key: dict[str, Any]) -> Tokens:
        try:
            return Tokens(place, key)
        except Damaged as error:
            raise OSError(f"what was written there reads otherwise: {error}") from None

    def make(self, folder: Path, key: dict[str, Any]) -> None:
        """Tokenize into a folder."""
        total = count_groups(self.source)
        if not total:
            raise UserError(f"{self.source}: no groups in it; expected one JSON object a line (docs/data.md)")

        def groups() -> Iterator[IsomerGroup]:
            for place, (_, group) in enumerate(iter_groups(self.source)):
                if self.variant is None:
                    yield group
                else:
                    yield from self.variant.tell(place, group)
                self.listener.progress(self.source, place + 1, total)

        domains = None if self.variant is None else ("all",)
        write_tokens(folder, key, groups(), self.tokenizer, domains, largest_id(self.tokenizer))
        if hash_file(self.source) != self.sha256:
            raise UserError(f"{self.source}: changed while it was tokenized; start again when it is complete")

    @contextmanager
    def alone(self, path: Path) -> Iterator[None]:
        """Hold the entry's lock; the kernel frees it however its holder dies."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            told = False
            while not (lock := _try(descriptor)):
                if lock is None:
                    self.say(
                        f"{path.parent}: its file system has no locks; several processes may tokenize {self.source}"
                    )
                    break
                if not told:
                    told = True
                    _LOG.info("%s: another process tokenizes it; waiting", self.source)
                self.listener.progress(self.source, 0, 0)
                time.sleep(0.1)
            yield
        finally:
            os.close(descriptor)


def _try(descriptor: int) -> bool | None:
    """Whether the lock is ours now; ``None`` where the file system has none."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _TAKEN else None
    return True


def _unfinished(place: Path) -> Path:
    """A new name beside an entry, for what is not one yet, or no longer."""
    return place.with_name(f".{place.name}.{secrets.token_hex(8)}")


def _move(folder: Path, place: Path) -> None:
    try:
        folder.rename(place)
    except OSError as error:
        # A host that does not see our lock was quicker; its tokens are the same.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _remove(place: Path) -> None:
    """In one go for whoever looks; a process that has it open keeps what it has."""
    grave = _unfinished(place)
    place.rename(grave)
    shutil.rmtree(grave, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed processes left unfinished."""
    for entry in folder.glob(".*"):
        with suppress(OSError):
            if time.time() - max(f.stat().st_mtime for f in (entry, *entry.iterdir())) > _ABANDONED:
                shutil.rmtree(entry)
