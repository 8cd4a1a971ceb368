"""Tokenized groups as flat arrays in a folder, read through the memory map: an example is made when it is asked for.

``ids.npy``      every instance's prompt and completion, one after the other, uncut, in the smallest unsigned type that fits
``offsets.npy``  where each instance begins in it, and the end
``prompts.npy``  tokens of each instance's prompt
``names.npy``    UTF-8 of the names: of each group its id, its seed's, and those of its instances
``cuts.npy``     where each name begins in it, and the end
``header.json``  what was tokenized, the domains, and bytes and SHA-256 of each array, sealed by its own hash

Nothing depends on ``data.max_length`` or ``data.domains``: one folder serves every run on the same file and tokenizer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np

from igascale.isomers.encode import Example, encode_instances, nothing_supervised
from igascale.isomers.schema import IsomerGroup
from igascale.loss import IGNORED

#: Raised with every change of the files.
FORMAT = 1
HEADER = "header.json"
_ARRAYS = ("ids", "offsets", "prompts", "names", "cuts")
_CHUNK = 64  # groups tokenized in one call


class Damaged(Exception):
    """A folder is not what was written; the message says which file and how."""


class Tokens:
    """The tokens of one file of groups; a folder that :func:`write_tokens` filled.

    Args:
        folder: the folder.
        key: what it must hold, as :func:`write_tokens` got it.

    Attributes:
        domains: of every group, in the file's order.
        num_groups: in the file.
        folder: where it lies.

    Raises:
        Damaged: a file is missing, or anything in it changed.
        PermissionError: it may not be read.
    """

    def __init__(self, folder: Path, key: dict[str, Any]):
        header = _read_header(folder, key)
        for name, (size, sha256) in header["files"].items():
            _check_file(folder / name, size, sha256)
        self.folder, self.domains, self.num_groups = folder, tuple(header["domains"]), int(header["groups"])
        self._ids, self._offsets, self._prompts, self._names, self._cuts = (
            np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS
        )

    @property
    def num_instances(self) -> int:
        """Instances of all groups."""
        return len(self._prompts)

    @property
    def num_tokens(self) -> int:
        """Tokens of all instances, uncut."""
        return len(self._ids)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the ids."""
        return self._ids.dtype

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.folder.iterdir())

    def lengths(self) -> np.ndarray:
        """Tokens of each instance, uncut; int64, by group, then domain."""
        return np.diff(self._offsets)

    def prompt_lengths(self) -> np.ndarray:
        """Tokens of each instance's prompt; int64, like :meth:`lengths`."""
        return self._prompts.astype(np.int64)

    def seeds(self) -> Iterator[str]:
        """The seed problem of each group."""
        return (self._name(group, 1) for group in range(self.num_groups))

    def group_id(self, group: int) -> str:
        """The id of a group, by its place in the file."""
        return self._name(group, 0)

    def _name(self, group: int, which: int) -> str:
        place = group * (2 + len(self.domains)) + which
        return self._names[self._cuts[place] : self._cuts[place + 1]].tobytes().decode()

    def example(self, index: int, max_length: int) -> Example:
        """An instance as :func:`igascale.isomers.encode.encode_groups` has it.

        Args:
            index: its place, by group, then domain.
            max_length: tokens kept.
        """
        group, domain = divmod(index, len(self.domains))
        start, end = int(self._offsets[index]), int(self._offsets[index + 1])
        ids = self._ids[start : min(end, start + max_length)].tolist()
        prompt = min(int(self._prompts[index]), len(ids))
        return Example(
            ids,
            [IGNORED] * prompt + ids[prompt:],
            domain,
            self._name(group, 0),
            self._name(group, 2 + domain),
            truncated=end - start > max_length,
        )


class Seeds(Iterable[str]):
    """The seed problem of each group, read anew whenever they are gone through: a set of them would be memory for every group."""

    def __init__(self, tokens: Tokens):
        self.tokens = tokens

    def __iter__(self) -> Iterator[str]:
        return self.tokens.seeds()

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Iterable) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


class Encoded(Sequence[Example]):
    """The instances of a :class:`Tokens`, cut to ``max_length``, by group, then domain."""

    def __init__(self, tokens: Tokens, max_length: int):
        self.tokens, self.max_length = tokens, max_length

    def __len__(self) -> int:
        return self.tokens.num_instances

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        places = range(len(self))[index]
        if isinstance(places, range):
            return [self.tokens.example(i, self.max_length) for i in places]
        return self.tokens.example(places, self.max_length)

    def lengths(self) -> np.ndarray:
        """Tokens of each instance, cut; int64."""
        return np.minimum(self.tokens.lengths(), self.max_length)

    def truncated(self) -> np.ndarray:
        """Whether each instance is cut."""
        return self.tokens.lengths() > self.max_length

    def unsupervised(self) -> np.ndarray:
        """Whether the cut leaves an instance nothing that the loss sees."""
        return self.lengths() <= np.maximum(self.tokens.prompt_lengths(), 1)  # nothing predicts the first token

    def check_supervised(self, source: str, places: np.ndarray) -> None:
        """Every instance that is used has something to learn.

        Args:
            source: the file's name.
            places: of the instances, in the order in which they are looked at.

        Raises:
            UserError: names the first that has not.
        """
        bad = places[self.unsupervised()[places]]
        if len(bad):
            example = self[int(bad[0])]
            domain = self.tokens.domains[int(bad[0]) % len(self.tokens.domains)]
            which = f"domain '{domain}'" if len(self.tokens.domains) > 1 else f"instance '{example.instance_id}'"
            prompt = int(self.tokens.prompt_lengths()[bad[0]])
            raise nothing_supervised(source, example.group_id, which, self.max_length, prompt)


def write_tokens(
    folder: Path,
    key: dict[str, Any],
    groups: Iterable[IsomerGroup],
    tokenizer: Any,
    domains: tuple[str, ...] | None,
    largest: int,
) -> None:
    """Tokenize groups into an empty folder; memory holds a few of them at a time.

    Args:
        folder: the folder.
        key: what the tokens depend on; :class:`Tokens` compares it.
        groups: at least one.
        tokenizer: a Hugging Face tokenizer.
        domains: the instances of each group, and their order; ``None``: those of the first group. Of groups of a single instance,
            whatever its domain, a tuple of one name.
        largest: the largest id that the tokenizer gives.

    Raises:
        OSError: the disk is full, or the like.
        UserError: as of :func:`igascale.isomers.encode.encode_prompt`.
    """
    ids_type = next(t for t in (np.uint8, np.uint16, np.uint32) if largest <= np.iinfo(t).max)
    types = (ids_type, np.int64, np.uint32, np.uint8, np.int64)
    arrays = [_Growing(folder / f"{name}.npy", dtype) for name, dtype in zip(_ARRAYS, types)]
    ids, offsets, prompts, names, cuts = arrays
    count = end = cut = 0
    rest = iter(groups)
    try:
        while chunk := list(islice(rest, _CHUNK)):
            domains = domains or tuple(instance.domain for instance in chunk[0].instances)
            for group, rows in zip(chunk, _encode_chunk(chunk, tokenizer, domains)):
                for text in (group.id, group.seed_id, *(name for name, _, _ in rows)):
                    raw = text.encode()
                    names.append(np.frombuffer(raw, np.uint8))
                    cuts.append([cut])
                    cut += len(raw)
                for _, prompt, completion in rows:
                    ids.append(prompt + completion)
                    offsets.append([end])
                    prompts.append([len(prompt)])
                    end += len(prompt) + len(completion)
            count += len(chunk)
        offsets.append([end])
        cuts.append([cut])
    finally:
        for array in arrays:
            array.close()
    files = {path.name: [path.stat().st_size, _sha256(path)] for path in sorted(folder.glob("*.npy"))}
    body = {"format": FORMAT, "key": key, "groups": count, "domains": list(domains or ()), "files": files}
    (folder / HEADER).write_text(json.dumps({"seal": _seal(body), **body}, indent=1) + "\n", encoding="utf-8")


def _encode_chunk(
    chunk: list[IsomerGroup], tokenizer: Any, domains: tuple[str, ...]
) -> Iterator[list[tuple[str, list[int], list[int]]]]:
    """Per group: name, prompt and completion of its instances."""
    if len(domains) == 1:
        members = [list(group.instances) for group in chunk]
    else:
        by_domain = [{instance.domain: instance for instance in group.instances} for group in chunk]
        members = [[instances[domain] for domain in domains] for instances in by_domain]
    encoded = iter(encode_instances(tokenizer, [instance for row in members for instance in row]))
    for group, row in zip(chunk, members):
        yield [(i.id or f"{group.id}/{i.domain}", *next(encoded)) for i in row]


class _Growing:
    """A one-dimensional ``.npy`` file that is written from its beginning to its end, whatever its length will be."""

    def __init__(self, path: Path, dtype: Any):
        self.dtype, self.count = np.dtype(dtype), 0
        self.file: BinaryIO = path.open("wb")
        self._header()

    def append(self, values: Any) -> None:
        array = np.asarray(values, self.dtype)  # refuses an id that does not fit
        self.file.write(array.tobytes())
        self.count += len(array)

    def close(self) -> None:
        with self.file:
            self.file.seek(0)
            self._header()

    def _header(self) -> None:
        # NumPy leaves room for the length to grow, so that the last header is as long as the first.
        descr = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": descr, "fortran_order": False, "shape": (self.count,)}
        np.lib.format.write_array_header_1_0(self.file, header)


def _read_header(folder: Path, key: dict[str, Any]) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        seal = header.pop("seal")
    except PermissionError:
        raise  # somebody else's, and perhaps in order
    except OSError as error:
        raise Damaged(f"{HEADER}: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError, TypeError):
        raise Damaged(f"{HEADER}: not what was written") from None
    if seal != _seal(header):
        raise Damaged(f"{HEADER}: does not agree with its own hash")
    if header["format"] != FORMAT or header["key"] != key:
        raise Damaged(f"{HEADER}: is of other data")
    return header


def _check_file(path: Path, size: int, sha256: str) -> None:
    try:
        if path.stat().st_size != size:
            raise Damaged(f"{path.name}: {path.stat().st_size} bytes, not {size}")
        if _sha256(path) != sha256:
            raise Damaged(f"{path.name}: its content changed")
    except PermissionError:
        raise
    except OSError as error:
        raise Damaged(f"{path.name}: {error.strerror}") from None


def _seal(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
