"""Ctrl-C while the Rust core works."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from mql4grec import _core

HEARD_WITHIN = 0.5
"""Seconds from the signal to the exception."""


@contextmanager
def interrupted_after(seconds: float) -> Iterator[list[float]]:
    """Send this process a SIGINT, and collect when."""
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(seconds, send)
    timer.start()
    try:
        yield sent
    finally:
        timer.cancel()
        timer.join()


def crowd(n_rows: int, *, n_codes: int, width: int = 8) -> Callable[..., object]:
    """Give the resolver much to do: rows with the same codes and latents that differ a little."""
    rng = np.random.default_rng(0)
    books = [rng.normal(size=(n_codes, width)).astype(np.float32) for _ in range(3)]
    latents = (1 + 0.01 * rng.normal(size=(n_rows, width))).astype(np.float32)
    codes = np.zeros((n_rows, 3), np.uint16)

    def resolve(policy: str, keep: str) -> object:
        return _core.resolve_collisions_from_latents(
            codes, latents, books, policy=policy, keep=keep, open_levels=3
        )

    return resolve


@pytest.mark.parametrize(
    ("policy", "keep", "n_codes"),
    [
        ("paper", "max_loss", 4096),
        ("nearest", "nearest", 4096),
        ("nearest", "max_loss", 256),
        ("optimal", "nearest", 256),
    ],
)
def test_the_resolver_hears_ctrl_c(policy: str, keep: str, n_codes: int) -> None:
    resolve = crowd(200_000, n_codes=n_codes)
    with interrupted_after(0.3) as sent, pytest.raises(KeyboardInterrupt):
        resolve(policy, keep)
    assert time.monotonic() - sent[0] < HEARD_WITHIN


def test_what_a_signal_handler_raises_goes_up() -> None:
    def handle(number: int, frame: object) -> None:
        raise RuntimeError(f"signal {number}")

    before = signal.signal(signal.SIGINT, handle)
    try:
        resolve = crowd(200_000, n_codes=256)
        with interrupted_after(0.3), pytest.raises(RuntimeError, match=r"^signal 2$"):
            resolve("optimal", "nearest")
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_raises_nothing_ends_nothing() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with interrupted_after(0.05):
            for _ in range(2000):
                found = _core.find_collisions(np.zeros((3, 2), np.uint16))
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]
    assert [part.tolist() for part in found] == [[0, 3], [0, 1, 2]]


def test_building_a_trie_hears_it() -> None:
    codes = np.arange(2**25, dtype=np.uint32)[::-1].copy().view(np.uint16).reshape(-1, 2)
    with interrupted_after(0.2) as sent, pytest.raises(KeyboardInterrupt):
        _core.CodeTrie(codes, [2**16, 2**16], n_threads=1)
    assert time.monotonic() - sent[0] < HEARD_WITHIN
