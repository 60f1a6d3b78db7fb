"""Embeddings as rows to train on: only those present, checked, of several shops in one tensor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mql4grec.embeddings import Embeddings
from mql4grec.errors import DataError

ROWS_AT_ONCE = 65_536


def read_blocks(
    embeddings: Embeddings, *, rows_at_once: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Read the rows that are present, block by block, so that a mapped file is never held whole.

    Yields:
        Item rows int64 (B,), and their vectors float32 (B, D).

    Raises:
        DataError: If a vector is not finite.
    """
    rows = np.flatnonzero(embeddings.present)
    for start in range(0, len(rows), rows_at_once):
        part = rows[start : start + rows_at_once]
        block = np.asarray(embeddings.vectors[part], dtype=np.float32)
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            first = int(finite.argmin())
            value = block[first][~np.isfinite(block[first])][0]
            raise DataError(
                f"`{embeddings.dataset}` {embeddings.modality} embeddings: expected finite "
                f"numbers, got {value} in row {part[first]}; make the embeddings again "
                "(`mql4grec embed`), or leave the item out by the mask"
            )
        yield part, block


def join_rows(embeddings: Sequence[Embeddings]) -> Tensor:
    """Put the rows of all shops that are present below each other.

    Returns:
        float32 (N, D), in the order of the shops.

    Raises:
        ValueError: If there are no shops, or they differ in modality.
        DataError: If shops differ in width or encoder, if no row is present, or one is not finite.
    """
    _check_alike(embeddings)
    n_rows = sum(int(each.present.sum()) for each in embeddings)
    if n_rows == 0:
        names = ", ".join(f"`{each.dataset}`" for each in embeddings)
        raise DataError(
            f"{embeddings[0].modality} embeddings of {names}: expected at least one item that has "
            f"any, got none; switch the modality off (`embeddings.{embeddings[0].modality}.kind`)"
        )
    joined = torch.empty(n_rows, embeddings[0].vectors.shape[1])
    start = 0
    for each in embeddings:
        for rows, block in read_blocks(each, rows_at_once=ROWS_AT_ONCE):
            joined[start : start + len(rows)] = torch.from_numpy(block)
            start += len(rows)
    return joined


def _check_alike(embeddings: Sequence[Embeddings]) -> None:
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


def place_rows(rows: Tensor, device: torch.device) -> Tensor:
    """Move the rows to the device, unless they would take more than half of its free memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if rows.nbytes > free / 2:
            return rows.pin_memory()
    return rows.to(device)
