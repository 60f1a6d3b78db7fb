"""Baselines against dense formulas on small data, and against known figures on real data."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from mql4grec import baselines, codes, evaluation
from mql4grec.baselines import ease
from mql4grec.baselines import ranker as rankers
from mql4grec.catalog import Histories
from mql4grec.config import EvaluationSettings
from mql4grec.decoding import EVERYTHING, Filters, Rankings

INSTRUMENTS = Path(__file__).resolve().parents[2] / "shared" / "data" / "Instruments"
N_ITEMS = 9


def histories(items: Sequence[Sequence[int]]) -> Histories:
    offsets = np.cumsum([0, *(len(history) for history in items)]).astype(np.int64)
    return Histories(offsets=offsets, items=np.concatenate(items).astype(np.int32))


def shop(seed: int = 0, n_users: int = 40) -> Histories:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(3, 8, n_users)
    return histories([generator.integers(0, N_ITEMS, length).tolist() for length in lengths])


def dense(events: Histories, decay: float = 1.0) -> np.ndarray:
    matrix = np.zeros((events.n_users, N_ITEMS))
    for user in range(events.n_users):
        for age, item in enumerate(reversed(events.of(user).tolist())):
            matrix[user, item] += decay**age
    return matrix


def ranked(
    fit: Callable[..., baselines.Ranker],
    training: Histories,
    inputs: Histories,
    *,
    n_items: int,
    top_k: int,
    remove_seen: bool = False,
    **values: Any,
) -> Rankings:
    ranker = fit(training, n_items=n_items, **values)
    filters = Filters(without=inputs) if remove_seen else EVERYTHING
    return ranker(inputs, top_k=top_k, filters=filters)


def check(ranking: Rankings, scores: np.ndarray, *, top_k: int) -> None:
    """Compare the scores, and the items wherever no other item has nearly the same score."""
    assert ranking.items.dtype == np.int32
    assert ranking.scores.dtype == np.float32
    best = -np.sort(-scores, axis=1)[:, :top_k]
    np.testing.assert_allclose(ranking.scores, best, rtol=1e-4, atol=1e-5)
    own = np.take_along_axis(scores, ranking.items.astype(int), axis=1)
    np.testing.assert_allclose(own, best, rtol=1e-4, atol=1e-5)
    assert all(len(set(row)) == len(row) for row in ranking.items.tolist())


def test_most_popular() -> None:
    training = histories([[2, 2, 5], [5, 1], [2]])
    ranking = ranked(
        baselines.fit_most_popular, training, histories([[0], [2]]), n_items=7, top_k=4
    )
    # Items 0, 3, 4 and 6 tie at no event: the lower row comes first.
    assert ranking.items.tolist() == [[2, 5, 1, 0]] * 2
    assert ranking.scores.tolist() == [[3, 2, 1, 0]] * 2
    unseen = ranked(
        baselines.fit_most_popular,
        training,
        histories([[0], [2]]),
        n_items=7,
        top_k=4,
        remove_seen=True,
    )
    assert unseen.items.tolist() == [[2, 5, 1, 3], [5, 1, 0, 3]]


@pytest.mark.parametrize(("shrink", "decay"), [(0.0, 1.0), (20.0, 0.8)])
def test_item_knn_equals_the_dense_formula(shrink: float, decay: float) -> None:
    events = shop()
    training, inputs = events.held_out(2), events.held_out(1)
    binary = (dense(training) > 0).astype(float)
    both = binary.T @ binary
    norm = np.sqrt(np.diag(both))
    cosine = both / (np.outer(norm, norm) + shrink)
    np.fill_diagonal(cosine, 0)
    ranking = ranked(
        baselines.fit_item_knn,
        training,
        inputs,
        n_items=N_ITEMS,
        top_k=5,
        shrink=shrink,
        decay=decay,
    )
    check(ranking, dense(inputs, decay) @ cosine, top_k=5)


def check_ease(groups: np.ndarray | None) -> None:
    """Compare with the dense formula, in which a group is one more user."""
    events = shop(1)
    training, inputs = events.held_out(2), events.held_out(1)
    rows = (dense(training) > 0).astype(float)
    if groups is not None:
        rows = np.concatenate([rows, groups])
    inverse = np.linalg.inv(rows.T @ rows + 3.0 * np.eye(N_ITEMS))
    linear = -inverse / np.diag(inverse)
    np.fill_diagonal(linear, 0)
    ranking = ranked(
        baselines.fit_ease,
        training,
        inputs,
        n_items=N_ITEMS,
        top_k=5,
        regularization=3.0,
        decay=0.7,
        groups=None if groups is None else sparse.csr_array(groups),
    )
    check(ranking, dense(inputs, 0.7) @ linear, top_k=5)


def test_ease_equals_the_dense_formula() -> None:
    check_ease(None)


def test_ease_takes_groups_for_users_who_had_all_of_them() -> None:
    check_ease(np.array([[1, 1, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 2, 2, 0, 0, 0, 0]], np.float32))


def test_an_item_that_nobody_took_is_found_by_its_group() -> None:
    training = histories([[0, 1], [0, 1], [1, 2], [2, 3]])
    groups = sparse.csr_array(np.array([[0, 0, 1, 0, 1]], np.float32))  # 4 is like 2
    plain = baselines.fit_ease(training, n_items=5, regularization=1.0)
    grouped = baselines.fit_ease(training, n_items=5, regularization=1.0, groups=groups)
    assert plain.weights[2, 4] == 0 < grouped.weights[2, 4]


def test_a_triangle_larger_than_a_block_is_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ease, "MIRROR_ROWS", 2)
    test_ease_equals_the_dense_formula()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    events = shop(2)
    whole = ranked(baselines.fit_item_knn, events, events, n_items=N_ITEMS, top_k=4)
    monkeypatch.setattr(rankers, "CHUNK_SCORES", 3 * N_ITEMS)
    parts = ranked(baselines.fit_item_knn, events, events, n_items=N_ITEMS, top_k=4)
    np.testing.assert_array_equal(whole.items, parts.items)


def test_histories_are_not_touched() -> None:
    events = shop(3)
    before = events.items.copy()
    ranked(baselines.fit_item_knn, events, events, n_items=N_ITEMS, top_k=4)
    np.testing.assert_array_equal(events.items, before)


@pytest.mark.parametrize(
    "baseline", [baselines.fit_most_popular, baselines.fit_item_knn, baselines.fit_ease]
)
def test_removing_seen_items_equals_removing_them_from_the_full_list(
    baseline: Callable[..., baselines.Ranker],
) -> None:
    events = shop(4)
    full = ranked(baseline, events, events, n_items=N_ITEMS, top_k=N_ITEMS)
    removed = ranked(baseline, events, events, n_items=N_ITEMS, top_k=N_ITEMS, remove_seen=True)
    expected = evaluation.remove_seen(full, events)
    np.testing.assert_array_equal(removed.items, expected.items)
    np.testing.assert_array_equal(removed.scores, expected.scores)


def test_seen_items_of_the_far_past_are_removed_too() -> None:
    long = histories([[0] + [1, 2] * 300])  # 0.5 ** 600 underflows
    ranking = ranked(
        baselines.fit_item_knn, long, long, n_items=4, top_k=4, decay=0.5, remove_seen=True
    )
    assert ranking.items.tolist() == [[3, -1, -1, -1]]


def test_lists_are_no_longer_than_the_catalog() -> None:
    events = shop(5)
    assert (
        ranked(baselines.fit_most_popular, events, events, n_items=N_ITEMS, top_k=50).items.shape[1]
        == 9
    )


def test_a_user_without_history_gets_a_list() -> None:
    ranking = ranked(baselines.fit_item_knn, shop(), histories([[], [1]]), n_items=N_ITEMS, top_k=3)
    assert ranking.items[0].tolist() == [0, 1, 2]
    assert ranking.scores[0].tolist() == [0.0, 0.0, 0.0]


def test_ease_refuses_a_catalog_above_its_limit() -> None:
    with pytest.raises(ValueError, match="n_items") as caught:
        ranked(baselines.fit_ease, shop(), shop(), n_items=N_ITEMS, top_k=2, max_items=8)
    assert str(caught.value) == (
        "`n_items`: expected at most 8 for EASE^R, got 9; "
        "leave EASE^R out, or raise `max_items` if memory for N x N floats is there"
    )


def test_ease_refuses_a_singular_matrix() -> None:
    with pytest.raises(ValueError, match=r"expected more than -40\.0 for a matrix"):
        ranked(baselines.fit_ease, shop(), shop(), n_items=N_ITEMS, top_k=2, regularization=-40.0)


@pytest.mark.parametrize("grouped", [False, True])
def test_after_every_event_ease_ranks_by_what_others_did(grouped: bool) -> None:
    events = shop(n_users=21)
    settings = EvaluationSettings(ease_lambda=2, decay=0.7)
    n_items = int(events.items.max()) + 1
    alike = np.arange(n_items) % 3 == np.arange(3)[:, None]  # (3, N)
    groups = sparse.csr_array(3 * alike.astype(np.float32)) if grouped else None
    mask = np.arange(n_items) % 2 == 0
    both = baselines.rank_after_events(
        events,
        n_items=n_items,
        settings=settings,
        seed=3,
        groups=groups,
        masks=(None, mask),
        top_k=4,
    )
    quarter = np.random.default_rng(3).permutation(events.n_users) % baselines.N_PARTS
    for user in range(events.n_users):
        others = events.of_users(np.flatnonzero(quarter != quarter[user]))
        ranker = baselines.fit_ease(
            others, n_items=n_items, regularization=2, decay=0.7, groups=groups
        )
        own = events.items[events.offsets[user] : events.offsets[user + 1]].tolist()
        prefixes = histories([own[: n + 1] for n in range(len(own))])
        rows = slice(events.offsets[user], events.offsets[user + 1])
        for found, masks in zip(both, (None, mask[None]), strict=True):
            expected = ranker(prefixes, top_k=4, filters=Filters(masks=masks, without=prefixes))
            assert found.items[rows].tolist() == expected.items.tolist()
            np.testing.assert_allclose(found.scores[rows], expected.scores, atol=1e-6)


def test_lists_after_events_are_filled_up_in_a_small_shop() -> None:
    events = histories([[0, 1, 2], [2, 1], [0, 2], [1, 0]])
    (found,) = baselines.rank_after_events(
        events, n_items=3, settings=EvaluationSettings(), seed=3, top_k=5
    )
    assert found.items.shape == found.scores.shape == (9, 5)
    n_found = (found.items >= 0).sum(axis=1)
    assert n_found.tolist() == [2, 1, 0, 2, 1, 2, 1, 2, 1]  # all but what was seen
    np.testing.assert_array_equal(np.isneginf(found.scores), found.items < 0)


def rank_all(
    events: Histories,
    *,
    n_items: int,
    settings: EvaluationSettings,
    top_k: int,
    groups: sparse.csr_array | None = None,
) -> dict[str, Rankings]:
    """Rank for the last event of every user by baselines that know neither of the last two."""
    rankers = baselines.fit(events.held_out(2), n_items=n_items, settings=settings, groups=groups)
    inputs = events.held_out(1)
    filters = Filters(without=inputs) if settings.remove_seen else EVERYTHING
    return {name: ranker(inputs, top_k=top_k, filters=filters) for name, ranker in rankers.items()}


def test_every_baseline_is_fitted_that_the_size_allows() -> None:
    events = shop(6)
    settings = EvaluationSettings()
    found = rank_all(events, n_items=N_ITEMS, settings=settings, top_k=4)
    assert list(found) == ["popular", "item_knn", "ease"]
    expected = ranked(
        baselines.fit_ease,
        events.held_out(2),
        events.held_out(1),
        n_items=N_ITEMS,
        top_k=4,
        regularization=100,
    )
    np.testing.assert_array_equal(found["ease"].items, expected.items)
    small = EvaluationSettings(ease_max_items=8)
    assert list(rank_all(events, n_items=N_ITEMS, settings=small, top_k=4)) == [
        "popular",
        "item_knn",
    ]


def test_ease_with_codes_is_fitted_where_there_are_groups() -> None:
    events, groups = shop(6), sparse.csr_array(np.eye(2, N_ITEMS, dtype=np.float32) + 1)
    found = baselines.fit(events, n_items=N_ITEMS, settings=EvaluationSettings(), groups=groups)
    assert list(found) == ["popular", "item_knn", "ease", "ease_codes"]
    expected = baselines.fit_ease(events, n_items=N_ITEMS, groups=groups)
    with_codes, plain = found["ease_codes"], found["ease"]
    assert isinstance(with_codes, baselines.ItemToItem)
    assert isinstance(plain, baselines.ItemToItem)
    np.testing.assert_array_equal(with_codes.weights, expected.weights)
    assert not np.allclose(with_codes.weights, plain.weights)


def test_the_weight_of_groups_is_the_one_that_ranks_best_for_others() -> None:
    events, settings = shop(n_users=60), EvaluationSettings(ease_lambda=2, decay=0.7)
    alike = np.arange(N_ITEMS) % 3 == np.arange(3)[:, None]  # (3, N)
    groups = sparse.csr_array(alike.astype(np.float32))
    chosen, ndcg = baselines.choose_weight(
        events, groups, n_items=N_ITEMS, settings=settings, seed=5
    )
    own = np.random.default_rng(5).permutation(60) % baselines.N_PARTS == 0
    expected = {}
    for weight in baselines.WEIGHTS:
        ranker = baselines.fit_ease(
            events.of_users(np.flatnonzero(~own)),
            n_items=N_ITEMS,
            regularization=2,
            decay=0.7,
            groups=groups * np.float32(weight),
        )
        gains = []
        for user in np.flatnonzero(own):
            row = events.of(user).tolist()
            for n in range(1, len(row)):
                seen = histories([row[:n]])
                best = ranker(seen, top_k=10, filters=Filters(without=seen)).items[0].tolist()
                gains.append(1 / np.log2(best.index(row[n]) + 2) if row[n] in best else 0)
        expected[weight] = float(np.mean(gains))
    assert ndcg == pytest.approx(expected)
    assert len(set(expected.values())) == len(expected)
    assert expected[chosen] == max(expected.values())


def test_where_nobody_has_an_event_to_rank_for_groups_weigh_the_least() -> None:
    groups = sparse.csr_array(np.ones((1, 3), np.float32))
    chosen, ndcg = baselines.choose_weight(
        histories([[0], [1], [2], [0], [1]]),
        groups,
        n_items=3,
        settings=EvaluationSettings(),
        seed=0,
    )
    assert chosen == min(baselines.WEIGHTS)
    assert set(ndcg.values()) == {0.0}


@pytest.fixture(scope="module")
def instruments() -> Histories:
    path = INSTRUMENTS / "Instruments.inter.json"
    if not path.exists():
        pytest.skip(f"{path}: the Amazon Instruments histories are not there")
    users = json.loads(path.read_text())
    return histories([users[user] for user in sorted(users, key=int)])


FIGURES = {  # HR@1, HR@5, HR@10, NDCG@5, NDCG@10 on the test split, tuned on validation
    ("popular", False): (0.0063, 0.0370, 0.0638, 0.0211, 0.0298),
    ("item_knn", False): (0.0832, 0.1126, 0.1349, 0.0975, 0.1046),
    ("item_knn", True): (0.0933, 0.1207, 0.1439, 0.1074, 0.1148),
    ("ease", False): (0.0730, 0.1175, 0.1418, 0.0959, 0.1037),
    ("ease", True): (0.0950, 0.1303, 0.1519, 0.1132, 0.1202),
    ("ease_codes", False): (0.0747, 0.1195, 0.1438, 0.0976, 0.1054),
    ("ease_codes", True): (0.0970, 0.1315, 0.1529, 0.1147, 0.1216),
}


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("remove_seen", [False, True])
def test_figures_on_instruments(instruments: Histories, remove_seen: bool) -> None:
    settings = EvaluationSettings(remove_seen=remove_seen)
    ids = []
    for modality, name in (("text", "lemb"), ("image", "vitemb")):
        path = INSTRUMENTS / f"Instruments.index_{name}.json"
        ids.append(
            codes.read_index(
                path, dataset="Instruments", modality=modality, n_items=6250, shared="keep"
            )[0]
        )
    groups = codes.group_by_prefix(ids)
    found = rank_all(instruments, n_items=6250, settings=settings, top_k=20, groups=groups)
    for (name, removed), figures in FIGURES.items():
        if removed == remove_seen:
            got = evaluation.metrics(found[name], instruments.target(1))
            assert list(got.values()) == pytest.approx(figures, abs=0.0003), name


def test_figures_of_plain_item_knn_on_instruments(instruments: Histories) -> None:
    ranking = ranked(
        baselines.fit_item_knn,
        instruments.held_out(2),
        instruments.held_out(1),
        n_items=6250,
        top_k=20,
        shrink=20,
        decay=1.0,
    )
    got = evaluation.metrics(ranking, instruments.target(1))
    expected = (0.0798, 0.1075, 0.1277, 0.0933, 0.0998)
    assert list(got.values()) == pytest.approx(expected, abs=0.0003)
