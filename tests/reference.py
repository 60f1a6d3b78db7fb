"""The algorithms of the Rust core again, slow and obvious, in plain Python.

The tests compare the two on small inputs. Nothing here is shared with what it checks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Codes = tuple[int, ...]
Distances = Callable[[int, Codes], list[float]]
"""Squared distances of a row to the codes that follow a prefix."""


def groups(codes: Sequence[Codes]) -> list[list[int]]:
    """Rows that share their codes, in the order of the codes."""
    shared = [[row for row, c in enumerate(codes) if c == own] for own in sorted(set(codes))]
    return [rows for rows in shared if len(rows) > 1]


def given(distances: NDArray[np.float32], n_codes: Sequence[int]) -> Distances:
    """Distances read from a tensor (N, L, K), whatever the prefix."""

    def read(row: int, prefix: Codes) -> list[float]:
        level = len(prefix)
        return [float(d) for d in distances[row, level, : n_codes[level]]]

    return read


def computed(latents: NDArray[np.float32], codebooks: Sequence[NDArray[np.float32]]) -> Distances:
    """Distances of what the prefix leaves of the latent, summed component by component."""

    def compute(row: int, prefix: Codes) -> list[float]:
        residual = [float(x) for x in latents[row]]
        for codebook, code in zip(codebooks, prefix, strict=False):
            residual = [r - float(c) for r, c in zip(residual, codebook[code], strict=True)]
        found = []
        for vector in codebooks[len(prefix)]:
            total = 0.0
            for r, c in zip(residual, vector, strict=True):
                total += (r - float(c)) * (r - float(c))
            found.append(total)
        return found

    return compute


def resolve(
    codes: Sequence[Codes],
    distances: Distances,
    *,
    n_codes: Sequence[int],
    keys: Sequence[int] | None = None,
    frozen: Sequence[bool] | None = None,
) -> list[Codes]:
    """Give every row codes of its own; there is room for all, and no two frozen rows are alike."""
    keys = range(len(codes)) if keys is None else keys
    frozen = [False] * len(codes) if frozen is None else frozen
    resolved, held = list(codes), set(codes)
    movers = []
    for rows in groups(codes):
        free = [row for row in rows if not frozen[row]]
        free.sort(key=lambda r: (distances(r, codes[r][:-1])[codes[r][-1]], keys[r], r))
        movers += free if len(free) < len(rows) else free[1:]
    for row in movers:
        resolved[row] = _nearest_free(row, codes[row], distances, n_codes=n_codes, held=held)
        held.add(resolved[row])
    return resolved


def _nearest_free(
    row: int, own: Codes, distances: Distances, *, n_codes: Sequence[int], held: set[Codes]
) -> Codes:
    prefix = own[:-1]
    while not _has_room(prefix, n_codes=n_codes, held=held):
        prefix = prefix[:-1]
    while len(prefix) < len(own):
        near = distances(row, prefix)
        candidates = [
            code
            for code in range(n_codes[len(prefix)])
            if _has_room((*prefix, code), n_codes=n_codes, held=held)
        ]
        prefix = (*prefix, min(candidates, key=lambda code: (near[code], code)))
    return prefix


def _has_room(prefix: Codes, *, n_codes: Sequence[int], held: set[Codes]) -> bool:
    n_held = sum(codes[: len(prefix)] == prefix for codes in held)
    return n_held < math.prod(n_codes[len(prefix) :])


def cost_by_tensor(distances: NDArray[np.float32], row: int, old: Codes, new: Codes) -> float:
    """Distances of the new codes minus those of the old, over the levels."""
    levels = zip(distances[row], old, new, strict=True)
    return sum(float(level[b]) - float(level[a]) for level, a, b in levels)


def cost_by_latents(distances: Distances, row: int, old: Codes, new: Codes) -> float:
    """What the new codes leave of the latent minus what the old did, squared norms."""
    return distances(row, new[:-1])[new[-1]] - distances(row, old[:-1])[old[-1]]


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
