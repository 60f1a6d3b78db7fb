"""The rows that a translator is trained on: on the device, or read from files when needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mql4grec.embeddings import Embeddings
from mql4grec.errors import ConfigError
from mql4grec.translator.prefetch import prefetch
from mql4grec.translator.rows import check_alike, count_rows, open_rows, read_blocks

Storage = Literal["fp32", "fp16", "bf16"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ROWS_AT_ONCE = 16_384
N_READERS = 4
N_AHEAD = 8  # batches


@dataclass(frozen=True)
class Table:
    """The rows of all shops that are present, below each other in the order of the shops.

    Attributes:
        sizes: Rows of each shop.
        width: D.
        device: Where batches are wanted.
        resident: (N, D) on that device, as it is stored; None: rows are read as they are needed.
        embeddings: One per shop, memory-mapped.
        present: Rows of each shop in its file, int64; of none, if they are resident.
        storage: Precision that the rows are stored in.
    """

    sizes: tuple[int, ...]
    width: int
    device: torch.device
    resident: Tensor | None
    embeddings: tuple[Embeddings, ...]
    present: tuple[NDArray[np.int64], ...]
    storage: Storage

    @property
    def n_rows(self) -> int:
        """Rows in all, N."""
        return sum(self.sizes)

    def batches(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Give batches float32 (B, D) on the device; those after the current one are on their way.

        Args:
            parts: Rows of each batch, int64 (B,), on the CPU.
        """
        if self.resident is not None:
            for part in parts:
                yield self.resident[part.to(self.device)].float()
            return
        blocks = prefetch(
            self._read, (part.numpy() for part in parts), n_threads=N_READERS, n_ahead=N_AHEAD
        )
        for _, block in blocks:
            yield block.to(self.device, non_blocking=True).float()

    def blocks(self, rows: Tensor | None = None) -> Iterator[Tensor]:
        """Give rows float32 (B, D) on the device, block by block: all, or some int64 (R,)."""
        chosen = torch.arange(self.n_rows) if rows is None else rows
        return self.batches(torch.split(chosen, ROWS_AT_ONCE))

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        """Read rows (B,) from the files, in the order of the files, as they are stored."""
        order = np.argsort(rows, kind="stable")
        block = torch.empty(len(rows), self.width, dtype=DTYPES[self.storage])
        starts = np.cumsum([0, *self.sizes])
        for shop, embeddings in enumerate(self.embeddings):
            places = order[slice(*np.searchsorted(rows[order], starts[shop : shop + 2]))]
            if len(places):
                found = self.present[shop][rows[places] - starts[shop]]
                vectors = _stored(open_rows(embeddings)(found), embeddings, storage=self.storage)
                block[torch.from_numpy(places)] = vectors
        return block.pin_memory() if self.device.type == "cuda" else block


def open_table(
    embeddings: Sequence[Embeddings],
    *,
    device: torch.device,
    storage: Storage,
    max_memory: int | None,
) -> Table:
    """Put the rows of all shops on the device, if they fit.

    Args:
        embeddings: One per shop.
        device: Where they are used.
        storage: Precision that they are stored in.
        max_memory: Bytes that they may take there; None: half of what is free on a GPU, or of a
            computer's memory.

    Raises:
        ValueError: If there are no shops, or they differ in modality.
        DataError: If shops differ in width or encoder, if no row is present, or one is not finite.
        ConfigError: If a number is too large for the storage.
    """
    check_alike(embeddings)
    sizes = count_rows(embeddings)
    width, dtype = embeddings[0].vectors.shape[1], DTYPES[storage]
    n_bytes = sum(sizes) * width * dtype.itemsize
    limit = _memory(device) // 2 if max_memory is None else max_memory
    resident: Tensor | None = None
    present: tuple[NDArray[np.int64], ...] = ()
    if n_bytes <= limit:
        resident = torch.empty(sum(sizes), width, dtype=dtype, device=device)
        start = 0
        for each in embeddings:
            for rows, block in read_blocks(each, rows_at_once=ROWS_AT_ONCE):
                resident[start : start + len(rows)] = _stored(block, each, storage=storage)
                start += len(rows)
    else:
        present = tuple(np.flatnonzero(each.present) for each in embeddings)
    return Table(sizes, width, device, resident, tuple(embeddings), present, storage)


def _stored(block: NDArray[np.float32], embeddings: Embeddings, *, storage: Storage) -> Tensor:
    """Give vectors (B, D) as they are stored.

    Raises:
        ConfigError: If a number is too large for that.
    """
    if storage == "fp16" and np.abs(block).max() > torch.finfo(torch.float16).max:
        raise ConfigError(
            f"`translator.storage`: expected numbers up to 65,504 for 'fp16', got "
            f"{np.abs(block).max():g} in the {embeddings.modality} embeddings of "
            f"`{embeddings.dataset}`; use 'bf16' or 'fp32'"
        )
    return torch.from_numpy(block).to(DTYPES[storage])


def _memory(device: torch.device) -> int:
    """Give the bytes that are free on a GPU, or that a computer has in all."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
