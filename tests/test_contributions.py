"""What item-to-item models say of candidates: by hand, and against a slow twin."""

import numpy as np
import pytest

from mql4grec import baselines, evaluation
from mql4grec.baselines import ItemToItem
from mql4grec.catalog import Histories
from mql4grec.decoding import Rankings
from mql4grec.evaluation import Basis, Calibration, Combination, Lists
from mql4grec.evaluation.candidates import describe
from mql4grec.evaluation.contributions import (
    CONTRIBUTIONS,
    Candidates,
    contribution_names,
    contributions,
)

N_ITEMS = 14


def histories(*rows: list[int]) -> Histories:
    offsets = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    return Histories(offsets, np.array([item for row in rows for item in row], np.int32))


def random_histories(seed: int, *, n_users: int) -> Histories:
    """Histories of all lengths, empty ones too, with repetitions; the last items never occur."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 7, n_users)
    return histories(*(generator.integers(0, N_ITEMS - 2, n).tolist() for n in lengths))


def as_candidates(rows: list[list[int]], inputs: Histories) -> Candidates:
    items = np.array([item for row in rows for item in row], np.int32)
    users = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    return Candidates(items, users, inputs)


def test_by_hand() -> None:
    # Of three users two have both 0 and 1, and one has 0 and 2.
    training = histories([0, 1], [1, 0], [0, 2])
    model = baselines.fit_item_knn(training, n_items=4, shrink=0, decay=0.5)
    with_1, with_2 = 2 / np.sqrt(3 * 2), 1 / np.sqrt(3 * 1)
    candidates = as_candidates([[0, 2, 3], [1], [0, 1]], histories([2, 1], [0, 0], []))
    found = np.stack(contributions(candidates, {"knn": model}), axis=1)
    first = with_1 + 0.5 * with_2
    expected = [  # score, behind best, largest part, of the last item
        [first, 0, with_1, with_1],
        [0, -first, 0, 0],
        [0, -first, 0, 0],
        [1.5 * with_1, 0, with_1, with_1],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert len(CONTRIBUTIONS) == found.shape[1]
    assert contribution_names(("knn", "ease"))[4] == "ease score"


def dense_weights(training: Histories, *, shrink: float, regularization: float) -> list[np.ndarray]:
    """Give the weights of item-kNN and EASE^R by their formulas."""
    users = np.zeros((training.n_users, N_ITEMS))
    for user in range(training.n_users):
        users[user, training.of(user)] = 1
    both = users.T @ users
    norms = np.sqrt(np.diag(both))
    cosine = both / (np.outer(norms, norms) + shrink)
    inverse = np.linalg.inv(both + regularization * np.eye(N_ITEMS))
    linear = -inverse / np.diag(inverse)
    for weights in (cosine, linear):
        np.fill_diagonal(weights, 0)
    return [cosine, linear]


def slow(weights: np.ndarray, decay: float, own: list[int], items: list[int]) -> list[list[float]]:
    """Describe the candidates of one user, item by item."""
    ages = list(reversed(range(len(own))))
    scores = [
        sum(decay**age * weights[i, item] for i, age in zip(own, ages, strict=True))
        for item in items
    ]
    return [
        [
            score,
            score - max(scores),
            max([0.0, *(weights[i, item] for i in own)]),
            weights[own[-1], item] if own else 0.0,
        ]
        for item, score in zip(items, scores, strict=True)
    ]


def fitted(training: Histories) -> dict[str, ItemToItem]:
    return {
        "item_knn": baselines.fit_item_knn(training, n_items=N_ITEMS, shrink=5.0, decay=0.8),
        "ease": baselines.fit_ease(training, n_items=N_ITEMS, regularization=2.0, decay=0.6),
    }


@pytest.mark.parametrize("seed", range(5))
def test_contributions_equal_a_slow_twin(seed: int) -> None:
    training, inputs = (random_histories(seed + n, n_users=40) for n in (0, 100))
    generator = np.random.default_rng(seed)
    rows = [
        np.sort(generator.permutation(N_ITEMS)[:n]).tolist() for n in generator.integers(0, 9, 40)
    ]
    found = np.stack(contributions(as_candidates(rows, inputs), fitted(training)), axis=1)
    expected = []
    matrices = dense_weights(training, shrink=5.0, regularization=2.0)
    for user, items in enumerate(rows):
        own = inputs.of(user).tolist()
        both = [slow(*of, own, items) for of in zip(matrices, (0.8, 0.6), strict=True)]
        expected += [knn + ease for knn, ease in zip(*both, strict=True)]
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-4, atol=1e-5)


def test_scores_are_those_of_the_models_own_lists() -> None:
    training, inputs = (random_histories(n, n_users=30) for n in (1, 2))
    candidates = as_candidates([list(range(N_ITEMS))] * 30, inputs)
    for model in fitted(training).values():
        ranking = model(inputs, top_k=N_ITEMS)
        score = contributions(candidates, {"it": model})[0].reshape(30, N_ITEMS)
        own = np.take_along_axis(score, ranking.items.astype(int), axis=1)
        np.testing.assert_allclose(own, ranking.scores, rtol=1e-5, atol=1e-6)


def test_no_candidates_at_all() -> None:
    training = random_histories(1, n_users=9)
    found = contributions(as_candidates([[]] * 9, training), fitted(training))
    assert [len(column) for column in found] == [0] * 2 * len(CONTRIBUTIONS)


def basis_of(training: Histories) -> Basis:
    how = Combination({"files": Calibration(1.0, 0.3)}, {"files": 1.0}, 0.0, 0)
    return Basis(how, evaluation.occurrences(training, n_items=N_ITEMS), fitted(training))


def test_models_come_after_what_lists_say_and_are_named() -> None:
    """Also of items of lists that no model has made."""
    training, inputs = (random_histories(n, n_users=20) for n in (3, 4))
    items = np.tile(np.array([13, 2, 5], np.int32), (20, 1))
    lists = Lists({"files": Rankings(items, np.zeros((20, 3), np.float32))}, inputs)
    basis = basis_of(training)
    _, features = describe(lists, basis)
    assert features.shape == (60, len(basis.features))
    assert len(set(basis.features)) == len(basis.features)
    alone = Basis(basis.combination, basis.occurrences)
    n_before = len(alone.features)
    np.testing.assert_array_equal(features[:, :n_before], describe(lists, alone)[1])
    expected = contributions(as_candidates([[2, 5, 13]] * 20, inputs), basis.models)
    np.testing.assert_array_equal(features[:, n_before:], np.stack(expected, axis=1))
    assert basis.features[n_before:] == contribution_names(("item_knn", "ease"))
