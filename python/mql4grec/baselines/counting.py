"""Most popular and item-kNN."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mql4grec.baselines.ranker import ItemToItem, Ranker, binary, event_weights, highest, rank
from mql4grec.catalog import Histories
from mql4grec.decoding import EVERYTHING, Filters, Rankings

CHUNK_PAIRS = 1 << 20  # similarities that are made at once
MOST_PAIRS = 1 << 29  # that are kept: 4 GiB


def fit_most_popular(training: Histories, *, n_items: int) -> Ranker:
    """Rank items by the number of their events; the same list for everyone but for filters.

    Args:
        training: Histories that are counted.
        n_items: N.

    Returns:
        A ranker whose scores are numbers of events.
    """
    counts = np.bincount(training.items, minlength=n_items).astype(np.float32)  # (N,)

    def ranker(inputs: Histories, *, top_k: int, filters: Filters = EVERYTHING) -> Rankings:
        filters.check(n_users=inputs.n_users, n_items=n_items)
        depth = n_items
        if filters.masks is None and filters.only is None:
            # However many of them a user does not get, no list goes further down than these.
            longest = 0 if filters.without is None else filters.without.lengths().max(initial=0)
            depth = top_k + int(longest)
        pool = np.sort(np.argsort(-counts, kind="stable")[:depth]).astype(np.int32)
        return rank(
            lambda weights: np.tile(counts[pool], (weights.shape[0], 1)),
            event_weights(inputs, n_items=n_items, decay=1.0),
            items=pool,
            top_k=top_k,
            filters=filters,
        )

    return ranker


def fit_item_knn(
    training: Histories, *, n_items: int, shrink: float = 50.0, decay: float = 0.8
) -> ItemToItem:
    """Rank items by their cosine to the items of the input.

    The similarity of two items is `n_both / (sqrt(n_a * n_b) + shrink)` over the users of
    `training`; an item is not its own neighbour. All others are, as long as at most MOST_PAIRS are
    above 0; in a larger shop the MOST_PAIRS / N nearest ones of each item, of equally near ones
    those of the lower rows. Memory is 8 bytes a pair, whatever the number of events.

    Args:
        training: Histories from which the similarities come.
        n_items: N.
        shrink: Added to the denominator: little evidence counts less.
        decay: Weight of an input event relative to the next later one.

    Returns:
        A ranker whose scores are weighted sums of cosines.
    """
    users = binary(training, n_items=n_items)
    similar = _similarities(users, shrink=shrink)
    if similar is None:
        k = max(1, MOST_PAIRS // n_items)
        similar = _similarities(users, shrink=shrink, k=k)
        assert similar is not None
        return ItemToItem(similar, decay, n_neighbours=k)
    return ItemToItem(similar, decay)


def _similarities(
    users: sparse.csr_array, *, shrink: float, k: int | None = None
) -> sparse.csr_array | None:
    """Give the cosines of items, chunk by chunk, so that no more than the result is held.

    Args:
        users: Zeros and ones, float32 (U, N).
        shrink: Added to the denominator.
        k: How many of each row are kept, the highest; None: all.

    Returns:
        float32 (N, N), columns ascending; None if all are too many.
    """
    n_items = users.shape[1]
    items = users.T.tocsr()  # (N, U)
    norms = np.sqrt(np.diff(items.indptr).astype(np.float32))
    bounds = _most_neighbours(users)
    most = MOST_PAIRS if k is None else k * n_items
    values = np.empty(min(int(bounds.sum()), most), np.float32)  # memory is what is written to
    columns = np.empty(len(values), np.int32)
    offsets = np.zeros(n_items + 1, np.int64)
    for start, stop in _chunks(bounds):
        both = (items[start:stop] @ users).tocsc().tocsr()  # sorts in linear time
        row = np.repeat(np.arange(start, stop), np.diff(both.indptr))
        cosine = both.data / (norms[row] * norms[both.indices] + np.float32(shrink))
        kept = row != both.indices
        if k is not None:
            kept &= _highest(np.where(kept, cosine, -np.inf), both.indptr, k=k)
        n_before, n_kept = int(offsets[start]), np.bincount(row[kept], minlength=stop)[start:]
        offsets[start + 1 : stop + 1] = n_before + np.cumsum(n_kept)
        n_now = int(offsets[stop])
        if n_now > len(values):
            return None
        values[n_before:n_now], columns[n_before:n_now] = cosine[kept], both.indices[kept]
    n_pairs = int(offsets[-1])
    similar = (values[:n_pairs], columns[:n_pairs], offsets.astype(np.int32))
    return sparse.csr_array(similar, shape=(n_items, n_items))


def _most_neighbours(users: sparse.csr_array) -> NDArray[np.int64]:
    """Bound the number of items that share a user with each, itself among them, int64 (N,)."""
    lengths = np.diff(users.indptr)
    sums = np.bincount(users.indices, weights=np.repeat(lengths, lengths), minlength=users.shape[1])
    bounds: NDArray[np.int64] = np.minimum(sums, users.shape[1]).astype(np.int64)
    return bounds


def _chunks(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut rows into runs of at most CHUNK_PAIRS altogether, or of one row that has more."""
    ends, start = np.cumsum(sizes), 0
    while start < len(sizes):
        most = CHUNK_PAIRS + (ends[start - 1] if start else 0)
        stop = max(start + 1, int(np.searchsorted(ends, most, side="right")))
        yield start, stop
        start = stop


def _highest(
    values: NDArray[np.float32], offsets: NDArray[np.int64], *, k: int
) -> NDArray[np.bool_]:
    """Tell of each value (R,) whether it is one of the k highest of its row, ties by place."""
    kept = np.ones(len(values), bool)
    for row in np.flatnonzero(np.diff(offsets) > k):
        own = slice(offsets[row], offsets[row + 1])
        kept[own] = highest(values[None, own], k=k)[0]
    return kept
