"""Trie in Rust: equal to brute force, files that come back, its messages."""

from __future__ import annotations

import itertools
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import reference
from mql4grec._core import CodeTrie

Q = 4


class Case:
    """Distinct semantic IDs in a small space, and the trie of them."""

    def __init__(self, rows: list[reference.Codes], n_codes: tuple[int, ...]) -> None:
        self.rows = rows
        self.n_codes = n_codes
        self.codes = np.array(rows, np.uint16).reshape(len(rows), len(n_codes))
        self.trie = CodeTrie(self.codes, n_codes)
        self.nodes = reference.nodes(rows, len(n_codes))

    def __repr__(self) -> str:
        return f"Case({self.rows}, {self.n_codes})"


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n_codes = tuple(draw(st.lists(st.integers(1, Q), min_size=2, max_size=4)))
    row = st.tuples(*(st.integers(0, n - 1) for n in n_codes))
    rows = draw(st.lists(row, max_size=min(math.prod(n_codes), 24), unique=True))
    return Case(rows, n_codes)


@given(cases())
def test_every_semantic_id_is_found_at_its_row_and_nothing_else(case: Case) -> None:
    everything = reference.every_prefix([n + 1 for n in case.n_codes], len(case.n_codes))

    found = case.trie.find(np.array(everything, np.uint16))

    row_of = {codes: row for row, codes in enumerate(case.rows)}
    assert found.tolist() == [row_of.get(codes, -1) for codes in everything]
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
        assert case.trie.step(nodes[one], codes[one]).tolist() == stepped[one].tolist()


@given(cases())
def test_walking_the_arrays_gives_the_same_trie(case: Case) -> None:
    offsets, codes, rows = case.trie.arrays()

    walked = {(): 0}
    for prefix, node in sorted(case.nodes.items(), key=lambda pair: pair[1]):
        if len(prefix) < len(case.n_codes):
            children = range(offsets[node] + 1, offsets[node + 1] + 1)
            walked |= {(*prefix, int(codes[child - 1])): child for child in children}
    assert walked == case.nodes
    leaves = sorted(case.rows)
    assert [case.rows[row] for row in rows] == leaves


@given(cases())
def test_sizes(case: Case) -> None:
    trie = case.trie
    assert trie.root == 0
    assert trie.n_items == len(case.rows)
    assert trie.n_levels == len(case.n_codes)
    assert trie.n_codes == list(case.n_codes)
    assert trie.n_nodes == len(case.nodes)
    assert 0 < trie.nbytes <= 10 * trie.n_nodes + 4 * (trie.n_levels + 4)
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


def same(a: CodeTrie, b: CodeTrie) -> bool:
    pairs = zip(a.arrays(), b.arrays(), strict=True)
    return a.n_codes == b.n_codes and all(np.array_equal(x, y) for x, y in pairs)


@given(case=cases())
@settings(max_examples=30)
def test_a_saved_trie_comes_back(case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("trie") / "items.trie"
    cut = case.trie.restrict(np.arange(len(case.rows)) % 2 == 0)
    for trie in (case.trie, cut):
        trie.save(path)
        loaded = CodeTrie.load(str(path))
        assert same(loaded, trie)
        assert loaded.find(case.codes).tolist() == trie.find(case.codes).tolist()
        assert same(
            loaded.restrict(np.zeros(len(case.rows), np.bool_)),
            CodeTrie(np.zeros((0, len(case.n_codes)), np.uint16), case.n_codes),
        )


def test_the_file_format_is_the_one_described(tmp_path: Path) -> None:
    trie = CodeTrie(np.array([[1, 2], [0, 2], [1, 0]], np.uint16), [2, 3])
    trie.save(tmp_path / "t")

    numbers = struct.pack("<2Q 2Q 4Q", 2, 3, 2, 3, 0, 1, 3, 6)
    arrays = struct.pack("<4I 5H 3I", 0, 2, 3, 5, 0, 1, 2, 0, 2, 1, 2, 0)
    assert (tmp_path / "t").read_bytes() == checked(b"MQLTRIE\x01" + numbers + arrays)


def checked(content: bytes) -> bytes:
    """Append the checksum, FNV-1a."""
    total = 0xCBF29CE484222325
    for byte in content:
        total = (total ^ byte) * 0x100000001B3 % 2**64
    return content + struct.pack("<Q", total)


@given(case=cases(), data=st.data())
@settings(max_examples=50)
def test_no_damaged_file_is_read_as_a_trie(
    case: Case, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("trie") / "items.trie"
    case.trie.save(path)
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[place] ^= data.draw(st.integers(1, 255))

    for broken in (bytes(damaged), content[:place], content + b"\0"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="trie file"):
            CodeTrie.load(path)
    # With a right checksum it is the contents that are checked: an error, or some other trie.
    path.write_bytes(checked(bytes(damaged[:-8])))
    try:
        other = CodeTrie.load(path)
    except ValueError:
        return
    other.restrict(np.ones(0, np.bool_) if other.n_items == 0 else other.arrays()[2])
    assert other.find(np.zeros((1, other.n_levels), np.uint16)).max() < 2**32


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


TRIE = CodeTrie(np.array([[1, 2], [0, 2], [1, 0]], np.uint16), [2, 3])


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def codes(*values: Any) -> NDArray[np.uint16]:
    return np.array(values, np.uint16)


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


HEADER = b"MQLTRIE\x01"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"PK\x03\x04",
            "expected it to start with `MQLTRIE` and a version, got something else",
        ),
        (b"MQLTRIE\x02", "expected format version 1, got 2"),
        (HEADER + b"\2", "expected 16 bytes, got 9"),
        (HEADER + struct.pack("<Q", 9), "expected 2 to 8 levels"),
        (HEADER + struct.pack("<2Q", 2, 2**32), "expected counts below 2^32"),
        (HEADER + struct.pack("<8Q", 2, 3, 2, 3, 0, 1, 3, 6), "expected 118 bytes, got 72"),
    ],
)
def test_a_file_that_is_no_trie_is_told(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^trie file: {re.escape(message)}; save it again$"):
        CodeTrie.load(path)


@pytest.mark.parametrize(
    ("place", "format", "values", "message"),
    [
        (24, "<Q", (0,), "1 to 65536 codes per level"),
        (40, "<Q", (1,), "levels that start with one root and never shrink"),
        (56, "<2Q", (6, 6), "leaves, unless the root is alone"),
        (72, "<I", (1,), "offsets from 0 to the number of codes"),
        (76, "<I", (3,), "offsets that give every inner node a child"),
        (76, "<I", (1,), "offsets whose children lie one level deeper"),
        (88, "<2H", (1, 0), "ascending codes below the K of their level"),
        (96, "<H", (3,), "ascending codes below the K of their level"),
        (98, "<I", (2,), "a row of its own for every item"),
        (98, "<I", (3,), "a row of its own for every item"),
    ],
)
def test_a_file_that_contradicts_itself_is_told(
    place: int, format: str, values: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "t"
    TRIE.save(path)
    content = bytearray(path.read_bytes()[:-8])
    if place == 56:  # a trie without leaves takes other lengths
        content[56:] = struct.pack("<2Q 4I 2H", 3, 3, 0, 1, 2, 2, 0, 1)
    else:
        struct.pack_into(format, content, place, *values)
    path.write_bytes(checked(bytes(content)))
    with pytest.raises(
        ValueError, match=re.escape(f"trie file: expected {message}; save it again")
    ):
        CodeTrie.load(path)


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none"))):
        CodeTrie.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        TRIE.save(tmp_path / "no such folder" / "t")
