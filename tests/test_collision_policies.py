"""Policies of the resolver: each equal to its slow twin, and what is promised for all of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import reference
from collision_cases import (
    POLICIES,
    SETTINGS,
    WAYS,
    Case,
    as_tuples,
    cases,
    check,
    distances_of,
    equal_rows,
    only,
    residual_case,
)
from mql4grec._core import count_prefixes, find_collisions

PER_ROW = ("codes", "distances", "latents", "keys", "frozen")
ALL_WAYS = pytest.mark.parametrize("way", WAYS)
ALL_POLICIES = pytest.mark.parametrize("policy", POLICIES, ids=lambda p: "-".join(p.values()))


@ALL_WAYS
@ALL_POLICIES
@settings(max_examples=50, deadline=None)
@given(case=cases(), open_levels=st.integers(2, 8))
def test_every_policy_equals_the_slow_twin(
    way: str, policy: dict[str, Any], case: Case, open_levels: int
) -> None:
    check(case, way, **policy, open_levels=open_levels)


@ALL_WAYS
@settings(max_examples=150, deadline=None)
@given(case=cases(), chosen=SETTINGS)
def test_the_result_is_unique_and_only_who_must_moves(
    way: str, case: Case, chosen: dict[str, Any]
) -> None:
    new, moved, costs = WAYS[way](case, **case.rules, **chosen)

    assert len(set(as_tuples(new))) == len(new)
    assert (new < np.array(case.n_codes)).all()
    assert moved.tolist() == np.flatnonzero((new != case.codes).any(axis=1)).tolist()
    assert set(moved.tolist()) <= set(case.needed)  # none that shares nothing, none frozen
    if chosen.get("reassign") != "colliding":
        assert len(moved) == sum(len(rows) - 1 for rows in reference.groups(case.rows))
    assert (new.dtype, moved.dtype, costs.dtype) == (np.uint16, np.int64, np.float32)


@ALL_WAYS
@settings(max_examples=80, deadline=None)
@given(case=cases(), chosen=SETTINGS)
def test_running_it_again_changes_nothing(way: str, case: Case, chosen: dict[str, Any]) -> None:
    new, _, _ = WAYS[way](case, **case.rules, **chosen)

    again = WAYS[way](replace(case, codes=new), **case.rules, **chosen)
    assert again[0].tolist() == new.tolist()
    assert len(again[1]) == len(again[2]) == 0


@ALL_WAYS
@settings(max_examples=150, deadline=None)
@given(case=cases(), chosen=SETTINGS, data=st.data())
def test_with_keys_the_order_of_the_rows_does_not_matter(
    way: str, case: Case, chosen: dict[str, Any], data: st.DataObject
) -> None:
    order = np.array(data.draw(st.permutations(range(len(case.codes)))), np.int64)
    shuffled = replace(case, **{name: vars(case)[name][order] for name in PER_ROW})

    new, moved, costs = WAYS[way](case, **case.rules, **chosen)
    other, other_moved, other_costs = WAYS[way](shuffled, **shuffled.rules, **chosen)

    assert other.tolist() == new[order].tolist()
    gained = dict(zip(moved.tolist(), costs.tolist(), strict=True))
    assert gained == dict(zip(order[other_moved].tolist(), other_costs.tolist(), strict=True))


@ALL_WAYS
@settings(max_examples=150, deadline=None)
@given(case=cases(), chosen=SETTINGS, data=st.data())
def test_numbers_of_some_rows_are_enough(
    way: str, case: Case, chosen: dict[str, Any], data: st.DataObject
) -> None:
    rows = case.needed
    others = sorted(set(range(len(case.codes))) - set(rows))
    rows = sorted([*rows, *(row for row in others if data.draw(st.booleans()))])

    expected = WAYS[way](case, **case.rules, **chosen)
    found = WAYS[way](only(case, rows), rows=np.array(rows, np.int64), **case.rules, **chosen)

    assert [part.tolist() for part in found] == [part.tolist() for part in expected]


@ALL_WAYS
@settings(max_examples=40, deadline=None)
@given(case=cases(), chosen=SETTINGS, data=st.data())
def test_the_first_row_without_numbers_is_named(
    way: str, case: Case, chosen: dict[str, Any], data: st.DataObject
) -> None:
    assume(case.needed)
    missing = data.draw(st.lists(st.sampled_from(case.needed), min_size=1, unique=True))
    rows = [row for row in range(len(case.codes)) if row not in missing]

    with pytest.raises(ValueError) as refused:  # noqa: PT011, the whole text follows
        WAYS[way](only(case, rows), rows=np.array(rows, np.int64), **case.rules, **chosen)
    assert str(refused.value) == (
        "`rows`: expected every row that shares its codes and is not frozen, row "
        f"{min(missing)} is missing"
    )


@ALL_WAYS
@settings(max_examples=80, deadline=None)
@given(case=cases(), chosen=SETTINGS, data=st.data(), value=st.sampled_from([np.nan, np.inf]))
def test_the_first_row_that_is_not_finite_is_named(
    way: str, case: Case, chosen: dict[str, Any], data: st.DataObject, value: float
) -> None:
    assume(case.needed)
    assume(case.latents.shape[1] > 0)
    bad = data.draw(st.lists(st.sampled_from(case.needed), min_size=1, unique=True))
    harmless = [row for row in range(len(case.codes)) if row not in case.needed]
    distances, latents = case.distances.copy(), case.latents.copy()
    level = data.draw(st.integers(0, len(case.n_codes) - 1))
    distances[bad + harmless, level, case.n_codes[level] - 1] = value
    latents[bad + harmless, -1] = -value

    with pytest.raises(ValueError) as refused:  # noqa: PT011, the whole text follows
        WAYS[way](replace(case, distances=distances, latents=latents), **case.rules, **chosen)
    name = "distances" if way == "tensor" else "latents"
    assert str(refused.value) == (
        f"`{name}`: expected finite numbers, got NaN or infinity in row {min(bad)}"
    )


def total_error(case: Case, way: str, **chosen: Any) -> float:
    """The error of all rows; skips what is not to be compared: a full bucket."""
    new = as_tuples(WAYS[way](case, **case.rules, **chosen)[0])
    depth = max(len(case.n_codes) - chosen["open_levels"], 0)
    assume(all(a[:depth] == b[:depth] for a, b in zip(new, case.rows, strict=True)))
    distances = distances_of(case, way)
    return math.fsum(distances.error(row, codes) for row, codes in enumerate(new))


@ALL_WAYS
@pytest.mark.parametrize("keep", ["nearest", "max_loss"])
@settings(max_examples=60, deadline=None)
@given(case=cases(), open_levels=st.integers(2, 8))
def test_optimal_is_never_worse_than_others_with_the_same_keepers(
    way: str, keep: str, case: Case, open_levels: int
) -> None:
    same = {"keep": keep, "open_levels": open_levels}
    optimal = total_error(case, way, policy="optimal", **same)
    colliding = total_error(case, way, policy="optimal", reassign="colliding", **same)
    nearest = total_error(case, way, policy="nearest", **same)

    assert colliding <= optimal * (1 + 1e-12)
    assert optimal <= nearest * (1 + 1e-12)
    if keep == "nearest":  # the one kept by loss depends on the rule of moving
        assert optimal <= total_error(case, way, policy="paper", **same) * (1 + 1e-12)


@ALL_WAYS
@pytest.mark.parametrize("reassign", ["movers", "colliding"])
@settings(max_examples=60, deadline=None)
@given(case=cases(), open_levels=st.integers(2, 7))
def test_more_open_levels_are_never_worse(
    way: str, reassign: str, case: Case, open_levels: int
) -> None:
    same = {"policy": "optimal", "reassign": reassign}
    fewer = total_error(case, way, **same, open_levels=open_levels)
    more = total_error(case, way, **same, open_levels=open_levels + 1)

    assert more <= fewer * (1 + 1e-12)


@ALL_WAYS
@ALL_POLICIES
@pytest.mark.parametrize("n_codes", [(2, 3), (5, 1, 7), (1, 1, 1, 6), (2,) * 8, (3, 65536)])
def test_a_full_space_is_filled_to_the_last_code(
    way: str, policy: dict[str, Any], n_codes: tuple[int, ...]
) -> None:
    n_items = min(math.prod(n_codes), 256 if n_codes[-1] < 9 else 30)
    new, moved, costs = WAYS[way](equal_rows(n_items, n_codes=n_codes), **policy)

    found = as_tuples(new)
    assert len(set(found)) == n_items
    assert len(moved) >= n_items - 1
    assert not costs.any()
    if policy["policy"] != "optimal":
        # Nothing is nearer than anything else, so the codes are taken in their order.
        assert found == sorted(found)


@ALL_WAYS
@ALL_POLICIES
def test_the_largest_space_there_is(way: str, policy: dict[str, Any]) -> None:
    n_codes = (65536,) * 8
    case = equal_rows(4, n_codes=n_codes)
    steps = np.arange(65536, dtype=np.float32)
    case = replace(
        case,
        latents=case.latents + np.float32(65535 * 8),
        codes=case.codes + np.uint16(65535),
        codebooks=[steps[:, None]] * 8,
        distances=np.broadcast_to(65535 - steps, (4, 8, 65536)),
    )
    new, _, _ = WAYS[way](case, **policy)

    # One step away are a step at the last level and one at the last but one.
    steps_away = sorted((65535 - new.astype(np.int64)).sum(axis=1).tolist())
    assert len(set(as_tuples(new))) == 4
    assert steps_away == ([0, 1, 2, 3] if policy["policy"] == "paper" else [0, 1, 1, 2])


def test_codes_given_up_in_one_bucket_are_room_for_the_items_of_another() -> None:
    # Both items of the first bucket leave (0, 0, 0) for nearer codes; that is then the only one
    # left for the item too many in the second bucket, which is full.
    codes = np.array([[0, 0, 0]] * 2 + [[1, 0, 0]] * 4, np.uint16)
    distances = np.zeros((6, 3, 3), np.float32)
    distances[:2, 2] = [9, 1, 2]

    new, moved, _ = WAYS["tensor"](
        replace(equal_rows(6, n_codes=(2, 1, 3)), codes=codes, distances=distances),
        policy="optimal",
        reassign="colliding",
    )

    assert sorted(as_tuples(new)) == reference.every_prefix((2, 1, 3), 3)
    assert set(moved.tolist()) >= {0, 1}


def test_a_bucket_of_more_movers_than_a_block_is_done_in_blocks() -> None:
    rng = np.random.default_rng(5)
    case = equal_rows(reference.BLOCK + 40, n_codes=(1, 2, 560))
    case = replace(case, distances=rng.random(case.distances.shape).astype(np.float32))

    check(case, "tensor", policy="optimal")


N_MANY = 3 << 14  # fewer rows are not worth three threads


@pytest.fixture(scope="module")
def many() -> Case:
    """Enough rows for three threads, half of them colliding, some in buckets too full."""
    return residual_case(N_MANY, n_codes=(48, 48, 12, 12), width=6, seed=11)


@ALL_WAYS
@ALL_POLICIES
def test_threads_make_no_difference(way: str, policy: dict[str, Any], many: Case) -> None:
    one, two, three = (WAYS[way](many, **policy, n_threads=n) for n in (1, 2, 3))

    depth_changed = (one[0][:, :2] != many.codes[:, :2]).any(axis=1)
    assert len(one[1]) > N_MANY // 4
    assert depth_changed.any()
    for other in (two, three):
        assert all((a == b).all() for a, b in zip(one, other, strict=True))


def test_threads_make_no_difference_to_what_is_found(many: Case) -> None:
    offsets, rows = find_collisions(many.codes, n_threads=1)
    prefixes = [len(np.unique(many.codes[:, : n + 1], axis=0)) for n in range(4)]

    assert [rows[a:b].tolist() for a, b in itertools.pairwise(offsets)] == groups_of(many.codes)
    for n_threads in (1, 2, 3, None):
        other = find_collisions(many.codes, n_threads=n_threads)
        assert (other[0].tolist(), other[1].tolist()) == (offsets.tolist(), rows.tolist())
        assert count_prefixes(many.codes, n_threads=n_threads) == prefixes


def groups_of(codes: NDArray[np.uint16]) -> list[list[int]]:
    found: dict[reference.Codes, list[int]] = {}
    for row, own in enumerate(as_tuples(codes)):
        found.setdefault(own, []).append(row)
    return [rows for _, rows in sorted(found.items()) if len(rows) > 1]


@ALL_WAYS
@ALL_POLICIES
def test_arrays_may_lie_in_files_and_in_any_order(
    way: str, policy: dict[str, Any], tmp_path: Path
) -> None:
    case = residual_case(90, n_codes=(3, 4, 9), width=3, seed=2)
    case = replace(case, frozen=np.arange(90) == 40)
    rows = np.array(case.needed)
    listed = only(case, case.needed)
    expected = WAYS[way](listed, rows=rows, **case.rules, **policy)
    assert len(expected[1]) > 10

    def in_file(array: NDArray[Any]) -> NDArray[Any]:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.npy"
        np.save(path, array)
        return np.load(path, mmap_mode="r")

    def scattered(array: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(np.asfortranarray(array), 2, axis=0)[::2]

    for change in (in_file, np.asfortranarray, scattered):
        changed = {name: change(value) for name, value in vars(listed).items() if name in PER_ROW}
        other = replace(listed, **changed, codebooks=[change(book) for book in listed.codebooks])
        found = WAYS[way](other, rows=change(rows), **other.rules, **policy)
        assert [part.tolist() for part in found] == [part.tolist() for part in expected]
