"""Most popular and item-kNN."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from mql4grec.baselines.ranker import ItemToItem, Ranker, binary, event_weights, rank
from mql4grec.catalog import Histories
from mql4grec.decoding import EVERYTHING, Filters, Rankings


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
    `training`; an item is not its own neighbour, and all others are.

    Args:
        training: Histories from which the similarities come.
        n_items: N.
        shrink: Added to the denominator: little evidence counts less.
        decay: Weight of an input event relative to the next later one.

    Returns:
        A ranker whose scores are weighted sums of cosines.
    """
    users = binary(training, n_items=n_items)
    both = (users.T @ users).tocoo()  # (N, N)
    norms = np.sqrt(both.diagonal())
    row, column = both.coords
    other = row != column
    row, column = row[other], column[other]
    cosine = both.data[other] / (norms[row] * norms[column] + np.float32(shrink))
    similar = sparse.csr_array((cosine, (row, column)), shape=(n_items, n_items))
    return ItemToItem(similar, decay)
