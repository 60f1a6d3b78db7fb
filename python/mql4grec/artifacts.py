"""Where each file of a run lives, how it is written, and whether a stage is already done.

Every write is atomic: a reader sees the old file, the new one or none, never half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mql4grec.errors import ArtifactError

STAMP = "stamp.json"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; it replaces `path` when the block ends without error.

    The temporary name keeps the suffix, since some writers choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file atomically."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")


def read_json(path: Path, *, made_by: str) -> Any:
    """Read a JSON file of a run.

    Args:
        path: The file.
        made_by: The command that makes it, for the message when it is missing.

    Raises:
        ArtifactError: If the file is missing or is not JSON.
    """
    require(path, made_by=made_by)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise ArtifactError(
            f"`{path}`: expected JSON, got {err}; delete it and run `mql4grec {made_by}` again"
        ) from err


def require(path: Path, *, made_by: str) -> Path:
    """Give `path` back if it exists.

    Raises:
        ArtifactError: If it does not, with the command that makes it.
    """
    if not path.exists():
        raise ArtifactError(f"`{path}`: no such file; `mql4grec {made_by}` makes it")
    return path


def fingerprint(*parts: Any) -> str:
    """Hash settings and inputs (anything that JSON can hold) to 16 hex digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def read_stamp(folder: Path) -> dict[str, Any] | None:
    """Read what the last call of a stage left, None if nothing: fingerprint, done, seconds."""
    stamp = folder / STAMP
    return read_json(stamp, made_by="run") if stamp.exists() else None


def open_stage(folder: Path, mark: str) -> None:
    """Make a stage's folder ready for the fingerprint `mark`.

    A folder with another fingerprint is emptied; one with the same, unfinished, is kept so that the
    stage goes on where it stopped.

    Raises:
        ArtifactError: If the folder has files but no stamp, so that they may be the user's own.
    """
    _remove_halves(folder)
    found = read_stamp(folder)
    if found is not None and found["fingerprint"] == mark:
        return
    if found is None and folder.exists() and any(folder.iterdir()):
        raise ArtifactError(
            f"`{folder}`: expected an empty folder or one that a run made, got files without a "
            f"`{STAMP}`; choose another `run_dir`"
        )
    for path in folder.glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != STAMP:  # goes last: until then the folder is known to be a stage's
            path.unlink()
    write_json(folder / STAMP, {"fingerprint": mark, "done": False, "seconds": 0})


def _remove_halves(folder: Path) -> None:
    """Remove what a killed call was writing: all names that begin with a dot."""
    for path in list(folder.rglob(".*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def copy_stage(source: Path, folder: Path, mark: str) -> None:
    """Copy a stage that is finished elsewhere, with the same fingerprint; the stamp comes last."""
    open_stage(folder, mark)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(STAMP), dirs_exist_ok=True)
    found = read_json(source / STAMP, made_by="run")
    close_stage(folder, mark, seconds=found["seconds"])


def close_stage(folder: Path, mark: str, *, seconds: float) -> None:
    """Mark a stage as finished.

    Args:
        folder: Of the stage.
        mark: Its fingerprint.
        seconds: That its last call took.
    """
    write_json(folder / STAMP, {"fingerprint": mark, "done": True, "seconds": seconds})
