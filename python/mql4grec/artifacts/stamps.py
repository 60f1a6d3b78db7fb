"""A stage's folder: whether it is done, by a stamp, and whether its files are as it left them.

A stamp is a JSON file: "fingerprint", "done", "seconds", and once the stage is done "files": size
and hash of each by its path in the folder. The hash, XXH3 of 128 bits, detects damage; whoever may
write the folder can write the stamp as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict

from mql4grec.artifacts.files import (
    names_in,
    reading,
    remove,
    remove_halves,
    sync,
    write_json,
)
from mql4grec.errors import ArtifactError

STAMP = "stamp.json"
BLOCK = 1 << 22
N_VERIFIED = 1 << 16  # files whose hash is remembered
DEPTH = 6  # folders between a stage's and its deepest file, at the most
EMPTYING = ""  # the fingerprint of a folder whose old files are being removed


class Stamp(TypedDict, total=False):
    """What a stamp holds."""

    fingerprint: str
    done: bool
    seconds: float
    files: dict[str, tuple[int, str]]


def fingerprint(*parts: Any) -> str:
    """Hash settings and inputs (anything that JSON can hold) to 16 hex digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def read_json(path: Path, *, made_by: str) -> Any:
    """Read a JSON file of a run.

    Args:
        path: The file.
        made_by: The command that makes it, for the message when it is missing.

    Raises:
        ArtifactError: If the file is missing, is not JSON, or is not as its stage left it.
    """
    require(path, made_by=made_by)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as err:
        raise ArtifactError(
            f"`{path}`: expected JSON, got {err}; delete it and run `mql4grec {made_by}` again"
        ) from err


def require(path: Path, *, made_by: str) -> Path:
    """Return `path` if it exists and, in the folder of a finished stage, is as the stage left it.

    A file is read and hashed at the first call of a process, and again if its size or time of
    change differ; faster than numpy reads it (`benches/artifacts.py`).

    Raises:
        ArtifactError: If it does not, with the command that makes it.
    """
    told = told_of(path)
    if not path.exists():
        remedy = f"`mql4grec {made_by}` makes it"
        if told is not None:
            remedy = f"delete `{path.parent}` and run `mql4grec {made_by}` again"
        raise ArtifactError(f"`{path}`: no such file; {remedy}")
    if told is None:
        return path
    size, digest = told
    found = path.stat().st_size
    with reading(path, made_by=made_by):
        if found != size or _hash(path) != digest:
            what = f"{found:,} instead of {size:,} bytes" if found != size else "other bytes"
            raise ArtifactError(
                f"`{path}`: expected the file that `mql4grec {made_by}` wrote, got {what}: it was "
                f"damaged or changed; delete `{path.parent}` and run `mql4grec {made_by}` again"
            )
    return path


def told_of(path: Path) -> tuple[int, str] | None:
    """Look up size and hash of a file in the stamp of its stage; None if no stamp tells."""
    for folder in list(path.parents)[:DEPTH]:
        stamp = folder / STAMP
        if stamp.is_file() and path != stamp:
            state = stamp.stat()
            files = _files_of(stamp, (state.st_mtime_ns, state.st_size, state.st_ino))
            return files.get(path.relative_to(folder).as_posix())
    return None


@lru_cache(maxsize=256)
def _files_of(stamp: Path, _version: tuple[int, ...]) -> dict[str, tuple[int, str]]:
    try:
        found = read_stamp(stamp.parent)
    except ArtifactError:  # not ours, or damaged: those say so who ask whether the stage is done
        return {}
    return {} if found is None else found.get("files", {})


def _hash(path: Path) -> str:
    state = path.stat()
    return _hash_once(path, (state.st_mtime_ns, state.st_size, state.st_ino))


@lru_cache(maxsize=N_VERIFIED)
def _hash_once(path: Path, _version: tuple[int, ...]) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    block = bytearray(BLOCK)
    with path.open("rb", buffering=0) as file:
        while n_read := file.readinto(block):
            digest.update(memoryview(block)[:n_read])
    return digest.hexdigest()


def read_stamp(folder: Path) -> Stamp | None:
    """Read what the last call of a stage left, None if nothing.

    Raises:
        ArtifactError: If there is a file of that name which no stage wrote, or which is damaged.
    """
    path = folder / STAMP
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return _parse(found)
    except (ValueError, RecursionError, OSError, TypeError, LookupError, AttributeError) as err:
        raise ArtifactError(
            f"`{path}`: expected the stamp of a finished or begun stage, got another or a damaged "
            f"file ({type(err).__name__}: {str(err)[:100]}); if a run made `{folder}`, delete that "
            "folder and run the same command again, else choose another `run_dir`"
        ) from err


def _parse(found: Any) -> Stamp:
    stamp = Stamp(
        fingerprint=found["fingerprint"], done=found["done"], seconds=float(found["seconds"])
    )
    if not isinstance(stamp["fingerprint"], str) or not isinstance(stamp["done"], bool):
        raise TypeError(f"fingerprint {stamp['fingerprint']!r}, done {stamp['done']!r}")
    if "files" in found:  # stamps of earlier versions have none
        stamp["files"] = {
            str(name): (int(size), str(digest)) for name, (size, digest) in found["files"].items()
        }
    return stamp


def require_own(folder: Path) -> None:
    """Refuse a folder that no stage made, before anything in it is touched.

    Raises:
        ArtifactError: If it has files but no stamp, so that they may be the user's own.
    """
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(
            f"`{folder}`: expected a folder or nothing, got a file; choose another `run_dir`"
        )
    if read_stamp(folder) is None and names_in(folder):
        raise ArtifactError(
            f"`{folder}`: expected an empty folder or one that a run made, got files without a "
            f"`{STAMP}`; choose another `run_dir`"
        )


def open_stage(folder: Path, mark: str) -> None:
    """Make a stage's folder ready for the fingerprint `mark`.

    A folder with another fingerprint is emptied, hidden names apart, which no stage has; one with
    the same, unfinished, is kept so that the stage goes on where it stopped. A kill at any moment
    leaves a folder that the next call makes ready.

    Raises:
        ArtifactError: If the folder has files but no stamp, so that they may be the user's own.
    """
    require_own(folder)
    remove_halves(folder)
    found = read_stamp(folder)
    if found is not None and found["fingerprint"] == mark:
        return
    if found is not None:
        _write(folder, Stamp(fingerprint=EMPTYING, done=False, seconds=0))
        for path in folder.iterdir():
            if path.name != STAMP and not path.name.startswith("."):
                remove(path)
    _write(folder, Stamp(fingerprint=mark, done=False, seconds=0))


def close_stage(folder: Path, mark: str, *, seconds: float) -> None:
    """Mark a stage as finished, with the hash of each of its files.

    Args:
        folder: Of the stage.
        mark: Its fingerprint.
        seconds: That its last call took.
    """
    files = {
        path.relative_to(folder).as_posix(): (path.stat().st_size, _hash(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / STAMP and not _is_hidden(path, folder)
    }
    for path in files:
        sync(folder / path)  # what a stage wrote by itself, such as maps, is on the disk before
    _write(folder, Stamp(fingerprint=mark, done=True, seconds=seconds, files=files))


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def copy_stage(source: Path, folder: Path, mark: str) -> None:
    """Copy a stage that is finished elsewhere, with the same fingerprint; the stamp comes last.

    Raises:
        ArtifactError: If a file is not as the stage left it.
    """
    open_stage(folder, mark)
    stamp = read_stamp(source)
    assert stamp is not None  # it is finished
    ignored = shutil.ignore_patterns(STAMP, ".*")
    shutil.copytree(source, folder, ignore=ignored, dirs_exist_ok=True)
    close_stage(folder, mark, seconds=stamp["seconds"])
    copied = read_stamp(folder) or Stamp()
    files = copied.get("files", {})
    for name, told in stamp.get("files", files).items():
        if files.get(name) != told:
            os.unlink(folder / STAMP)
            raise ArtifactError(
                f"`{source / name}`: expected the file that its stage wrote, got another; delete "
                f"`{source}` and `{folder}`, and run the same command again"
            )


def _write(folder: Path, stamp: Stamp) -> None:
    write_json(folder / STAMP, stamp)
