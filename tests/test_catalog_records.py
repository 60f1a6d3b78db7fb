"""Histories as arrays against plain Python lists."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mql4grec.catalog import Histories

LISTS = st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=6)


def histories_of(lists: list[list[int]]) -> Histories:
    offsets = np.cumsum([0, *map(len, lists)])
    items = np.fromiter(itertools.chain.from_iterable(lists), dtype=np.int32)
    return Histories(offsets=offsets.astype(np.int64), items=items)


@given(LISTS)
def test_of_and_lengths_agree_with_lists(lists: list[list[int]]) -> None:
    histories = histories_of(lists)
    assert histories.n_users == len(lists)
    assert [histories.of(user).tolist() for user in range(len(lists))] == lists
    assert histories.lengths().tolist() == [len(history) for history in lists]
    assert histories.lengths().dtype == np.int64


@given(LISTS, st.integers(0, 7))
def test_held_out_agrees_with_slices(lists: list[list[int]], n: int) -> None:
    kept = histories_of(lists).held_out(n)
    expected = [history[: max(len(history) - n, 0)] for history in lists]
    assert [kept.of(user).tolist() for user in range(kept.n_users)] == expected
    assert kept.offsets.dtype == np.int64
    assert kept.items.dtype == np.int32


@given(LISTS, st.integers(1, 3))
def test_target_agrees_with_negative_indices(lists: list[list[int]], n: int) -> None:
    long_enough = [history for history in lists if len(history) >= n]
    target = histories_of(long_enough).target(n)
    assert target.tolist() == [history[-n] for history in long_enough]
    assert target.dtype == np.int32


def test_target_of_a_short_history_is_misuse() -> None:
    histories = histories_of([[1, 2, 3], [4]])
    message = r"`n`: expected histories of at least 2 events, got 1 of user 1"
    with pytest.raises(ValueError, match=message):
        histories.target(2)


def test_n_has_a_range() -> None:
    histories = histories_of([[1, 2, 3]])
    with pytest.raises(ValueError, match=r"`n`: expected 1 or more, got 0"):
        histories.target(0)
    with pytest.raises(ValueError, match=r"`n`: expected 0 or more, got -1"):
        histories.held_out(-1)
