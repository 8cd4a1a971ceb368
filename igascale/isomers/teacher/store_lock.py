"""One builder per store: it holds a lock on ``STORE.lock`` for as long as its process lives.

A POSIX record lock on a file of its own (never the database: closing any descriptor of a file drops the locks SQLite holds on it). The
kernel releases it however the process dies, and children do not inherit it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from igascale.errors import UserError
from igascale.status import now

_TAKEN = (errno.EACCES, errno.EAGAIN)
_held: dict[
    tuple[int, int], int
] = {}  # (device, inode) -> descriptor; a process never conflicts with its own record lock


class StoreLock:
    """Taken when made, until :meth:`release` or the end of the process.

    Args:
        store: the database's path.

    Raises:
        UserError: another process, or this one, builds with it; names host and pid.
    """

    def __init__(self, store: Path):
        path = store.with_name(store.name + ".lock")
        with suppress(OSError):
            # A second descriptor must not even be opened: to close it would release the first one's lock.
            if _inode(path.stat()) in _held:
                raise UserError(f"{store} is in use by this very process; close it first")
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written: {error.strerror}; the store needs a folder to write to"
            ) from None
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                who = _holder(self._descriptor)
                os.close(self._descriptor)
                raise UserError(f"{store} is in use: {who}. Wait for it or stop it; nothing was changed") from None
            print(
                f"warning: {store}: no locks here ({error.strerror}); nothing keeps a second builder out",
                file=sys.stderr,
            )
        self._inode = _inode(os.fstat(self._descriptor))
        _held[self._inode] = self._descriptor
        with suppress(OSError):  # a full disk
            os.ftruncate(self._descriptor, 0)
            me = {"host": os.uname().nodename, "pid": os.getpid(), "since": now()}
            os.pwrite(self._descriptor, json.dumps(me).encode(), 0)

    def release(self) -> None:
        """Let others in; twice is nothing."""
        if _held.pop(self._inode, None) is not None:
            os.close(self._descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']} has built with it since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process builds with it"


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
