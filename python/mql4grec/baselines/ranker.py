"""What a fitted baseline is, and how its scores become lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mql4grec.catalog import Histories
from mql4grec.decoding import EVERYTHING, Filters, Rankings

CHUNK_SCORES = 1 << 22  # scores held at once: 16 MiB of float32

Scorer = Callable[[sparse.csr_array], NDArray[np.float32]]


class Ranker(Protocol):
    """A fitted baseline."""

    def __call__(self, inputs: Histories, *, top_k: int, filters: Filters = EVERYTHING) -> Rankings:
        """Rank the whole catalog for every history.

        Args:
            inputs: Histories (U users) to rank from.
            top_k: Length of the lists.
            filters: Which items each user may get, such as `Filters(without=inputs)`.

        Returns:
            Items (U, min(top_k, N)), ties by the lower row; -1 where no more are left.

        Raises:
            ValueError: If the filters are of other users, or their masks of fewer items.
        """
        ...


@dataclass(frozen=True)
class ItemToItem:
    """A baseline, a `Ranker`, whose scores are sums of what the events of a history add to an item.

    Attributes:
        weights: float32 (N, N), dense or CSR: what an event of an item (row) adds to each (column).
        decay: Weight of an event relative to the next later one.
        n_neighbours: In how many columns a row's weights are left, the highest; None: in all.
    """

    weights: NDArray[np.float32] | sparse.csr_array
    decay: float
    n_neighbours: int | None = None

    def __call__(self, inputs: Histories, *, top_k: int, filters: Filters = EVERYTHING) -> Rankings:
        """Rank the whole catalog for every history, as `Ranker` describes it."""
        n_items = self.weights.shape[0]
        filters.check(n_users=inputs.n_users, n_items=n_items)
        return rank(
            self._score,
            event_weights(inputs, n_items=n_items, decay=self.decay),
            items=np.arange(n_items, dtype=np.int32),
            top_k=top_k,
            filters=filters,
        )

    def _score(self, inputs: sparse.csr_array) -> NDArray[np.float32]:
        scores = inputs @ self.weights
        return np.asarray(scores.toarray() if sparse.issparse(scores) else scores, np.float32)

    def added(self, seen: NDArray[np.int32], items: NDArray[np.int32]) -> NDArray[np.float32]:
        """Tell what one event of each item `seen` (R,) adds to the score of its item (R,)."""
        return np.asarray(self.weights[seen, items], np.float32)


def binary(histories: Histories, *, n_items: int) -> sparse.csr_array:
    """Give the users-by-items matrix of zeros and ones, float32 (U, N)."""
    matrix = event_weights(histories, n_items=n_items, decay=1.0)
    matrix.data[:] = 1.0  # an item taken twice counts once
    return matrix


def event_weights(histories: Histories, *, n_items: int, decay: float) -> sparse.csr_array:
    """Give the users-by-items matrix of event weights, float32 (U, N).

    The last event of a user weighs 1, each earlier one `decay` times the next later one; repeated
    items add up.
    """
    lengths = np.diff(histories.offsets)
    ends = np.repeat(histories.offsets[1:], lengths)
    age = ends - 1 - np.arange(len(histories.items))
    matrix = sparse.csr_array(
        ((decay**age).astype(np.float32), histories.items, histories.offsets),
        shape=(histories.n_users, n_items),
        copy=True,  # the next line sorts in place
    )
    matrix.sum_duplicates()
    return matrix


def rank(
    scorer: Scorer,
    inputs: sparse.csr_array,
    *,
    items: NDArray[np.int32],
    top_k: int,
    filters: Filters,
) -> Rankings:
    """Score and cut chunk by chunk, so that no (U, W) matrix is ever held.

    Args:
        scorer: Gives float32 (B, W) for B rows of `inputs`.
        inputs: What users are known by, (U, ...).
        items: The item rows (W) that are scored, ascending.
        top_k: Length of the lists.
        filters: Of the U users, checked.
    """
    n_users, width = inputs.shape[0], min(top_k, len(items))
    best = np.empty((n_users, width), np.int32)
    scores = np.empty((n_users, width), np.float32)
    rows = max(1, CHUNK_SCORES // max(1, len(items)))
    for start in range(0, n_users, rows):
        stop = min(start + rows, n_users)
        chunk = np.asarray(scorer(inputs[start:stop]), np.float32)  # (rows, W)
        chunk[filters.closed(start, stop, items=items)] = -np.inf
        columns, scores[start:stop] = best_columns(chunk, k=width)
        best[start:stop] = items[columns]
    return Rankings(items=np.where(np.isneginf(scores), np.int32(-1), best), scores=scores)


def best_columns(
    scores: NDArray[np.float32], *, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the k best columns of every row, best first, ties by the lower column."""
    kept = highest(scores, k=k)
    columns = np.nonzero(kept)[1].reshape(len(scores), k)  # ascending in each row
    values = np.take_along_axis(scores, columns, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(values, order, axis=1)


def highest(scores: NDArray[np.float32], *, k: int) -> NDArray[np.bool_]:
    """Tell which are the k highest of each row (B, W), of equal ones those of the lower columns.

    A partition alone picks any of the columns that tie for the last place, and there are many where
    most scores are 0.
    """
    n_columns = scores.shape[1]
    last = np.partition(scores, n_columns - k, axis=1)[:, n_columns - k, None]  # (B, 1)
    above, equal = scores > last, scores == last
    room = k - above.sum(axis=1, keepdims=True)
    found: NDArray[np.bool_] = above | (equal & (equal.cumsum(axis=1) <= room))
    return found
