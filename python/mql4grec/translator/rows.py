"""Embeddings as rows to train on: only those present, checked, of several shops in one tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mql4grec.embeddings import Embeddings, GivenEmbeddings, reader
from mql4grec.errors import DataError

ROWS_LOOKED_AT = 1 << 20

ReadRows = Callable[[NDArray[np.int64]], NDArray[Any]]


def list_blocks(
    present: NDArray[np.bool_], *, rows_at_once: int, first: int = 0
) -> Iterator[NDArray[np.int64]]:
    """List the rows that are present, block by block, so that there is never a list of them all.

    Args:
        present: bool (N,).
        rows_at_once: Rows of a block; only the last one may have fewer.
        first: The row to begin with.

    Yields:
        Rows int64 (B,), ascending.
    """
    held = np.zeros(0, np.int64)
    for start in range(first, len(present), ROWS_LOOKED_AT):
        found = np.flatnonzero(present[start : start + ROWS_LOOKED_AT]) + start
        held = np.concatenate([held, found])
        n_whole = len(held) - len(held) % rows_at_once
        for begin in range(0, n_whole, rows_at_once):
            yield held[begin : begin + rows_at_once]
        held = held[n_whole:]
    if len(held):
        yield held


def open_rows(embeddings: Embeddings | GivenEmbeddings) -> ReadRows:
    """Give a function that reads vectors of ascending rows int64 (B,), as they are stored (B, D).

    Only those of shards need a single thread.

    Raises:
        DataError: When it reads a vector that is not finite.
    """
    if isinstance(embeddings, GivenEmbeddings):
        read, given = reader(embeddings), embeddings

        def read_given(rows: NDArray[np.int64]) -> NDArray[Any]:
            start, stop = int(rows[0]), int(rows[-1]) + 1  # all rows are present
            block = read(start, stop)
            _require_finite(block, rows, lambda value, row: _explain_given(given, value, row))
            return block

        return read_given

    def read_rows(rows: NDArray[np.int64]) -> NDArray[Any]:
        start, stop = int(rows[0]), int(rows[-1]) + 1
        part = slice(start, stop) if stop - start == len(rows) else rows
        block = np.array(embeddings.vectors[part], dtype=np.float32)  # out of the mapped file
        _require_finite(block, rows, lambda value, row: _explain(embeddings, value, row))
        return block

    return read_rows


def read_blocks(
    embeddings: Embeddings, *, rows_at_once: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Read the rows that are present, block by block, so that a mapped file is never held whole.

    Yields:
        Item rows int64 (B,), and their vectors float32 (B, D).

    Raises:
        DataError: If a vector is not finite.
    """
    read = open_rows(embeddings)
    for rows in list_blocks(embeddings.present, rows_at_once=rows_at_once):
        yield rows, read(rows)


def _require_finite(
    block: NDArray[Any], rows: NDArray[np.int64], explain: Callable[[float, int], str]
) -> None:
    """Refuse vectors (B, D) that are not finite; `explain` gets the first such number and its row.

    Raises:
        DataError: If there is one.
    """
    if not _is_finite(block):
        first = int(np.isfinite(block).all(axis=1).argmin())
        value = float(block[first][~np.isfinite(block[first])][0])
        raise DataError(explain(value, int(rows[first])))


def _is_finite(block: NDArray[Any]) -> bool:
    if block.dtype == np.float16 and block.size:
        # Ten times as fast as numpy's way: as integers, infinity and NaN are the greatest.
        greatest = block.view(np.int16).max(), block.view(np.uint16).max()
        return bool(greatest[0] < 0x7C00 and greatest[1] < 0xFC00)
    return bool(np.isfinite(block).all())


def _explain(embeddings: Embeddings, value: float, row: int) -> str:
    return (
        f"`{embeddings.dataset}` {embeddings.modality} embeddings: expected finite "
        f"numbers, got {value} in row {row}; make the embeddings again "
        "(`mql4grec embed`), or leave the item out by the mask"
    )


def _explain_given(given: GivenEmbeddings, value: float, row: int) -> str:
    path, place = given.place(row)
    return (
        f"`{path}`: expected finite numbers, got {value} in row {place}; make the embeddings again"
    )


def count_rows(embeddings: Sequence[Embeddings]) -> tuple[int, ...]:
    """Count the rows of each shop that are present.

    Raises:
        DataError: If none is.
    """
    sizes = tuple(int(each.present.sum()) for each in embeddings)
    if sum(sizes) == 0:
        names = ", ".join(f"`{each.dataset}`" for each in embeddings)
        raise DataError(
            f"{embeddings[0].modality} embeddings of {names}: expected at least one item that has "
            f"any, got none; switch the modality off (`embeddings.{embeddings[0].modality}.kind`)"
        )
    return sizes


def check_alike(embeddings: Sequence[Embeddings]) -> None:
    """Check that shops can be trained on together.

    Raises:
        ValueError: If there are no shops, or they differ in modality.
        DataError: If they differ in width or encoder.
    """
    if not embeddings:
        raise ValueError("`embeddings`: expected those of at least one shop, got none")
    first = embeddings[0]
    for other in embeddings[1:]:
        if other.modality != first.modality:
            raise ValueError(
                f"`embeddings`: expected one modality, got {first.modality!r} of `{first.dataset}` "
                f"and {other.modality!r} of `{other.dataset}`"
            )
        width, expected = other.vectors.shape[1], first.vectors.shape[1]
        if (width, other.encoder) != (expected, first.encoder):
            raise DataError(
                f"`{other.dataset}` {other.modality} embeddings: expected width {expected} by "
                f"{first.encoder!r} like those of `{first.dataset}`, got width {width} by "
                f"{other.encoder!r}; make both with the same encoder"
            )
