"""Numpy's files: read with every fault in words, and made with their room on the disk."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mql4grec.artifacts.files import FULL, no_room, reading
from mql4grec.artifacts.stamps import require


def load_array(
    path: Path, *, made_by: str, mmap_mode: Literal["r", "r+"] | None = None
) -> NDArray[Any]:
    """Read a `.npy` file of a run; nothing in it is ever unpickled.

    Args:
        path: The file.
        made_by: The command that makes it, for messages.
        mmap_mode: As in `numpy.load`.

    Raises:
        ArtifactError: If it is missing, cut short, damaged, or not such a file.
    """
    require(path, made_by=made_by)
    with reading(path, made_by=made_by):
        found = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
        if not isinstance(found, np.ndarray):
            raise ValueError("an archive of arrays")
        return found


def load_arrays(path: Path, *names: str, made_by: str) -> dict[str, NDArray[Any]]:
    """Read arrays of a `.npz` file of a run; nothing in it is ever unpickled.

    Args:
        path: The file.
        names: Of the arrays wanted; none: all.
        made_by: The command that makes it, for messages.

    Raises:
        ArtifactError: If it is missing, cut short, damaged, or lacks an array.
    """
    require(path, made_by=made_by)
    with reading(path, made_by=made_by):
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in names or arrays.files}
        except (zipfile.BadZipFile, zlib.error, NotImplementedError) as err:
            raise ValueError(str(err)) from err


def new_array(
    path: Path, *, shape: Sequence[int], dtype: DTypeLike
) -> np.memmap[Any, np.dtype[Any]]:
    """Make a `.npy` file of zeros, mapped for writing; the disk keeps room for all of it.

    A write to a mapped file whose room is not kept ends the process where the disk is full.

    Raises:
        ArtifactError: If the disk has no room; with how many bytes are missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=tuple(shape))
    size = path.stat().st_size
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as err:
        path.unlink()
        if err.errno in FULL:
            raise no_room(path, size) from err
        raise
    return cast("np.memmap[Any, np.dtype[Any]]", mapped)
