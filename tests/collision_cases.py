"""Small catalogs with collisions, and the two ways to resolve them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

import reference
from mql4grec._core import resolve_collisions, resolve_collisions_from_latents

SPACES = [
    (2, 3),
    (3, 4),
    (5, 1),
    (1, 5),
    (3, 70),  # more codes than bits in a word
    (4, 2, 3),
    (3, 3, 2),
    (1, 2, 4),
    (2, 3, 2, 2),
    (2, 1, 3, 2, 2),
    (2, 2, 2, 1, 2, 3),
    (2,) * 7,
    (1, 2, 1, 2, 2, 1, 2, 2),
    (2,) * 8,
]
# Exact in float32, and so are their sums and products: ties are common, and ties are exact.
EVEN = np.array([0.0, -0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0])
UNEVEN = np.array([0.1, 0.3, 1 / 3, 1e-3, 1.0, 1.0000001, 0.7, 2.9])
# The third: squares that float32 can hardly tell apart; the last: too large to trust float32.
NUMBERS = [EVEN, UNEVEN, EVEN * 2.0**-60, EVEN * 2.0**52]
KEEPS = ("nearest", "max_loss")
POLICIES = [
    *({"policy": p, "keep": k} for p in ("paper", "nearest", "optimal") for k in KEEPS),
    *({"policy": "optimal", "reassign": "colliding", "keep": k} for k in KEEPS),
]

Result = tuple[NDArray[np.uint16], NDArray[np.int64], NDArray[np.float32]]


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

    @property
    def needed(self) -> list[int]:
        """Rows that share their codes and are not frozen."""
        groups = reference.groups(self.rows)
        return sorted(row for rows in groups for row in rows if not self.frozen[row])


def as_tuples(codes: NDArray[np.uint16]) -> list[reference.Codes]:
    return [tuple(row) for row in codes.tolist()]


def by_tensor(case: Case, **settings: Any) -> Result:
    return resolve_collisions(case.codes, case.distances, n_codes=case.n_codes, **settings)


def by_latents(case: Case, **settings: Any) -> Result:
    return resolve_collisions_from_latents(case.codes, case.latents, case.codebooks, **settings)


WAYS = {"tensor": by_tensor, "latents": by_latents}


def distances_of(case: Case, way: str) -> reference.Distances:
    if way == "tensor":
        return reference.given(case.distances, case.n_codes)
    return reference.computed(case.latents, case.codebooks)


def only(case: Case, rows: list[int]) -> Case:
    """The numbers of some rows."""
    return replace(case, distances=case.distances[rows], latents=case.latents[rows])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    n_codes = draw(st.sampled_from(SPACES))
    # As many items as there are codes, now and then: the last item finds the only place left.
    n_items = draw(st.integers(0, min(math.prod(n_codes), 24)))
    few = [draw(st.integers(1, n)) for n in n_codes]
    codes = (draw(octets(n_items, len(n_codes))) % few).astype(np.uint16)
    numbers, width = draw(st.sampled_from(NUMBERS)), draw(st.integers(0, 3))
    tensor = numbers[draw(octets(n_items * len(n_codes), max(n_codes))) % len(numbers)]
    distances = tensor.astype(np.float32).reshape(n_items, len(n_codes), max(n_codes))
    for level, n in enumerate(n_codes):
        distances[:, level, n:] = np.nan  # never looked at
    vectors = numbers[draw(octets(n_items + sum(n_codes), width)) % len(numbers)]
    latents, *codebooks = np.split(vectors.astype(np.float32), np.cumsum([n_items, *n_codes])[:-1])
    return Case(
        codes=codes,
        n_codes=n_codes,
        distances=distances,
        latents=latents,
        codebooks=codebooks,
        keys=np.array(draw(st.permutations(range(100, 100 + n_items))), np.uint64),
        frozen=some_frozen(codes, draw(octets(n_items, 1))[:, 0]),
    )


def octets(n_rows: int, n_columns: int) -> st.SearchStrategy[NDArray[np.uint8]]:
    n = n_rows * n_columns
    return st.binary(min_size=n, max_size=n).map(
        lambda drawn: np.frombuffer(drawn, np.uint8).reshape(n_rows, n_columns)
    )


def some_frozen(codes: NDArray[np.uint16], drawn: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Freeze one row of some groups, and some of the rows that share nothing."""
    frozen = np.zeros(len(codes), np.bool_)
    rows = as_tuples(codes)
    for own in set(rows):
        alike = [row for row, other in enumerate(rows) if other == own]
        if drawn[alike[0]] % 4 == 1:
            frozen[alike[drawn[alike[0]] // 4 % len(alike)]] = True
    return frozen


def settings_of(draw: st.DrawFn) -> dict[str, Any]:
    return draw(st.sampled_from(POLICIES)) | {"open_levels": draw(st.integers(2, 8))}


SETTINGS = st.composite(settings_of)()


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


def residual_case(n_items: int, *, n_codes: tuple[int, ...], width: int, seed: int) -> Case:
    """Items at their nearest codes, as a translator leaves them; the tensor has float32 sums."""
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(n_items, width)).astype(np.float32)
    books = [
        (rng.normal(size=(n, width)) / 2**level).astype(np.float32)
        for level, n in enumerate(n_codes)
    ]
    codes = np.zeros((n_items, len(n_codes)), np.uint16)
    distances = np.full((n_items, len(n_codes), max(n_codes)), np.nan, np.float32)
    residual = latents
    for level, book in enumerate(books):
        near = (residual**2).sum(1)[:, None] - 2 * residual @ book.T + (book**2).sum(1)
        distances[:, level, : len(book)] = near
        codes[:, level] = near.argmin(axis=1)
        residual = residual - book[codes[:, level]]
    return Case(
        codes=codes,
        n_codes=n_codes,
        distances=distances,
        latents=latents,
        codebooks=books,
        keys=rng.permutation(n_items).astype(np.uint64),
        frozen=np.zeros(n_items, np.bool_),
    )


def agreed(new: Sequence[reference.Codes]) -> reference.Assign:
    """Accept an assignment if it is as good as the best; several may be."""

    def assign(
        rows: Sequence[int], free: Sequence[reference.Codes], errors: NDArray[np.float64]
    ) -> list[reference.Codes]:
        chosen = [new[row] for row in rows]
        places = {codes: place for place, codes in enumerate(free)}
        assert len(set(chosen)) == len(rows)
        assert set(chosen) <= set(places)
        best = reference.least_total(rows, free, errors)
        total, least = (
            math.fsum(errors[i, places[codes]] for i, codes in enumerate(found))
            for found in (chosen, best)
        )
        assert total <= least * (1 + 1e-12)
        return chosen

    return assign


def check(case: Case, way: str, **chosen: Any) -> None:
    new, moved, costs = WAYS[way](case, **case.rules, **chosen)

    distances = distances_of(case, way)
    found = as_tuples(new)
    expected = reference.resolve(
        case.rows, distances, n_codes=case.n_codes, assign=agreed(found), **case.rules, **chosen
    )
    assert found == expected
    assert moved.tolist() == [r for r in range(len(new)) if expected[r] != case.rows[r]]
    pairs = [(row, case.rows[row], expected[row]) for row in moved.tolist()]
    if way == "tensor":
        gained = [reference.cost_by_tensor(case.distances, *pair) for pair in pairs]
    else:
        gained = [reference.cost_by_latents(distances, *pair) for pair in pairs]
    assert costs.tolist() == np.array(gained, np.float32).tolist()
