"""Tries of small spaces beside the slow twin's nodes, drawn by Hypothesis."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

import reference
from mql4grec._core import CodeTrie

Q = 4
HEADER = 192  # bytes of a file before its arrays
TRIE = CodeTrie(np.array([[1, 2], [0, 2], [1, 0]], np.uint16), [2, 3])


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
    """Draw up to 24 semantic IDs of two to four levels with at most Q codes each."""
    n_codes = tuple(draw(st.lists(st.integers(1, Q), min_size=2, max_size=4)))
    row = st.tuples(*(st.integers(0, n - 1) for n in n_codes))
    rows = draw(st.lists(row, max_size=min(math.prod(n_codes), 24), unique=True))
    return Case(rows, n_codes)


def same(a: CodeTrie, b: CodeTrie) -> bool:
    """Tell whether two tries have the same levels and arrays."""
    pairs = zip(a.arrays(), b.arrays(), strict=True)
    return a.n_codes == b.n_codes and all(np.array_equal(x, y) for x, y in pairs)


def ints(*values: int) -> NDArray[np.int64]:
    """Make an array of nodes or rows."""
    return np.array(values, np.int64)


def codes(*values: Any) -> NDArray[np.uint16]:
    """Make an array of codes, or of rows of them."""
    return np.array(values, np.uint16)
