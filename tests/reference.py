"""The algorithms of the Rust core again, slow and obvious, in plain Python.

The tests compare the two on small inputs. Nothing here is shared with what it checks.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Codes = tuple[int, ...]
BLOCK = 1024
"""As many rows are assigned together, as documented for the policy "optimal"."""


@dataclass(frozen=True)
class Distances:
    """What a row knows about codes.

    after: Squared distances of a row to the codes that follow a prefix.
    error: The whole error of a row with all its codes.
    """

    after: Callable[[int, Codes], list[float]]
    error: Callable[[int, Codes], float]


Assign = Callable[[Sequence[int], Sequence[Codes], NDArray[np.float64]], list[Codes]]
"""Rows, free semantic IDs and the errors of each pair, to the semantic ID of each row."""


def groups(codes: Sequence[Codes]) -> list[list[int]]:
    """Rows that share their codes, in the order of the codes."""
    shared = [[row for row, c in enumerate(codes) if c == own] for own in sorted(set(codes))]
    return [rows for rows in shared if len(rows) > 1]


def given(distances: NDArray[np.float32], n_codes: Sequence[int]) -> Distances:
    """Distances read from a tensor (N, L, K), whatever the prefix; errors are sums over levels."""

    def after(row: int, prefix: Codes) -> list[float]:
        level = len(prefix)
        return [float(d) for d in distances[row, level, : n_codes[level]]]

    def error(row: int, codes: Codes) -> float:
        total = 0.0
        for level, code in enumerate(codes):
            total += float(distances[row, level, code])
        return total

    return Distances(after, error)


def computed(latents: NDArray[np.float32], codebooks: Sequence[NDArray[np.float32]]) -> Distances:
    """Distances of what the prefix leaves of the latent, summed component by component."""
    books = [[[float(x) for x in vector] for vector in book] for book in codebooks]

    @functools.cache
    def after(row: int, prefix: Codes) -> list[float]:
        residual = [float(x) for x in latents[row]]
        for book, code in zip(books, prefix, strict=False):
            residual = [r - c for r, c in zip(residual, book[code], strict=True)]
        found = []
        for vector in books[len(prefix)]:
            total = 0.0
            for r, c in zip(residual, vector, strict=True):
                total += (r - c) * (r - c)
            found.append(total)
        return found

    return Distances(after, lambda row, codes: after(row, codes[:-1])[codes[-1]])


def least_total(
    rows: Sequence[int], free: Sequence[Codes], errors: NDArray[np.float64]
) -> list[Codes]:
    """One of the assignments of least total error."""
    del rows
    return [free[column] for column in linear_sum_assignment(errors)[1]]


@dataclass(frozen=True)
class Task:
    """All that is given to a resolver."""

    codes: Sequence[Codes]
    distances: Distances
    n_codes: Sequence[int]
    keys: Sequence[int]
    frozen: Sequence[bool]
    policy: str
    keep: str
    all_move: bool
    depth: int
    assign: Assign


def resolve(
    codes: Sequence[Codes],
    distances: Distances,
    *,
    n_codes: Sequence[int],
    keys: Sequence[int] | None = None,
    frozen: Sequence[bool] | None = None,
    policy: str = "paper",
    keep: str = "nearest",
    reassign: str = "movers",
    open_levels: int = 2,
    assign: Assign = least_total,
) -> list[Codes]:
    """Give every row codes of its own; there is room for all, and no two frozen rows are alike."""
    task = Task(
        codes=codes,
        distances=distances,
        n_codes=n_codes,
        keys=range(len(codes)) if keys is None else keys,
        frozen=[False] * len(codes) if frozen is None else frozen,
        policy=policy,
        keep=keep,
        all_move=reassign == "colliding",
        depth=max(len(n_codes) - open_levels, 0),
        assign=assign,
    )
    placed: dict[int, Codes] = {}
    left_over: list[int] = []
    for prefix in sorted({own[: task.depth] for own in codes}):
        found, over = _resolve_bucket(task, prefix)
        placed |= found
        left_over += over
    for row in left_over:
        placed[row] = _anywhere(task, row, held=set(placed.values()))
    return [placed[row] for row in range(len(codes))]


def _resolve_bucket(task: Task, prefix: Codes) -> tuple[dict[int, Codes], list[int]]:
    """Where the rows below a prefix go, and those for which it has no room."""
    inside = [row for row, own in enumerate(task.codes) if own[: task.depth] == prefix]
    placed, shared = {}, []
    for own in sorted({task.codes[row] for row in inside}):
        rows = [row for row in inside if task.codes[row] == own]
        stay = rows if len(rows) == 1 else [row for row in rows if task.frozen[row]]
        placed |= dict.fromkeys(stay, own)
        if len(rows) > 1:
            shared.append((own, rows, bool(stay)))
    held = {own for own, _, stays in shared if stays or not task.all_move} | set(placed.values())
    movers: list[int] = []
    for own, rows, stays in shared:
        ranked = _rank(task, [row for row in rows if row not in placed], held=held)
        if not stays and not task.all_move:
            placed[ranked.pop(0)] = own
        movers += ranked
    if task.policy == "optimal":
        return _assign_bucket(task, prefix, movers, placed=placed, held=held)
    left_over = []
    for row in movers:
        found = _choose(task, row, depth=task.depth, held=held)
        if found is None:
            left_over.append(row)
        else:
            placed[row] = found
            held = held | {found}
    return placed, left_over


def _rank(task: Task, rows: Sequence[int], *, held: set[Codes]) -> list[int]:
    """Rows of a group, the one that would keep the codes first."""

    def rank(row: int) -> tuple[float, int, int]:
        own = task.codes[row]
        if task.keep == "nearest":
            return task.distances.after(row, own[:-1])[own[-1]], task.keys[row], row
        other = _choose(task, row, depth=task.depth, held=held)
        moved = math.inf if other is None else task.distances.error(row, other)
        return task.distances.error(row, own) - moved, task.keys[row], row

    return sorted(rows, key=rank)


def _assign_bucket(
    task: Task,
    prefix: Codes,
    movers: Sequence[int],
    *,
    placed: dict[int, Codes],
    held: set[Codes],
) -> tuple[dict[int, Codes], list[int]]:
    """All movers together, or block by block, as many as there is room for."""
    free = [codes for codes in _below(prefix, task.n_codes) if codes not in held]
    n_placed = min(len(movers), len(free))
    for start in range(0, n_placed, BLOCK):
        rows = movers[start : min(start + BLOCK, n_placed)]
        errors = [[task.distances.error(row, codes) for codes in free] for row in rows]
        found = task.assign(rows, free, np.array(errors))
        placed = placed | dict(zip(rows, found, strict=True))
        taken = set(found)
        free = [codes for codes in free if codes not in taken]
    return placed, list(movers[n_placed:])


def _choose(task: Task, row: int, *, depth: int, held: set[Codes]) -> Codes | None:
    """The semantic ID that a row takes when it is its turn, its first `depth` codes unchanged."""
    if task.policy == "paper":
        return _stepwise(task, row, depth=depth, held=held)
    free = [c for c in _below(task.codes[row][:depth], task.n_codes) if c not in held]
    return min(free, key=lambda codes: (task.distances.error(row, codes), codes), default=None)


def _anywhere(task: Task, row: int, *, held: set[Codes]) -> Codes:
    """What is left for a row whose bucket is full."""
    depth = 0
    if task.policy != "paper":
        own = task.codes[row]
        depth = max(d for d in range(task.depth) if _has_room(task, own[:d], held=held))
    found = _choose(task, row, depth=depth, held=held)
    assert found is not None, "there is room for all"
    return found


def _stepwise(task: Task, row: int, *, depth: int, held: set[Codes]) -> Codes | None:
    """The published rule: as many of the row's codes as leave room, the nearest from there down."""
    prefix = task.codes[row][:-1]
    while not _has_room(task, prefix, held=held):
        if len(prefix) == depth:
            return None
        prefix = prefix[:-1]
    while len(prefix) < len(task.n_codes):
        near = task.distances.after(row, prefix)
        candidates = [
            code for code in range(len(near)) if _has_room(task, (*prefix, code), held=held)
        ]
        prefix = (*prefix, min(candidates, key=lambda code: (near[code], code)))
    return prefix


def _has_room(task: Task, prefix: Codes, *, held: set[Codes]) -> bool:
    n_held = sum(codes[: len(prefix)] == prefix for codes in held)
    return n_held < math.prod(task.n_codes[len(prefix) :])


def _below(prefix: Codes, n_codes: Sequence[int]) -> list[Codes]:
    deeper = itertools.product(*(range(n) for n in n_codes[len(prefix) :]))
    return [(*prefix, *rest) for rest in deeper]


def cost_by_tensor(distances: NDArray[np.float32], row: int, old: Codes, new: Codes) -> float:
    """Distances of the new codes minus those of the old, over the levels."""
    levels = zip(distances[row], old, new, strict=True)
    return sum(float(level[b]) - float(level[a]) for level, a, b in levels)


def cost_by_latents(distances: Distances, row: int, old: Codes, new: Codes) -> float:
    """What the new codes leave of the latent minus what the old did, squared norms."""
    return distances.error(row, new) - distances.error(row, old)


def allowed(codes: Sequence[Codes], prefix: Codes) -> list[int]:
    """Codes that follow a prefix in any row, ascending."""
    depth = len(prefix)
    return sorted({c[depth] for c in codes if c[:depth] == prefix and len(c) > depth})


def nodes(codes: Sequence[Codes], n_levels: int) -> dict[Codes, int]:
    """Number the prefixes that occur by length, then by code."""
    prefixes = {c[:depth] for c in codes for depth in range(n_levels + 1)} | {()}
    return {prefix: node for node, prefix in enumerate(sorted(prefixes, key=lambda p: (len(p), p)))}


def layout(codes: Sequence[Codes], n_levels: int) -> tuple[list[int], list[int], list[int]]:
    """Offsets, codes and rows of the trie: its nodes one by one, each asked for its children."""
    numbers = nodes(codes, n_levels)
    order = sorted(numbers, key=lambda prefix: numbers[prefix])
    offsets = [0]
    for prefix in order:
        if len(prefix) < n_levels and (codes or not prefix):
            offsets.append(offsets[-1] + len(allowed(codes, prefix)))
    edges = [prefix[-1] for prefix in order if prefix]
    rows = [codes.index(prefix) for prefix in order if len(prefix) == n_levels]
    return offsets, edges, rows


def find(codes: Sequence[Codes], sought: Codes) -> int:
    """The row that has these codes, -1 if none has."""
    return codes.index(sought) if sought in codes else -1


def every_prefix(n_codes: Sequence[int], depth: int) -> list[Codes]:
    """All prefixes of a length, whether any row has them or not."""
    return list(itertools.product(*(range(n) for n in n_codes[:depth])))
