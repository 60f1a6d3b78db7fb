"""Scoring everything, certificates, filters and the trie on the device, against brute force."""

import itertools
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mql4grec import decoding
from mql4grec.catalog import Histories
from mql4grec.decoding import Filters, Rankings, Search
from mql4grec.decoding.device_trie import lay_out
from mql4grec.decoding.gates import lay_out_filters
from mql4grec.runtime import Runtime
from tiny_decoding import (
    SHAPES,
    Stop,
    StoppingJournal,
    World,
    assert_same,
    make_inputs,
    make_world,
    score_all,
)
from tiny_language import histories

CPU = torch.device("cpu")


def brute_force(
    world: World, inputs: tuple[NDArray[np.int64], NDArray[np.int64]], open_items: NDArray[np.bool_]
) -> Rankings:
    """Score every item by teacher forcing and sort those that each user may get."""
    rows = np.flatnonzero(world.ids.present)
    scores = np.where(open_items[:, rows], score_all(world, inputs), -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")
    best = np.take_along_axis(scores, order, axis=1)
    return Rankings(items=np.where(np.isneginf(best), -1, rows[order]), scores=best)


def everything(world: World, n_users: int = 5) -> NDArray[np.bool_]:
    return np.ones((n_users, len(world.ids.present)), bool)


def random_lists(world: World, seed: int, *, n_users: int = 5) -> Histories:
    """Draw items, some of them twice, some without codes."""
    generator = np.random.default_rng(seed)
    n_items = len(world.ids.present)
    return histories(
        *(
            generator.integers(0, n_items, generator.integers(0, 12)).tolist()
            for _ in range(n_users)
        )
    )


def mark(lists: Histories, n_items: int) -> NDArray[np.bool_]:
    marked = np.zeros((lists.n_users, n_items), bool)
    for user in range(lists.n_users):
        marked[user, lists.of(user)] = True
    return marked


@pytest.mark.parametrize("n_codes", SHAPES)
def test_all_beams_score_the_whole_catalog(n_codes: tuple[int, ...]) -> None:
    world = make_world(1, n_codes=n_codes)
    inputs = make_inputs(world)
    found = world.recommend(inputs, n_beams="all")
    assert_same(found, brute_force(world, inputs, everything(world)))
    assert found.certified is not None
    assert found.certified.all()
    few = world.recommend(inputs, n_beams="all", search=Search(top_k=2))
    np.testing.assert_array_equal(few.items, found.items[:, :2])


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_parts_of_the_catalog_change_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(2)
    inputs = make_inputs(world)
    expected = world.recommend(inputs, n_beams="all")
    monkeypatch.setattr("mql4grec.decoding.batches.ROWS", size)
    assert_same(world.recommend(inputs, n_beams="all", batch_size=3), expected)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), n_codes=st.sampled_from(SHAPES), n_beams=st.integers(1, 25))
def test_a_certified_list_is_exact(seed: int, n_codes: tuple[int, ...], n_beams: int) -> None:
    world = make_world(seed, n_codes=n_codes)
    inputs = make_inputs(world, seed=seed)
    n_beams = min(n_beams, len(world.items))
    top_k = max(1, n_beams // 2)
    exact = world.recommend(inputs, n_beams="all", search=Search(top_k=top_k))
    found = world.recommend(inputs, n_beams=n_beams, search=Search(top_k=top_k))
    assert found.certified is not None
    for user in np.flatnonzero(found.certified):
        np.testing.assert_array_equal(found.items[user], exact.items[user])
    assert_same(
        world.recommend(inputs, n_beams=n_beams, search=Search(top_k=top_k, exact=True)), exact
    )


def test_a_list_that_lacks_an_item_is_not_certified() -> None:
    lacking = certified = 0
    for seed, n_beams in itertools.product(range(6), (2, 12, 20)):
        world = make_world(seed, n_codes=(8, 8, 8))
        inputs = make_inputs(world)
        search = Search(top_k=2, normalise="level")  # an untrained end costs more than all codes
        exact = world.recommend(inputs, n_beams="all", search=search)
        found = world.recommend(inputs, n_beams=n_beams, search=search)
        assert found.certified is not None
        wrong = (found.items != exact.items).any(axis=1)
        assert not (wrong & found.certified).any()
        lacking += wrong.sum()
        certified += found.certified.sum()
    assert lacking > 0
    assert certified > 0


def test_an_exact_call_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    world = make_world(3, n_codes=(8, 8, 8))
    inputs = make_inputs(world, n_users=7)
    common = {"n_beams": 2, "search": Search(exact=True), "batch_size": 1}
    expected = world.recommend(inputs, **common)
    runtime = Runtime(checkpoint_seconds=0.0)
    with pytest.raises(Stop):
        world.recommend(
            inputs, folder=tmp_path, runtime=runtime, journal=StoppingJournal(9), **common
        )
    journal = StoppingJournal(None)
    found = world.recommend(inputs, folder=tmp_path, runtime=runtime, journal=journal, **common)
    assert journal.done[0] == 2  # of the second round: nine batches of one user less seven
    assert_same(found, expected)


@pytest.mark.parametrize("normalise", ["level", "children"])
def test_normalisation_equals_brute_force(normalise: Literal["level", "children"]) -> None:
    world = make_world(4)
    inputs = make_inputs(world)
    tokens = world.ids.codes[world.ids.present].astype(np.int64)
    tokens = torch.as_tensor(tokens + np.array(world.vocabulary.first_code["text"]))
    expected = []
    for ids, mask in zip(*(torch.as_tensor(part) for part in inputs), strict=True):
        with torch.inference_mode():
            logits = world.model(
                input_ids=ids.expand(len(tokens), -1),
                attention_mask=mask.expand(len(tokens), -1),
                labels=tokens,
            ).logits
        total = torch.zeros(len(tokens))
        for level, (first, size) in enumerate(
            zip(world.vocabulary.first_code["text"], world.ids.n_codes, strict=True)
        ):
            among = logits[:, level, first : first + size]
            if normalise == "children":
                alike = (tokens[:, None, :level] == tokens[:, :level]).all(dim=2)  # (N, N)
                after = torch.zeros(len(tokens), size, dtype=torch.bool)
                item, other = alike.nonzero(as_tuple=True)
                after[item, tokens[other, level] - first] = True
                among = among.masked_fill(~after, -torch.inf)
            among = among.log_softmax(dim=1)
            total += among.gather(1, tokens[:, level, None] - first)[:, 0]
        expected.append(total.numpy())
    scores = np.stack(expected)
    if normalise == "children":
        np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-5)
    order = np.argsort(-scores, axis=1)
    rows = np.flatnonzero(world.ids.present)
    by_level = Search(normalise=normalise)
    for n_beams in (len(rows), "all"):
        found = world.recommend(inputs, n_beams=n_beams, search=by_level)
        np.testing.assert_array_equal(found.items, rows[order])
        best = np.take_along_axis(scores, order, axis=1)
        np.testing.assert_allclose(found.scores, best, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n_codes=st.sampled_from(SHAPES),
    parts=st.sets(st.sampled_from(["masks", "mask_of", "only", "without"])),
)
def test_filters_equal_brute_force(seed: int, n_codes: tuple[int, ...], parts: set[str]) -> None:
    world = make_world(seed, n_codes=n_codes)
    generator = np.random.default_rng(seed)
    n_items = len(world.ids.present)
    masks = generator.random((3 if "mask_of" in parts else 1, n_items)) < 0.5
    mask_of = generator.integers(0, len(masks), 5)
    only, without = random_lists(world, seed), random_lists(world, seed + 1)
    open_items = everything(world)
    if parts & {"masks", "mask_of"}:
        open_items &= masks[mask_of]
    open_items &= mark(only, n_items) if "only" in parts else True
    open_items &= ~mark(without, n_items) if "without" in parts else True
    filters = Filters(
        masks=masks if parts & {"masks", "mask_of"} else None,
        mask_of=mask_of if "mask_of" in parts else None,
        only=only if "only" in parts else None,
        without=without if "without" in parts else None,
    )
    inputs = make_inputs(world, seed=seed)
    expected = brute_force(world, inputs, open_items)
    assert_same(world.recommend(inputs, n_beams="all", filters=filters), expected)
    n_beams = len(world.items) - 1 or 1
    for batch_size in (2, 64):  # users are sorted by length, and keep their own filters
        found = world.recommend(inputs, n_beams=n_beams, batch_size=batch_size, filters=filters)
        for user in range(5):
            listed = [item for item in found.items[user].tolist() if item >= 0]
            assert set(listed) <= set(np.flatnonzero(open_items[user]).tolist())
            assert len(listed) == min(n_beams, (open_items[user] & world.ids.present).sum())
        exact = Search(exact=True)
        found = world.recommend(inputs, n_beams=n_beams, filters=filters, search=exact)
        np.testing.assert_array_equal(found.items, expected.items[:, :n_beams])


def test_nothing_is_left() -> None:
    world = make_world(5)
    nothing = Filters(masks=np.zeros((1, len(world.ids.present)), bool))
    for n_beams in (1, 4, "all"):
        found = world.recommend(make_inputs(world), n_beams=n_beams, filters=nothing)
        assert (found.items == -1).all()
        assert np.isneginf(found.scores).all()
        assert found.certified is not None
        assert found.certified.all()


def test_an_empty_trie_gives_nothing() -> None:
    world = make_world(5)
    nothing = world.trie.restrict(np.zeros(len(world.ids.present), bool))
    empty = World(world.ids, world.vocabulary, world.model, nothing)
    assert (empty.recommend(make_inputs(world), n_beams=3).items == -1).all()
    assert empty.recommend(make_inputs(world), n_beams="all").items.tolist() == [[-1]] * 5


def test_one_item() -> None:
    world = make_world(6)
    item = min(world.items)
    alone = world.trie.restrict(np.arange(len(world.ids.present)) == item)
    one = World(world.ids, world.vocabulary, world.model, alone)
    found = one.recommend(make_inputs(world), n_beams=3)
    np.testing.assert_array_equal(found.items, [[item, -1, -1]] * 5)


@pytest.mark.parametrize("n_codes", SHAPES)
def test_the_trie_on_the_device_is_the_one_in_rust(n_codes: tuple[int, ...]) -> None:
    world = make_world(7, n_codes=n_codes)
    core, trie = world.trie.core, lay_out(world.trie, device=CPU)
    nodes = torch.zeros(1, 1, dtype=torch.int64)
    for level in range(len(n_codes)):
        children, taken = trie.slots(nodes, level)
        allowed = core.mask(nodes[0].numpy(), level)
        for node, row, used, marks in zip(
            nodes[0].tolist(), children[0], taken[0], allowed, strict=True
        ):
            codes = trie.codes[row[used]]
            assert codes.tolist() == np.flatnonzero(marks).tolist()
            stepped = core.step(np.full(len(codes), node), codes.numpy().astype(np.uint16))
            assert stepped.tolist() == row[used].tolist()
        nodes = children[taken][None]
    codes = world.ids.codes[world.trie.find(world.ids.codes) >= 0]
    found = world.ids.codes[trie.items_of(nodes[0]).numpy()]
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, codes.tolist()))


def test_the_gate_knows_the_items_below_every_node() -> None:
    world = make_world(8)
    trie = lay_out(world.trie, device=CPU)
    gate = lay_out_filters(Filters(), world.trie, n_users=1, device=CPU)
    spelt = world.ids.codes[trie.items.numpy()]  # by leaf
    for node in range(trie.levels[-1]):
        depth = int(np.searchsorted(trie.levels, node, side="right")) - 1
        begin, end = int(gate.begin[node]), int(gate.end[node])
        below = (spelt[:, :depth] == spelt[begin, :depth]).all(axis=1)
        assert np.flatnonzero(below).tolist() == list(range(begin, end))


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (
            Filters(masks=np.ones((1, 3), bool)),
            "`filters.masks`: expected bool (R, N) for N >= 29 items, got bool (1, 3); "
            "give one mark per item row",
        ),
        (
            Filters(masks=np.ones((2, 30), bool)),
            "`filters.mask_of`: expected one of 2 masks for each of 5 users, got None; "
            "it may be left out where there is one mask",
        ),
        (
            Filters(masks=np.ones((2, 30), bool), mask_of=np.array([0, 1, 2, 0, 0])),
            "`filters.mask_of`: expected one of 2 masks for each of 5 users, got [0, 1, 2, 0, 0]; "
            "it may be left out where there is one mask",
        ),
        (
            Filters(without=histories([1], [])),
            "`filters.without`: expected lists of 5 users, got 2; "
            "give an empty list where a user has none",
        ),
    ],
)
def test_filters_of_others(filters: Filters, message: str) -> None:
    world = make_world(0)
    with pytest.raises(ValueError, match="filters") as caught:
        world.recommend(make_inputs(world), n_beams=2, filters=filters)
    assert str(caught.value) == message


def test_more_items_than_beams() -> None:
    world = make_world(0)
    with pytest.raises(ValueError, match="top_k") as caught:
        world.recommend(make_inputs(world), n_beams=2, search=Search(top_k=3))
    assert str(caught.value) == (
        "`top_k`: expected 1 to the 2 beams, got 3; search with more beams"
    )


def test_the_room_offers_its_names() -> None:
    assert all(hasattr(decoding, name) for name in decoding.__all__)
