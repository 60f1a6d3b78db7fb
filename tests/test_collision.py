"""Resolver in Rust: equal to the slow twin, its promises, its messages."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

import reference
from mql4grec._core import (
    find_collisions,
    resolve_collisions,
    resolve_collisions_from_latents,
)

# Few values, all exact in float32, so that ties are common.
NUMBERS = st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0])
Q = 4


@dataclass(frozen=True)
class Case:
    """A table of codes in a small space, with all that a resolver can be given."""

    codes: NDArray[np.uint16]
    n_codes: tuple[int, ...]
    distances: NDArray[np.float32]
    latents: NDArray[np.float32]
    codebooks: list[NDArray[np.float32]]
    keys: NDArray[np.uint64]
    frozen: NDArray[np.bool_]

    @property
    def rows(self) -> list[reference.Codes]:
        return as_tuples(self.codes)

    @property
    def rules(self) -> dict[str, Any]:
        return {"keys": self.keys, "frozen": self.frozen}


def as_tuples(codes: NDArray[np.uint16]) -> list[reference.Codes]:
    return [tuple(row) for row in codes.tolist()]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n_codes = tuple(draw(st.lists(st.integers(1, Q), min_size=2, max_size=4)))
    # As many items as there are codes, now and then: the last item finds the only place left.
    n_items = draw(st.integers(0, min(math.prod(n_codes), 24)))
    few = [draw(st.integers(1, n)) for n in n_codes]
    row = st.tuples(*(st.integers(0, n - 1) for n in few))
    drawn = draw(st.lists(row, min_size=n_items, max_size=n_items))
    codes = np.array(drawn, np.uint16).reshape(n_items, len(n_codes))
    width = draw(st.integers(0, 3))
    distances = np.full((n_items, len(n_codes), max(n_codes)), np.nan, np.float32)
    for level, n in enumerate(n_codes):
        distances[:, level, :n] = draw(matrix(n_items, n))
    frozen = np.zeros(n_items, np.bool_)
    for own in sorted(set(drawn)):
        if draw(st.booleans()):
            frozen[draw(st.sampled_from([r for r, other in enumerate(drawn) if other == own]))] = (
                True
            )
    return Case(
        codes=codes,
        n_codes=n_codes,
        distances=distances,
        latents=draw(matrix(n_items, width)),
        codebooks=[draw(matrix(n, width)) for n in n_codes],
        keys=np.array(draw(st.permutations(range(100, 100 + n_items))), np.uint64),
        frozen=frozen,
    )


def matrix(n_rows: int, n_columns: int) -> st.SearchStrategy[NDArray[np.float32]]:
    return arrays.arrays(np.float32, (n_rows, n_columns), elements=NUMBERS, fill=st.nothing())


def by_tensor(case: Case, **rules: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    return resolve_collisions(case.codes, case.distances, n_codes=case.n_codes, **rules)


def by_latents(case: Case, **rules: Any) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    return resolve_collisions_from_latents(case.codes, case.latents, case.codebooks, **rules)


RESOLVERS = pytest.mark.parametrize("resolve", [by_tensor, by_latents])


@given(cases())
def test_groups_equal_the_slow_twin(case: Case) -> None:
    offsets, rows = find_collisions(case.codes)

    found = [rows[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert found == reference.groups(case.rows)


@given(cases())
@settings(max_examples=300)
def test_resolver_by_tensor_equals_the_slow_twin(case: Case) -> None:
    new, moved, costs = by_tensor(case, **case.rules)

    distances = reference.given(case.distances, case.n_codes)
    expected = reference.resolve(case.rows, distances, n_codes=case.n_codes, **case.rules)
    assert as_tuples(new) == expected
    assert moved.tolist() == [r for r in range(len(new)) if expected[r] != case.rows[r]]
    assert costs.tolist() == [
        reference.cost_by_tensor(case.distances, r, case.rows[r], expected[r]) for r in moved
    ]


@given(cases())
@settings(max_examples=300)
def test_resolver_by_latents_equals_the_slow_twin(case: Case) -> None:
    new, moved, costs = by_latents(case, **case.rules)

    distances = reference.computed(case.latents, case.codebooks)
    expected = reference.resolve(case.rows, distances, n_codes=case.n_codes, **case.rules)
    assert as_tuples(new) == expected
    assert moved.tolist() == [r for r in range(len(new)) if expected[r] != case.rows[r]]
    assert costs.tolist() == [
        reference.cost_by_latents(distances, r, case.rows[r], expected[r]) for r in moved
    ]


@RESOLVERS
@given(case=cases())
def test_the_result_is_unique_and_only_colliding_rows_move(resolve: Any, case: Case) -> None:
    new, moved, costs = resolve(case, **case.rules)

    assert len(set(as_tuples(new))) == len(new)
    assert (new < np.array(case.n_codes)).all()
    sharing = [row for rows in reference.groups(case.rows) for row in rows]
    assert set(moved.tolist()) <= set(sharing)
    assert not case.frozen[moved].any()
    assert moved.tolist() == np.flatnonzero((new != case.codes).any(axis=1)).tolist()
    assert (new.dtype, moved.dtype, costs.dtype) == (np.uint16, np.int64, np.float32)


@RESOLVERS
@given(case=cases())
def test_running_it_again_changes_nothing(resolve: Any, case: Case) -> None:
    new, _, _ = resolve(case, **case.rules)

    again = resolve(Case(**(vars(case) | {"codes": new})), **case.rules)
    assert again[0].tolist() == new.tolist()
    assert len(again[1]) == len(again[2]) == 0


@RESOLVERS
@given(case=cases(), data=st.data())
def test_with_keys_the_order_of_the_rows_does_not_matter(
    resolve: Any, case: Case, data: st.DataObject
) -> None:
    order = np.array(data.draw(st.permutations(range(len(case.codes)))), np.int64)
    per_row = ("codes", "distances", "latents", "keys", "frozen")
    shuffled = Case(**(vars(case) | {name: vars(case)[name][order] for name in per_row}))

    new, moved, costs = resolve(case, **case.rules)
    other, other_moved, other_costs = resolve(shuffled, **shuffled.rules)

    assert other.tolist() == new[order].tolist()
    gained = dict(zip(moved.tolist(), costs.tolist(), strict=True))
    assert gained == dict(zip(order[other_moved].tolist(), other_costs.tolist(), strict=True))


@RESOLVERS
def test_without_keys_the_lower_row_counts(resolve: Any) -> None:
    case = equal_rows(5, n_codes=(2, 4))
    keys = np.arange(5, dtype=np.uint64)

    assert resolve(case)[0].tolist() == resolve(case, keys=keys)[0].tolist()
    assert resolve(case)[0].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]


def equal_rows(n_items: int, *, n_codes: tuple[int, ...]) -> Case:
    """Items with codes 0 and no distance to any code."""
    return Case(
        codes=np.zeros((n_items, len(n_codes)), np.uint16),
        n_codes=n_codes,
        distances=np.zeros((n_items, len(n_codes), max(n_codes)), np.float32),
        latents=np.zeros((n_items, 1), np.float32),
        codebooks=[np.zeros((n, 1), np.float32) for n in n_codes],
        keys=np.arange(n_items, dtype=np.uint64),
        frozen=np.zeros(n_items, np.bool_),
    )


@RESOLVERS
@pytest.mark.parametrize("n_codes", [(2, 3), (5, 1, 7), (1, 1, 1, 6), (2,) * 8, (3, 65536)])
def test_a_full_space_is_filled_to_the_last_code(resolve: Any, n_codes: tuple[int, ...]) -> None:
    n_items = min(math.prod(n_codes), 300)
    new, moved, _ = resolve(equal_rows(n_items, n_codes=n_codes))

    # Nothing is nearer than anything else, so the codes are taken in their order.
    assert as_tuples(new) == sorted(as_tuples(new))
    assert len(set(as_tuples(new))) == n_items
    assert moved.tolist() == list(range(1, n_items))


def test_the_second_nearest_code_is_taken_even_by_the_third_of_a_group() -> None:
    codes = np.array([[0, 1], [0, 1], [0, 1]], np.uint16)
    distances = np.zeros((3, 2, 4), np.float32)
    distances[:, 1] = [[3, 0.5, 2, 9], [3, 0.25, 2, 9], [1, 0.75, 2, 9]]

    new, moved, costs = resolve_collisions(codes, distances)

    assert new.tolist() == [[0, 2], [0, 1], [0, 0]]
    assert moved.tolist() == [0, 2]
    assert costs.tolist() == [1.5, 0.25]


def test_codes_held_by_rows_without_a_collision_are_not_taken() -> None:
    codes = np.array([[0, 0], [0, 0], [0, 1]], np.uint16)
    distances = np.tile(np.array([0, 1, 2, 3], np.float32), (3, 2, 1))

    assert resolve_collisions(codes, distances)[0].tolist() == [[0, 0], [0, 2], [0, 1]]


def test_from_latents_distances_follow_a_change_of_the_prefix() -> None:
    # Both items sit at 1.0 = 0 + 1; with code 0 of level 0 full, code 1 leaves 1.0 - 0.9 = 0.1,
    # to which 0 is nearer than 1; the stale residual of 1.0 would take 1.
    codes = np.array([[0, 1], [0, 1], [0, 0]], np.uint16)
    latents = np.array([[1.0], [1.0], [0.0]], np.float32)
    codebooks = [np.array([[0.0], [0.9]], np.float32), np.array([[0.0], [1.0]], np.float32)]

    new, moved, costs = resolve_collisions_from_latents(codes, latents, codebooks)

    assert new.tolist() == [[0, 1], [1, 0], [0, 0]]
    assert moved.tolist() == [1]
    assert costs == pytest.approx([0.01], rel=1e-5)


def test_both_ways_agree_while_only_the_last_level_changes() -> None:
    rng = np.random.default_rng(7)
    latents = rng.normal(size=(60, 5)).astype(np.float32)
    books = [
        rng.normal(size=(n, 5)).astype(np.float32) / (level + 1) for level, n in enumerate((4, 50))
    ]
    codes = np.zeros((60, 2), np.uint16)
    distances = np.full((60, 2, 50), np.nan, np.float32)
    residual = latents
    for level, book in enumerate(books):
        found = ((residual[:, None] - book) ** 2).sum(axis=-1)
        distances[:, level, : len(book)] = found
        codes[:, level] = found.argmin(axis=1)
        residual = residual - book[codes[:, level]]

    exact = resolve_collisions_from_latents(codes, latents, books)
    told = resolve_collisions(codes, distances, n_codes=[4, 50])

    assert len(exact[1]) > 5
    assert exact[0].tolist() == told[0].tolist()
    assert exact[2] == pytest.approx(told[2], abs=1e-4)


def test_arrays_need_not_lie_in_memory_in_order() -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 2, (9, 3)).astype(np.uint16)
    distances = rng.random((9, 3, 4)).astype(np.float32)
    expected = resolve_collisions(codes, distances)

    columns = np.asfortranarray(codes)
    every_other = np.repeat(distances, 2, axis=0)[::2]
    assert resolve_collisions(columns, every_other)[0].tolist() == expected[0].tolist()
    assert find_collisions(columns)[1].tolist() == find_collisions(codes)[1].tolist()


def test_rows_that_share_nothing_are_not_looked_at() -> None:
    codes = np.array([[0, 0], [0, 1], [0, 1]], np.uint16)
    distances = np.zeros((3, 2, 4), np.float32)
    distances[0] = np.nan
    latents = np.array([[np.inf], [0], [0]], np.float32)
    codebooks = [np.zeros((4, 1), np.float32)] * 2

    assert resolve_collisions(codes, distances)[1].tolist() == [2]
    assert resolve_collisions_from_latents(codes, latents, codebooks)[1].tolist() == [2]


CODES = np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.uint16)
FAR = np.zeros((4, 2, 3), np.float32)
LATENTS = np.zeros((4, 2), np.float32)
BOOKS = [np.zeros((3, 2), np.float32)] * 2


def with_value(array: NDArray[np.float32], place: Any, value: float) -> NDArray[np.float32]:
    changed = array.copy()
    changed[place] = value
    return changed


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: find_collisions(np.zeros((3, 9), np.uint16)),
            "`codes`: expected 2 to 8 levels, got 9",
        ),
        (
            lambda: resolve_collisions(CODES[:, :1], FAR),
            "`codes`: expected 2 to 8 levels, got 1",
        ),
        (
            lambda: resolve_collisions(CODES, FAR[:, :, :0]),
            "`n_codes`: expected 1 to 65536 codes at level 0, got 0",
        ),
        (
            lambda: resolve_collisions(CODES, FAR, n_codes=[3, 3, 3]),
            "`n_codes`: expected 2 entries, one per level, got 3",
        ),
        (
            lambda: resolve_collisions(CODES, FAR, n_codes=[2, 2]),
            "`distances`: expected shape (4, 2, 2) to match `codes`, got (4, 2, 3)",
        ),
        (
            lambda: resolve_collisions(CODES, FAR[:3]),
            "`distances`: expected shape (4, 2, 3) to match `codes`, got (3, 2, 3)",
        ),
        (
            lambda: resolve_collisions(CODES, FAR, keys=np.zeros(3, np.uint64)),
            "`keys`: expected shape (4,) to match `codes`, got (3,)",
        ),
        (
            lambda: resolve_collisions(CODES, FAR, frozen=np.zeros(5, np.bool_)),
            "`frozen`: expected shape (4,) to match `codes`, got (5,)",
        ),
        (
            lambda: resolve_collisions(CODES + np.uint16(2), FAR),
            "`codes`: expected codes below 3 at level 0, got 3 in row 1",
        ),
        (
            lambda: resolve_collisions(CODES, with_value(FAR, (2, 0, 1), np.nan)),
            "`distances`: expected finite numbers, got NaN or infinity in row 2",
        ),
        (
            lambda: resolve_collisions(CODES, with_value(FAR, slice(1, 4), np.inf)),
            "`distances`: expected finite numbers, got NaN or infinity in row 1",
        ),
        (
            lambda: resolve_collisions(CODES, FAR, frozen=np.ones(4, np.bool_)),
            "`frozen`: expected frozen rows with codes of their own, got rows 0 and 3 with the "
            "same codes; unfreeze one of them",
        ),
        (
            lambda: resolve_collisions(np.zeros((4, 2), np.uint16), FAR[:, :, :1]),
            "`codes`: expected at most 1 items for the code space, got 4; use more levels or "
            "larger codebooks",
        ),
        (
            lambda: resolve_collisions_from_latents(CODES, LATENTS[1:], BOOKS),
            "`latents`: expected shape (4, 2) to match `codes`, got (3, 2)",
        ),
        (
            lambda: resolve_collisions_from_latents(CODES, LATENTS, BOOKS[:1]),
            "`codebooks`: expected 2 entries, one per level, got 1",
        ),
        (
            lambda: resolve_collisions_from_latents(CODES, LATENTS, [BOOKS[0], BOOKS[0][:, :1]]),
            "`codebooks[1]`: expected shape (3, 2) to match `codes`, got (3, 1)",
        ),
        (
            lambda: resolve_collisions_from_latents(CODES, LATENTS, [BOOKS[0], BOOKS[0][:0]]),
            "`n_codes`: expected 1 to 65536 codes at level 1, got 0",
        ),
        (
            lambda: resolve_collisions_from_latents(
                CODES, LATENTS, [BOOKS[0], with_value(BOOKS[1], (2, 0), np.nan)]
            ),
            "`codebooks`: expected finite numbers, got NaN or infinity at level 1, code 2",
        ),
        (
            lambda: resolve_collisions_from_latents(
                CODES, with_value(LATENTS, slice(1, 3), -np.inf), BOOKS
            ),
            "`latents`: expected finite numbers, got NaN or infinity in row 1",
        ),
    ],
)
def test_misuse_is_told(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize(
    ("codes", "got"),
    [
        (CODES.astype(np.int64), "int64 with 2 dimensions"),
        (CODES[0], "uint16 with 1 dimensions"),
        ([[0, 1]], "<class 'list'>"),
    ],
)
def test_a_wrong_type_is_told(codes: Any, got: str) -> None:
    message = f"`codes`: expected a numpy array of uint16 with 2 dimensions, got {got}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        find_collisions(codes)
