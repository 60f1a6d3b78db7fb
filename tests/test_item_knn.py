"""Item-kNN in bounded memory against the whole matrix at once, to the bit."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from scipy import sparse

from mql4grec import baselines
from mql4grec.baselines import counting
from mql4grec.baselines.ranker import binary
from mql4grec.catalog import Histories


def random_shop(seed: int, *, n_users: int, n_items: int, most: int) -> Histories:
    """Draw histories of 0 to `most` events, of few items more often than of others."""
    generator = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(generator.integers(0, most + 1, n_users))])
    items = (generator.random(offsets[-1]) ** 2 * n_items).astype(np.int32)
    return Histories(offsets=offsets.astype(np.int64), items=items)


def at_once(training: Histories, *, n_items: int, shrink: float) -> sparse.csr_array:
    """Give the similarities as the product of all users' rows gives them: 54 bytes a pair."""
    users = binary(training, n_items=n_items)
    both = (users.T @ users).tocoo()
    norms = np.sqrt(both.diagonal())
    row, column = both.coords
    other = row != column
    row, column = row[other], column[other]
    cosine = both.data[other] / (norms[row] * norms[column] + np.float32(shrink))
    return sparse.csr_array((cosine, (row, column)), shape=(n_items, n_items))


@pytest.mark.parametrize("chunk", [1, 50, 1 << 20])
@pytest.mark.parametrize("shrink", [0.0, 50.0])
@pytest.mark.parametrize("seed", range(3))
def test_chunks_equal_the_whole_to_the_bit(
    seed: int, shrink: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = random_shop(seed, n_users=60, n_items=41, most=9)
    monkeypatch.setattr(counting, "CHUNK_PAIRS", chunk)
    fitted = baselines.fit_item_knn(training, n_items=41, shrink=shrink)
    expected = at_once(training, n_items=41, shrink=shrink)
    assert fitted.n_neighbours is None
    assert isinstance(fitted.weights, sparse.csr_array)
    assert fitted.weights.has_canonical_format  # columns ascending, as `added` looks them up
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(fitted.weights, name), getattr(expected, name))
    whole = baselines.ItemToItem(expected, decay=0.8)(training, top_k=7)
    found = fitted(training, top_k=7)
    assert found.items.tobytes() == whole.items.tobytes()
    assert found.scores.tobytes() == whole.scores.tobytes()


@pytest.mark.parametrize("k", [1, 2, 5])
def test_of_too_many_pairs_each_item_keeps_its_nearest(
    k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = random_shop(4, n_users=60, n_items=20, most=9)
    monkeypatch.setattr(counting, "MOST_PAIRS", 20 * k + 3)
    monkeypatch.setattr(counting, "CHUNK_PAIRS", 100)
    fitted = baselines.fit_item_knn(training, n_items=20, shrink=0.0)
    assert fitted.n_neighbours == k
    whole, kept = at_once(training, n_items=20, shrink=0.0), fitted.weights.toarray()
    for row, (start, stop) in enumerate(pairwise(whole.indptr)):
        near = sorted(zip(-whole.data[start:stop], whole.indices[start:stop], strict=True))[:k]
        expected = np.zeros(20, np.float32)
        expected[[column for _, column in near]] = [-cosine for cosine, _ in near]
        np.testing.assert_array_equal(kept[row], expected)


def test_as_many_pairs_as_are_kept_are_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    training = random_shop(5, n_users=60, n_items=20, most=9)
    n_pairs = at_once(training, n_items=20, shrink=0.0).nnz
    monkeypatch.setattr(counting, "MOST_PAIRS", n_pairs)
    assert baselines.fit_item_knn(training, n_items=20).n_neighbours is None
    monkeypatch.setattr(counting, "MOST_PAIRS", n_pairs - 1)
    assert baselines.fit_item_knn(training, n_items=20).n_neighbours == (n_pairs - 1) // 20


def test_memory_does_not_grow_with_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    training = random_shop(6, n_users=600, n_items=4000, most=200)
    monkeypatch.setattr(counting, "MOST_PAIRS", 1 << 19)
    monkeypatch.setattr(counting, "CHUNK_PAIRS", 1 << 17)
    tracemalloc.start()
    baselines.fit_item_knn(training, n_items=4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 24 << 20  # of 5 million pairs, which took 54 bytes each


def test_a_shop_without_events() -> None:
    training = Histories(offsets=np.zeros(3, np.int64), items=np.zeros(0, np.int32))
    fitted = baselines.fit_item_knn(training, n_items=3)
    assert fitted.weights.nnz == 0
    assert fitted(training, top_k=2).items.tolist() == [[0, 1], [0, 1]]
