"""Index files: semantic IDs in the layout that the authors, LC-Rec and LETTER share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mql4grec import artifacts
from mql4grec._core import find_collisions
from mql4grec.codes.assignment import repair
from mql4grec.codes.records import CollisionReport, SemanticIds, compare
from mql4grec.codes.tokens import MAX_LEVELS, MIN_LEVELS, parse_tokens, token_table
from mql4grec.config import Modality
from mql4grec.errors import CollisionError, DataError

Shared = Literal["repair", "refuse", "keep"]

PAPER_K = 256  # codes per level of the paper, LC-Rec and LETTER


def read_index(
    path: Path,
    *,
    dataset: str,
    modality: Modality,
    n_items: int | None = None,
    item_ids: Sequence[str] | None = None,
    shared: Shared = "repair",
    n_codes: Sequence[int] | None = None,
) -> tuple[SemanticIds, CollisionReport]:
    """Read an index file: ours, the authors', LC-Rec's or LETTER's.

    Args:
        path: JSON, {"item": ["<a_123>", "<b_45>", ...]} with 2 to 8 tokens for every item.
        dataset: Name of the shop.
        modality: "text" for lower-case tokens, "image" for upper-case ones.
        n_items: N, if the file's items are row numbers, as in all the files named above.
        item_ids: The N source keys in row order, if the file's items are those. One of the two.
        shared: What to do if items share their codes. "repair": the lowest row keeps them, the
            others get the lowest free codes (nobody knows distances here). "refuse", "keep".
        n_codes: K of each level. None: per level 256, or the next power of two that has room for
            the codes in the file.

    Returns:
        Semantic IDs, items that the file lacks not present; and a record of what was shared.

    Raises:
        DataError: If the file is missing or broken; with the item, level and value.
        CollisionError: If codes are shared and `shared` is "refuse", or there are more items than
            semantic IDs.
        ValueError: If not exactly one of `n_items` and `item_ids` is given, or `shared` is unknown.
    """
    if (n_items is None) == (item_ids is None):
        raise ValueError("`n_items`, `item_ids`: expected one of the two, got both or none")
    if shared not in ("repair", "refuse", "keep"):
        raise ValueError(f"`shared`: expected 'repair', 'refuse' or 'keep', got {shared!r}")
    keys = map(str, range(n_items or 0)) if item_ids is None else item_ids
    row_of = {key: row for row, key in enumerate(keys)}
    codes, present = _parse_index(_read_json(path), row_of=row_of, modality=modality, path=path)
    ids = SemanticIds(
        dataset=dataset,
        modality=modality,
        codes=codes,
        n_codes=_code_space(codes, n_codes=n_codes, path=path),
        present=present,
    )
    return _settle(ids, shared=shared, path=path)


def write_index(path: Path, ids: SemanticIds) -> None:
    """Write semantic IDs as the authors do, {"row": ["<A_123>", ...]}, absent items left out."""
    tokens = token_table(ids.n_codes, modality=ids.modality)
    index = {
        str(row): [names[code] for names, code in zip(tokens, codes, strict=True)]
        for row, codes in zip(
            np.flatnonzero(ids.present).tolist(), ids.codes[ids.present].tolist(), strict=True
        )
    }
    artifacts.write_json(path, index, indent=None)


def _read_json(path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise DataError(
                f"`{path}`: expected every item once, got {twice!r} again; make the index again"
            )
        return found

    try:
        index = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=once)
    except OSError as err:
        raise DataError(f"`{path}`: cannot be read: {err.strerror}; give an index file") from err
    except ValueError as err:
        raise DataError(f"`{path}`: expected JSON, got {err}; give an index file") from err
    if not isinstance(index, dict) or not index:
        raise DataError(
            f'`{path}`: expected {{"item": ["<a_1>", ...]}}, got {str(index)[:40]!r}; '
            "give an index file"
        )
    return index


def _parse_index(
    index: Mapping[str, Any], *, row_of: Mapping[str, int], modality: Modality, path: Path
) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """Turn an index into codes uint16 (N, L) and present bool (N)."""
    first = next(iter(index.values()))
    n_levels = len(first) if isinstance(first, list) else 0
    if not MIN_LEVELS <= n_levels <= MAX_LEVELS:
        raise DataError(
            f"`{path}`: expected {MIN_LEVELS} to {MAX_LEVELS} tokens per item, got {first!r} for "
            f"item {next(iter(index))!r}; make the index again"
        )
    codes = np.zeros((len(row_of), n_levels), np.uint16)
    present = np.zeros(len(row_of), np.bool_)
    for item, tokens in index.items():
        row = row_of.get(item)
        if row is None:
            raise DataError(
                f"`{path}`: expected items of the catalog ({len(row_of)} of them), got {item!r}; "
                "use the index that was made for this catalog"
            )
        if not isinstance(tokens, list) or len(tokens) != n_levels:
            raise DataError(
                f"`{path}`: expected {n_levels} tokens for every item, as for the first, got "
                f"{tokens!r} for item {item!r}; make the index again"
            )
        try:
            codes[row] = parse_tokens(tokens, modality=modality)
        except ValueError as err:
            raise DataError(f"`{path}`: item {item!r}, {err}") from err
        present[row] = True
    return codes, present


def _code_space(
    codes: NDArray[np.uint16], *, n_codes: Sequence[int] | None, path: Path
) -> tuple[int, ...]:
    """Check the given K of each level, or find one with room for all codes (N, L)."""
    highest: list[int] = codes.max(axis=0).tolist()
    if n_codes is None:
        return tuple(max(PAPER_K, 1 << top.bit_length()) for top in highest)
    if len(n_codes) != len(highest) or any(
        top >= n for top, n in zip(highest, n_codes, strict=True)
    ):
        raise DataError(
            f"`{path}`: expected {len(n_codes)} levels of codes below {tuple(n_codes)}, got "
            f"{len(highest)} levels with codes up to {tuple(highest)}; use the index that was made "
            "by these codebooks"
        )
    return tuple(n_codes)


def _settle(ids: SemanticIds, *, shared: Shared, path: Path) -> tuple[SemanticIds, CollisionReport]:
    """Do with shared codes what `shared` says."""
    if shared == "repair":
        return repair(ids, what=f"`{path}`")
    rows = np.flatnonzero(ids.present)
    offsets, sharing = find_collisions(ids.codes[rows])
    if shared == "refuse" and len(sharing):
        first = rows[np.sort(sharing)[:5]].tolist()
        raise CollisionError(
            f"`{path}`: expected codes of its own for every item, got {len(sharing)} items that "
            f"share {len(offsets) - 1} semantic IDs, the first of them in rows {first}; set "
            "`codes.shared` to 'repair' or make the index again"
        )
    return ids, compare(ids.codes[rows], ids.codes[rows], n_codes=ids.n_codes)
