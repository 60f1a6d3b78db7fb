"""Lists of items: side by side, sorted, without some of their items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mql4grec.catalog import Histories
from mql4grec.decoding import Rankings


def align(lists: Sequence[Rankings]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Bring the scores of several lists of the same users side by side.

    Args:
        lists: P rankings, (U, M1), (U, M2), ...

    Returns:
        Items (U, W) in ascending order, each once, -1 elsewhere, W the sum of the lists' lengths;
        their scores in every list, float64 (P, U, W), NaN where it lacks the item.
    """
    items = np.concatenate([one.items for one in lists], axis=1)  # (U, W)
    order = np.argsort(items, axis=1, kind="stable")
    items = np.take_along_axis(items, order, axis=1)
    first = np.ones(items.shape, bool)
    first[:, 1:] = items[:, 1:] != items[:, :-1]
    # (U, W), the place at which an item is kept: the first of its places, which are neighbours
    place = np.maximum.accumulate(np.where(first, np.arange(items.shape[1]), 0), axis=1)
    scores = np.full((len(lists), *items.shape), np.nan)
    start = 0
    for one, own in zip(lists, scores, strict=True):
        stop = start + one.items.shape[1]
        user, found = np.nonzero((order >= start) & (order < stop) & (items >= 0))
        own[user, place[user, found]] = one.scores[user, order[user, found] - start]
        start = stop
    return np.where(first, items, np.int32(-1)), scores


def best_first(items: NDArray[np.int32], scores: NDArray[np.float64], *, top_k: int) -> Rankings:
    """Sort lists whose items ascend by score; stable, so that ties go to the lower row."""
    scores = np.where(items < 0, -np.inf, scores)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    padding = ((0, 0), (0, top_k - order.shape[1]))
    best = np.take_along_axis(items, order, axis=1)
    best_scores = np.take_along_axis(scores, order, axis=1).astype(np.float32)
    return Rankings(
        items=np.pad(best, padding, constant_values=-1),
        scores=np.pad(best_scores, padding, constant_values=-np.inf),
    )


def remove_seen(rankings: Rankings, histories: Histories) -> Rankings:
    """Take the items of each user's history out of the list; what follows moves up.

    Args:
        rankings: Items (U, M).
        histories: The same users' histories, without their targets.

    Returns:
        Items (U, M), padded at the end by -1; `certified` as before, since what is left of an exact
        list is exact.

    Raises:
        ValueError: If the numbers of users differ.
    """
    n_users = len(rankings.items)
    if histories.n_users != n_users:
        raise ValueError(
            f"`histories`: expected {n_users} users to match `rankings`, got {histories.n_users}; "
            "give the histories of the ranked users"
        )
    users = np.repeat(np.arange(n_users), np.diff(histories.offsets))
    # One number per pair of user and item; -1 (no item) cannot meet another user's pair.
    width = 2 + max(rankings.items.max(initial=0), histories.items.max(initial=0))
    ranked = np.arange(n_users)[:, None] * width + rankings.items
    seen = np.isin(ranked, users * width + histories.items) | (rankings.items < 0)
    return without(rankings, seen)


def without(rankings: Rankings, gone: NDArray[np.bool_]) -> Rankings:
    """Take places out of the lists, bool (U, M); what follows moves up, -1 fills the end."""
    order = np.argsort(gone, axis=1, kind="stable")
    gone = np.take_along_axis(gone, order, axis=1)
    return Rankings(
        items=np.where(gone, -1, np.take_along_axis(rankings.items, order, axis=1)),
        scores=np.where(gone, -np.inf, np.take_along_axis(rankings.scores, order, axis=1)),
        certified=rankings.certified,
    )
