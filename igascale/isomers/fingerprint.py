"""What tokens depend on, as hashes: the tokenizer with all that changes its output, and the bytes of a file."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from igascale.errors import UserError
from igascale.isomers.encode import encode_instances
from igascale.isomers.schema import Instance

#: Encoded, and what comes out is hashed too: a chat template that writes today's date, a setting that only the Python side knows, and
#: a change of our own format all show in it. Cases, accents, blanks of every kind, digits, and a script without blanks.
_PROBE = ("  The Court\tof Zürich weighs 1234 kg;\r\n\n is “it” ≤ 3.5%?  ", "Step 1: naïve\n\n第二步 🙂.", "K")


def fingerprint_tokenizer(tokenizer: Any) -> str | None:
    """A hash of everything that decides which tokens a text becomes, or ``None`` where that cannot be known.

    It covers the serialised tokenizer, the chat template, the special tokens, the versions of the libraries, and the tokens of a probe.

    Args:
        tokenizer: a Hugging Face tokenizer; one without a serialised form (written in Python) has no fingerprint.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        return None
    problem, cot, answer = _PROBE
    special = " ".join(map(str, tokenizer.all_special_tokens))  # split or not inside a text: a setting
    instances = [Instance("probe", problem, cot, answer), Instance("probe", f"x{special}", special, answer)]
    parts = {
        "class": f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}",
        "template": tokenizer.chat_template,
        "special": [[name, str(value)] for name, value in sorted(tokenizer.special_tokens_map.items())],
        "ends": [tokenizer.bos_token_id, tokenizer.eos_token_id],
        "versions": [metadata.version(name) for name in ("transformers", "tokenizers")],
        # Before the serialised form: it turns off the padding and truncation that an earlier call may have left on.
        "probe": encode_instances(tokenizer, instances),
    }
    digest = hashlib.sha256(backend.to_str().encode("utf-8", "surrogatepass"))
    digest.update(json.dumps(parts, sort_keys=True).encode())
    return digest.hexdigest()


def largest_id(tokenizer: Any) -> int:
    """The largest id that a text can become."""
    return max(tokenizer.get_vocab().values())


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file, read in pieces.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot read this file of groups ({error.strerror}); check the path") from None
