"""Common prefixes of pairs of items, and how many of them chance gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mql4grec.catalog import Histories
from mql4grec.codes import number_prefixes

PAIRS_AT_ONCE = 1 << 20


def prefix_shares(
    codes: NDArray[np.uint16], firsts: NDArray[np.int64], seconds: NDArray[np.int64]
) -> tuple[float, ...]:
    """Give the share of pairs that have a common prefix of at least 1, 2, ..., L codes.

    Args:
        codes: uint16 (N, L).
        firsts: Item rows, int64 (P), P >= 1.
        seconds: The other item of each pair, int64 (P).
    """
    n_alike = np.zeros(codes.shape[1], np.int64)
    for start in range(0, len(firsts), PAIRS_AT_ONCE):
        part = slice(start, start + PAIRS_AT_ONCE)
        alike = codes[firsts[part]] == codes[seconds[part]]  # (P', L)
        n_alike += np.logical_and.accumulate(alike, axis=1).sum(axis=0)
    return tuple((n_alike / len(firsts)).tolist())


def chance_shares(
    codes: NDArray[np.uint16], *, n_codes: Sequence[int], weights: NDArray[np.int64] | None = None
) -> tuple[float, ...] | None:
    """Give the same shares for pairs of different items that are drawn at random, exactly.

    Nothing is drawn: items with a prefix p make up a share of all pairs that follows from their
    number alone.

    Args:
        codes: uint16 (N, L).
        n_codes: K of each level (L).
        weights: How often each item is drawn, int64 (N); None: all alike.

    Returns:
        L shares; None if there are no two items to draw.
    """
    drawn = np.ones(len(codes)) if weights is None else weights.astype(np.float64)
    with_itself = float((drawn**2).sum())
    n_pairs = float(drawn.sum()) ** 2 - with_itself
    if n_pairs <= 0:
        return None
    shares = []
    for numbers in number_prefixes(codes, n_codes=n_codes):
        of_prefix = np.bincount(numbers, weights=drawn)
        shares.append((float((of_prefix**2).sum()) - with_itself) / n_pairs)
    return tuple(max(share, 0.0) for share in shares)  # rounding may leave less than nothing


def pairs_in_a_row(
    histories: Histories, *, present: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """List the pairs of different items that some user had one right after the other.

    Args:
        histories: Without the held-out events, so that nothing is measured on what is to be told.
        present: Items that count, bool (N,).

    Returns:
        First and second item of every pair, int64 (P) each, as often as it happened.
    """
    users = np.repeat(np.arange(histories.n_users), histories.lengths())
    firsts, seconds = histories.items[:-1], histories.items[1:]
    kept = (users[1:] == users[:-1]) & (firsts != seconds) & present[firsts] & present[seconds]
    return firsts[kept].astype(np.int64), seconds[kept].astype(np.int64)
