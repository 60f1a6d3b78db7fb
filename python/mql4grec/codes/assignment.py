"""Give every item a semantic ID of its own."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mql4grec._core import resolve_collisions_from_latents
from mql4grec.codes.records import CollisionReport, SemanticIds, compare
from mql4grec.errors import CollisionError, DataError

if TYPE_CHECKING:
    from mql4grec.translator import Translation  # at run time it would import torch


def assign(
    translation: Translation, *, policy: str = "paper"
) -> tuple[SemanticIds, CollisionReport]:
    """Give every item of a translation a semantic ID of its own.

    Of the items that share one, the nearest to its last code keeps it, the others take the nearest
    free codes; items that share nothing never move. Ties go to the lower item row.

    Args:
        translation: Nearest codes (N, L), latents (N, E) and codebooks of one shop and modality.
        policy: "paper", the only rule there is.

    Returns:
        Semantic IDs, and a record of what was done.

    Raises:
        CollisionError: If there are more items than semantic IDs.
        DataError: If a latent has NaN or infinity.
        ValueError: If the policy is unknown, or the arrays do not fit each other.

    Source:
        MQL4GRec, section 3.2. Unlike the authors' code: the second nearest code is tried first,
        not the one at the item's place in its group; distances follow a change of the prefix; every
        level may change, so that nothing stays shared.
    """
    if policy != "paper":
        raise ValueError(f"`policy`: expected 'paper', got {policy!r}")
    rows = np.flatnonzero(translation.present)
    n_codes = tuple(len(codebook) for codebook in translation.codebooks)
    what = f"{translation.modality} codes of `{translation.dataset}`"
    _require_room(len(rows), n_codes=n_codes, what=what)
    latents = translation.latents[rows]
    _require_finite(latents, rows=rows, what=what)
    before = translation.codes[rows]
    after, moved, costs = resolve_collisions_from_latents(
        before, latents, translation.codebooks, keys=rows.astype(np.uint64)
    )
    codes = np.zeros_like(translation.codes)
    codes[rows] = after
    ids = SemanticIds(
        dataset=translation.dataset,
        modality=translation.modality,
        codes=codes,
        n_codes=n_codes,
        present=translation.present,
    )
    added_error = float(costs.mean(dtype=np.float64)) if len(moved) else None
    return ids, compare(before, after, added_error=added_error)


def repair(ids: SemanticIds, *, what: str) -> tuple[SemanticIds, CollisionReport]:
    """Give items that share their codes others, knowing nothing but the codes.

    The lowest row keeps them, the others get the lowest free codes after as long a prefix of their
    own as has room.

    Args:
        ids: Semantic IDs, possibly shared.
        what: Where they come from, for the message.

    Raises:
        CollisionError: If there are more items than semantic IDs.
    """
    rows = np.flatnonzero(ids.present)
    _require_room(len(rows), n_codes=ids.n_codes, what=what)
    # Latents and codes that all lie at zero: every distance is the same, so the rows decide.
    latents = np.zeros((len(rows), 1), np.float32)
    codebooks = [np.zeros((n, 1), np.float32) for n in ids.n_codes]
    before = ids.codes[rows]
    after, _, _ = resolve_collisions_from_latents(before, latents, codebooks)
    codes = ids.codes.copy()
    codes[rows] = after
    return dataclasses.replace(ids, codes=codes), compare(before, after, added_error=None)


def _require_room(n_items: int, *, n_codes: Sequence[int], what: str) -> None:
    capacity = math.prod(n_codes)
    if n_items > capacity:
        raise CollisionError(
            f"{what}: expected at most {capacity} items for {len(n_codes)} levels of "
            f"{tuple(n_codes)} codes, got {n_items}, {n_items - capacity} too many; add a level or "
            "codes to `translator.num_emb_list`"
        )


def _require_finite(latents: NDArray[np.float32], *, rows: NDArray[np.int64], what: str) -> None:
    bad = rows[~np.isfinite(latents).all(axis=1)]
    if len(bad):
        raise DataError(
            f"{what}: expected finite latents, got NaN or infinity for {len(bad)} items, the first "
            f"of them in rows {bad[:5].tolist()}; look for such numbers in their embeddings"
        )
