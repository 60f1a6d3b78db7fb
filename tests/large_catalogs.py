"""Vectors of a catalog in files of every kind, and a network that translates them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray

from mql4grec import embeddings
from mql4grec.embeddings import GivenEmbeddings
from mql4grec.errors import DataError
from mql4grec.rqvae import RQVAE
from mql4grec.runtime import Runtime
from mql4grec.translator import files as translator_files

RUNTIME = Runtime()
WIDTH = 12
ARGUMENTS: dict[str, Any] = {
    "in_dim": WIDTH,
    "layers": (8,),
    "e_dim": 4,
    "num_emb_list": (8, 8, 16),
    "sk_epsilons": (0.0, 0.0, 0.0),
}


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, and on as many as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_vectors(n_items: int = 200, *, width: int = WIDTH, seed: int = 0) -> NDArray[np.float32]:
    """Draw vectors that float16 holds exactly; the last is zero."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n_items, width)).astype(np.float16).astype(np.float32)
    vectors[-1] = 0  # an item like any other
    return vectors


def make_network(*, seed: int = 0, **changes: Any) -> RQVAE:
    """Make a network with codebooks drawn at random, as none is fitted."""
    network = RQVAE(**{**ARGUMENTS, **changes}, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for codebook in network.codebooks:
        torch.nn.init.normal_(codebook, std=0.5, generator=generator)
    return network.eval()


def save_network(folder: Path, network: RQVAE) -> Path:
    """Save a network as a training leaves its best."""
    record = {"arguments": network.arguments()}
    translator_files.save_best(folder, "collision_rate", network.state_dict(), record)
    return folder


def write_npy(path: Path, vectors: NDArray[Any]) -> Path:
    """Write a `.npy` file."""
    np.save(path, vectors)
    return path


def write_shards(
    folder: Path, vectors: NDArray[Any], *, ends: tuple[int, ...], column: str = "v"
) -> Path:
    """Write a folder of Parquet files, cut at rows `ends`, in row groups of seven."""
    folder.mkdir()
    for number, part in enumerate(np.split(vectors, ends)):
        ids = [f"item {row}" for row in range(len(part))]
        table = pl.DataFrame({"item_id": pl.Series(ids, dtype=pl.String), column: part})
        table.write_parquet(folder / f"{number:02d}.parquet", row_group_size=7)
    return folder


def open_text(path: Path) -> GivenEmbeddings:
    """Open a file or folder as text embeddings of a shop."""
    return embeddings.open_given(path, dataset="shop", modality="text")


def fault(make: Callable[[], object]) -> str:
    """Give the message of the `DataError` that a call ends with."""
    with pytest.raises(DataError) as caught:
        make()
    return str(caught.value)
