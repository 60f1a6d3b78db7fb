"""Resolver in Rust: equal to the slow twin, its promises, its messages."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

import reference
from collision_cases import WAYS, Case, cases, equal_rows
from mql4grec._core import (
    count_prefixes,
    find_collisions,
    resolve_collisions,
    resolve_collisions_from_latents,
)

RESOLVERS = pytest.mark.parametrize("resolve", WAYS.values(), ids=WAYS)


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_groups_equal_the_slow_twin(case: Case) -> None:
    offsets, rows = find_collisions(case.codes)

    found = [rows[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert found == reference.groups(case.rows)


@settings(max_examples=100, deadline=None)
@given(case=cases())
def test_prefixes_are_counted(case: Case) -> None:
    n_levels = len(case.n_codes)
    assert count_prefixes(case.codes) == [
        len({own[: depth + 1] for own in case.rows}) for depth in range(n_levels)
    ]


@RESOLVERS
def test_without_keys_the_lower_row_counts(resolve: Any) -> None:
    case = equal_rows(5, n_codes=(2, 4))
    keys = np.arange(5, dtype=np.uint64)

    assert resolve(case)[0].tolist() == resolve(case, keys=keys)[0].tolist()
    assert resolve(case)[0].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [1, 0]]


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
ROWS = np.array([1, 2])


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
        (
            lambda: resolve_collisions_from_latents(CODES + np.uint16(2), LATENTS, BOOKS),
            "`codes`: expected codes below 3 at level 0, got 3 in row 1",
        ),
        (
            lambda: resolve_collisions(CODES, FAR[:, :1]),
            "`distances`: expected shape (4, 2, 3) to match `codes`, got (4, 1, 3)",
        ),
        (
            lambda: resolve_collisions(CODES, FAR[:3], rows=ROWS),
            "`distances`: expected shape (2, 2, 3) to match `codes`, got (3, 2, 3)",
        ),
        (
            lambda: resolve_collisions_from_latents(CODES, LATENTS, BOOKS, rows=ROWS),
            "`latents`: expected shape (2, 2) to match `codes`, got (4, 2)",
        ),
        (
            lambda: resolve_collisions(CODES, FAR[:2], rows=ROWS[::-1]),
            "`rows`: expected ascending rows below 4, got 1 at place 1",
        ),
        (
            lambda: resolve_collisions(CODES, FAR[:2], rows=ROWS * 0),
            "`rows`: expected ascending rows below 4, got 0 at place 1",
        ),
        (
            lambda: resolve_collisions(CODES, FAR[:2], rows=ROWS + 2),
            "`rows`: expected ascending rows below 4, got 4 at place 1",
        ),
        (
            lambda: resolve_collisions_from_latents(CODES, LATENTS[:2], BOOKS, rows=ROWS - 2),
            "`rows`: expected ascending rows below 4, got -1 at place 0",
        ),
        (
            lambda: resolve_collisions(CODES, FAR[:2], rows=ROWS),
            "`rows`: expected every row that shares its codes and is not frozen, row 0 is missing",
        ),
        (
            lambda: find_collisions(CODES, n_threads=0),
            "`n_threads`: expected at least 1, got 0",
        ),
        (
            lambda: count_prefixes(CODES, n_threads=0),
            "`n_threads`: expected at least 1, got 0",
        ),
    ],
)
def test_misuse_is_told(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@RESOLVERS
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "best"}, "`policy`: expected 'paper', 'nearest' or 'optimal', got 'best'"),
        ({"keep": "first"}, "`keep`: expected 'nearest' or 'max_loss', got 'first'"),
        ({"reassign": "all"}, "`reassign`: expected 'movers' or 'colliding', got 'all'"),
        (
            {"reassign": "colliding"},
            "`reassign`: expected 'movers' unless `policy` is 'optimal', got 'colliding'",
        ),
        (
            {"policy": "nearest", "reassign": "colliding"},
            "`reassign`: expected 'movers' unless `policy` is 'optimal', got 'colliding'",
        ),
        ({"open_levels": 1}, "`open_levels`: expected 2 to 8, got 1"),
        ({"open_levels": 9}, "`open_levels`: expected 2 to 8, got 9"),
        ({"open_levels": -1}, "`open_levels`: expected 2 to 8, got -1"),
        ({"n_threads": 0}, "`n_threads`: expected at least 1, got 0"),
        ({"n_threads": -1}, "`n_threads`: expected at least 1, got -1"),
    ],
)
def test_a_wrong_setting_is_told(resolve: Any, settings: dict[str, Any], message: str) -> None:
    case = equal_rows(4, n_codes=(3, 3))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        resolve(case, **settings)


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
