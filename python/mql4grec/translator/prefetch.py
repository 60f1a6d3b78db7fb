"""Blocks of rows read ahead by threads, while the network works on earlier ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.int64]


def prefetch(
    read: Callable[[Rows], Tensor], blocks: Iterable[Rows], *, n_threads: int, n_ahead: int
) -> Iterator[tuple[Rows, Tensor]]:
    """Read blocks ahead, in order.

    Args:
        read: Gives the vectors (B, D) of some rows (B,); called by threads.
        blocks: Rows of each block.
        n_threads: How many threads read; with one, `read` is called in the order of the blocks.
        n_ahead: The most blocks that are in memory besides the one that was given last.

    Yields:
        Rows and vectors of each block. The first error of a thread is raised in its place.
    """
    waiting: deque[tuple[Rows, Future[Tensor]]] = deque()
    with ThreadPoolExecutor(n_threads, thread_name_prefix="read") as pool:
        try:
            for rows in blocks:
                waiting.append((rows, pool.submit(read, rows)))
                if len(waiting) >= n_ahead:
                    yield _take(waiting)
            while waiting:
                yield _take(waiting)
        finally:
            for _, future in waiting:
                future.cancel()


def _take(waiting: deque[tuple[Rows, Future[Tensor]]]) -> tuple[Rows, Tensor]:
    rows, future = waiting.popleft()
    return rows, future.result()
