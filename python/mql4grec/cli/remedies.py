"""Faults of the machine, a disk or a right that is missing, as messages that say what to do."""

from __future__ import annotations

import errno
import os
import re

from mql4grec.errors import Mql4grecError, plain, short_text

REMEDIES = {
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written to",
    errno.ENOSPC: "free some room on the disk and run the same command again",
    errno.EDQUOT: "free some room of the disk quota and run the same command again",
    errno.EFBIG: "raise the limit (`ulimit -f`), or choose another disk",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.ENFILE: "close other programs, or raise the system's limit of open files",
    errno.ENAMETOOLONG: "choose shorter names",
    errno.ELOOP: "mend the link, or choose another path",
    errno.ENOTDIR: "choose a path whose folders are folders",
    errno.EISDIR: "choose the path of a file",
    errno.EIO: "check the disk and run the same command again",
    errno.ENOMEM: "give it more memory; docs/memory.md tells what each stage needs",
}
OF_RUST = re.compile(r"\(os error (\d+)\)")  # how Rust's libraries spell an errno
NUMPY_WROTE = re.compile(r"^\d+ requested and \d+ written$")  # numpy has no errno
NO_MEMORY = ("can't allocate memory", "out of memory", "bad_alloc", "not enough memory")


def mendable(error: BaseException) -> str | None:
    """Give the message of a fault that a user can mend, None of a bug."""
    if isinstance(error, Mql4grecError):
        return plain(str(error))
    number = _errno(error)
    if number in REMEDIES:
        filename = getattr(error, "filename", None)
        place = "" if filename is None else f"`{short_text(str(filename))}`: "
        return f"{place}{os.strerror(number)}; {REMEDIES[number]}"
    told = str(error)
    if isinstance(error, MemoryError) or any(words in told for words in NO_MEMORY):
        first = short_text(told.split("\n")[0]) or "no memory left"
        return f"memory: {first}; {REMEDIES[errno.ENOMEM]}, and smaller batches need less"
    return None


def _errno(error: BaseException) -> int:
    """Give the system's number of a fault, 0 of another one."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if isinstance(error, OSError) and NUMPY_WROTE.match(str(error)):
        return errno.ENOSPC
    found = OF_RUST.search(str(error))
    return 0 if found is None else int(found[1])
