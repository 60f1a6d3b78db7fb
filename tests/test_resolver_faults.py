"""The resolver without enough memory, and with arrays that another thread writes into."""

from __future__ import annotations

import contextlib
import itertools
import threading
from typing import Any

import numpy as np
import pytest

from mql4grec._core import (
    count_prefixes,
    find_collisions,
    resolve_collisions,
    resolve_collisions_from_latents,
)
from test_border_faults import bounded, many

TWO_BOOKS = [np.zeros((2**16, 1), np.float32)] * 2


@pytest.mark.parametrize(
    "call",
    [
        lambda: find_collisions(many(0, np.uint16, 2**40, 2)),
        lambda: find_collisions(many(0, np.uint16, 2**24, 2)),
        lambda: count_prefixes(many(0, np.uint16, 2**24, 2)),
        lambda: resolve_collisions(
            many(0, np.uint16, 2**20, 2), many(0, np.float32, 2**20, 2, 2**16)
        ),
        lambda: resolve_collisions_from_latents(
            many(0, np.uint16, 2**21, 2), np.zeros((2**21, 1), np.float32), TWO_BOOKS
        ),
        lambda: resolve_collisions_from_latents(
            many(0, np.uint16, 3, 2), many(0, np.float32, 3, 2**40), TWO_BOOKS
        ),
    ],
)
def test_what_takes_too_much_memory_is_refused(call: Any) -> None:
    with pytest.raises(MemoryError, match=r"^memory: expected \d+ free bytes, got fewer; give few"):
        bounded(call)


@pytest.mark.parametrize("policy", ["paper", "nearest", "optimal"])
def test_another_thread_may_write_into_the_arrays(policy: Any) -> None:
    rng = np.random.default_rng(0)
    arrays: list[Any] = [
        rng.integers(0, 4, (3000, 3), np.uint16),
        rng.random((3000, 3, 16), np.float32),
        rng.permutation(3000).astype(np.uint64),
        np.zeros(3000, np.bool_),
    ]
    noise = [rng.integers(0, 256, (8, array.nbytes), np.uint8) for array in arrays]
    kept = [array.copy() for array in arrays]
    stop = threading.Event()

    def write() -> None:
        for turn in itertools.cycle(range(8)):
            if stop.is_set():
                return
            for array, copy, octets in zip(arrays, kept, noise, strict=True):
                array.view(np.uint8).reshape(-1)[:] = octets[turn]
                array[:] = copy

    writer = threading.Thread(target=write)
    writer.start()
    codes, distances, keys, frozen = arrays
    try:
        for keep in ["nearest", "max_loss"] * 10:
            with contextlib.suppress(ValueError):  # a panic is none
                resolve_collisions(
                    codes,
                    distances,
                    policy=policy,
                    keep=keep,
                    keys=keys,
                    frozen=frozen,
                    n_codes=[16] * 3,
                    n_threads=2,
                )
            with contextlib.suppress(ValueError):
                resolve_collisions_from_latents(
                    codes,
                    distances[:, 0],
                    [distances[level, :, :16].repeat(6, 0)[:16, :16] for level in range(3)],
                    policy=policy,
                    keep=keep,
                )
    finally:
        stop.set()
        writer.join()
