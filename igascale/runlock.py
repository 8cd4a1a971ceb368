"""One run per run folder: rank 0 holds a lock on ``RUN/.lock`` for as long as its process lives.

A POSIX record lock: the kernel releases it however the process dies, children do not inherit it, and network file systems carry it
between hosts (Lustre where it is mounted with ``flock``).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from igascale.errors import UserError
from igascale.status import now

LOCK = ".lock"
#: Seconds that a start waits for the ranks of the attempt before it, which may need some to notice that they are alone.
PATIENCE = 15.0
_TAKEN = (errno.EACCES, errno.EAGAIN)
_held: dict[tuple[int, int], int] = {}  # (device, inode) -> descriptor, open until this process ends


def hold(folder: Path) -> None:
    """Take the folder's lock until this process ends; to take it again is nothing.

    A folder that cannot be written is no concern here: who writes there says so. Where the file system has no locks, that is said.

    Args:
        folder: a run folder that exists.

    Raises:
        UserError: another process trains in it; names host and pid.
    """
    path = folder / LOCK
    with suppress(OSError):
        # A second descriptor must not even be opened: to close any of a file's descriptors releases its lock.
        if _inode(path.stat()) in _held:
            return
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        return
    try:
        _take(folder, descriptor)
    except UserError:
        os.close(descriptor)
        raise
    _held[_inode(os.fstat(descriptor))] = descriptor
    with suppress(OSError):  # a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"host": os.uname().nodename, "pid": os.getpid(), "since": now()}).encode(), 0)


def check_free(folder: Path) -> None:
    """Whether a run may start in the folder, for who does not train himself; nothing is written.

    Raises:
        UserError: as :func:`hold`.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR)
    except OSError:
        return
    try:
        _take(folder, descriptor)
    finally:
        os.close(descriptor)


def _take(folder: Path, descriptor: int) -> None:
    """Lock, waiting for another process to go."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in _TAKEN:
                print(
                    f"warning: {folder}: this file system has no locks ({error.strerror}); nothing keeps a second run out",
                    file=sys.stderr,
                    flush=True,
                )
                return
        if time.monotonic() > deadline:
            raise UserError(_in_use(folder, os.pread(descriptor, 4096, 0)))
        time.sleep(0.1)


def _in_use(folder: Path, written: bytes) -> str:
    try:
        holder = json.loads(written)
        who = f"process {holder['pid']} on {holder['host']} has trained in it since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        who = "another process trains in it"
    return (
        f"output_dir {folder} is in use: {who}. Wait for it, stop it (SIGTERM writes a checkpoint), or choose another output_dir; "
        "nothing was changed"
    )


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
