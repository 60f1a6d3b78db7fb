"""Rankings as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from mql4grec.artifacts import atomic_path

if TYPE_CHECKING:
    from mql4grec.decoding import Rankings


def write_rankings(
    path: Path, rankings: Rankings, *, user_ids: Sequence[str], item_ids: Sequence[str]
) -> None:
    """Write rankings as a table for people's own tools: one row per user and rank, best first.

    Args:
        path: The Parquet file: user_id (string), rank (int32, from 1), item_id (string),
            score (float32).
        rankings: Items int32 (U, M) and scores; entries of -1 are left out.
        user_ids: Source key of each user (U).
        item_ids: Source key of each item (N).

    Raises:
        ValueError: If there is not one user id per ranking, or an item is no row of `item_ids`.
    """
    n_users = len(rankings.items)
    if len(user_ids) != n_users:
        raise ValueError(
            f"`user_ids`: expected {n_users}, one per ranking, got {len(user_ids)}; "
            "give the users that were ranked"
        )
    if rankings.items.size and rankings.items.max() >= len(item_ids):
        raise ValueError(
            f"`rankings.items`: expected rows below {len(item_ids)}, the number of `item_ids`, "
            f"got {rankings.items.max()}; give the ids of the same shop"
        )
    users, columns = np.nonzero(rankings.items >= 0)
    table = pl.DataFrame(
        {
            "user_id": _gather(user_ids, users),
            "rank": (columns + 1).astype(np.int32),
            "item_id": _gather(item_ids, rankings.items[users, columns]),
            "score": rankings.scores[users, columns].astype(np.float32),
        }
    )
    with atomic_path(path) as temporary:
        table.write_parquet(temporary)


def _gather(ids: Sequence[str], rows: np.ndarray) -> pl.Series:
    return pl.Series(list(ids), dtype=pl.String).gather(rows)
