"""Small files that are read while they are written: whole, or as they were before."""

from __future__ import annotations

import os
from pathlib import Path


def write_atomically(path: Path, text: str, durable: bool = True) -> None:
    """Replace a file's content in one go, so that a reader, or a crash, meets the old text or the new one.

    Args:
        path: the file; its folder exists.
        text: the new content.
        durable: also wait until the disk has it, so that it survives a power cut.

    Raises:
        OSError: it cannot be written; what was there is intact.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
