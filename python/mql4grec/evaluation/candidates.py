"""What the items of several lists have to tell: of each list, of training, of their user.

Features are made of training histories, of models fitted on these, and of what the lists say, never
of an event held out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mql4grec.baselines import ItemToItem
from mql4grec.catalog import Histories
from mql4grec.decoding import Rankings
from mql4grec.evaluation.combination import Combination, to_probabilities
from mql4grec.evaluation.contributions import Candidates, contribution_names, contributions
from mql4grec.evaluation.lists import align

OF_ITEMS = ("events", "lateness", "share of last events", "after last item", "before last item")
OF_USERS = ("times in history", "events of last item", "history length")


@dataclass(frozen=True)
class Occurrences:
    """What training histories tell of items.

    Attributes:
        n_events: int64 (N,), events of each item.
        lateness: float64 (N,), mean place of these in their histories, between 0 and 1; 0 of none.
        last_share: float64 (N,), share of these that are the last of their histories; 0 of none.
        pairs: int64 (Q,), ascending: `first * N + second` of items that came one after the other.
        n_pairs: int64 (Q,), how often each pair did.
    """

    n_events: NDArray[np.int64]
    lateness: NDArray[np.float64]
    last_share: NDArray[np.float64]
    pairs: NDArray[np.int64]
    n_pairs: NDArray[np.int64]

    @property
    def n_items(self) -> int:
        """Number of items N."""
        return len(self.n_events)

    def together(self, first: NDArray[np.int32], second: NDArray[np.int32]) -> NDArray[np.int64]:
        """Count how often one item came directly after another; of item -1, never."""
        wanted = first.astype(np.int64) * self.n_items + second
        if not len(self.pairs):
            return np.zeros(wanted.shape, np.int64)
        place = np.minimum(np.searchsorted(self.pairs, wanted), len(self.pairs) - 1)
        found = (self.pairs[place] == wanted) & (first >= 0) & (second >= 0)
        return np.where(found, self.n_pairs[place], 0)


@dataclass(frozen=True)
class Basis:
    """What candidates are described by.

    Attributes:
        combination: Of the lists, whose calibrations are used.
        occurrences: Of the shop's items.
        models: Fitted on the same training histories, by name; may be none.
    """

    combination: Combination
    occurrences: Occurrences
    models: Mapping[str, ItemToItem] = field(default_factory=dict)

    @property
    def features(self) -> list[str]:
        """Name the F features of candidates."""
        return feature_names(tuple(self.combination.calibrations), models=tuple(self.models))


@dataclass(frozen=True)
class Lists:
    """Users to rank for.

    Attributes:
        rankings: Of the same U users, by name.
        inputs: Their histories, without the events held out.
    """

    rankings: Mapping[str, Rankings]
    inputs: Histories


def occurrences(training: Histories, *, n_items: int) -> Occurrences:
    """Count what training histories tell of items.

    Args:
        training: Histories without the events held out.
        n_items: N.
    """
    items, lengths = training.items, training.lengths()
    place = np.arange(len(items)) - np.repeat(training.offsets[:-1], lengths)
    length = np.repeat(lengths, lengths)  # (E,)
    n_events = np.bincount(items, minlength=n_items)
    late = np.bincount(items, (place + 0.5) / length, minlength=n_items)
    n_last = np.bincount(items[place == length - 1], minlength=n_items)
    goes_on = np.flatnonzero(place < length - 1)
    keys = items[goes_on].astype(np.int64) * n_items + items[goes_on + 1]
    pairs, n_pairs = np.unique(keys, return_counts=True)
    return Occurrences(
        n_events=n_events,
        lateness=late / np.maximum(n_events, 1),
        last_share=n_last / np.maximum(n_events, 1),
        pairs=pairs,
        n_pairs=n_pairs,
    )


def describe(lists: Lists, basis: Basis) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Describe the candidates of each user: all items of the lists.

    Args:
        lists: Of U users, all at once.
        basis: Fitted on lists of the same names.

    Returns:
        Items (U, W) in ascending order, each once, -1 elsewhere, as `align` gives them; and of the
        R that are not -1, row by row, features float32 (R, F), as `Basis.features` names them.
    """
    calibrations = basis.combination.calibrations  # their order is that of the features
    rankings = [lists.rankings[name] for name in calibrations]
    items, scores = align(rankings)
    real = items >= 0  # (U, W), R of them
    n_items = basis.occurrences.n_items
    shares = to_probabilities(scores, list(calibrations.values()), n_items=n_items)
    _, places = align([_places(one) for one in rankings])
    columns: list[NDArray[np.generic]] = []
    for one, own, place in zip(rankings, shares, places, strict=True):
        log = np.log(np.maximum(own, 1e-300))
        best = np.max(log, axis=1, where=real, initial=-np.inf, keepdims=True)
        rank = np.where(np.isnan(place), one.items.shape[1] + 1, place)
        columns += [log[real], (log - best)[real], rank[real]]
    candidates = Candidates(items[real], np.nonzero(real)[0], lists.inputs)
    columns += _of_items(candidates, basis.occurrences)
    columns += contributions(candidates, basis.models)
    return items, np.stack([column.astype(np.float32) for column in columns], axis=1)


def feature_names(names: tuple[str, ...], *, models: tuple[str, ...] = ()) -> list[str]:
    """Name the F features of candidates from lists of these names, and of models of these."""
    of_lists = [f"{name} {what}" for name in names for what in ("log", "behind best", "rank")]
    return [*of_lists, *OF_ITEMS, *OF_USERS, *contribution_names(models)]


def _places(ranking: Rankings) -> Rankings:
    """Put each item's rank, 1 the best, for its score."""
    ranks = np.arange(1, ranking.items.shape[1] + 1, dtype=np.float32)
    return Rankings(ranking.items, np.broadcast_to(ranks, ranking.items.shape))


def _of_items(candidates: Candidates, occurrences: Occurrences) -> list[NDArray[np.generic]]:
    """Give what training tells of R candidates and their histories: OF_ITEMS and OF_USERS."""
    items, users, inputs = candidates.items, candidates.users, candidates.inputs
    lengths = inputs.lengths()
    last = np.full(len(lengths), -1, np.int32)  # (U,)
    last[lengths > 0] = inputs.items[inputs.offsets[1:][lengths > 0] - 1]
    n_of_last = np.where(last < 0, 0, occurrences.n_events[last])
    owners = np.repeat(np.arange(len(lengths)), lengths)
    seen, times = np.unique(owners * occurrences.n_items + inputs.items, return_counts=True)
    wanted = users * occurrences.n_items + items
    place = np.searchsorted(seen, wanted)
    again = np.append(seen, -1)[place] == wanted
    return [
        np.log1p(occurrences.n_events[items]),
        occurrences.lateness[items],
        occurrences.last_share[items],
        occurrences.together(last[users], items),
        occurrences.together(items, last[users]),
        np.where(again, np.append(times, 0)[place], 0),
        np.log1p(n_of_last[users]),
        lengths[users],
    ]
