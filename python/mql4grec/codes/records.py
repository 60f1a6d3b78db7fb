"""What semantic IDs are, and what it took to make them differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mql4grec._core import find_collisions
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
        usage_before: How many codes of each level were used (L).
        usage_after: The same afterwards.
        perplexity_before: How many codes of each level, used equally, would be as uncertain (L).
        perplexity_after: The same afterwards.
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
    usage_before: tuple[int, ...]
    usage_after: tuple[int, ...]
    perplexity_before: tuple[float, ...]
    perplexity_after: tuple[float, ...]


def compare(
    before: NDArray[np.uint16], after: NDArray[np.uint16], *, added_error: float | None
) -> CollisionReport:
    """Compare the codes of the present items (N, L) before and after."""
    offsets, sharing = find_collisions(before)
    offsets_after, sharing_after = find_collisions(after)
    changed = before != after
    moved = changed.any(axis=1)
    first_change = changed[moved].argmax(axis=1)
    n_levels = before.shape[1]
    return CollisionReport(
        n_items=len(before),
        n_shared_before=len(sharing),
        n_groups_before=len(offsets) - 1,
        largest_group=int(np.diff(offsets).max(initial=0)),
        rate_before=_rate(len(sharing), len(offsets) - 1, n_items=len(before)),
        rate_after=_rate(len(sharing_after), len(offsets_after) - 1, n_items=len(before)),
        n_moved=int(moved.sum()),
        moved_per_level=tuple(np.bincount(first_change, minlength=n_levels).tolist()),
        added_error=added_error,
        usage_before=tuple(len(np.unique(level)) for level in before.T),
        usage_after=tuple(len(np.unique(level)) for level in after.T),
        perplexity_before=tuple(_perplexity(level) for level in before.T),
        perplexity_after=tuple(_perplexity(level) for level in after.T),
    )


def _rate(n_shared: int, n_groups: int, *, n_items: int) -> float:
    return (n_shared - n_groups) / max(n_items, 1)


def _perplexity(codes: NDArray[np.uint16]) -> float:
    if len(codes) == 0:
        return 0.0
    shares = np.unique(codes, return_counts=True)[1] / len(codes)
    return float(np.exp(-(shares * np.log(shares)).sum()))
