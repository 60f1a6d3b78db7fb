"""What a user would pick instead: most popular, item-kNN, EASE^R with and without groups of items.

This room knows item rows, histories and groups of items that are alike, no codes and no T5. All fit
on one set of histories and rank from another: for the test, fit on the histories without their last
two items (the part that T5 trains on), rank from those without the last one; `evaluation.refit`
then fits them again, on the latter. They rank the whole catalog.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import lapack

from mql4grec.catalog import Histories
from mql4grec.config import EvaluationSettings
from mql4grec.decoding import Rankings
from mql4grec.runtime import SILENT, Journal

CHUNK_SCORES = 1 << 22  # scores held at once: 16 MiB of float32
N_PARTS = 4  # of the users, each ranked for by weights of the others
WEIGHTS = (0.25, 0.5, 1.0, 2.0)  # of groups of items, beside users
MIRROR_ROWS = 1024  # rows copied at once when a triangle becomes a square


Scorer = Callable[[sparse.csr_array], NDArray[np.float32]]


class Ranker(Protocol):
    """A fitted baseline."""

    def __call__(self, inputs: Histories, *, top_k: int, remove_seen: bool = False) -> Rankings:
        """Rank the whole catalog for every history.

        Args:
            inputs: Histories (U users) to rank from.
            top_k: Length of the lists.
            remove_seen: Leave out the items of a user's input.

        Returns:
            Items (U, min(top_k, N)), ties by the lower row.
        """
        ...


@dataclass(frozen=True)
class ItemToItem:
    """A baseline, a `Ranker`, whose scores are sums of what the events of a history add to an item.

    Attributes:
        weights: float32 (N, N), dense or CSR: what an event of an item (row) adds to each (column).
        decay: Weight of an event relative to the next later one.
    """

    weights: NDArray[np.float32] | sparse.csr_array
    decay: float

    def __call__(self, inputs: Histories, *, top_k: int, remove_seen: bool = False) -> Rankings:
        """Rank the whole catalog for every history, as `Ranker` describes it."""
        return _rank(
            self._score,
            _weights(inputs, n_items=self.weights.shape[0], decay=self.decay),
            top_k=top_k,
            remove_seen=remove_seen,
        )

    def _score(self, inputs: sparse.csr_array) -> NDArray[np.float32]:
        scores = inputs @ self.weights
        return np.asarray(scores.toarray() if sparse.issparse(scores) else scores, np.float32)

    def added(self, seen: NDArray[np.int32], items: NDArray[np.int32]) -> NDArray[np.float32]:
        """Tell what one event of each item `seen` (R,) adds to the score of its item (R,)."""
        return np.asarray(self.weights[seen, items], np.float32)


def fit(
    training: Histories,
    *,
    n_items: int,
    settings: EvaluationSettings,
    groups: sparse.csr_array | None = None,
    journal: Journal = SILENT,
) -> dict[str, Ranker]:
    """Fit every baseline that the catalog's size allows.

    Args:
        training: Histories without the events held out.
        n_items: N.
        settings: Of the room `evaluation`.
        groups: Of items whose codes begin alike, as `fit_ease` has them; None: there are none.
        journal: Told what is done, and if EASE^R is left out.

    Returns:
        "popular", "item_knn" and, up to `settings.ease_max_items` items, "ease" and, where there
        are groups, "ease_codes".
    """
    rankers: dict[str, Ranker] = {}
    with journal.track("baselines", total=4) as advance:
        rankers["popular"] = fit_most_popular(training, n_items=n_items)
        advance(1)
        rankers["item_knn"] = fit_item_knn(
            training, n_items=n_items, shrink=settings.item_knn_shrink, decay=settings.decay
        )
        advance(1)
        if n_items > settings.ease_max_items:
            journal.log("baselines.ease_skipped", n_items=n_items, limit=settings.ease_max_items)
            advance(2)
            return rankers
        rankers["ease"] = _fit_ease(training, None, n_items=n_items, settings=settings)
        advance(1)
        if groups is not None:
            rankers["ease_codes"] = _fit_ease(training, groups, n_items=n_items, settings=settings)
        advance(1)
    return rankers


def _fit_ease(
    training: Histories,
    groups: sparse.csr_array | None,
    *,
    n_items: int,
    settings: EvaluationSettings,
) -> ItemToItem:
    return fit_ease(
        training,
        n_items=n_items,
        regularization=settings.ease_lambda,
        decay=settings.decay,
        max_items=settings.ease_max_items,
        groups=groups,
    )


def fit_most_popular(training: Histories, *, n_items: int) -> Ranker:
    """Rank items by the number of their events; the same list for everyone but for seen items.

    Args:
        training: Histories that are counted.
        n_items: N.

    Returns:
        A ranker whose scores are numbers of events.
    """
    counts = np.bincount(training.items, minlength=n_items).astype(np.float32)  # (N,)

    def ranker(inputs: Histories, *, top_k: int, remove_seen: bool = False) -> Rankings:
        # However many of them a user has seen, no list goes further down than these.
        depth = top_k + (int(inputs.lengths().max(initial=0)) if remove_seen else 0)
        pool = np.sort(np.argsort(-counts, kind="stable")[:depth]).astype(np.int32)
        ranking = _rank(
            lambda weights: np.tile(counts[pool], (weights.shape[0], 1)),
            _weights(inputs, n_items=n_items, decay=1.0)[:, pool],
            top_k=top_k,
            remove_seen=remove_seen,
        )
        items = np.where(ranking.items < 0, np.int32(-1), pool[ranking.items])
        return Rankings(items=items, scores=ranking.scores)

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
    users = _binary(training, n_items=n_items)
    both = (users.T @ users).tocoo()  # (N, N)
    norms = np.sqrt(both.diagonal())
    row, column = both.coords
    other = row != column
    row, column = row[other], column[other]
    cosine = both.data[other] / (norms[row] * norms[column] + np.float32(shrink))
    similar = sparse.csr_array((cosine, (row, column)), shape=(n_items, n_items))
    return ItemToItem(similar, decay)


def fit_ease(
    training: Histories,
    *,
    n_items: int,
    regularization: float = 100.0,
    decay: float = 0.8,
    max_items: int = 20_000,
    groups: sparse.csr_array | None = None,
) -> ItemToItem:
    """Fit EASE^R, the linear item-to-item model with a closed form.

    With P the inverse of `X'X + lambda I`, the weights are `-P_ij / P_jj`, 0 on the diagonal. Items
    that are alike may be groups, more rows of X: as if there were a user who had all of them. So
    an item that nobody ever took has weights too.

    Args:
        training: Histories from which the users-by-items matrix X of zeros and ones comes.
        n_items: N.
        regularization: Lambda.
        decay: Weight of an input event relative to the next later one.
        max_items: The largest N that is tried: memory grows with its square, time with its cube.
        groups: float32 (G, N): 0 where an item is not in a group, elsewhere how much it counts
            beside an event, 1; None: no groups.

    Returns:
        A ranker.

    Raises:
        ValueError: If N is above `max_items`, or lambda too small for the matrix to be inverted.

    Source:
        Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, equation 8. Groups:
        Jeunen, Van Balen, Goethals, "Closed-Form Models for Collaborative Filtering with
        Side-Information", RecSys 2020, whose CEASE has tags as rows.
    """
    if n_items > max_items:
        raise ValueError(
            f"`n_items`: expected at most {max_items} for EASE^R, got {n_items}; "
            "leave EASE^R out, or raise `max_items` if memory for N x N floats is there"
        )
    rows = _binary(training, n_items=n_items)
    if groups is not None:
        rows = sparse.csr_array(sparse.vstack([rows, groups], format="csr"))
    return ItemToItem(_ease_weights(rows, regularization=regularization), decay)


def rank_prefixes(
    training: Histories,
    *,
    n_items: int,
    settings: EvaluationSettings,
    seed: int,
    groups: sparse.csr_array | None = None,
    top_k: int = 50,
) -> Rankings:
    """Rank with EASE^R after every event, by weights that other users' histories gave.

    A quarter of the users is ranked for by what was fitted on the others, so that a list knows no
    more of what comes next than one for a new user.

    Args:
        training: Histories of E events in all, without those held out.
        n_items: N.
        settings: Of the room `evaluation`.
        seed: Of the parting in quarters.
        groups: Of items whose codes begin alike, as `fit_ease` has them; None: there are none.
        top_k: Length of the lists.

    Returns:
        Items (E, min(top_k, N)), none that is in the history so far.

    Raises:
        ValueError: If N is above `settings.ease_max_items`.
    """
    quarter = _quarters(training, seed=seed)
    width = min(top_k, n_items)
    items = np.full((len(training.items), width), -1, np.int32)
    scores = np.full((len(training.items), width), -np.inf, np.float32)
    for part in range(N_PARTS):
        others = training.of_users(np.flatnonzero(quarter != part))
        ranker = _fit_ease(others, groups, n_items=n_items, settings=settings)
        users = np.flatnonzero(quarter == part)
        events, found = _rank_events(ranker, training, users=users, top_k=width)
        items[events], scores[events] = found.items, found.scores
    return Rankings(items=items, scores=scores)


def choose_weight(
    training: Histories,
    groups: sparse.csr_array,
    *,
    n_items: int,
    settings: EvaluationSettings,
    seed: int,
) -> tuple[float, dict[float, float]]:
    """Choose how much groups of items count in EASE^R, beside users, who count 1.

    Fitted on three quarters of the users, it ranks for every event of the others from those before.

    Args:
        training: Histories without the events held out.
        groups: Ones (G, N), where an item is in a group.
        n_items: N.
        settings: Of the room `evaluation`.
        seed: Of who is ranked for.

    Returns:
        That of WEIGHTS which has the highest NDCG@10, and NDCG@10 of each; the least of them if
        nobody has an event to rank for.

    Raises:
        ValueError: If N is above `settings.ease_max_items`.
    """
    quarter = _quarters(training, seed=seed)
    others = training.of_users(np.flatnonzero(quarter != 0))
    found = {}
    for weight in WEIGHTS:
        weighed = groups * np.float32(weight)
        ranker = _fit_ease(others, weighed, n_items=n_items, settings=settings)
        events, ranking = _rank_events(
            ranker, training, users=np.flatnonzero(quarter == 0), top_k=10
        )
        goes_on = ~np.isin(events + 1, training.offsets)
        hits = ranking.items[goes_on] == training.items[events[goes_on] + 1, None]
        gains = hits / np.log2(np.arange(hits.shape[1]) + 2)
        found[weight] = float(gains.sum() / max(len(hits), 1))
    return max(found, key=lambda weight: found[weight]), found


def _quarters(training: Histories, *, seed: int) -> NDArray[np.int64]:
    """Part users in N_PARTS at random, int64 (U,)."""
    return np.random.default_rng(seed).permutation(training.n_users) % N_PARTS


def _rank_events(
    ranker: Ranker, training: Histories, *, users: NDArray[np.int64], top_k: int
) -> tuple[NDArray[np.int64], Rankings]:
    """Rank for some users after every event of theirs.

    Returns:
        The events, int64 (R,), and lists (R, min(top_k, N)) without what was seen so far.
    """
    lengths = training.lengths()[users]
    starts = np.repeat(training.offsets[users], lengths)  # of each prefix
    sizes = np.concatenate([np.arange(1, n + 1) for n in lengths] or [lengths[:0]])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, sizes)
    prefixes = Histories(offsets=offsets, items=training.items[places])
    return starts + sizes - 1, ranker(prefixes, top_k=top_k, remove_seen=True)


def _ease_weights(rows: sparse.csr_array, *, regularization: float) -> NDArray[np.float32]:
    """Give the item-to-item weights (N, N), in place: one such matrix is all the memory used."""
    matrix = (rows.T @ rows).toarray(order="F")
    np.fill_diagonal(matrix, matrix.diagonal() + np.float32(regularization))
    factor, failed = lapack.spotrf(matrix, lower=1, overwrite_a=1)
    if failed:
        raise ValueError(
            f"`regularization`: expected more than {regularization!r} for a matrix that can be "
            "inverted, got a singular one; raise it"
        )
    inverse, _ = lapack.spotri(factor, lower=1, overwrite_c=1)
    _mirror_lower(inverse)
    linear: NDArray[np.float32] = inverse.T  # LAPACK's order to C order; symmetric so far
    linear /= -linear.diagonal()  # column j by P_jj
    np.fill_diagonal(linear, 0.0)
    return linear


def _mirror_lower(matrix: NDArray[np.float32]) -> None:
    """Copy the lower triangle onto the upper one, block by block."""
    for start in range(0, len(matrix), MIRROR_ROWS):
        stop = min(start + MIRROR_ROWS, len(matrix))
        block = matrix[start:stop, start:stop]
        block[:] = np.tril(block) + np.tril(block, -1).T
        matrix[start:stop, stop:] = matrix[stop:, start:stop].T


def _binary(histories: Histories, *, n_items: int) -> sparse.csr_array:
    """Give the users-by-items matrix of zeros and ones, float32 (U, N)."""
    matrix = _weights(histories, n_items=n_items, decay=1.0)
    matrix.data[:] = 1.0  # an item taken twice counts once
    return matrix


def _weights(histories: Histories, *, n_items: int, decay: float) -> sparse.csr_array:
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


def _rank(scorer: Scorer, inputs: sparse.csr_array, *, top_k: int, remove_seen: bool) -> Rankings:
    """Score and cut chunk by chunk, so that no (U, N) matrix is ever held."""
    n_users, n_items = inputs.shape
    width = min(top_k, n_items)
    items = np.empty((n_users, width), np.int32)
    scores = np.empty((n_users, width), np.float32)
    rows = max(1, CHUNK_SCORES // n_items)
    for start in range(0, n_users, rows):
        weights = inputs[start : start + rows]
        chunk = np.asarray(scorer(weights), np.float32)  # (rows, N)
        if remove_seen:
            # Stored entries, not non-zero ones: an old event's weight can underflow to 0.
            chunk[weights.tocoo().coords] = -np.inf
        items[start : start + rows], scores[start : start + rows] = best_columns(chunk, k=width)
    return Rankings(items=np.where(np.isneginf(scores), np.int32(-1), items), scores=scores)


def best_columns(
    scores: NDArray[np.float32], *, k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Find the k best columns of every row, best first, ties by the lower column.

    A partition alone picks any of the columns that tie for the last place, and there are many where
    most scores are 0.
    """
    n_columns = scores.shape[1]
    last = np.partition(scores, n_columns - k, axis=1)[:, n_columns - k, None]  # (B, 1)
    above, equal = scores > last, scores == last
    room = k - above.sum(axis=1, keepdims=True)
    kept = above | (equal & (equal.cumsum(axis=1) <= room))
    columns = np.nonzero(kept)[1].reshape(len(scores), k)  # ascending in each row
    values = np.take_along_axis(scores, columns, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1), np.take_along_axis(values, order, axis=1)
