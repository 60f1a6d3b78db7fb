"""The vectors on disk while they are made: written batch by batch, gone on with after a stop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mql4grec.artifacts import load_array, new_array, read_json, reading, write_json
from mql4grec.config import Modality
from mql4grec.errors import DataError


@dataclass(frozen=True)
class Encoded:
    """One batch.

    Attributes:
        rows: int64 (B), items that have a vector.
        vectors: float32 (B, D).
        faults: Row and reason of each item of the batch that has none.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    faults: dict[int, str]


@dataclass(frozen=True)
class Job:
    """One modality of one shop, to be encoded.

    Attributes:
        folder: Where all the files go.
        modality: "text" or "image".
        file: Name of the vectors' file.
        mask: Name of the mask's file.
        mark: Fingerprint of all that the vectors depend on.
        n_items: Number of rows N.
        batches: Rows of each batch, in the order in which they are encoded.
        bare: Row and reason of each item that has nothing to encode from the start.
    """

    folder: Path
    modality: Modality
    file: str
    mask: str
    mark: str
    n_items: int
    batches: Sequence[NDArray[np.int64]]
    bare: Mapping[int, str]

    @property
    def path(self) -> Path:
        """Give the place of the complete vectors."""
        return self.folder / self.file

    @property
    def partial(self) -> Path:
        """Give the place of the vectors that are not complete yet."""
        return self.path.with_suffix(".partial.npy")

    @property
    def progress(self) -> Path:
        """Give the note of how far the partial file is."""
        return self.folder / f"{self.modality}.progress.json"

    @property
    def listing(self) -> Path:
        """Give the file that names the others; written when all vectors are."""
        return self.folder / f"{self.modality}.json"


def is_finished(job: Job, *, complete: bool) -> bool:
    """Tell whether all vectors are there; only their renaming may be left to do.

    Args:
        job: What was to be done.
        complete: Whether items without a vector count as not done.
    """
    if not job.listing.exists():
        return False
    with reading(job.listing, made_by="embed"):
        found = read_json(job.listing, made_by="embed")
        if found.get("mark") != job.mark or (complete and found["n_missing"]):
            return False
    return job.path.exists() or resume(job)[0] == len(job.batches)


def forget_others(job: Job) -> None:
    """Make the folder ready: nothing that other settings or inputs have left passes for ours."""
    job.folder.mkdir(parents=True, exist_ok=True)
    job.listing.unlink(missing_ok=True)
    job.path.unlink(missing_ok=True)
    if resume(job)[0] == 0:
        job.progress.unlink(missing_ok=True)


def resume(job: Job) -> tuple[int, dict[int, str]]:
    """Tell how many batches an interrupted call has done, and the faults found in them."""
    if not (job.progress.exists() and job.partial.exists()):
        return 0, {}
    with reading(job.progress, made_by="embed"):
        found = read_json(job.progress, made_by="embed")
        if found["mark"] != job.mark:
            return 0, {}
        return int(found["n_batches"]), {int(row): why for row, why in found["faults"].items()}


def fill(
    job: Job,
    encode: Callable[[Sequence[NDArray[np.int64]]], Iterable[Encoded]],
    *,
    checkpoint_seconds: float,
    advance: Callable[[int], None],
) -> dict[int, str]:
    """Encode what is left and write it into the partial file.

    Args:
        job: What there is to do.
        encode: Takes the batches that are left, gives them encoded, in order.
        checkpoint_seconds: The most time between two notes of progress.
        advance: Told the number of items of each batch.

    Returns:
        Row and reason of each item of the batches that has no vector.

    Raises:
        DataError: If an encoder's output is not finite.
    """
    n_done, faults = resume(job)
    vectors: Any = load_array(job.partial, made_by="embed", mmap_mode="r+") if n_done else None
    noted = time.monotonic()
    left = job.batches[n_done:]
    for batch in encode(left) if left else ():
        n_done += 1
        faults |= batch.faults
        if len(batch.rows):
            if vectors is None:
                shape = (job.n_items, batch.vectors.shape[1])
                vectors = new_array(job.partial, shape=shape, dtype=np.float32)
            vectors[batch.rows] = _finite(batch)
        advance(len(batch.rows) + len(batch.faults))
        if vectors is not None and time.monotonic() - noted >= checkpoint_seconds:
            vectors.flush()  # the note never runs ahead of what it is about
            write_json(job.progress, {"mark": job.mark, "n_batches": n_done, "faults": faults})
            noted = time.monotonic()
    if vectors is not None:
        vectors.flush()
    return faults


def finish(job: Job) -> None:
    """Put the complete vectors in their place."""
    if job.partial.exists():
        os.replace(job.partial, job.path)
    job.progress.unlink(missing_ok=True)


def _finite(batch: Encoded) -> NDArray[np.float32]:
    fine = np.isfinite(batch.vectors).all(axis=1)  # (B,)
    if not fine.all():
        raise DataError(
            f"row {batch.rows[~fine][0]}: expected a finite vector, got nan or infinity from the "
            "encoder; try `runtime.precision: fp32`"
        )
    return batch.vectors
