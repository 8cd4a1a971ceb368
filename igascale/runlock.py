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
#: The same where the holder is on another host: a file server frees the locks of a host that went down only after a while
#: (NFSv4 after 90 s), and a job that was requeued for that very reason must not be refused.
PATIENCE_FAR = 110.0
_TOLD_AFTER = 2.0
_TAKEN = (errno.EACCES, errno.EAGAIN)
_held: dict[tuple[int, int], int] = {}  # (device, inode) -> descriptor, open until this process ends


def hold(folder: Path) -> bool:
    """Take the folder's lock until this process ends; to take it again is nothing.

    A folder that cannot be written is no concern here: who writes there says so. Where the file system has no locks, that is said.

    Args:
        folder: a run folder that exists.

    Returns:
        Whether it had to be taken: this process did not have it yet.

    Raises:
        UserError: another process trains in it; names host and pid.
    """
    path = folder / LOCK
    if _is_held(path):
        return False
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        return False
    try:
        _take(folder, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    _held[_inode(os.fstat(descriptor))] = descriptor
    with suppress(OSError):  # a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"host": os.uname().nodename, "pid": os.getpid(), "since": now()}).encode(), 0)
    return True


def check_free(folder: Path) -> None:
    """Whether a run may start in the folder, for who does not train himself; nothing is written.

    Raises:
        UserError: as :func:`hold`.
    """
    path = folder / LOCK
    if _is_held(path):
        return
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return
    try:
        _take(folder, descriptor)
    finally:
        os.close(descriptor)


def user_of(folder: Path) -> str:
    """Another process that trains in the folder now, for a message; empty where there is none. Does not wait."""
    path = folder / LOCK
    with suppress(OSError):
        if _is_held(path):
            return ""
        descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return _holder(descriptor)[0] if error.errno in _TAKEN else ""
        finally:
            os.close(descriptor)
    return ""


def _is_held(path: Path) -> bool:
    """By this process. A second descriptor must not even be opened: to close any of a file's descriptors releases its lock."""
    with suppress(OSError):
        return _inode(path.stat()) in _held
    return False


def _take(folder: Path, descriptor: int) -> None:
    """Lock, waiting for another process to go."""
    began, told = time.monotonic(), False
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as error:
            if error.errno not in _TAKEN:
                _say(
                    f"warning: {folder}: this file system has no locks ({error.strerror}); nothing keeps a second run out"
                )
                return
        who, far = _holder(descriptor)
        waited, patience = time.monotonic() - began, PATIENCE_FAR if far else PATIENCE
        if waited > patience:
            raise UserError(_in_use(folder, who, far))
        if waited > _TOLD_AFTER and not told:
            told = True
            _say(f"{folder} is in use: {who}; waiting up to {patience:.0f} s for it to end")
        time.sleep(0.1)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _holder(descriptor: int) -> tuple[str, bool]:
    """Who has the lock, as far as it has said so, and whether that is on another host."""
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        who = f"process {holder['pid']} on {holder['host']} has trained in it since {holder['since']}"
        return who, bool(holder["host"] != os.uname().nodename)
    except (OSError, ValueError, KeyError, TypeError):
        return "another process trains in it", False


def _in_use(folder: Path, who: str, far: bool) -> str:
    gone = f" If that host went down and the file server still holds its lock: remove {folder / LOCK}." if far else ""
    return (
        f"output_dir {folder} is in use: {who}. Wait for it, stop it (SIGTERM writes a checkpoint), or choose another output_dir; "
        f"nothing was changed.{gone}"
    ).removesuffix(".")


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
