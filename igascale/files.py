"""Files: whether a path is taken, and small ones that are read while they are written: whole, or as they were before."""

from __future__ import annotations

import os
from pathlib import Path

from igascale.errors import UserError


def check_plain(path: Path) -> None:
    """What is replaced by renaming must be a file: root would put one in the place of ``/dev/null``, for every process.

    Raises:
        UserError: there is a device, a pipe or a socket.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UserError(f"{path}: is a device or a pipe, which cannot be replaced; name a file")


def write_atomically(path: Path, text: str, durable: bool = True) -> None:
    """Replace a file's content in one go, so that a reader, or a crash, meets the old text or the new one.

    Args:
        path: the file; its folder exists.
        text: the new content.
        durable: also wait until the disk has it, so that it survives a power cut.

    Raises:
        OSError: it cannot be written; what was there is intact.
        UserError: as of :func:`check_plain`.
    """
    check_plain(path)
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


def exists(path: str | Path) -> bool:
    """Whether there is something at a path.

    Raises:
        UserError: the path cannot be looked at, as one whose name is too long.
    """
    try:
        return Path(path).exists()
    except (OSError, ValueError) as error:
        told = str(path)
        shown = told if len(told) <= 80 else told[:77] + "..."
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{shown}: cannot look at this path ({reason}); check it") from None
