"""The items of several lists, ranked anew by gradient-boosted trees.

An average gives a list the same weight for every item. Trees may trust one list for items that
training has hardly seen and another for the rest: besides what every list says of a candidate they
see how often and how late training has it, how often beside the user's last item, and what each
event of the history adds to it by item-kNN and EASE^R, with codes and without, on whose lists it
may not be. Like the weights of an average they are learnt on users whose next item is known and
held out, never on those of the test. By cross-validation over these users the number of trees is
chosen, and the trees are left out where they add no more than chance to the average.

LightGBM is imported only when trees are fitted or asked, so that other runs do not load it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mql4grec.decoding import Rankings
from mql4grec.evaluation.candidates import Basis, Lists, describe
from mql4grec.evaluation.combination import CHANCE, combine
from mql4grec.evaluation.figures import METRICS, gains
from mql4grec.evaluation.lists import best_first
from mql4grec.runtime import SILENT, Journal

if TYPE_CHECKING:
    from lightgbm import Booster

N_FOLDS = 5  # of the users, each ranked for by trees of the others
STEP = 25  # numbers of rounds that are compared are multiples of it
MOST_ROUNDS = 400
CHUNK = 1024  # users whose candidates are described together
TREES = {
    "objective": "binary",
    "num_leaves": 15,
    "learning_rate": 0.03,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "deterministic": True,  # the same trees, whatever the number of threads
    "force_row_wise": True,  # instead of the faster way on this machine today
    "verbosity": -1,
}


@dataclass(frozen=True)
class Reranking:
    """How trees were learnt and what came of it, for `evaluation/metrics.json`.

    Attributes:
        n_users: Users that they were learnt and cross-validated on.
        n_found: Of these, the ones whose target is among their candidates; only they can teach.
        n_rounds: Number of trees, the best of the cross-validation.
        ndcg: Cross-validated NDCG@10 of all these users; 0 if `n_found` is less than N_FOLDS.
        ndcg_combined: Theirs by the average, whose weights were chosen on them.
        gain: The difference, and its standard error over users.
        used: Whether the gain exceeds chance; else the average is left as it is.
        features: By name, what the trees that are used gained from each.
    """

    n_users: int
    n_found: int
    n_rounds: int
    ndcg: float
    ndcg_combined: float
    gain: tuple[float, float]
    used: bool
    features: dict[str, float]


@dataclass(frozen=True)
class Reranker:
    """What reranks.

    Attributes:
        basis: Of the lists that it was learnt on.
        trees: None where they add no more than chance.
        record: How they were learnt.
        n_threads: Of LightGBM; None: its own choice.
    """

    basis: Basis
    trees: Booster | None
    record: Reranking
    n_threads: int | None = None


@dataclass(frozen=True)
class _Examples:
    """Candidates of the users whose target is among them, as CSR.

    Attributes:
        features: float32 (R, F).
        is_target: bool (R,), once per user.
        offsets: int64 (V+1,), user v has the rows from `offsets[v]` to `offsets[v+1]`.
        users: int64 (V,), which of all users they are.
    """

    features: NDArray[np.float32]
    is_target: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    users: NDArray[np.int64]

    def of(self, chosen: NDArray[np.bool_]) -> _Examples:
        """Take those of some users, bool (V,)."""
        sizes = np.diff(self.offsets)
        rows = np.repeat(chosen, sizes)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[chosen])])
        return _Examples(self.features[rows], self.is_target[rows], offsets, self.users[chosen])


def learn(
    lists: Lists,
    targets: NDArray[np.int32],
    *,
    basis: Basis,
    seed: int,
    n_threads: int | None = None,
    journal: Journal = SILENT,
) -> Reranker:
    """Choose the number of trees by cross-validation over users, and fit them on all.

    With five lists of 50 and two models, 2,000 users take some 20 seconds of one core, 17,000 users
    150 seconds and less than 0.5 GiB.

    Args:
        lists: Of users whose next item is known.
        targets: int32 (U,), that item.
        basis: Its combination fitted on the same lists and targets.
        seed: Of folds and trees.
        n_threads: Of LightGBM; None: its own choice.
        journal: Told of the progress.

    Returns:
        Without trees if fewer than one user per fold has the target among the candidates, or if
        the cross-validated NDCG@10 does not exceed that of the combination, on the same users, by
        more than `CHANCE` standard errors, paired over users. Users whose target is not among their
        candidates count in these figures.

    Raises:
        ValueError: If the lists are not those of the combination, or numbers of users differ.
    """
    _check(lists, basis)
    base = _ndcg_combined(lists, targets, basis)
    examples = _collect(lists, targets, basis)
    parameters = {**TREES, "seed": seed, "num_threads": n_threads or 0}
    with journal.track("reranking", total=N_FOLDS + 1) as advance:
        found = np.zeros((len(examples.users), MOST_ROUNDS // STEP))  # (V, B)
        for fold in _folds(len(examples.users), seed=seed):
            found[fold] = _rank_fold(examples, fold, parameters)
            advance(1)
        best = int(np.argmax(found.sum(axis=0)))  # of equal ones the fewest trees
        ndcg = np.zeros(len(targets))
        ndcg[examples.users] = found[:, best]
        gain, error = _paired(ndcg - base)
        used = gain > CHANCE * error
        trees = _fit(examples, parameters, n_rounds=STEP * (best + 1)) if used else None
        advance(1)
    record = Reranking(
        n_users=len(targets),
        n_found=len(examples.users),
        n_rounds=STEP * (best + 1),
        ndcg=float(ndcg.mean()),
        ndcg_combined=float(base.mean()),
        gain=(gain, error),
        used=used,
        features=_told(trees, names=basis.features),
    )
    return Reranker(basis, trees, record, n_threads)


def rerank(lists: Lists, reranker: Reranker, *, top_k: int) -> Rankings:
    """Rank all items of the lists anew; without trees, combine the lists.

    Args:
        lists: Of the names that were learnt on.
        reranker: From `learn`.
        top_k: Length of the new lists.

    Returns:
        Items (U, top_k), best first, scores = log-probability that the item is the next one if any
        of the user's candidates is; ties by the lower row.

    Raises:
        ValueError: If the lists are not those that were learnt on, or numbers of users differ.
    """
    _check(lists, reranker.basis)
    basis, n_users = reranker.basis, lists.inputs.n_users
    n_items = basis.occurrences.n_items
    if reranker.trees is None:
        return combine(lists.rankings, basis.combination, n_items=n_items, top_k=top_k)
    items = np.empty((n_users, top_k), np.int32)
    scores = np.empty((n_users, top_k), np.float32)
    for rows, chunk in _chunks(lists):
        candidates, features = describe(chunk, basis)
        found = np.full(candidates.shape, -np.inf)
        if len(features):
            odds = _score(reranker.trees, features, n_threads=reranker.n_threads)
            found[candidates >= 0] = -np.logaddexp(0.0, -odds)
        best = best_first(candidates, found, top_k=top_k)
        items[rows], scores[rows] = best.items, best.scores
    return Rankings(items=items, scores=scores)


def _check(lists: Lists, basis: Basis) -> None:
    names = sorted(basis.combination.calibrations)
    if sorted(lists.rankings) != names:
        raise ValueError(
            f"`rankings`: expected {names} as fitted, got {sorted(lists.rankings)}; give the same "
            "lists"
        )
    n_users = {name: len(one.items) for name, one in lists.rankings.items()}
    if set(n_users.values()) != {lists.inputs.n_users}:
        raise ValueError(
            f"`rankings`: expected {lists.inputs.n_users} users to match `inputs`, got {n_users}; "
            "give the histories of the ranked users"
        )


def _chunks(lists: Lists) -> Iterator[tuple[slice, Lists]]:
    """Cut users into parts that fit in memory whatever their number."""
    for start in range(0, lists.inputs.n_users, CHUNK):
        rows = slice(start, min(start + CHUNK, lists.inputs.n_users))
        rankings = {
            name: Rankings(one.items[rows], one.scores[rows])
            for name, one in lists.rankings.items()
        }
        yield rows, Lists(rankings, lists.inputs.of_users(np.arange(rows.start, rows.stop)))


def _collect(lists: Lists, targets: NDArray[np.int32], basis: Basis) -> _Examples:
    """Describe the candidates of the users whose target is among them."""
    features, is_target, sizes, users = [], [], [], []
    for rows, chunk in _chunks(lists):
        items, described = describe(chunk, basis)
        real, hits = items >= 0, items == targets[rows, None]  # (U, W)
        found = (hits & real).any(axis=1)
        kept = real & found[:, None]
        features.append(described[kept[real]])
        is_target.append(hits[kept])
        sizes.append(kept.sum(axis=1)[found])
        users.append(rows.start + np.flatnonzero(found))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(sizes))])
    return _Examples(
        np.concatenate(features), np.concatenate(is_target), offsets, np.concatenate(users)
    )


def _folds(n_users: int, *, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Draw which users are ranked for together, bool (V,) each; none where a fold had nobody."""
    part = np.random.default_rng(seed).permutation(n_users) % N_FOLDS
    for fold in range(N_FOLDS if n_users >= N_FOLDS else 0):
        yield part == fold


def _rank_fold(
    examples: _Examples, fold: NDArray[np.bool_], parameters: Mapping[str, Any]
) -> NDArray[np.float64]:
    """Learn on the users of other folds and rank for these.

    Returns:
        NDCG@10 of the fold's users, after every STEP rounds, float64 (V', MOST_ROUNDS / STEP).
    """
    trees = _fit(examples.of(~fold), parameters, n_rounds=MOST_ROUNDS)
    held = examples.of(fold)
    scores, columns = np.zeros(len(held.features)), []
    for start in range(0, MOST_ROUNDS, STEP):
        scores += _score(
            trees,
            held.features,
            n_threads=parameters["num_threads"],
            start=start,
            n_rounds=STEP,
        )
        columns.append(_ndcg(scores, held))
    return np.stack(columns, axis=1)


def _fit(examples: _Examples, parameters: Mapping[str, Any], *, n_rounds: int) -> Booster:
    import lightgbm

    data = lightgbm.Dataset(examples.features, examples.is_target)
    return lightgbm.train(dict(parameters), data, num_boost_round=n_rounds)


def _score(
    trees: Booster,
    features: NDArray[np.float32],
    *,
    n_threads: int | None,
    start: int = 0,
    n_rounds: int = -1,
) -> NDArray[np.float64]:
    """Give log-odds (R,); of some rounds, what these add to them."""
    found = trees.predict(
        features,
        start_iteration=start,
        num_iteration=n_rounds,
        raw_score=True,
        num_threads=n_threads or 0,
    )
    return np.asarray(found)


def _ndcg(scores: NDArray[np.float64], examples: _Examples) -> NDArray[np.float64]:
    """Give NDCG@10 of each user (V,) under scores (R,); ties go to the lower row."""
    sizes = np.diff(examples.offsets)
    target = np.flatnonzero(examples.is_target)  # (V,)
    own = np.repeat(scores[target], sizes)
    before = np.arange(len(scores)) < np.repeat(target, sizes)
    ahead = (scores > own) | ((scores == own) & before)
    place = np.add.reduceat(ahead, examples.offsets[:-1], dtype=np.int64)
    return np.where(place < 10, 1 / np.log2(place + 2), 0.0)


def _ndcg_combined(lists: Lists, targets: NDArray[np.int32], basis: Basis) -> NDArray[np.float64]:
    """Give NDCG@10 of each user (U,) by the average."""
    n_items = basis.occurrences.n_items
    combined = combine(lists.rankings, basis.combination, n_items=n_items, top_k=10)
    return gains(combined, targets)[:, METRICS.index("NDCG@10")]


def _paired(added: NDArray[np.float64]) -> tuple[float, float]:
    """Give the mean over users (U,) and its standard error."""
    return float(added.mean()), float(added.std() / np.sqrt(len(added)))


def _told(trees: Booster | None, *, names: list[str]) -> dict[str, float]:
    """Give what trees gained from each feature, the most first."""
    if trees is None:
        return {}
    told = zip(names, trees.feature_importance("gain").tolist(), strict=True)
    return dict(sorted(told, key=lambda pair: -pair[1]))
