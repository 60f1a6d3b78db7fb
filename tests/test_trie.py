"""Trie in Rust: equal to brute force, its size, its messages."""

from __future__ import annotations

import gc
import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from mql4grec._core import CodeTrie
from trie_cases import HEADER, TRIE, Case, Q, cases, codes, ints, same


@given(cases())
def test_every_semantic_id_is_found_at_its_row_and_nothing_else(case: Case) -> None:
    everything = reference.every_prefix([n + 1 for n in case.n_codes], len(case.n_codes))

    found = case.trie.find(np.array(everything, np.uint16))

    assert found.tolist() == [reference.find(case.rows, codes) for codes in everything]
    assert found.dtype == np.int64


@given(cases(), st.data())
def test_allowed_equals_brute_force_at_every_depth(case: Case, data: st.DataObject) -> None:
    depth = data.draw(st.integers(0, len(case.n_codes)))
    prefixes = reference.every_prefix([n + 1 for n in case.n_codes], depth)
    batch = np.array(prefixes, np.uint16).reshape(len(prefixes), depth)

    offsets, codes = case.trie.allowed(batch)

    found = [codes[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert found == [reference.allowed(case.rows, prefix) for prefix in prefixes]
    assert (offsets.dtype, codes.dtype) == (np.int64, np.uint16)


@given(cases())
def test_steps_and_masks_equal_brute_force_from_every_node(case: Case) -> None:
    for level, n_codes in enumerate(case.n_codes):
        prefixes = [p for p in case.nodes if len(p) == level]
        nodes = np.array([case.nodes[p] for p in prefixes] + [-1], np.int64)
        mask = case.trie.mask(nodes, level)

        assert (mask.dtype, mask.shape) == (np.bool_, (len(nodes), n_codes))
        bits = case.trie.mask_bits(nodes, level)
        assert bits.dtype == np.uint8
        assert np.array_equal(bits, np.packbits(mask, axis=1, bitorder="little"))
        assert not mask[-1].any()
        for i, prefix in enumerate(prefixes):
            assert np.flatnonzero(mask[i]).tolist() == reference.allowed(case.rows, prefix)
        for code in range(n_codes + 1):
            stepped = case.trie.step(nodes, np.full(len(nodes), code, np.uint16))
            expected = [case.nodes.get((*prefix, code), -1) for prefix in prefixes]
            assert stepped.tolist() == [*expected, -1]


@given(cases(), st.data())
def test_a_batch_equals_its_rows_one_by_one(case: Case, data: st.DataObject) -> None:
    level = data.draw(st.integers(0, len(case.n_codes) - 1))
    known = [node for prefix, node in case.nodes.items() if len(prefix) == level]
    nodes = np.array(data.draw(st.lists(st.sampled_from([*known, -1]), max_size=8)), np.int64)
    codes = np.arange(len(nodes), dtype=np.uint16) % Q

    mask, stepped = case.trie.mask(nodes, level), case.trie.step(nodes, codes)

    assert len(mask) == len(stepped) == len(nodes)
    for i in range(len(nodes)):
        one = slice(i, i + 1)
        assert case.trie.mask(nodes[one], level).tolist() == mask[one].tolist()
        assert case.trie.mask_bits(nodes[one], level).shape == (1, -(-mask.shape[1] // 8))
        assert case.trie.step(nodes[one], codes[one]).tolist() == stepped[one].tolist()


@given(cases())
def test_the_arrays_lie_as_described(case: Case) -> None:
    arrays = case.trie.arrays()

    assert [a.tolist() for a in arrays] == [*reference.layout(case.rows, len(case.n_codes))]
    assert [a.dtype for a in arrays] == [np.uint32, np.uint8, np.uint32]
    depths = [sum(len(prefix) < d for prefix in case.nodes) for d in range(len(case.n_codes) + 2)]
    assert case.trie.levels == depths


@given(cases())
def test_the_table_gives_the_node_after_two_codes(case: Case) -> None:
    table = case.trie.table()

    assert table is not None
    assert (table.dtype, table.shape) == (np.uint32, case.n_codes[:2])
    for prefix in reference.every_prefix(case.n_codes, 2):
        assert table[prefix] == case.nodes.get(prefix, 0)


@pytest.mark.parametrize("mapped", [False, True])
def test_arrays_are_views_that_keep_the_trie_alive(mapped: bool, tmp_path: Path) -> None:
    rows = np.arange(60_000, dtype=np.uint16).reshape(-1, 2)
    trie = CodeTrie(rows, [60_000, 60_000])
    if mapped:
        trie.save(tmp_path / "t")
        trie = CodeTrie.load(tmp_path / "t")
    table = trie.table()
    assert table is not None
    assert table.shape == (60_000,)
    views = [*trie.arrays(), table]
    assert views[1].dtype == np.uint16
    assert all(np.shares_memory(a, b) for a, b in zip(views, trie.arrays(), strict=False))
    expected = [view.copy() for view in views]
    del trie
    gc.collect()

    assert CodeTrie(rows[::-1].copy(), [60_000, 60_000]).n_items == 30_000  # takes freed memory
    for view, values in zip(views, expected, strict=True):
        assert np.array_equal(view, values)
        assert not view.flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            view[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.setflags(write=True)


def test_a_table_is_left_out_where_it_would_be_large_for_so_few_items() -> None:
    rows = np.array([[3, 4, 5]], np.uint16)
    tables = [CodeTrie(rows, k).table() for k in ([64, 64, 8], [64, 65, 8], [4097, 8, 8])]
    assert [None if table is None else table.shape for table in tables] == [(64, 64), (64,), None]


def test_tries_of_modalities_and_shops_live_side_by_side(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shops = {"pens": (4, 256), "chairs": (3, 1000)}
    tries, tables = {}, {}
    for shop, (n_levels, n_codes) in shops.items():
        for modality in ("text", "image"):
            table = np.unique(rng.integers(0, n_codes, (500, n_levels), np.uint16), axis=0)
            tables[shop, modality] = rng.permutation(table)
            tries[shop, modality] = CodeTrie(tables[shop, modality], [n_codes] * n_levels)
            tries[shop, modality].save(tmp_path / f"{shop}-{modality}.trie")
    loaded = {key: CodeTrie.load(tmp_path / f"{key[0]}-{key[1]}.trie") for key in tries}

    for side in (tries, loaded):
        for (shop, modality), trie in side.items():
            own, other = (
                tables[shop, modality],
                tables[shop, {"text": "image"}.get(modality, "text")],
            )
            assert trie.find(own).tolist() == list(range(len(own)))
            rows = [tuple(row) for row in own.tolist()]
            elsewhere = [reference.find(rows, tuple(row)) for row in other.tolist()]
            assert trie.find(other).tolist() == elsewhere
    assert {trie.arrays()[1].dtype.name for trie in loaded.values()} == {"uint8", "uint16"}


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_the_number_of_threads_changes_nothing(n_threads: int) -> None:
    rng = np.random.default_rng(1)
    everything = np.stack(np.unravel_index(rng.permutation(50 * 40 * 50), (50, 40, 50)), axis=1)
    table = everything[:80_000].astype(np.uint16)
    keep = rng.random(len(table)) < 0.3

    trie = CodeTrie(table, [50, 40, 50], n_threads=n_threads)

    one = CodeTrie(table, [50, 40, 50], n_threads=1)
    assert same(trie, one)
    assert trie.find(table, n_threads=n_threads).tolist() == list(range(len(table)))
    assert (trie.find(everything[80_000:].astype(np.uint16), n_threads=n_threads) == -1).all()
    assert same(trie.restrict(keep, n_threads=n_threads), one.restrict(keep, n_threads=1))


def test_ten_million_items_take_at_most_ten_bytes_each() -> None:
    # The worst case at a hundredth of the size and the code space: no item shares its prefix.
    n_items = 100_000
    codes = np.empty((n_items, 4), np.uint16)
    codes[:, :3] = np.stack(np.unravel_index(np.arange(n_items), (16, 80, 80)), axis=1)
    codes[:, 3] = np.arange(n_items) % 256

    trie = CodeTrie(codes, [16, 80, 80, 256])

    # Table, nodes above the last prefix and their marks, header: they do not grow with the items.
    small = 4 * 16 * 80 + (5 + 32) * (1 + 16 + 16 * 80) + 1000
    assert trie.nbytes <= 10 * n_items + small


@given(cases())
def test_sizes(case: Case) -> None:
    trie = case.trie
    assert trie.root == 0
    assert trie.n_items == len(case.rows)
    assert trie.n_levels == len(case.n_codes)
    assert trie.n_codes == list(case.n_codes)
    assert trie.n_nodes == len(case.nodes)
    fixed = 4 * (math.prod(case.n_codes[:2]) + trie.n_levels + 4) + HEADER + 3 * 64
    fixed += 32 * trie.levels[3]  # marks of the nodes of three depths
    assert 0 < trie.nbytes <= 10 * trie.n_nodes + fixed
    assert repr(trie) == (
        f"CodeTrie(n_items={trie.n_items}, n_codes={trie.n_codes}, n_nodes={trie.n_nodes})"
    )


@given(cases(), st.data())
def test_restrict_keeps_some_items_at_their_rows(case: Case, data: st.DataObject) -> None:
    marks = st.lists(st.booleans(), min_size=len(case.rows), max_size=len(case.rows))
    keep = np.array(data.draw(marks), np.bool_)
    rows = np.array(data.draw(st.permutations(np.flatnonzero(keep).tolist())), np.int64)

    cut = case.trie.restrict(keep)

    found = cut.find(case.codes)
    assert found.tolist() == [row if keep[row] else -1 for row in range(len(keep))]
    rebuilt = CodeTrie(case.codes[keep], case.n_codes)
    assert [a.tolist() for a in cut.arrays()[:2]] == [a.tolist() for a in rebuilt.arrays()[:2]]
    assert same(case.trie.restrict(rows), cut)
    again = np.array(data.draw(marks), np.bool_)
    assert same(cut.restrict(again), case.trie.restrict(keep & again))


def test_levels_of_different_size_up_to_the_largest() -> None:
    rows = np.array([[1, 65535, 0], [0, 0, 1], [1, 65535, 1], [1, 7, 0]], np.uint16)
    trie = CodeTrie(rows, [2, 65536, 2])

    at_one = trie.step(np.array([0, 0]), np.array([1, 0], np.uint16))
    mask = trie.mask(at_one)
    assert mask.shape == (2, 65536)
    assert [np.flatnonzero(row).tolist() for row in mask] == [[7, 65535], [0]]
    assert trie.find(rows).tolist() == [0, 1, 2, 3]


def test_an_empty_trie_allows_nothing() -> None:
    trie = CodeTrie(np.zeros((0, 3), np.uint16), [4, 4, 4])

    assert (trie.n_items, trie.n_nodes) == (0, 1)
    assert not trie.mask(np.array([0, -1])).any()
    assert trie.step(np.array([0]), np.array([0], np.uint16)).tolist() == [-1]
    assert trie.allowed(np.zeros((2, 0), np.uint16))[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: CodeTrie(codes([1, 2], [0, 0], [0, 1], [0, 1], [1, 2]), [2, 3]),
            "`codes`: expected rows without duplicates, got the same codes in rows 0 and 4; "
            "resolve collisions first",
        ),
        (
            lambda: CodeTrie(codes([1, 2]), [2]),
            "`n_codes`: expected 2 to 8 levels, got 1",
        ),
        (
            lambda: CodeTrie(codes([1, 2]), [2, 3, 4]),
            "`n_codes`: expected 2 entries, one per level, got 3",
        ),
        (
            lambda: CodeTrie(codes([1, 2]), [2, 65537]),
            "`n_codes`: expected 1 to 65536 codes at level 1, got 65537",
        ),
        (
            lambda: CodeTrie(codes([1, 2], [0, 3]), [2, 3]),
            "`codes`: expected codes below 3 at level 1, got 3 in row 1",
        ),
        (
            lambda: TRIE.allowed(codes([1, 2, 0])),
            "`prefixes`: expected at most 2 codes per prefix, got 3",
        ),
        (
            lambda: TRIE.step(ints(0, 0), codes(1)),
            "`codes`: expected 2 entries, one per node, got 1",
        ),
        (
            lambda: TRIE.step(ints(0, 6), codes(1, 1)),
            "`nodes`: expected -1 to 5, got 6 at position 1",
        ),
        (
            lambda: TRIE.mask(ints(-2)),
            "`nodes`: expected -1 to 5, got -2 at position 0",
        ),
        (
            lambda: TRIE.mask(ints(0), 2),
            "`level`: expected 0 to 1, got 2; after the last level nothing follows",
        ),
        (
            lambda: TRIE.mask(ints(5)),
            "`level`: expected 0 to 1, got 2; after the last level nothing follows",
        ),
        (
            lambda: TRIE.mask(ints(-1, 1, 0)),
            "`nodes`: expected nodes at level 1, got 0 of level 0; mask one level at a time",
        ),
        (
            lambda: TRIE.mask(ints(-1)),
            "`level`: expected a number, got None and no node that tells it; give `level`",
        ),
        (
            lambda: TRIE.find(codes([1, 2, 0])),
            "`codes`: expected 2 entries, one per level, got 3",
        ),
        (
            lambda: TRIE.mask_bits(ints(0), 2),
            "`level`: expected 0 to 1, got 2; after the last level nothing follows",
        ),
        (
            lambda: TRIE.find(codes([1, 2]), n_threads=0),
            "`n_threads`: expected at least 1, got 0",
        ),
        (
            lambda: TRIE.restrict(ints(0, 3)),
            "`rows`: expected rows from 0 to below 3, got 3",
        ),
        (
            lambda: TRIE.restrict(ints(-1)),
            "`rows`: expected rows from 0 to below 3, got -1",
        ),
        (
            lambda: TRIE.restrict(np.ones(2, np.bool_)),
            "`rows`: expected shape (3,) to match `codes`, got (2,)",
        ),
    ],
)
def test_misuse_is_told(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()
