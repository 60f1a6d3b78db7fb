"""Vectors on a plane, by principal components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Maps:
    """Codebooks and items on planes.

    Attributes:
        codebooks: Place of every code, one float32 (K_l, 2) per level, on a plane of its own; NaN
            where its vector is not finite.
        codebook_shares: Which part of a codebook's variance its plane shows (L).
        rows: Items on the map, int64 (P).
        items: Their places by their embeddings, float32 (P, 2).
        items_share: Which part of these embeddings' variance the plane shows.
    """

    codebooks: tuple[NDArray[np.float32], ...]
    codebook_shares: tuple[float, ...]
    rows: NDArray[np.int64]
    items: NDArray[np.float32]
    items_share: float

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Maps:
        """Build them again from what `arrays` gave."""
        shares = tuple(arrays["codebook_shares"].tolist())
        return cls(
            codebooks=tuple(arrays[f"codebook_{level}"] for level in range(len(shares))),
            codebook_shares=shares,
            rows=arrays["rows"],
            items=arrays["items"],
            items_share=float(arrays["items_share"]),
        )

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Give all of it by names, as numpy saves it."""
        found: dict[str, NDArray[Any]] = {f"codebook_{n}": p for n, p in enumerate(self.codebooks)}
        return found | {
            "codebook_shares": np.array(self.codebook_shares),
            "rows": self.rows,
            "items": self.items,
            "items_share": np.array(self.items_share),
        }


def draw_maps(
    codebooks: Sequence[NDArray[np.float32]],
    vectors: NDArray[np.float32],
    *,
    rows: NDArray[np.int64],
) -> Maps:
    """Lay every level's codebook on a plane, and some items on another.

    Args:
        codebooks: One float32 (K_l, E) per level.
        vectors: Embeddings, float32 (N, D), may be memory-mapped.
        rows: Items on the map, int64 (P).
    """
    planes = [flatten(codebook) for codebook in codebooks]
    items, items_share = flatten(vectors[rows])
    return Maps(
        codebooks=tuple(places for places, _ in planes),
        codebook_shares=tuple(share for _, share in planes),
        rows=rows,
        items=items,
        items_share=items_share,
    )


def flatten(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Bring vectors (P, E) to the plane of their first two principal components.

    Returns:
        Places float32 (P, 2), NaN where a vector is not finite; and the share of the variance that
        the plane shows, 1 where there is none. Of the two directions of a component, the one in
        which the farthest vector lies is positive.
    """
    finite = np.isfinite(vectors).all(axis=1)
    places = np.full((len(vectors), 2), np.nan, np.float32)
    places[finite] = 0
    kept = vectors[finite].astype(np.float64)
    if not len(kept) or not np.ptp(kept, axis=0).any():
        return places, 1.0
    kept -= kept.mean(axis=0)
    wide = kept.shape[0] < kept.shape[1]  # the smaller of the two products has all there is
    values, axes = np.linalg.eigh(kept @ kept.T if wide else kept.T @ kept)
    values, axes = values[::-1].clip(min=0), axes[:, ::-1][:, :2]
    found = axes * np.sqrt(values[:2]) if wide else kept @ axes
    found *= np.sign(found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])])
    places[finite, : found.shape[1]] = found
    return places, float(values[:2].sum() / values.sum())
