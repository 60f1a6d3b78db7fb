"""What codes keep: small examples with known answers, and slow twins that go through all pairs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mql4grec.catalog import Histories
from mql4grec.codes import SemanticIds
from mql4grec.config import QualitySettings
from mql4grec.embeddings import Embeddings
from mql4grec.quality import (
    Maps,
    Source,
    draw_maps,
    draw_rows,
    find_examples,
    measure,
    nearest_by_codes,
    nearest_items,
    neighbours,
)
from mql4grec.quality.maps import flatten
from mql4grec.quality.neighbours import add_up
from mql4grec.quality.prefixes import chance_shares, pairs_in_a_row, prefix_shares
from mql4grec.quality.reconstruction import reconstruct
from mql4grec.rqvae import RQVAE
from mql4grec.runtime import Runtime

CPU = torch.device("cpu")
RUNTIME = Runtime(device="cpu", precision="fp32", seed=3, n_workers=0, checkpoint_seconds=60)


def n_common(a: Sequence[int], b: Sequence[int]) -> int:
    """Count the codes that two semantic IDs share from the first on."""
    for n, (left, right) in enumerate(zip(a, b, strict=True)):
        if left != right:
            return n
    return len(a)


def slow_chance(codes: NDArray[Any], weights: Sequence[int]) -> list[float] | None:
    """Go through all ordered pairs of different items."""
    n_pairs, alike = 0, [0] * codes.shape[1]
    for i, j in itertools.permutations(range(len(codes)), 2):
        n_pairs += weights[i] * weights[j]
        for level in range(n_common(codes[i], codes[j])):
            alike[level] += weights[i] * weights[j]
    return [n / n_pairs for n in alike] if n_pairs else None


def slow_neighbours(
    vectors: NDArray[np.float32], item: int, *, among: NDArray[np.bool_], k: int
) -> list[int]:
    others = [row for row in np.flatnonzero(among).tolist() if row != item]
    exact = vectors.astype(np.float64)
    return sorted(others, key=lambda row: (float(((exact[row] - exact[item]) ** 2).sum()), row))[:k]


def semantic_ids(codes: Any, n_codes: tuple[int, ...], present: Any = True) -> SemanticIds:
    rows = np.array(codes, np.uint16)
    return SemanticIds("shop", "text", rows, n_codes, np.broadcast_to(present, len(rows)).copy())


def histories(*lists: list[int]) -> Histories:
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return Histories(offsets, np.array(list(itertools.chain(*lists)), np.int32))


def projection(n_codes: tuple[int, ...], *, width: int = 3) -> RQVAE:
    """Make a network whose decoder undoes its encoder, with codebooks of zeros."""
    network = RQVAE(
        in_dim=width, layers=[], e_dim=width, num_emb_list=n_codes, sk_epsilons=[0] * len(n_codes)
    )
    network.set_components(torch.zeros(width), torch.eye(width))
    return network.eval()


def embeddings(vectors: NDArray[np.float32], present: Any = True) -> Embeddings:
    found = np.broadcast_to(present, len(vectors)).copy()
    return Embeddings("shop", "text", "some encoder", vectors, found)


def test_common_prefixes_of_pairs() -> None:
    codes = np.array([[1, 2, 3], [1, 2, 4], [1, 9, 3], [7, 2, 3]], np.uint16)
    firsts, seconds = np.array([0, 0, 0, 1]), np.array([1, 2, 3, 1])
    # Common codes that no common prefix leads to do not count: 1, 2, 0 and 3 of 3.
    assert prefix_shares(codes, firsts, seconds) == (0.75, 0.5, 0.25)


def test_pairs_are_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 3, (20, 3)).astype(np.uint16)
    pairs = generator.integers(0, 20, (2, 101))
    whole = prefix_shares(codes, *pairs)
    monkeypatch.setattr("mql4grec.quality.prefixes.PAIRS_AT_ONCE", 10)
    assert prefix_shares(codes, *pairs) == whole
    common = [n_common(codes[i], codes[j]) for i, j in pairs.T.tolist()]
    assert whole == tuple(sum(n >= level for n in common) / 101 for level in (1, 2, 3))


def test_chance_of_a_small_catalog() -> None:
    codes = np.array([[0, 0], [0, 1], [0, 1], [1, 0]], np.uint16)
    # Of six pairs, three begin alike, one is the same.
    assert chance_shares(codes, n_codes=(2, 2)) == pytest.approx((1 / 2, 1 / 6))
    # Items 0 and 3 are never drawn.
    weights = np.array([0, 1, 5, 0])
    assert chance_shares(codes, n_codes=(2, 2), weights=weights) == pytest.approx((1, 1))
    assert chance_shares(codes[:1], n_codes=(2, 2)) is None
    assert chance_shares(codes, n_codes=(2, 2), weights=np.array([3, 0, 0, 0])) is None


@given(
    rows=st.lists(st.tuples(*[st.integers(0, 2)] * 3, st.integers(0, 4)), min_size=1, max_size=12)
)
def test_chance_equals_all_pairs(rows: list[tuple[int, int, int, int]]) -> None:
    codes = np.array([row[:3] for row in rows], np.uint16)
    weights = [row[3] for row in rows]
    found = chance_shares(codes, n_codes=(3, 3, 3), weights=np.array(weights))
    expected = slow_chance(codes, weights)
    assert found == (None if expected is None else pytest.approx(expected))


def test_chance_of_different_ids_is_nothing_at_the_last_level() -> None:
    codes = np.array(list(itertools.product(range(4), range(5))), np.uint16)
    weights = np.random.default_rng(0).integers(1, 10**6, 20)
    found = chance_shares(codes, n_codes=(4, 5), weights=weights)
    assert found is not None
    assert found[1] == 0


def test_pairs_in_a_row_are_of_one_user_and_of_two_items() -> None:
    given_histories = histories([0, 1, 1, 2], [3], [], [2, 0, 4])
    present = np.array([True, True, True, True, False])
    firsts, seconds = pairs_in_a_row(given_histories, present=present)
    assert list(zip(firsts.tolist(), seconds.tolist(), strict=True)) == [(0, 1), (1, 2), (2, 0)]


@pytest.mark.parametrize("numbers_at_once", [4, 40, 1 << 22])
@pytest.mark.parametrize("queries_at_once", [3, 1024])
def test_nearest_items_equal_a_search_through_all(
    monkeypatch: pytest.MonkeyPatch, numbers_at_once: int, queries_at_once: int
) -> None:
    monkeypatch.setattr(neighbours, "NUMBERS_AT_ONCE", numbers_at_once)
    monkeypatch.setattr(neighbours, "QUERIES_AT_ONCE", queries_at_once)
    generator = np.random.default_rng(1)
    vectors = generator.normal(size=(57, 4)).astype(np.float32)
    among = generator.random(57) < 0.8
    queries = np.flatnonzero(among)[::3]
    found = nearest_items(vectors, queries, among=among, k=5, device=CPU)
    for item, rows in zip(queries.tolist(), found.tolist(), strict=True):
        assert rows == slow_neighbours(vectors, item, among=among, k=5)


def test_nearest_items_far_from_zero_are_told_apart() -> None:
    generator = np.random.default_rng(2)
    vectors = (1000 + generator.normal(size=(200, 8))).astype(np.float32)
    among = np.ones(200, np.bool_)
    found = nearest_items(vectors, np.arange(200), among=among, k=3, device=CPU)
    expected = [slow_neighbours(vectors, item, among=among, k=3) for item in range(200)]
    assert found.tolist() == expected


def test_an_item_is_never_its_own_neighbour_even_among_equals() -> None:
    vectors = np.ones((6, 2), np.float32)
    found = nearest_items(vectors, np.arange(6), among=np.ones(6, np.bool_), k=9, device=CPU)
    assert [sorted([item, *rows]) for item, rows in enumerate(found.tolist())] == [[*range(6)]] * 6


def test_a_single_item_has_no_neighbour() -> None:
    vectors = np.ones((3, 2), np.float32)
    among = np.array([False, True, False])
    assert nearest_items(vectors, np.array([1]), among=among, k=4, device=CPU).shape == (1, 0)


def test_every_vector_is_read_once_and_few_at_a_time() -> None:
    class Read:
        def __init__(self, vectors: NDArray[np.float32]) -> None:
            self.vectors, self.shape = vectors, vectors.shape
            self.taken: list[NDArray[np.int64]] = []

        def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
            self.taken.append(rows)
            return self.vectors[rows]

    vectors: Any = Read(np.zeros((70_000, 256), np.float32))
    queries = np.arange(5)
    nearest_items(vectors, queries, among=np.ones(70_000, np.bool_), k=2, device=CPU)
    first, *blocks = vectors.taken
    assert first.tolist() == queries.tolist()
    assert np.concatenate(blocks).tolist() == list(range(70_000))
    assert max(map(len, blocks)) * 256 <= neighbours.NUMBERS_AT_ONCE


def test_nearest_by_codes_goes_by_prefix_then_by_distance_then_by_row() -> None:
    ids = semantic_ids(
        [[0, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 2], [0, 0, 1], [0, 2, 0], [2, 0, 0]],
        (3, 3, 3),
        [True] * 6 + [False],
    )
    steps = [np.array([[0.0], [100.0], [50.0]], np.float32), np.array([[0], [9], [4]], np.float32)]
    steps.append(np.array([[0.0], [2.0], [1.0]], np.float32))
    found = nearest_by_codes(ids, np.array([0, 5]), k=4, codebooks=steps)
    assert found.tolist() == [[3, 4, 5, 2], [4, 3, 0, 2]]
    assert nearest_by_codes(ids, np.array([0]), k=9).tolist() == [[3, 4, 2, 5, 1]]


def test_nearest_by_codes_in_parts_equals_a_search_through_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = np.random.default_rng(4)
    codes = generator.integers(0, 3, (40, 3)).astype(np.uint16)
    ids = semantic_ids(codes, (3, 3, 3))
    codebooks = [generator.integers(0, 5, (3, 2)).astype(np.float32) for _ in range(3)]
    sums = add_up(codebooks, codes)

    def order(item: int, row: int) -> tuple[int, float, int]:
        between = float(((sums[row] - sums[item]) ** 2).sum())
        return -n_common(codes[row], codes[item]), between, row

    expected = [
        sorted((row for row in range(40) if row != item), key=lambda row: order(item, row))[:6]
        for item in range(40)
    ]
    for n_rows in (3, 1000):
        monkeypatch.setattr(neighbours, "MOST_ROWS_AT_ONCE", n_rows)
        assert nearest_by_codes(ids, np.arange(40), k=6, codebooks=codebooks).tolist() == expected


def test_reconstruction_is_a_share_of_the_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    network = projection((2, 2), width=2)
    vectors = np.array([[4, 0], [-4, 0], [0, 2], [0, -2]], np.float32)  # variance (32 + 8) / 8
    with torch.no_grad():
        network.codebooks[0][1] = torch.tensor([4.0, 0.0])
        network.codebooks[1][1] = torch.tensor([0.0, 2.0])
    nothing = np.zeros((4, 2), np.uint16)
    right = np.array([[1, 0], [0, 0], [0, 1], [0, 0]], np.uint16)  # leaves 16 and 4 of 40
    for n_rows in (3, 4096):
        monkeypatch.setattr("mql4grec.quality.reconstruction.ROWS_AT_ONCE", n_rows)
        found = reconstruct(network, vectors, latents=vectors, before=right, after=nothing)
        assert found is not None
        assert (found.n_items, found.variance) == (4, 5.0)
        assert (found.without_codes, found.before, found.after) == pytest.approx((0, 0.5, 1))


def test_variance_is_about_the_mean() -> None:
    network = projection((2,), width=2)
    vectors = np.array([[101, 7], [99, 7]], np.float32)
    codes = np.zeros((2, 1), np.uint16)
    found = reconstruct(network, vectors, latents=vectors, before=codes, after=codes)
    assert found is not None
    assert found.variance == 0.5
    assert found.before == pytest.approx((101**2 + 99**2 + 2 * 49) / 2)  # far worse than the mean
    same = np.full((3, 2), 7, np.float32)
    codes = np.zeros((3, 1), np.uint16)
    assert reconstruct(network, same, latents=same, before=codes, after=codes) is None


def clustered() -> tuple[SemanticIds, Source]:
    """Make eight items in two far clusters; the first code tells the cluster."""
    vectors = np.array([[x, y, 0] for x in (-10, 10) for y in (0, 1, 2.1, 3.3)], np.float32)
    network = projection((2, 4))
    with torch.no_grad():
        network.codebooks[0].copy_(torch.tensor([[-10.0, 1.5, 0], [10.0, 1.5, 0]]))
        network.codebooks[1][:, 1] = torch.tensor([-1.5, -0.5, 0.6, 1.8])
    codes = [[cluster, code] for cluster in (0, 1) for code in range(4)]
    return semantic_ids(codes, (2, 4)), Source(embeddings(vectors), network)


def test_all_figures_of_two_clusters() -> None:
    ids, source = clustered()
    # Training parts [0, 1, 2] and [4, 0]; what is held out is 7, 7 and 6, 6.
    events = histories([0, 1, 2, 7, 7], [4, 0, 6, 6])
    settings = QualitySettings(n_neighbours=3)
    found = measure(ids, events, source=source, settings=settings, runtime=RUNTIME)
    assert found.n_items == 8
    assert found.chance == pytest.approx((12 / 28, 0))
    assert found.neighbours is not None
    assert (found.neighbours.n_items, found.neighbours.k) == (8, 3)
    assert found.neighbours.before == found.neighbours.after == (1.0, 0.0)
    assert found.reconstruction is not None
    assert found.reconstruction.before == pytest.approx(0, abs=1e-9)
    assert found.cobought is not None
    assert found.cobought.n_pairs == 3  # 0-1, 1-2, 4-0
    assert found.cobought.after == pytest.approx((2 / 3, 0))
    # Drawn in proportion to 2, 2, 1 and 1: 16 of 26 ordered pairs are of cluster 0.
    assert found.cobought.chance == pytest.approx((16 / 26, 0))


def test_held_out_events_change_nothing() -> None:
    ids, source = clustered()
    settings = QualitySettings(n_neighbours=3)
    first, second = (
        measure(ids, histories([0, 1, 2, *end]), source=source, settings=settings, runtime=RUNTIME)
        for end in ([3, 4], [7, 0])
    )
    assert first == second


def test_collisions_show_before_repair_and_not_after() -> None:
    ids, source = clustered()
    with torch.no_grad():
        source.network.codebooks[1].zero_()  # all of a cluster get code 0 of level 2
    settings = QualitySettings(n_neighbours=3)
    found = measure(ids, histories([0]), source=source, settings=settings, runtime=RUNTIME)
    assert found.neighbours is not None
    assert found.neighbours.before == (1.0, 1.0)
    assert found.neighbours.after == (1.0, 0.0)
    assert found.cobought is None


def test_a_sample_says_its_size_and_looks_among_all() -> None:
    generator = np.random.default_rng(7)
    vectors = generator.normal(size=(60, 3)).astype(np.float32)
    present = np.arange(60) % 3 > 0
    codes = np.array(list(itertools.product(range(8), range(8)))[:60])
    ids, network = semantic_ids(codes, (8, 8), present), projection((8, 8))
    with torch.no_grad():
        for codebook in network.codebooks:
            codebook.copy_(torch.from_numpy(generator.normal(size=(8, 3)).astype(np.float32)))
    source = Source(embeddings(vectors, present), network)
    settings = QualitySettings(n_items=10, n_neighbours=4)
    found = measure(ids, histories([]), source=source, settings=settings, runtime=RUNTIME)
    again = measure(ids, histories([]), source=source, settings=settings, runtime=RUNTIME)
    assert found == again
    assert found.n_items == 40
    assert found.neighbours is not None
    assert found.reconstruction is not None
    assert found.neighbours.n_items == found.reconstruction.n_items == 10
    rows = draw_rows(present, n=10, seed=RUNTIME.seed).tolist()
    nearest_codes = network.nearest_codes(torch.from_numpy(vectors)).tolist()
    for shares, of in ((found.neighbours.after, codes), (found.neighbours.before, nearest_codes)):
        common = [
            n_common(of[item], of[near])
            for item in rows
            for near in slow_neighbours(vectors, item, among=present, k=4)
        ]
        assert shares == tuple(sum(n >= level for n in common) / 40 for level in (1, 2))


def test_error_after_repair_is_that_of_the_codes_that_items_have() -> None:
    ids, source = clustered()
    moved = ids.codes.copy()
    moved[[0, 3], 1] = [3, 0]  # their second numbers are then wrong by 3.3
    settings = QualitySettings()
    ids = replace(ids, codes=moved)
    found = measure(ids, histories([0]), source=source, settings=settings, runtime=RUNTIME)
    assert found.reconstruction is not None
    assert found.reconstruction.before == pytest.approx(0, abs=1e-9)
    total = found.reconstruction.variance * 8 * 3
    assert found.reconstruction.after == pytest.approx(2 * 3.3**2 / total)


def test_given_codes_have_chance_and_histories_only() -> None:
    ids, _ = clustered()
    settings = QualitySettings()
    found = measure(ids, histories([0, 1, 5, 5]), source=None, settings=settings, runtime=RUNTIME)
    assert found.neighbours is found.reconstruction is None
    assert found.cobought is not None
    assert found.cobought.after == (1.0, 0.0)


def test_nothing_to_measure() -> None:
    ids, source = clustered()
    nobody = semantic_ids(ids.codes, ids.n_codes, False)
    settings = QualitySettings()
    found = measure(
        nobody, histories([0, 1, 2, 3]), source=source, settings=settings, runtime=RUNTIME
    )
    assert (found.n_items, found.chance, found.cobought) == (0, None, None)
    assert found.neighbours is found.reconstruction is None


def test_draws_are_ascending_different_and_of_the_seed() -> None:
    among = np.arange(1000) % 2 == 1
    rows = draw_rows(among, n=100, seed=1)
    assert len(set(rows.tolist())) == 100
    assert (np.diff(rows) > 0).all()
    assert among[rows].all()
    assert rows.tolist() == draw_rows(among, n=100, seed=1).tolist()
    assert rows.tolist() != draw_rows(among, n=100, seed=2).tolist()
    assert draw_rows(among, n=500, seed=1).tolist() == np.flatnonzero(among).tolist()


def test_examples_by_embedding_and_by_codes() -> None:
    ids, source = clustered()
    (found,) = find_examples(ids, np.array([1]), source=source, k=2, runtime=RUNTIME)
    assert found == {"item": 1, "by_embedding": [0, 2], "by_codes": [0, 2]}
    (found,) = find_examples(ids, np.array([1]), source=None, k=2, runtime=RUNTIME)
    assert found == {"item": 1, "by_codes": [0, 2]}
    none = np.zeros(0, np.int64)
    assert find_examples(ids, none, source=source, k=2, runtime=RUNTIME) == []


def test_plane_of_vectors_that_lie_in_one() -> None:
    flat = np.array([[3, 0], [-3, 0], [0, 1], [0, -1]], np.float32)
    turned = np.array([[0.6, 0.8, 0], [0, 0, 1]], np.float32)
    places, share = flatten(flat @ turned + 5)
    np.testing.assert_allclose(np.abs(places), np.abs(flat), atol=1e-5)
    assert share == pytest.approx(1)
    assert places[np.abs(places).argmax(axis=0), [0, 1]].min() > 0


def test_share_of_the_variance_that_a_plane_shows() -> None:
    corners = np.array(list(itertools.product([-1, 1], repeat=4)), np.float32)
    assert flatten(corners)[1] == pytest.approx(0.5)  # two of four directions that vary alike


@pytest.mark.parametrize(("n_points", "width"), [(1, 3), (2, 1), (2, 9), (5, 1), (5, 2), (9, 40)])
def test_plane_of_few_points_and_of_few_numbers(n_points: int, width: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(n_points, width)).astype(np.float32)
    places, share = flatten(vectors)
    assert places.shape == (n_points, 2)
    assert np.isfinite(places).all()
    assert 0 < share <= 1 + 1e-9
    # More numbers than points and the other way round: the same plane.
    padded = np.concatenate([vectors, np.zeros((n_points, 50), np.float32)], axis=1)
    np.testing.assert_allclose(places, flatten(padded)[0], atol=1e-4)


def test_plane_of_equal_vectors_and_of_broken_ones() -> None:
    assert not flatten(np.ones((9, 3), np.float32))[0].any()
    vectors = np.array([[1, 0], [np.nan, 0], [-1, 0]], np.float32)
    places, _ = flatten(vectors)
    assert np.isnan(places).all(axis=1).tolist() == [False, True, False]
    assert np.isnan(flatten(np.full((2, 2), np.inf, np.float32))[0]).all()


def test_maps_come_back_from_their_arrays() -> None:
    generator = np.random.default_rng(0)
    codebooks = [generator.normal(size=(n, 3)).astype(np.float32) for n in (4, 6)]
    vectors = generator.normal(size=(30, 7)).astype(np.float32)
    maps = draw_maps(codebooks, vectors, rows=np.arange(0, 30, 2))
    again = Maps.of(maps.arrays())
    assert again.codebook_shares == maps.codebook_shares
    assert again.items_share == maps.items_share
    for name, values in maps.arrays().items():
        np.testing.assert_array_equal(values, again.arrays()[name])
    np.testing.assert_allclose(maps.items, flatten(vectors[::2])[0])
