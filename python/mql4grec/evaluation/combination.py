"""Any number of rankings become one: calibrated probabilities, averaged with weights.

Scores of different sources are of different kinds. Each list's are turned into probabilities, by
two numbers that are fitted on users whose next item is known and held out: a temperature, and how
often the list lacks that item. What a list does not have is so given its floor, not nothing. The
weights of the mean are chosen by the same events, never by those of the test, and a list has weight
only if it adds more than chance: a list that knows little adds noise, and the best of many weights
are better than none on the events by which they were chosen, whatever the list.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mql4grec.decoding import Rankings
from mql4grec.evaluation.lists import align, best_first

STEPS = 10  # weights are multiples of a tenth
CHANCE = 1.645  # standard errors that a gain has to exceed
CHUNK = 4096  # users that are combined together
SCALE = 2.0**48  # sums of ten such steps, and a half, are exact in float64
RIVALS_OF, TOGETHER = 16, 128  # users and weights whose sums are in memory together
Parts = tuple[int, ...]  # weights of P lists in tenths
HALVINGS = 50  # of the range in which a temperature is looked for, on a logarithmic scale


@dataclass(frozen=True)
class Calibration:
    """How the scores of one list become probabilities.

    Attributes:
        temperature: What scores are divided by before the softmax over the list.
        absent: Probability that the next item is none of the list's.
    """

    temperature: float
    absent: float


@dataclass(frozen=True)
class Combination:
    """How several lists become one, by the lists' names.

    Attributes:
        calibrations: Of each list.
        weights: Of each list's probabilities; they sum to 1.
        ndcg: NDCG@10 of the combined list for the users that it was fitted on.
        n_users: How many these were.
        gains: What a list added to NDCG@10 beside the best weights without it, and the standard
            error of that over users; of a list without weight, when it was left out. A list that is
            left alone has none.
    """

    calibrations: dict[str, Calibration]
    weights: dict[str, float]
    ndcg: float
    n_users: int
    gains: dict[str, tuple[float, float]] = field(default_factory=dict)


def calibrate(rankings: Rankings, targets: NDArray[np.int32]) -> Calibration:
    """Fit the two numbers of a list by the likelihood of the targets.

    Args:
        rankings: Items (U, M).
        targets: int32 (U,), what each user took next.

    Returns:
        The temperature under which the listed targets are most probable (at most a thousand times
        the spread of the scores, where scores say nothing), and the share of users whose target is
        not listed, as if one more user each way had been seen.
    """
    hits = rankings.items == targets[:, None]
    listed = hits.any(axis=1)
    absent = (int(np.count_nonzero(~listed)) + 1) / (len(targets) + 2)
    scores = rankings.scores[listed].astype(np.float64)
    real = rankings.items[listed] >= 0
    spread = float(scores[real].std()) if real.any() else 0.0
    if spread == 0:
        return Calibration(temperature=1.0, absent=absent)
    own = scores[hits[listed]]  # (listed users,)
    scores = np.where(real, scores / spread, -np.inf)
    low, high = np.log(1e-3), np.log(1e3)  # of 1 / temperature: the slope grows with it
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        probabilities = _softmax(scores * np.exp(middle))
        expected = (probabilities * np.where(real, scores, 0.0)).sum(axis=1)
        if (expected - own / spread).mean() < 0:
            low = middle
        else:
            high = middle
    return Calibration(temperature=spread / float(np.exp((low + high) / 2)), absent=absent)


def fit(
    rankings: Mapping[str, Rankings], targets: NDArray[np.int32], *, n_items: int
) -> Combination:
    """Calibrate every list and choose the weights with the highest NDCG@10.

    All weights that are multiples of a tenth are tried; of equally good ones those nearest to equal
    weights are taken, then the first. As long as some list adds less than `CHANCE` standard errors
    to the best weights without it, paired over users, the one that adds least by that measure is
    left out, of equals the last.

    Args:
        rankings: Two or more, of the same users, by name.
        targets: int32 (U,), what each of them took next.
        n_items: N.

    Raises:
        ValueError: If there are fewer than two rankings, or the numbers of users differ.
    """
    _check(rankings)
    lists = list(rankings.values())
    if len(targets) != len(lists[0].items):
        raise ValueError(
            f"`targets`: expected shape ({len(lists[0].items)},) to match `rankings`, got "
            f"{targets.shape}; give one target per ranked user"
        )
    calibrations = [calibrate(one, targets) for one in lists]
    items, scores = align(lists)
    probabilities = to_probabilities(scores, calibrations, n_items=n_items)  # (P, U, W)
    rivals = _face(items, probabilities, targets)
    parts, gains = _without_chance(rivals)
    names = list(rankings)
    return Combination(
        calibrations=dict(zip(names, calibrations, strict=True)),
        weights={name: part / STEPS for name, part in zip(names, parts, strict=True)},
        ndcg=float(rivals.ndcg(parts).mean()),
        n_users=len(targets),
        gains={names[place]: gain for place, gain in sorted(gains.items())},
    )


@dataclass(frozen=True)
class _Rivals:
    """The candidates that targets stand against: of the V users whose target is one, as CSR.

    Attributes:
        margins: float64 (P + 1, R), what each list gives a rival more than the target, in whole
            steps of 1 / SCALE, and last a half where the rival wins ties. Sums of them with weights
            in tenths are exact, in whatever order they are added up. Probabilities that differ by
            less than a step are ties here, though not for `combine`.
        offsets: int64 (V + 1), user v has the columns from `offsets[v]` to `offsets[v + 1]`.
        n_users: U, all users; of the other ones the target is missed whatever the weights.
    """

    margins: NDArray[np.float64]
    offsets: NDArray[np.int64]
    n_users: int

    def ndcg(self, parts: Parts) -> NDArray[np.float64]:
        """Give each user's NDCG@10 under some weights, (U,), the V users first."""
        found = np.concatenate([gains[0] for gains in self._gains([parts])] or [np.zeros(0)])
        return np.pad(found, (0, self.n_users - len(found)))

    def means(self, parts: Sequence[Parts]) -> list[float]:
        """Give the mean NDCG@10 of all users under each of B weights."""
        total = np.zeros(len(parts))
        for gains in self._gains(parts):
            total += gains.sum(axis=1)
        means: list[float] = (total / max(self.n_users, 1)).tolist()
        return means

    def _gains(self, parts: Sequence[Parts]) -> Iterator[NDArray[np.float64]]:
        """Give NDCG@10 (B, some of the V users) under B weights; ties go to the lower row."""
        weights = np.array([(*one, 1) for one in parts], np.float64)  # (B, P + 1)
        for first in range(0, len(self.offsets) - 1, RIVALS_OF):
            offsets = self.offsets[first : first + RIVALS_OF + 1]
            ahead = weights @ self.margins[:, offsets[0] : offsets[-1]] > 0
            places = np.add.reduceat(ahead, offsets[:-1] - offsets[0], axis=1, dtype=np.int64)
            yield np.where(places < 10, 1 / np.log2(places + 2), 0.0)


def _face(
    items: NDArray[np.int32], probabilities: NDArray[np.float64], targets: NDArray[np.int32]
) -> _Rivals:
    """Set candidates, items (U, W) ascending and probabilities (P, U, W), beside the targets."""
    real = items >= 0
    is_target = (items == targets[:, None]) & real
    found = is_target.any(axis=1)
    real, is_target, items = real[found], is_target[found], items[found]
    steps = np.rint(probabilities[:, found] * SCALE)  # (P, V, W)
    margins = (steps - steps[:, is_target][:, :, None])[:, real]
    wins_ties = (items < targets[found, None])[real] / 2
    return _Rivals(
        # Of the target itself all are 0, so that every user has a column.
        margins=np.concatenate([margins, wins_ties[None]]),
        offsets=np.concatenate([[0], np.cumsum(real.sum(axis=1))]),
        n_users=len(targets),
    )


def _without_chance(rivals: _Rivals) -> tuple[Parts, dict[int, tuple[float, float]]]:
    """Choose weights, and leave out one list after the other that adds no more than chance.

    Returns:
        Weights in tenths (P), and what lists gained, with its standard error.
    """
    n_lists = len(rivals.margins) - 1
    best = _best_of_each(rivals, n_lists=n_lists)

    def choose(lists: frozenset[int]) -> Parts:
        """Give the best weights that no other list has a part in."""
        return max((order, parts) for used, (order, parts) in best.items() if used <= lists)[1]

    def ndcg(lists: frozenset[int]) -> NDArray[np.float64]:
        """Give each user's NDCG@10 by these, (U,)."""
        return rivals.ndcg(choose(lists))

    kept, gains = frozenset(range(n_lists)), dict[int, tuple[float, float]]()
    while len(kept) > 1:
        whole = ndcg(kept)
        for place in kept:
            added = whole - ndcg(kept - {place})
            gains[place] = (float(added.mean()), float(added.std() / np.sqrt(len(added))))
        last = min(kept, key=lambda place: (gains[place][0] / max(gains[place][1], 1e-12), -place))
        if gains[last][0] > CHANCE * gains[last][1]:
            break
        kept -= {last}
        if len(kept) == 1:
            gains = {place: gain for place, gain in gains.items() if place not in kept}
    return choose(kept), gains


def _best_of_each(
    rivals: _Rivals, *, n_lists: int
) -> dict[frozenset[int], tuple[tuple[float, int, int], Parts]]:
    """Find the best weights of each set of lists, all of which have some.

    Returns:
        By set: what weights are ordered by, and the weights.
    """
    best: dict[frozenset[int], tuple[tuple[float, int, int], Parts]] = {}
    every = list(_parts(n_lists))
    for start in range(0, len(every), TOGETHER):
        together = every[start : start + TOGETHER]
        means = zip(together, rivals.means(together), strict=True)
        for number, (parts, mean) in enumerate(means, start):
            used = frozenset(place for place, part in enumerate(parts) if part)
            order = (round(mean, 9), -sum(part * part for part in parts), -number)
            if used not in best or order > best[used][0]:
                best[used] = (order, parts)
    return best


def combine(
    rankings: Mapping[str, Rankings], combination: Combination, *, n_items: int, top_k: int
) -> Rankings:
    """Average the calibrated probabilities of several lists.

    Args:
        rankings: Of the same users, by the names of `combination`.
        combination: From `fit`.
        n_items: N.
        top_k: Length of the combined lists.

    Returns:
        Items (U, top_k), best first, scores = logarithm of the mean probability; ties by the lower
        row. Items that no list has are not looked at.

    Raises:
        ValueError: If a list is missing, or the numbers of users differ.
    """
    if set(rankings) != set(combination.weights):
        raise ValueError(
            f"`rankings`: expected {sorted(combination.weights)} as fitted, got "
            f"{sorted(rankings)}; give the same lists"
        )
    _check(rankings)
    calibrations = list(combination.calibrations.values())
    parts = tuple(round(STEPS * combination.weights[name]) for name in combination.calibrations)
    lists = [rankings[name] for name in combination.calibrations]
    n_users = len(lists[0].items)
    items = np.empty((n_users, top_k), np.int32)
    scores = np.empty((n_users, top_k), np.float32)
    for start in range(0, n_users, CHUNK):
        rows = slice(start, start + CHUNK)
        chunk, found = align([Rankings(one.items[rows], one.scores[rows]) for one in lists])
        mean = _mean(to_probabilities(found, calibrations, n_items=n_items), parts)
        best = best_first(chunk, np.log(np.maximum(mean, 1e-300)), top_k=top_k)
        items[rows], scores[rows] = best.items, best.scores
    return Rankings(items=items, scores=scores)


def _check(rankings: Mapping[str, Rankings]) -> None:
    if len(rankings) < 2:
        raise ValueError(
            f"`rankings`: expected two or more, got {list(rankings)}; name what is to be combined"
        )
    n_users = {name: len(one.items) for name, one in rankings.items()}
    if len(set(n_users.values())) > 1:
        raise ValueError(
            f"`rankings`: expected the same users in all, got {n_users}; rank them all"
        )


def to_probabilities(
    scores: NDArray[np.float64], calibrations: Sequence[Calibration], *, n_items: int
) -> NDArray[np.float64]:
    """Turn aligned scores (P, U, W), NaN where a list lacks the item, into probabilities.

    The items that a list lacks share what it leaves, but none has more than its last one; a user
    without a list has them all alike.
    """
    out = np.empty_like(scores)
    for own, calibration, target in zip(scores, calibrations, out, strict=True):
        listed = ~np.isnan(own)
        n_listed = listed.sum(axis=1, keepdims=True)
        shares = _softmax(np.where(listed, own / calibration.temperature, -np.inf))
        shares *= 1 - calibration.absent
        lowest = np.min(shares, axis=1, where=listed, initial=1.0, keepdims=True)
        floor = np.minimum(calibration.absent / np.maximum(n_items - n_listed, 1), lowest)
        floor = np.where(n_listed > 0, floor, 1 / n_items)
        target[:] = np.where(listed, shares, floor)
    return out


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give probabilities along the last axis; -inf is none, and a row of them stays 0."""
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    powers = np.exp(scores - np.where(np.isneginf(top), 0.0, top))
    total = powers.sum(axis=-1, keepdims=True)
    return powers / np.where(total > 0, total, 1.0)


def _mean(probabilities: NDArray[np.float64], parts: Parts) -> NDArray[np.float64]:
    """Average (P, U, W) with weights of so many tenths, in one order whoever asks."""
    mean = np.zeros(probabilities.shape[1:])
    for part, own in zip(parts, probabilities, strict=True):
        if part:
            mean += part * own
    return mean / STEPS


def _parts(n_lists: int) -> Iterator[Parts]:
    """List all ways to share STEPS tenths among lists."""
    for cuts in itertools.combinations(range(STEPS + n_lists - 1), n_lists - 1):
        ends = (-1, *cuts, STEPS + n_lists - 1)
        yield tuple(after - before - 1 for before, after in itertools.pairwise(ends))
