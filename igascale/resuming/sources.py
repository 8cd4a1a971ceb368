"""Whether the model and the training data are those that a checkpoint was trained on, wherever they lie now."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from igascale import hooks
from igascale.config import RunConfig
from igascale.errors import UserError

#: What a text becomes, and how the model computes; each is read in full.
_SMALL = (
    *("config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "vocab.json", "merges.txt"),
)
#: Of each weight file; 88 GB of weights are told from others in a second.
_SAMPLES, _MOST_TENSORS, _SAMPLE_BYTES = 64, 512, 4096


@dataclass(frozen=True)
class Sources:
    """What decides a run beside its configuration.

    Attributes:
        data: SHA-256 of the training file, or ``None`` where it is not known.
        model: file -> what is in it, from :func:`fingerprint_model`, or ``None``.
        hook: from :func:`fingerprint_hook`, or ``None``.
    """

    data: str | None
    model: dict[str, str] | None
    hook: str | None = None


def find_sources(config: RunConfig) -> Sources:
    """What this run would be trained on, as far as it is there; what is not will be missed when it is loaded."""
    data = Path(config.data.train)
    digest = _sha256(data) if data.is_file() else None
    return Sources(digest, fingerprint_model(config.model.path), fingerprint_hook(config.hook.name))


def fingerprint_hook(name: str) -> str | None:
    """SHA-256 of the file that a hook's class is in; ``None`` for igascale's own, and where there is no such file.

    What that file imports is not in it.
    """
    try:
        hook = hooks.find(name)
    except UserError:  # told by who builds the hook
        return None
    file = getattr(sys.modules.get(hook.__module__), "__file__", None)
    if hook.__module__.startswith("igascale.") or not file or not Path(file).is_file():
        return None
    return _sha256(Path(file))


def fingerprint_model(path: str) -> dict[str, str] | None:
    """A model folder in a few lines: its small files, and names, sizes and samples of its weight files.

    Args:
        path: a folder, or a Hub id that was downloaded.

    Returns:
        ``None`` where there is no such folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(path, "config.json")
        except HFValidationError:  # neither a folder nor a Hub id
            return None
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    found = {name: _sha256(folder / name) for name in _SMALL if (folder / name).is_file()}
    return found | {weights.name: _sample(weights) for weights in _weight_files(folder)}


def _weight_files(folder: Path) -> list[Path]:
    """As transformers chooses: safetensors where there are any."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _sample(path: Path) -> str:
    """The size, and a hash of pieces from all over the file and of one from the middle of each tensor in it.

    Pieces at even distances alone would miss a matrix that lies between two of them: in a file of 5 GB most do.
    """
    size, digest = path.stat().st_size, hashlib.sha256()
    even = [k * max(size - _SAMPLE_BYTES, 0) // (_SAMPLES - 1) for k in range(_SAMPLES)]
    with path.open("rb") as file:
        for start in [*even, *_middles(file, size)]:
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))
    return f"{size}:{digest.hexdigest()}"


def _middles(file: BinaryIO, size: int) -> list[int]:
    """Where to read of each tensor of a safetensors file, or of some where there are thousands; nothing for another file."""
    try:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length)) if 0 < length < size else {}
        spans = sorted(each["data_offsets"] for name, each in header.items() if name != "__metadata__")
        middles = [8 + length + max((begin + end - _SAMPLE_BYTES) // 2, begin) for begin, end in spans]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError):
        return []
    every = max(math.ceil(len(middles) / _MOST_TENSORS), 1)
    return middles[::every]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_difference(key: str, old: str, new: str, before: Any, now: Any) -> str:
    """Why something is not what the checkpoint was trained on."""
    if key == "data.train":
        return (
            f"{new} is not the file that the checkpoint was trained on (its SHA-256 differs from that of {old}); bring that one "
            "back"
        )
    differing = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return f"{new} is not the model that the checkpoint was trained on ({old}): {', '.join(differing)} differ"
