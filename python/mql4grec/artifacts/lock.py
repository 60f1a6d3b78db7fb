"""One process at a time writes a folder.

The lock is the kernel's, on an open file, so that it ends with its process, however that ends. What
the file holds only says who has it. Reading a run never locks.
"""

from __future__ import annotations

import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from mql4grec.artifacts.files import LOCK
from mql4grec.errors import ArtifactError


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Hold the right to write a folder, which is made if it is missing.

    Raises:
        ArtifactError: If another process holds it; with its number, host, and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    descriptor = _acquire(path)
    held = True

    def let_go_in_child() -> None:
        if held:  # a data loader's worker may outlive a killed process, for seconds
            os.close(descriptor)

    os.register_at_fork(after_in_child=let_go_in_child)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _describe_holder().encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)  # while it is held: whoever opened it before opens it anew
        held = False
        os.close(descriptor)


def _acquire(path: Path) -> int:
    """Open and lock the file of that name, and no other one that had the name before."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            _lock(descriptor, path)
        except ArtifactError:
            os.close(descriptor)
            raise
        if _is(path, descriptor):
            return descriptor
        os.close(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(descriptor: int, path: Path) -> None:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        raise ArtifactError(
            f"`{path.parent}`: expected to be the only one that writes there, got process "
            f"{_holder(descriptor)}; wait for it, or end it, and run the same command again"
        ) from err
    except (ImportError, OSError) as err:  # a system, or a disk, that knows no locks
        warnings.warn(
            f"`{path.parent}` cannot be locked ({err}): start one process at a time", stacklevel=4
        )


def _describe_holder() -> str:
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}) + "\n"


def _holder(descriptor: int) -> str:
    try:
        told = json.loads(os.pread(descriptor, 4096, 0))
        return f"{int(told['pid'])} on {told['host']!r} since {told['since']}"
    except (ValueError, KeyError, TypeError):  # it has not said yet
        return "of another call"
