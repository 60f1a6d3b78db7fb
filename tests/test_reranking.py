"""Items of several lists ranked anew: features against a slow twin, and what trees can learn."""

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from pydantic import ValidationError

from mql4grec import evaluation
from mql4grec.catalog import Histories
from mql4grec.config import EvaluationSettings
from mql4grec.decoding import Rankings
from mql4grec.evaluation import Basis, Calibration, Combination, Lists, Reranker, reranking
from mql4grec.evaluation.candidates import describe, feature_names
from mql4grec.evaluation.lists import best_first

N_ITEMS = 14


def histories(*rows: list[int]) -> Histories:
    lengths = [len(row) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Histories(offsets, np.array([item for row in rows for item in row], np.int32))


def random_histories(seed: int, *, n_users: int) -> Histories:
    """Histories of all lengths, empty ones too, with repetitions; the last items never occur."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, 7, n_users)
    return histories(*(generator.integers(0, N_ITEMS - 2, n).tolist() for n in lengths))


def random_lists(seed: int, *, n_users: int, width: int) -> Rankings:
    """Lists of all lengths, empty ones too, with ties."""
    generator = np.random.default_rng(seed)
    items = np.stack([generator.permutation(N_ITEMS)[:width] for _ in range(n_users)])
    scores = -np.sort(-generator.integers(-3, 4, (n_users, width)).astype(float))
    listed = np.arange(width) < generator.integers(0, width + 1, n_users)[:, None]
    return Rankings(
        np.where(listed, items, -1).astype(np.int32),
        np.where(listed, scores, -np.inf).astype(np.float32),
    )


def slow_log(ranking: Rankings, how: Calibration, *, user: int, item: int) -> tuple[float, float]:
    """Give an item's logarithmic probability in a user's list, and the best of the list."""
    scores = {
        int(i): float(s) / how.temperature
        for i, s in zip(ranking.items[user], ranking.scores[user], strict=True)
        if i >= 0
    }
    if not scores:
        return np.log(1 / N_ITEMS), np.log(1 / N_ITEMS)
    total = sum(np.exp(score) for score in scores.values())
    own = {i: (1 - how.absent) * np.exp(score) / total for i, score in scores.items()}
    left = how.absent / (N_ITEMS - len(own)) if len(own) < N_ITEMS else 1.0
    return np.log(own.get(item, min(left, *own.values()))), np.log(max(own.values()))


def slow_features(
    lists: Lists, how: Combination, training: list[list[int]], *, user: int, item: int
) -> list[float]:
    """Describe one candidate with loops over all that there is."""
    found: list[float] = []
    for name, ranking in lists.rankings.items():
        log, best = slow_log(ranking, how.calibrations[name], user=user, item=item)
        row = ranking.items[user].tolist()
        found += [log, log - best, row.index(item) + 1 if item in row else len(row) + 1]
    own = lists.inputs.of(user).tolist()
    last = own[-1] if own else -1
    places = [
        (place + 0.5) / len(row) for row in training for place, i in enumerate(row) if i == item
    ]
    n_last = sum(row[-1] == item for row in training if row)
    follows = [pair for row in training for pair in itertools.pairwise(row)]
    return [
        *found,
        np.log1p(len(places)),
        sum(places) / len(places) if places else 0,
        n_last / len(places) if places else 0,
        follows.count((last, item)),
        follows.count((item, last)),
        own.count(item),
        np.log1p(sum(row.count(last) for row in training)),
        len(own),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_features_equal_a_slow_twin(seed: int) -> None:
    n_users = 30
    training = random_histories(seed, n_users=40)
    lists = Lists(
        {
            "a": random_lists(seed, n_users=n_users, width=6),
            "b": random_lists(seed + 100, n_users=n_users, width=N_ITEMS),
        },
        random_histories(seed + 200, n_users=n_users),
    )
    how = Combination(
        {"a": Calibration(0.7, 0.4), "b": Calibration(1.9, 0.1)}, {"a": 0.5, "b": 0.5}, 0.0, 0
    )
    basis = Basis(how, evaluation.occurrences(training, n_items=N_ITEMS))
    items, features = describe(lists, basis)
    rows = [training.of(user).tolist() for user in range(training.n_users)]
    expected = []
    for user in range(n_users):
        candidates = [item for item in items[user].tolist() if item >= 0]
        listed = {i for one in lists.rankings.values() for i in one.items[user].tolist()}
        assert candidates == sorted(listed - {-1})
        expected += [slow_features(lists, how, rows, user=user, item=i) for i in candidates]
    np.testing.assert_allclose(features, np.array(expected), rtol=1e-6, atol=1e-6)
    assert features.dtype == np.float32
    assert features.shape[1] == len(feature_names(("a", "b"))) == len(set(feature_names("ab")))


def test_a_shop_without_training_events() -> None:
    nothing = evaluation.occurrences(histories([], []), n_items=N_ITEMS)
    assert not nothing.n_events.any()
    pair = np.array([3], np.int32)
    assert nothing.together(pair, pair).tolist() == [0]


SHOP = 120  # items of a made-up shop: the first half has 30 training events each, the others one
POPULAR = SHOP // 2
TRAINING = histories(*[list(range(POPULAR))] * 30, list(range(POPULAR, SHOP)))


def half_right(seed: int, *, n_users: int) -> tuple[Lists, np.ndarray]:
    """Make two lists that are sure of their first item: one is right if it is popular, one if not.

    A target has another item of its half first in the list that is wrong, so that an average, which
    does not know which of the two to believe, is right for half of the users at most.
    """
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, SHOP, n_users).astype(np.int32)
    half = np.where(targets < POPULAR, 0, POPULAR)
    wrong = half + (targets - half + generator.integers(1, POPULAR, n_users)) % POPULAR
    rankings = {}
    for name, right in (("popular", targets < POPULAR), ("rare", targets >= POPULAR)):
        first = np.where(right, targets, wrong)[:, None]
        rest = np.stack([generator.permutation(SHOP)[:12] for _ in range(n_users)])
        rest[(rest == first) | (rest == targets[:, None])] = -1
        items = np.concatenate([first, -np.sort(-rest, axis=1)], axis=1).astype(np.int32)
        scores = np.where(items < 0, -np.inf, [4.0, *-np.arange(12.0) / 10]).astype(np.float32)
        rankings[name] = Rankings(items, scores)
    return Lists(rankings, histories(*generator.integers(0, SHOP, (n_users, 3)).tolist())), targets


def learn(lists: Lists, targets: np.ndarray, *, seed: int = 1, n_threads: int = 1) -> Reranker:
    combination = evaluation.fit(lists.rankings, targets, n_items=SHOP)
    basis = Basis(combination, evaluation.occurrences(TRAINING, n_items=SHOP))
    return evaluation.learn(lists, targets, basis=basis, seed=seed, n_threads=n_threads)


@pytest.fixture(scope="module", autouse=True)
def few_rounds() -> Iterator[None]:
    """Made-up shops are learnt in no time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mql4grec.evaluation.reranking.MOST_ROUNDS", 100)
        yield


@pytest.fixture(scope="module")
def learnt(few_rounds: None) -> Reranker:
    return learn(*half_right(0, n_users=600))


def ndcg(ranking: Rankings, targets: np.ndarray) -> float:
    return evaluation.metrics(ranking, targets)["NDCG@10"]


def test_trees_know_which_list_to_believe_and_no_average_does(learnt: Reranker) -> None:
    lists, targets = half_right(99, n_users=300)
    found = evaluation.rerank(lists, learnt, top_k=12)
    averages = []
    for tenths in range(11):
        weights = {"popular": tenths / 10, "rare": 1 - tenths / 10}
        how = dataclasses.replace(learnt.basis.combination, weights=weights)
        combined = evaluation.combine(lists.rankings, how, n_items=SHOP, top_k=12)
        averages.append(ndcg(combined, targets))
    assert max(averages) < 0.85 < 0.98 < ndcg(found, targets)
    record = learnt.record
    assert record.used
    assert (record.n_users, record.n_found) == (600, 600)
    assert record.ndcg > 0.98
    assert record.ndcg_combined == pytest.approx(learnt.basis.combination.ndcg)
    assert record.gain[0] == pytest.approx(record.ndcg - record.ndcg_combined)
    assert 0 < record.gain[1] < record.gain[0]
    assert set(record.features) == set(feature_names(("popular", "rare")))
    assert list(record.features.values()) == sorted(record.features.values(), reverse=True)
    assert record.features["events"] > 0
    assert learnt.trees is not None
    assert learnt.trees.num_trees() == record.n_rounds


def test_new_lists_are_well_formed(learnt: Reranker) -> None:
    """Best first, each candidate once; users of few candidates or none are padded."""
    lists, _ = half_right(5, n_users=40)
    cut = {name: one.items.copy() for name, one in lists.rankings.items()}
    cut["popular"][:20], cut["rare"][:10] = -1, -1
    cut["popular"][10:20, :3], cut["rare"][10:20] = [7, 8, 9], -1
    rankings = {
        name: Rankings(items, np.where(items < 0, -np.inf, lists.rankings[name].scores))
        for name, items in cut.items()
    }
    found = evaluation.rerank(Lists(rankings, lists.inputs), learnt, top_k=30)
    assert (found.items.dtype, found.scores.dtype) == (np.int32, np.float32)
    for user, row in enumerate(found.items.tolist()):
        listed = {item for items in cut.values() for item in items[user].tolist()} - {-1}
        assert {item for item in row if item >= 0} == listed
        assert row == [item for item in row if item >= 0] + [-1] * (30 - len(listed))
    assert (np.isneginf(found.scores) == (found.items < 0)).all()
    assert (found.scores[:, :-1] >= found.scores[:, 1:]).all()
    assert (found.scores <= 0).all()
    nobody = {name: Rankings(one.items[:10], one.scores[:10]) for name, one in rankings.items()}
    empty = Lists(nobody, lists.inputs.of_users(np.arange(10)))
    assert (evaluation.rerank(empty, learnt, top_k=4).items == -1).all()


def test_the_order_of_the_lists_changes_nothing(learnt: Reranker) -> None:
    lists, _ = half_right(5, n_users=40)
    turned = Lists(dict(reversed(lists.rankings.items())), lists.inputs)
    one, other = (evaluation.rerank(x, learnt, top_k=9) for x in (lists, turned))
    np.testing.assert_array_equal(one.items, other.items)


def test_chunks_change_nothing(learnt: Reranker, monkeypatch: pytest.MonkeyPatch) -> None:
    lists, targets = half_right(0, n_users=600)
    whole = evaluation.rerank(lists, learnt, top_k=9)
    monkeypatch.setattr("mql4grec.evaluation.reranking.CHUNK", 7)
    again = learn(lists, targets)
    assert again.record == learnt.record
    parts = evaluation.rerank(lists, again, top_k=9)
    np.testing.assert_array_equal(parts.items, whole.items)
    np.testing.assert_array_equal(parts.scores, whole.scores)


def test_the_same_seed_gives_the_same_ranking() -> None:
    known, lists = half_right(0, n_users=200), half_right(99, n_users=50)[0]
    first, same, threads, other = (
        learn(*known, seed=seed, n_threads=n) for seed, n in ((1, 1), (1, 1), (1, 2), (2, 1))
    )
    ranked = evaluation.rerank(lists, first, top_k=9)
    assert first.record == same.record == threads.record
    for again in (same, threads):
        found = evaluation.rerank(lists, again, top_k=9)
        np.testing.assert_array_equal(found.items, ranked.items)
        np.testing.assert_array_equal(found.scores, ranked.scores)
    assert (evaluation.rerank(lists, other, top_k=9).scores != ranked.scores).any()


def test_noise_leaves_the_average_as_it_is() -> None:
    n_used = 0
    for seed in range(5):
        generator = np.random.default_rng(1000 + seed)
        lists, _ = half_right(seed, n_users=300)
        targets = generator.integers(0, SHOP, 300).astype(np.int32)  # what no list knows
        reranker = learn(lists, targets)
        n_used += reranker.record.used
        assert 30 < reranker.record.n_found < 300
        if not reranker.record.used:
            assert reranker.record.gain[0] <= 1.645 * reranker.record.gain[1]
            assert reranker.record.features == {}
            found = evaluation.rerank(lists, reranker, top_k=9)
            how = reranker.basis.combination
            combined = evaluation.combine(lists.rankings, how, n_items=SHOP, top_k=9)
            np.testing.assert_array_equal(found.items, combined.items)
            np.testing.assert_array_equal(found.scores, combined.scores)
    assert n_used <= 1


@pytest.mark.parametrize("n_found", [0, 4, 5])
def test_few_users_whose_target_is_a_candidate(n_found: int) -> None:
    lists, targets = half_right(0, n_users=20)
    candidates = np.concatenate([one.items for one in lists.rankings.values()], axis=1)
    for user in range(n_found, 20):
        targets[user] = next(i for i in range(SHOP) if i not in candidates[user])
    record = learn(lists, targets).record
    assert (record.n_users, record.n_found, record.used) == (20, n_found, False)
    assert (record.ndcg > 0) == (n_found == 5)


def test_cross_validated_figures_count_as_all_figures_do() -> None:
    """Users whose target is no candidate are misses; ties go to the lower row."""
    lists, targets = half_right(3, n_users=60)
    targets[::3] = SHOP - 1
    combination = evaluation.fit(lists.rankings, targets, n_items=SHOP)
    basis = Basis(combination, evaluation.occurrences(TRAINING, n_items=SHOP))
    examples = reranking._collect(lists, targets, basis)
    items, features = describe(lists, basis)
    scores = np.random.default_rng(0).integers(0, 4, len(features)).astype(float)
    wide = np.full(items.shape, -np.inf)
    wide[items >= 0] = scores
    ranked = best_first(items, wide, top_k=10)
    expected = evaluation.gains(ranked, targets)[:, -1]
    users = np.nonzero(items >= 0)[0]
    found = np.zeros(60)
    found[examples.users] = reranking._ndcg(scores[np.isin(users, examples.users)], examples)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_array_equal(examples.features, features[np.isin(users, examples.users)])
    assert 40 <= len(examples.users) < 60


def test_faulty_lists(learnt: Reranker) -> None:
    lists, _ = half_right(5, n_users=40)
    one = Lists({"rare": lists.rankings["rare"]}, lists.inputs)
    with pytest.raises(ValueError, match="as fitted") as caught:
        evaluation.rerank(one, learnt, top_k=2)
    assert str(caught.value) == (
        "`rankings`: expected ['popular', 'rare'] as fitted, got ['rare']; give the same lists"
    )
    few = Lists(lists.rankings, lists.inputs.of_users(np.arange(3)))
    with pytest.raises(ValueError, match="to match `inputs`") as caught:
        evaluation.rerank(few, learnt, top_k=2)
    assert str(caught.value) == (
        "`rankings`: expected 3 users to match `inputs`, got {'popular': 40, 'rare': 40}; give the "
        "histories of the ranked users"
    )


def test_reranking_needs_lists() -> None:
    with pytest.raises(ValidationError) as caught:
        EvaluationSettings(rerank=True)
    assert (
        "`rerank`: expected, with true, two or more rankings in `combine`, got []; name those "
        "whose items are to be ranked anew, or leave `rerank` out"
    ) in str(caught.value)


def test_lightgbm_is_imported_only_when_trees_are_fitted() -> None:
    code = "import mql4grec.stages, sys; assert 'lightgbm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
