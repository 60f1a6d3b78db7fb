"""Nearest items of a sample, and all figures of the codes: time and memory.

    python benches/quality.py                      # a million items of 384 numbers: three minutes
    python benches/quality.py --items 100000

Clustered vectors in a file, read through a map. Our search beside scikit-learn's `NearestNeighbors`
by brute force, which has the vectors in memory, and beside the matrix product alone, the floor of
both. Seconds are CPU time. Memory is what the process has of its own at most (RssAnon), beside
pages of the mapped file, above what it had before.

The bench fails if fewer than 99.9 % of the nearest are the same as scikit-learn's.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from mql4grec.catalog import Histories
from mql4grec.codes import SemanticIds
from mql4grec.config import QualitySettings
from mql4grec.embeddings import Embeddings
from mql4grec.quality import Source, draw_rows, measure, nearest_items
from mql4grec.rqvae import RQVAE
from mql4grec.runtime import Runtime

N_CENTRES, N_CODES, K = 1000, (256,) * 4, 10
ROWS_AT_ONCE = 8192


def write_vectors(path: Path, *, n_items: int, width: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(N_CENTRES, width)).astype(np.float32)
    table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n_items, width))
    for start in range(0, n_items, ROWS_AT_ONCE):
        part = table[start : start + ROWS_AT_ONCE]
        part[:] = centres[generator.integers(0, N_CENTRES, len(part))]
        part += 0.7 * generator.normal(size=part.shape).astype(np.float32)
    table.flush()
    return np.load(path, mmap_mode="r")


def own_memory() -> float:
    """Give RssAnon in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextmanager
def watched(found: dict[str, float]) -> Iterator[None]:
    """Note CPU seconds and the most memory above what there was."""
    before, ended = own_memory(), threading.Event()
    most = [before]

    def look() -> None:
        while not ended.wait(0.02):
            most.append(max(most.pop(), own_memory()))

    thread = threading.Thread(target=look)
    thread.start()
    began = time.process_time()
    try:
        yield
    finally:
        found["seconds"] = time.process_time() - began
        ended.set()
        thread.join()
        found["MiB"] = most[-1] - before


def timed(name: str, work: Callable[[], Any], *, flops: float | None = None) -> Any:
    figures: dict[str, float] = {}
    with watched(figures):
        result = work()
    rate = f"{flops / figures['seconds'] / 1e9:7.1f} GFLOP/s" if flops else ""
    print(f"{name:34} {figures['seconds']:8.1f} s {figures['MiB']:8.0f} MiB {rate}")
    return result


def product(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> float:
    """Multiply what a search has to multiply, and nothing else."""
    asked, total = torch.from_numpy(vectors[rows]), 0.0
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        block = torch.from_numpy(np.array(vectors[start : start + ROWS_AT_ONCE]))
        for some in asked.split(1024):
            total += float((some @ block.T)[0, 0])
    return total


def figures_of(vectors: NDArray[np.float32], settings: QualitySettings) -> Any:
    n_items, width = vectors.shape
    network = RQVAE(
        in_dim=width, layers=(512, 256), e_dim=32, num_emb_list=N_CODES, sk_epsilons=(0,) * 4
    )
    generator = np.random.default_rng(1)
    codes = generator.integers(0, 256, (n_items, 4)).astype(np.uint16)
    present = np.ones(n_items, np.bool_)
    events = generator.integers(0, n_items, n_items * 2).astype(np.int32)
    return measure(
        SemanticIds("bench", "text", codes, N_CODES, present),
        Histories(np.arange(0, len(events) + 1, 10), events),
        source=Source(Embeddings("bench", "text", "none", vectors, present), network.eval()),
        settings=settings,
        runtime=Runtime(device="cpu", seed=1),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--queries", type=int, default=QualitySettings().n_items)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vectors.npy"
        vectors = write_vectors(path, n_items=given.items, width=given.width)
        among = np.ones(given.items, np.bool_)
        rows = draw_rows(among, n=given.queries, seed=0)
        flops = 2.0 * len(rows) * given.items * given.width
        timed("the product alone", lambda: product(vectors, rows), flops=flops)
        ours = timed(
            "nearest_items",
            lambda: nearest_items(vectors, rows, among=among, k=K, device=torch.device("cpu")),
            flops=flops,
        )
        settings = QualitySettings(n_items=given.queries)
        timed("measure: all figures", lambda: figures_of(vectors, settings))
        held = np.array(vectors)
        search = NearestNeighbors(n_neighbors=K + 1, algorithm="brute").fit(held)
        theirs = timed(
            "scikit-learn, vectors in memory",
            lambda: search.kneighbors(held[rows], return_distance=False),
            flops=flops,
        )
        same = np.mean([len({*a} & {*b}) / K for a, b in zip(ours, theirs, strict=True)])
        print(f"the same nearest: {same:.4%}")
        if same < 0.999:
            raise SystemExit("expected at least 99.9 % of the nearest to be scikit-learn's")


if __name__ == "__main__":
    main()
