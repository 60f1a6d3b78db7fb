"""Where a translation goes: arrays in memory, or files that a later call goes on with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mql4grec.artifacts import load_array, new_array, read_json, reading, write_json
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
    shapes = {"codes": (n_items, n_levels), "latents": (n_items, e_dim)}
    if folder is None:
        codes = np.zeros(shapes["codes"], np.uint16)
        latents = np.zeros(shapes["latents"], np.float32)
        return Results(None, mark, codes, latents), Done()
    done = _read_note(folder, mark, shapes=shapes)
    if done is None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "progress.json").unlink(missing_ok=True)
        new_array(folder / "codes.npy", shape=shapes["codes"], dtype=np.uint16)
        new_array(folder / "latents.npy", shape=shapes["latents"], dtype=np.float32)
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
    codes, latents = (_map_one(folder / f"{name}.npy", mode) for name in ("codes", "latents"))
    return Results(folder, mark, codes, latents)


def _map_one(path: Path, mode: Any) -> NDArray[Any]:
    return load_array(path, made_by=MADE_BY, mmap_mode=mode)


def _read_note(folder: Path, mark: str, *, shapes: Mapping[str, tuple[int, int]]) -> Done | None:
    """Read how far the translation `mark` is; None if it has to start, its arrays gone or short."""
    path = folder / "progress.json"
    if not path.exists():
        return None
    with reading(path, made_by=MADE_BY):
        found = read_json(path, made_by=MADE_BY)
        done = Done(**found["done"])
        if found["mark"] != mark:
            return None
    try:
        whole = all(
            _map_one(folder / f"{n}.npy", "r").shape == shape for n, shape in shapes.items()
        )
    except ArtifactError:
        return None
    return done if whole else None


def _write_note(folder: Path, mark: str, done: Done) -> None:
    write_json(folder / "progress.json", {"mark": mark, "done": asdict(done)})
