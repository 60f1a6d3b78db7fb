"""Where a translation goes: arrays in memory, or files that a later call goes on with."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mql4grec.artifacts import read_json, write_json
from mql4grec.errors import ArtifactError

MADE_BY = "generate-codes"


@dataclass(frozen=True)
class Done:
    """How far a translation is.

    Attributes:
        n_blocks: Blocks of rows that are done.
        next_row: The first row that is not.
        squared_error: Sum over all done rows of the squared error of their codes' vectors together.
    """

    n_blocks: int = 0
    next_row: int = 0
    squared_error: float = 0.0


@dataclass(frozen=True)
class Results:
    """Codes and latents of N items, zero where nothing was written.

    Attributes:
        folder: Holds `codes.npy`, `latents.npy`, and `progress.json`, which never runs ahead of the
            other two; None: they are in memory.
        mark: Fingerprint of all that they depend on.
        codes: uint16 (N, L).
        latents: float32 (N, E).
    """

    folder: Path | None
    mark: str
    codes: NDArray[np.uint16]
    latents: NDArray[np.float32]


def open_results(
    folder: Path | None, *, mark: str, n_items: int, n_levels: int, e_dim: int
) -> tuple[Results, Done]:
    """Make room for a translation, or open what an interrupted call has left of the same one.

    Args:
        folder: Of the files; None: memory.
        mark: Fingerprint of all that the results depend on; files of another are written anew.
        n_items: N.
        n_levels: L.
        e_dim: E.

    Raises:
        ArtifactError: If the disk has no room.
    """
    shapes = ((n_items, n_levels), (n_items, e_dim))
    if folder is None:
        codes, latents = np.zeros(shapes[0], np.uint16), np.zeros(shapes[1], np.float32)
        return Results(None, mark, codes, latents), Done()
    done = _read_note(folder, mark)
    if done is None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "progress.json").unlink(missing_ok=True)
        _make(folder / "codes.npy", shapes[0], np.uint16)
        _make(folder / "latents.npy", shapes[1], np.float32)
        done = Done()
        _write_note(folder, mark, done)
    return _map(folder, mark, mode="r+"), done


def note(results: Results, done: Done) -> Results:
    """Note on disk how far a translation is, and let go of the pages written so far."""
    if results.folder is None:
        return results
    for table in (results.codes, results.latents):
        assert isinstance(table, np.memmap)  # there is a folder
        table.flush()  # the note never runs ahead of what it is about
    _write_note(results.folder, results.mark, done)
    return _map(results.folder, results.mark, mode="r+")


def close(results: Results, done: Done) -> Results:
    """Note the end; what is in files comes back read-only."""
    results = note(results, done)
    if results.folder is None:
        return results
    return _map(results.folder, results.mark, mode="r")


def _map(folder: Path, mark: str, *, mode: Any) -> Results:
    codes, latents = (np.load(folder / f"{n}.npy", mmap_mode=mode) for n in ("codes", "latents"))
    return Results(folder, mark, codes, latents)


def _make(path: Path, shape: tuple[int, int], dtype: type[np.generic]) -> None:
    """Write an array of zeros; the disk keeps room for it, for a map cannot say that it is full."""
    np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    size = path.stat().st_size
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as err:
        path.unlink()
        raise ArtifactError(
            f"`{path}`: expected room for {size} bytes, got {err.strerror!r}; free some, or choose "
            "another disk"
        ) from err


def _read_note(folder: Path, mark: str) -> Done | None:
    if not (folder / "progress.json").exists():
        return None
    found = read_json(folder / "progress.json", made_by=MADE_BY)
    return Done(**found["done"]) if found["mark"] == mark else None


def _write_note(folder: Path, mark: str, done: Done) -> None:
    write_json(folder / "progress.json", {"mark": mark, "done": asdict(done)})
