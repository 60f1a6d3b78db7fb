"""Rounds that find and resolve collisions: valid calls beside the slow twin, and hostile ones."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import reference
from campaign.border_inputs import (
    Array,
    collision_case,
    hostile,
    hostile_number,
    hostile_sizes,
    octets,
    relaid,
)
from campaign.border_trie import THREADS, Writer
from collision_cases import POLICIES, WAYS, Case, as_tuples, distances_of
from mql4grec._core import (
    count_prefixes,
    find_collisions,
    resolve_collisions,
    resolve_collisions_from_latents,
)

if TYPE_CHECKING:
    from campaign.border_calls import Calls

N_VALID, N_HOSTILE = 12, 80
COMPARED = 0.25
"""The share of resolved tables that the slow twin, some hundred times slower, resolves too."""


def small(calls: Calls, rng: random.Random) -> None:
    """Resolve one small table in several ways."""
    case = collision_case(rng)
    rows = case.rows
    offsets, found = calls.valid(find_collisions, _laid(rng, case.codes), n_threads=_some(rng))
    groups = [found[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    calls.equal("find_collisions", groups, reference.groups(rows))
    counts = calls.valid(count_prefixes, _laid(rng, case.codes), n_threads=_some(rng))
    depths = range(1, len(case.n_codes) + 1)
    calls.equal("count_prefixes", counts, [len({r[:depth] for r in rows}) for depth in depths])
    for _ in range(N_VALID):
        _resolve(calls, rng, case)
    for _ in range(N_HOSTILE):
        _hostile_call(calls, rng, case)


def _laid(rng: random.Random, array: Array) -> Array:
    return relaid(rng, array) if rng.random() < 0.2 else array


def _some(rng: random.Random) -> int | None:
    return rng.choice(THREADS)


def _resolve(calls: Calls, rng: random.Random, case: Case) -> None:
    way, frozen = rng.choice(list(WAYS)), case.frozen
    shares = set(itertools.chain(*reference.groups(case.rows)))
    settings: dict[str, Any] = rng.choice(POLICIES) | {"open_levels": rng.randint(2, 8)}
    rules = {"keys": _laid(rng, case.keys), "frozen": _laid(rng, frozen)}
    first = _arguments(rng, case, way)
    function = resolve_collisions if way == "tensor" else resolve_collisions_from_latents
    more = {"n_codes": case.n_codes} if way == "tensor" else {}
    result = calls.valid(function, *first, **settings, **rules, **more, n_threads=_some(rng))
    new, moved, costs = result
    found = as_tuples(new)
    alike = all(found[row] == own for row, own in enumerate(case.rows) if row not in shares)
    calls.equal("distinct, others as before", (len(set(found)), alike), (len(found), True))
    if rng.random() < COMPARED:
        _compare(calls, case, way, (found, moved.tolist(), costs.tolist()), settings)


def _arguments(rng: random.Random, case: Case, way: str) -> tuple[Any, ...]:
    codes = _laid(rng, case.codes)
    if way == "tensor":
        return codes, _laid(rng, case.distances)
    return codes, _laid(rng, case.latents), [_laid(rng, book) for book in case.codebooks]


def _compare(
    calls: Calls,
    case: Case,
    way: str,
    result: tuple[list[reference.Codes], list[int], list[float]],
    settings: dict[str, Any],
) -> None:
    found, moved, costs = result
    distances = distances_of(case, way)
    expected = reference.resolve(
        case.rows,
        distances,
        n_codes=case.n_codes,
        assign=_agreed(found),
        keys=case.keys.tolist(),
        frozen=case.frozen.tolist(),
        **settings,
    )
    others = [row for row, own in enumerate(case.rows) if expected[row] != own]
    pairs = [(row, case.rows[row], expected[row]) for row in others]
    if way == "tensor":
        gained = [reference.cost_by_tensor(case.distances, *pair) for pair in pairs]
    else:
        gained = [reference.cost_by_latents(distances, *pair) for pair in pairs]
    twin = (expected, others, np.array(gained, np.float32).tolist())
    calls.equal(f"{way} {settings}", (found, moved, costs), twin)


def _agreed(new: Sequence[reference.Codes]) -> reference.Assign:
    """Take an assignment that is as good as the best; several may be."""

    def assign(
        rows: Sequence[int], free: Sequence[reference.Codes], errors: NDArray[np.float64]
    ) -> list[reference.Codes]:
        chosen = [new[row] for row in rows]
        best = reference.least_total(rows, free, errors)
        places = {codes: place for place, codes in enumerate(free)}
        if len(set(chosen)) < len(rows) or not set(chosen) <= set(places):
            return best
        total, least = (
            math.fsum(errors[i, places[codes]] for i, codes in enumerate(some))
            for some in (chosen, best)
        )
        return chosen if total <= least * (1 + 1e-12) else best

    return assign


def _hostile_call(calls: Calls, rng: random.Random, case: Case) -> None:
    """Call with one argument or more replaced by something else."""
    if rng.random() < 0.3:
        ask = rng.choice((find_collisions, count_prefixes))
        threads = hostile_number(rng) if rng.random() < 0.2 else _some(rng)
        calls(ask, hostile(rng, case.codes), n_threads=threads)
        return
    settings: dict[str, Any] = rng.choice(POLICIES) | {"n_threads": _some(rng)}
    settings |= {"keys": case.keys, "frozen": case.frozen}
    if rng.random() < 0.3:
        rows = np.array(sorted(rng.sample(range(len(case.codes)), rng.randint(0, len(case.codes)))))
        settings["rows"] = rows.astype(np.int64)
    books: Any = list(case.codebooks)
    tensor = rng.random() < 0.5
    arguments: list[Any] = [case.codes, case.distances if tensor else case.latents]
    if tensor:
        settings["n_codes"] = case.n_codes
    else:
        arguments.append(books)
    for _ in range(rng.choice((1, 1, 2))):
        _spoil(rng, case, arguments, settings)
    calls(resolve_collisions if tensor else resolve_collisions_from_latents, *arguments, **settings)


def _spoil(rng: random.Random, case: Case, arguments: list[Any], settings: dict[str, Any]) -> None:
    name = rng.choice(("first", "first", *settings, "open_levels", "n_threads", "books"))
    if name == "first":
        place = rng.randrange(2)
        if isinstance(arguments[place], np.ndarray):
            arguments[place] = hostile(rng, arguments[place])
    elif name == "n_codes":
        settings[name] = hostile_sizes(rng, case.n_codes)
    elif name == "books" and len(arguments) > 2:
        arguments[2] = _spoilt_books(rng, case)
    elif isinstance(settings.get(name), np.ndarray):
        settings[name] = hostile(rng, settings[name])
    elif name != "books":
        settings[name] = hostile_number(rng)


def _spoilt_books(rng: random.Random, case: Case) -> Any:
    books: list[Any] = list(case.codebooks)
    match rng.randrange(4):
        case 0:
            return books[:-1]
        case 1:
            return books * 2
        case 2:
            return hostile_number(rng)
        case _:
            place = rng.randrange(len(books))
            books[place] = hostile(rng, books[place])
            return books


def raced(calls: Calls, rng: random.Random) -> None:
    """Resolve while another thread writes into the arguments."""
    n, n_codes = 2000, (8, 16, 32)
    codes = octets(rng, n, 3).astype(np.uint16) % np.array(n_codes, np.uint16)
    distances = octets(rng, n, 3, 32).astype(np.float32)
    latents = octets(rng, n, 2).astype(np.float32)
    books = [octets(rng, k, 2).astype(np.float32) for k in n_codes]
    frozen, keys = np.zeros(n, np.bool_), np.arange(n, dtype=np.uint64)
    arrays = (codes, distances, latents, books[2], frozen, keys)
    noise = [(array, octets(rng, array.nbytes)) for array in arrays]
    with Writer(noise):
        for policy in rng.sample(POLICIES, 3):
            rules = {**policy, "frozen": frozen, "keys": keys}
            calls(find_collisions, codes, n_threads=_some(rng))
            calls(count_prefixes, codes, n_threads=_some(rng))
            calls(resolve_collisions, codes, distances, n_codes=n_codes, **rules)
            calls(resolve_collisions_from_latents, codes, latents, books, **rules)


def ties(calls: Calls, rng: random.Random) -> None:
    """Place equal rows among equal codes, as many as a level may have."""
    policy = rng.choice(POLICIES)
    books = [np.zeros((2**16, 1), np.float32), np.zeros((2**16, 1), np.float32)]
    n = rng.choice((50, 2000))
    equal, latents = np.zeros((n, 2), np.uint16), np.zeros((n, 1), np.float32)
    new = calls(resolve_collisions_from_latents, equal, latents, books, **policy)
    if isinstance(new, tuple):
        calls.equal("many ties", len(np.unique(new[0], axis=0)), n)


def heavy(calls: Calls, rng: random.Random) -> None:
    """Call with arrays near and beyond the bound of memory."""
    many = 2 ** rng.randint(16, 27)
    table = np.broadcast_to(np.zeros(1, np.uint16), (many, rng.randint(2, 8)))
    calls(rng.choice((find_collisions, count_prefixes)), table)
    few = np.zeros((2 ** rng.randint(2, 12), 2), np.uint16)
    distances = np.broadcast_to(np.zeros(1, np.float32), (len(few), 2, 2 ** rng.randint(6, 16)))
    calls(resolve_collisions, few, distances, policy="paper")
