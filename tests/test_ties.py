"""Items that are alike: a shop whose items all have one text, codebooks that collapsed."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collision_cases import POLICIES, SETTINGS, WAYS, Case, cases, check, octets
from mql4grec._core import find_collisions, resolve_collisions, resolve_collisions_from_latents

N_ITEMS = 100_000
CORE_SECONDS = 2.0
ALL_POLICIES = pytest.mark.parametrize("policy", POLICIES, ids=lambda p: "-".join(p.values()))


@st.composite
def alike(draw: st.DrawFn) -> Case:
    """Few texts for many items, and few vectors for many codes."""
    case = draw(cases())
    n_texts = draw(st.integers(1, 3))
    texts = draw(octets(len(case.codes), 1))[:, 0] % n_texts % max(len(case.codes), 1)
    if draw(st.booleans()):
        texts.sort()
    few = draw(st.integers(1, 4))
    books = [book[draw(octets(len(book), 1))[:, 0] % few % len(book)] for book in case.codebooks]
    distances = case.distances[texts]
    return replace(case, distances=distances, latents=case.latents[texts], codebooks=books)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=300, deadline=None)
@given(case=alike(), chosen=SETTINGS)
def test_items_that_are_alike_go_where_the_slow_one_puts_them(
    way: str, case: Case, chosen: dict[str, Any]
) -> None:
    check(case, way, **chosen)


def one_text(n_codes: int, n_levels: int, *, share_alike: float) -> tuple[Any, ...]:
    """Items of one latent at their nearest codes; a share of the codes of each level is alike."""
    rng = np.random.default_rng(0)
    books = [
        (rng.normal(size=(n_codes, 16)) / 2**level).astype(np.float32) for level in range(n_levels)
    ]
    for book in books:
        book[round(n_codes * (1 - share_alike)) :] = book[-1]
    latent = rng.normal(size=16).astype(np.float32)
    own, residual = [], latent
    for book in books:
        own.append(int(((residual - book) ** 2).sum(1).argmin()))
        residual = residual - book[own[-1]]
    return np.tile(np.array(own, np.uint16), (N_ITEMS, 1)), np.tile(latent, (N_ITEMS, 1)), books


def expect_all_placed(codes: np.ndarray[Any, Any], resolved: tuple[Any, ...]) -> None:
    after, moved, costs = resolved
    assert len(find_collisions(after)[1]) == 0
    assert np.isfinite(costs).all()
    assert moved.tolist() == np.flatnonzero((after != codes).any(axis=1)).tolist()
    assert len(moved) == N_ITEMS - 1


@ALL_POLICIES
@pytest.mark.parametrize("open_levels", [2, 3, 4])
@pytest.mark.parametrize("share_alike", [0.0, 0.8, 1.0])
def test_a_catalog_of_one_text_takes_seconds(
    policy: dict[str, Any], open_levels: int, share_alike: float
) -> None:
    codes, latents, books = one_text(256, 4, share_alike=share_alike)
    started = time.process_time()
    resolved = resolve_collisions_from_latents(
        codes, latents, books, open_levels=open_levels, **policy
    )
    assert time.process_time() - started < CORE_SECONDS
    expect_all_placed(codes, resolved)


@ALL_POLICIES
def test_given_distances_that_are_all_equal_take_seconds(policy: dict[str, Any]) -> None:
    codes = np.zeros((N_ITEMS, 4), np.uint16)
    distances = np.zeros((N_ITEMS, 4, 32), np.float32)
    started = time.process_time()
    resolved = resolve_collisions(codes, distances, open_levels=4, **policy)
    assert time.process_time() - started < CORE_SECONDS
    expect_all_placed(codes, resolved)


@ALL_POLICIES
def test_the_widest_levels_take_seconds(policy: dict[str, Any]) -> None:
    n_items = 500
    codes = np.zeros((n_items, 2), np.uint16)
    distances = np.zeros((n_items, 2, 1 << 16), np.float32)
    started = time.process_time()
    after, moved, _ = resolve_collisions(codes, distances, **policy)
    assert time.process_time() - started < CORE_SECONDS
    assert moved.tolist() == list(range(1, n_items))
    assert after.tolist() == [[0, row] for row in range(n_items)]
