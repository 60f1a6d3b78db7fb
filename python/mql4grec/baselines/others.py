"""EASE^R after every event of users whom it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from mql4grec.baselines.fitting import ease_of
from mql4grec.baselines.ranker import Ranker
from mql4grec.catalog import Histories
from mql4grec.config import EvaluationSettings
from mql4grec.decoding import Filters, Rankings
from mql4grec.runtime import SILENT, Journal

N_PARTS = 4  # of the users, each ranked for by weights of the others
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)  # values of groups' rows, where a user's has ones


def rank_after_events(
    training: Histories,
    *,
    n_items: int,
    settings: EvaluationSettings,
    seed: int,
    groups: sparse.csr_array | None = None,
    masks: Sequence[NDArray[np.bool_] | None] = (None,),
    top_k: int = 50,
) -> list[Rankings]:
    """Rank with EASE^R after every event, by weights that other users' histories gave.

    A quarter of the users is ranked for by what was fitted on the others, so that a list knows no
    more of what comes next than one for a new user.

    Args:
        training: Histories of E events in all, without those held out.
        n_items: N.
        settings: Of the room `evaluation`.
        seed: Of the parting in quarters.
        groups: Of items that are alike, as `fit_ease` has them; None: there are none.
        masks: Which items are ranked, bool (N,), None for all; lists are made for each.
        top_k: Length of the lists.

    Returns:
        For each mask items (E, top_k), none that is in the history so far, -1 where there are no
        more.

    Raises:
        ValueError: If N is above `settings.ease_max_items`.
    """
    quarter = _quarters(training, seed=seed)
    width, shape = min(top_k, n_items), (len(training.items), top_k)
    lists = [
        Rankings(np.full(shape, -1, np.int32), np.full(shape, -np.inf, np.float32)) for _ in masks
    ]
    for part in range(N_PARTS):
        others = training.of_users(np.flatnonzero(quarter != part))
        ranker = ease_of(others, n_items=n_items, settings=settings, groups=groups)
        users = np.flatnonzero(quarter == part)
        for mask, ranking in zip(masks, lists, strict=True):
            events, found = _rank_events(ranker, training, users=users, top_k=width, mask=mask)
            ranking.items[events, :width] = found.items
            ranking.scores[events, :width] = found.scores
    return lists


def choose_weight(
    training: Histories,
    groups: sparse.csr_array,
    *,
    n_items: int,
    settings: EvaluationSettings,
    seed: int,
    journal: Journal = SILENT,
) -> tuple[float, dict[float, float]]:
    """Choose with which value groups of items are rows of EASE^R, where users' rows have ones.

    Fitted on three quarters of the users, it ranks for every event of the others from those before.
    As long as fitting EASE^R once for each of WEIGHTS.

    Args:
        training: Histories without the events held out.
        groups: Ones (G, N), where an item is in a group.
        n_items: N.
        settings: Of the room `evaluation`.
        seed: Of who is ranked for.
        journal: Told of the progress.

    Returns:
        That of WEIGHTS which has the highest NDCG@10, the least of equal ones; and NDCG@10 of each.

    Raises:
        ValueError: If N is above `settings.ease_max_items`.
    """
    is_own = _quarters(training, seed=seed) == 0
    own, others = np.flatnonzero(is_own), training.of_users(np.flatnonzero(~is_own))
    ndcg = {}
    with journal.track("codes in EASE^R", total=len(WEIGHTS)) as advance:
        for weight in WEIGHTS:
            weighed = groups * np.float32(weight)
            ranker = ease_of(others, n_items=n_items, settings=settings, groups=weighed)
            events, found = _rank_events(ranker, training, users=own, top_k=10)
            goes_on = ~np.isin(events + 1, training.offsets)
            hits = found.items[goes_on] == training.items[events[goes_on] + 1, None]
            gains = hits / np.log2(np.arange(hits.shape[1]) + 2)
            ndcg[weight] = float(gains.sum() / max(len(hits), 1))
            advance(1)
    return max(ndcg, key=lambda weight: ndcg[weight]), ndcg


def _quarters(training: Histories, *, seed: int) -> NDArray[np.int64]:
    """Part users in N_PARTS at random, int64 (U,)."""
    return np.random.default_rng(seed).permutation(training.n_users) % N_PARTS


def _rank_events(
    ranker: Ranker,
    training: Histories,
    *,
    users: NDArray[np.int64],
    top_k: int,
    mask: NDArray[np.bool_] | None = None,
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
    filters = Filters(masks=None if mask is None else mask[None], without=prefixes)
    return starts + sizes - 1, ranker(prefixes, top_k=top_k, filters=filters)
