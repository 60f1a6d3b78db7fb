"""Files that are never half-written, and folders that are never half-removed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mql4grec.errors import ArtifactError, Mql4grecError

TEMPORARY = re.compile(r"\.mql4grec\.\d+\..+")  # names that `_beside` makes, and nobody else
LOCK = ".mql4grec.lock"
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_WORDS = (  # what libraries say that keep no error number: safetensors and polars, numpy
    re.compile(r"os error (28|122)\b|[Nn]o space left on device|[Dd]isk quota exceeded"),
    re.compile(r"\d+ requested and \d+ written"),
)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` when the block ends without error.

    The temporary name keeps the suffix, since some writers choose the format by it. The content is
    on the disk before the name is, and the name before this returns, so that a power cut leaves the
    old file or the new one.

    Raises:
        ArtifactError: If `path` is a link, a folder or a device, or the disk is full.
    """
    require_regular(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        with _full_disk_told(path):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def scratch_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder inside `folder`; it is removed when the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = _beside(folder / "scratch")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with the same number
    temporary.mkdir()
    try:
        with _full_disk_told(folder):
            yield temporary
    finally:
        shutil.rmtree(temporary)


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there, so that a kill leaves all of it or nothing.

    A folder goes under a temporary name first; what a kill leaves under such a name,
    `remove_halves` removes.
    """
    if path.is_dir() and not path.is_symlink():
        gone = _beside(path)
        os.replace(path, gone)
        shutil.rmtree(gone)
    else:
        path.unlink(missing_ok=True)


def remove_halves(folder: Path) -> None:
    """Remove what killed calls were writing or removing below a folder, and nothing else."""
    for path in list(folder.rglob(".mql4grec.*")):
        if not is_temporary(path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a name is one that a call of this room gives to what it has not finished."""
    return TEMPORARY.fullmatch(path.name) is not None


def names_in(folder: Path) -> set[str]:
    """Name what is in a folder, if it is there, but for locks and what calls have not finished."""
    if not folder.exists():
        return set()
    paths = (path for path in folder.iterdir() if not is_temporary(path))
    return {path.name for path in paths} - {LOCK}


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


@contextmanager
def reading(path: Path, *, made_by: str) -> Iterator[None]:
    """Turn what goes wrong in the block, which reads a file of a run, into an `ArtifactError`.

    Args:
        path: The file.
        made_by: The command that makes it.
    """
    try:
        yield
    except Mql4grecError:
        raise
    except MemoryError as err:
        raise _unfit(path, f"more bytes than memory has room for ({err})", made_by) from err
    except OSError as err:
        raise _unfit(path, err.strerror or str(err), made_by) from err
    except (ValueError, EOFError, LookupError, TypeError, AttributeError, RuntimeError) as err:
        kind = "" if isinstance(err, ValueError) else f"{type(err).__name__}: "
        raise _unfit(path, kind + repr(str(err))[:300], made_by) from err


def _unfit(path: Path, found: str, made_by: str) -> ArtifactError:
    return ArtifactError(
        f"`{path}`: expected a file that `mql4grec {made_by}` wrote, got {found}; delete it "
        f"and run `mql4grec {made_by}` again"
    )


def require_regular(path: Path) -> None:
    """Refuse to replace what is no regular file.

    Raises:
        ArtifactError: If `path` is a link, a folder, a device, a pipe or a socket.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode):
        raise ArtifactError(
            f"`{path}`: expected a regular file to replace, or none, got {_kind_of(mode)}; remove "
            "it, or choose another path"
        )


def _kind_of(mode: int) -> str:
    kinds = {stat.S_ISLNK: "a link", stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe"}
    return next((kind for holds, kind in kinds.items() if holds(mode)), "a device or socket")


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as err:  # some file systems cannot sync a folder
        if err.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def no_room(path: Path, n_bytes: int | None = None) -> ArtifactError:
    """Make the error of a full disk.

    Args:
        path: Of the file that was to be written.
        n_bytes: That it needs; None: unknown.
    """
    free = shutil.disk_usage(path.parent).free
    wanted = "room on the disk" if n_bytes is None else f"room for {n_bytes:,} bytes on the disk"
    missing = "" if n_bytes is None else f", {max(n_bytes - free, 0):,} are missing"
    return ArtifactError(
        f"`{path}`: expected {wanted}, got {free:,} free{missing}; free some and run the same "
        "command again, or choose another disk"
    )


@contextmanager
def _full_disk_told(path: Path) -> Iterator[None]:
    try:
        yield
    except Mql4grecError:
        raise
    except Exception as err:
        if getattr(err, "errno", None) in FULL or any(w.search(str(err)) for w in FULL_WORDS):
            raise no_room(path) from err
        raise


def _beside(path: Path) -> Path:
    return path.with_name(f".mql4grec.{os.getpid()}.{path.name[-60:]}")
