"""Give every item a semantic ID of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mql4grec._core import find_collisions, resolve_collisions_from_latents
from mql4grec.artifacts import new_array
from mql4grec.codes.records import CollisionReport, Errors, SemanticIds, compare
from mql4grec.config import CodesSettings
from mql4grec.errors import CollisionError, DataError

if TYPE_CHECKING:
    from mql4grec.translator import Translation  # at run time it would import torch

ROWS_AT_ONCE = 1 << 16


def assign(
    translation: Translation,
    settings: CodesSettings | None = None,
    *,
    existing: SemanticIds | None = None,
    item_ids: Sequence[str] | None = None,
) -> tuple[SemanticIds, CollisionReport]:
    """Give every item of a translation a semantic ID of its own.

    Items that share nothing never move, and of those that share a semantic ID one keeps it. Only
    the latents of items that share one are read, so that both may be memory-mapped.

    Args:
        translation: Nearest codes (N, L), latents (N, E) and codebooks of one shop and modality.
        settings: The policy; None: the paper's.
        existing: Semantic IDs that stay whatever happens, with the same N rows; rows not present in
            it are new items. None: all items are new.
        item_ids: The N source keys. Between items that are as near as each other they decide, so
            that the order of the rows makes no difference; None: the lower row comes first.

    Returns:
        Semantic IDs, and a record of what was done.

    Raises:
        CollisionError: If there are more items than semantic IDs, or existing ones are shared.
        DataError: If a latent that is read has NaN or infinity, or existing codes do not fit.

    Source:
        MQL4GRec, section 3.2, for the policy "paper". Unlike the authors' code: the second nearest
        code is tried first, not the one at the item's place in its group; distances follow a change
        of the prefix; every level may change, so that nothing stays shared.
    """
    settings = settings or CodesSettings()
    what = f"{translation.modality} codes of `{translation.dataset}`"
    n_codes = tuple(len(codebook) for codebook in translation.codebooks)
    present, nearest = translation.present, translation.codes
    if existing is not None:
        _require_fit(existing, n_codes=n_codes, what=what)
        present = present | existing.present
        nearest = np.where(existing.present[:, None], existing.codes, nearest)
    rows = None if present.all() else np.flatnonzero(present)
    before = _part(nearest, rows)
    frozen = None if existing is None else _part(existing.present, rows)
    require_room(len(before), n_codes=n_codes, what=what)
    sharing = _sharing(before, frozen=frozen, what=what)
    needed = sharing if rows is None else rows[sharing]
    latents = _gather(translation.latents, needed, what=what)
    after, moved, costs = resolve_collisions_from_latents(
        before,
        latents,
        translation.codebooks,
        policy=settings.policy,
        keep=settings.keep,
        reassign=settings.reassign,
        open_levels=settings.open_levels,
        keys=None if item_ids is None else _part(_keys(item_ids, needed), rows),
        frozen=frozen,
        rows=sharing,
    )
    del latents
    codes = after
    if rows is not None:
        codes = np.zeros_like(translation.codes)
        codes[rows] = after
    ids = SemanticIds(
        dataset=translation.dataset,
        modality=translation.modality,
        codes=codes,
        n_codes=n_codes,
        present=present,
    )
    added = float(costs.sum(dtype=np.float64)) if len(moved) else None
    errors = Errors(added=added, quantisation=translation.quantisation_error)
    return ids, compare(before, after, n_codes=n_codes, errors=errors)


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
    require_room(len(rows), n_codes=ids.n_codes, what=what)
    # Latents and codes that all lie at zero: every distance is the same, so the rows decide.
    latents = np.zeros((len(rows), 1), np.float32)
    codebooks = [np.zeros((n, 1), np.float32) for n in ids.n_codes]
    before = ids.codes[rows]
    after, _, _ = resolve_collisions_from_latents(before, latents, codebooks)
    codes = ids.codes.copy()
    codes[rows] = after
    return dataclasses.replace(ids, codes=codes), compare(before, after, n_codes=ids.n_codes)


def _part(values: NDArray[Any], rows: NDArray[np.int64] | None) -> NDArray[Any]:
    """Cut out some rows; all of them need no copy."""
    return values if rows is None else values[rows]


def _keys(item_ids: Sequence[str], needed: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash the source keys of the needed rows to uint64 (N), the same on every machine."""
    keys = np.zeros(len(item_ids), np.uint64)
    for row in needed.tolist():
        digest = hashlib.blake2b(item_ids[row].encode(), digest_size=8).digest()
        keys[row] = int.from_bytes(digest, "little")
    return keys


def _sharing(
    codes: NDArray[np.uint16], *, frozen: NDArray[np.bool_] | None, what: str
) -> NDArray[np.int64]:
    """List the rows that share their codes and are not frozen, ascending."""
    offsets, rows = find_collisions(codes)
    if frozen is None:
        return np.sort(rows)
    held = frozen[rows]
    n_held = np.add.reduceat(held, offsets[:-1]) if len(rows) else np.zeros(0, np.int64)
    if (n_held > 1).any():
        groups = np.repeat(n_held > 1, np.diff(offsets))
        first = np.sort(rows[groups & held])[:5].tolist()
        raise CollisionError(
            f"{what}: expected existing codes that differ, got {int(n_held[n_held > 1].sum())} "
            f"items that share theirs, the first of them in rows {first}; repair the old index "
            "first"
        )
    return np.sort(rows[~held])


def _require_fit(existing: SemanticIds, *, n_codes: tuple[int, ...], what: str) -> None:
    top = existing.codes[existing.present].max(axis=0, initial=0).tolist()
    if len(top) != len(n_codes) or any(code >= n for code, n in zip(top, n_codes, strict=True)):
        raise DataError(
            f"{what}: expected existing codes of {len(n_codes)} levels below {n_codes}, got "
            f"{len(top)} levels up to {tuple(top)}; extend with the translator that made them"
        )


def require_room(n_items: int, *, n_codes: Sequence[int], what: str) -> None:
    """Check that so many items can have semantic IDs of their own.

    Raises:
        CollisionError: If not; with how many are too many.
    """
    capacity = math.prod(n_codes)
    if n_items > capacity:
        raise CollisionError(
            f"{what}: expected at most {capacity} items for {len(n_codes)} levels of "
            f"{tuple(n_codes)} codes, got {n_items}, {n_items - capacity} too many; add a level or "
            "codes to `translator.num_emb_list`"
        )


def _gather(
    latents: NDArray[np.float32], rows: NDArray[np.int64], *, what: str
) -> NDArray[np.float32]:
    """Copy some latents out of (N, E): of a file into another one, else into memory.

    The resolver reads them in any order, which is slow in a file that is larger than the memory.
    """
    file = getattr(latents, "filename", None)
    shape = (len(rows), latents.shape[1])
    if file is None or len(rows) == 0:
        found = np.asarray(latents[rows], np.float32)
        _require_finite(found, rows=rows, what=what)
        return found
    place = Path(file).with_name("sharing.npy")
    mapped = new_array(place, shape=shape, dtype=np.float32)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        source = np.load(file, mmap_mode="r")  # anew, so that pages read before count no longer
        mapped[start : start + len(part)] = source[part]
        _require_finite(mapped[start : start + len(part)], rows=part, what=what)
    return mapped


def _require_finite(latents: NDArray[np.float32], *, rows: NDArray[np.int64], what: str) -> None:
    bad = rows[~np.isfinite(latents).all(axis=1)]
    if len(bad):
        raise DataError(
            f"{what}: expected finite latents, got NaN or infinity for {len(bad)} items, the first "
            f"of them in rows {bad[:5].tolist()}; look for such numbers in their embeddings"
        )
