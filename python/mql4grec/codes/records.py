"""What semantic IDs are, and what it took to make them differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mql4grec._core import count_prefixes, find_collisions
from mql4grec.config import Modality


@dataclass(frozen=True)
class SemanticIds:
    """The codes of one shop's items in one modality.

    Attributes:
        dataset: Name of the shop.
        modality: "text" or "image".
        codes: uint16 (N, L); rows not present are zero.
        n_codes: K of each level (L).
        present: bool (N,), False where the item has no code in this modality.
    """

    dataset: str
    modality: Modality
    codes: NDArray[np.uint16]
    n_codes: tuple[int, ...]
    present: NDArray[np.bool_]

    @property
    def n_levels(self) -> int:
        """Number of levels L."""
        return len(self.n_codes)


@dataclass(frozen=True)
class Errors:
    """What is known of squared errors of latents, over all items.

    Attributes:
        added: Sum of what the moved items gained; None if nothing moved or nobody knows.
        quantisation: Mean over all items before anything moved; None if nobody knows.
    """

    added: float | None = None
    quantisation: float | None = None


NOTHING_KNOWN = Errors()


@dataclass(frozen=True)
class CollisionReport:
    """How many items shared a semantic ID, and what it took to give each its own.

    Attributes:
        n_items: Items that have codes.
        n_shared_before: Items that shared their codes with another.
        n_groups_before: Semantic IDs that several items had.
        largest_group: Items of the most crowded one; 0 if none was shared.
        rate_before: (N - U) / N for U different semantic IDs of N items, as the authors count.
        rate_after: The same afterwards.
        n_moved: Items that got other codes.
        moved_per_level: How many of them by the first level at which they changed (L).
        added_error: Mean squared error that a moved item's latent gained; None if nothing moved, or
            if only codes were given, so that nobody knows.
        quantisation_error: Mean squared error of all latents before; None if nobody knows.
        added_share: What all moved items gained together, as a share of the error of all items
            before; None if one of the two is not known.
        usage_before: How many codes of each level were used (L).
        usage_after: The same afterwards.
        entropy_before: Of the codes of each level, in bits (L).
        entropy_after: The same afterwards.
        perplexity_before: How many codes of each level, used equally, would be as uncertain (L).
        perplexity_after: The same afterwards.
        prefixes: How many different prefixes of 1 to L codes there are afterwards (L).
        fill: Mean share of the K codes of a level that follow a prefix of the level above (L).
    """

    n_items: int
    n_shared_before: int
    n_groups_before: int
    largest_group: int
    rate_before: float
    rate_after: float
    n_moved: int
    moved_per_level: tuple[int, ...]
    added_error: float | None
    quantisation_error: float | None
    added_share: float | None
    usage_before: tuple[int, ...]
    usage_after: tuple[int, ...]
    entropy_before: tuple[float, ...]
    entropy_after: tuple[float, ...]
    perplexity_before: tuple[float, ...]
    perplexity_after: tuple[float, ...]
    prefixes: tuple[int, ...]
    fill: tuple[float, ...]


ROWS_AT_ONCE = 1 << 20


def compare(
    before: NDArray[np.uint16],
    after: NDArray[np.uint16],
    *,
    n_codes: Sequence[int],
    errors: Errors = NOTHING_KNOWN,
) -> CollisionReport:
    """Compare the codes of the present items (N, L) before and after.

    Both may be memory-mapped: they are read in parts.
    """
    n_items = len(before)
    offsets, sharing = find_collisions(before)
    offsets_after, sharing_after = find_collisions(after)
    n_moved, moved_per_level = _moves(before, after)
    used, used_after = _counts(before, n_codes=n_codes), _counts(after, n_codes=n_codes)
    prefixes = tuple(count_prefixes(after))
    added, quantisation = errors.added, errors.quantisation
    share = None
    if added is not None and quantisation:
        share = added / (quantisation * n_items)
    return CollisionReport(
        n_items=n_items,
        n_shared_before=len(sharing),
        n_groups_before=len(offsets) - 1,
        largest_group=int(np.diff(offsets).max(initial=0)),
        rate_before=_rate(len(sharing), len(offsets) - 1, n_items=n_items),
        rate_after=_rate(len(sharing_after), len(offsets_after) - 1, n_items=n_items),
        n_moved=n_moved,
        moved_per_level=moved_per_level,
        added_error=None if added is None else added / n_moved,
        quantisation_error=quantisation,
        added_share=share,
        usage_before=tuple(int((counts > 0).sum()) for counts in used),
        usage_after=tuple(int((counts > 0).sum()) for counts in used_after),
        entropy_before=tuple(map(_entropy, used)),
        entropy_after=tuple(map(_entropy, used_after)),
        perplexity_before=tuple(2 ** _entropy(counts) for counts in used),
        perplexity_after=tuple(2 ** _entropy(counts) for counts in used_after),
        prefixes=prefixes,
        fill=_fill(prefixes, n_codes=n_codes),
    )


def _rate(n_shared: int, n_groups: int, *, n_items: int) -> float:
    return (n_shared - n_groups) / max(n_items, 1)


def _parts(codes: NDArray[np.uint16]) -> Iterator[slice]:
    """Cut the rows into ranges, so that a mapped table is never held whole."""
    for start in range(0, len(codes), ROWS_AT_ONCE):
        yield slice(start, start + ROWS_AT_ONCE)


def _moves(before: NDArray[np.uint16], after: NDArray[np.uint16]) -> tuple[int, tuple[int, ...]]:
    """Count the rows that changed, in all and by the first level that did (L)."""
    first = np.zeros(before.shape[1], np.int64)
    for part in _parts(before):
        changed = before[part] != after[part]
        first += np.bincount(changed[changed.any(axis=1)].argmax(axis=1), minlength=len(first))
    return int(first.sum()), tuple(first.tolist())


def _counts(codes: NDArray[np.uint16], *, n_codes: Sequence[int]) -> list[NDArray[np.int64]]:
    """Count the items of every code, one int64 (K_l) per level."""
    counts = [np.zeros(n, np.int64) for n in n_codes]
    for part in _parts(codes):
        for level, count in zip(codes[part].T, counts, strict=True):
            count += np.bincount(level, minlength=len(count))
    return counts


def _entropy(counts: NDArray[np.int64]) -> float:
    """Give the entropy of int64 (K) in bits, 0 if there are none."""
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no -0.0


def _fill(prefixes: Sequence[int], *, n_codes: Sequence[int]) -> tuple[float, ...]:
    """Give the mean share of codes that follow a prefix, per level (L)."""
    above = (1, *prefixes[:-1])
    return tuple(n / max(m * k, 1) for n, m, k in zip(prefixes, above, n_codes, strict=True))
