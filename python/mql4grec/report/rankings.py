"""Rankings as Parquet, written and read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from mql4grec.artifacts import atomic_path, require, told_of, vet_parquet
from mql4grec.decoding import Rankings
from mql4grec.errors import DataError


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


def read_rankings(path: Path, *, user_ids: Sequence[str], item_ids: Sequence[str]) -> Rankings:
    """Read a table as `write_rankings` writes it, of any source.

    Args:
        path: The Parquet file, its rows in any order; users that it lacks get an empty list.
        user_ids: Source key of each user (U); other users of the file are left out.
        item_ids: Source key of each item (N).

    Returns:
        Items (U, M), by the file's `rank`, which need not be numbered without gaps.

    Raises:
        DataError: If the file cannot be read, lacks a column or has an item that the shop has not,
            a score that is no number, or an item twice for one user.
    """
    table = _read_table(path)
    rows = pl.DataFrame(
        {"user_id": list(user_ids), "user": np.arange(len(user_ids))},
        schema_overrides={"user_id": pl.String},
    )
    columns = pl.DataFrame(
        {"item_id": list(item_ids), "item": np.arange(len(item_ids), dtype=np.int32)},
        schema_overrides={"item_id": pl.String},
    )
    table = table.join(rows, on="user_id").join(columns, on="item_id", how="left")
    for fault, is_fault in (
        ("items of the shop", pl.col("item").is_null()),
        ("scores that are numbers", ~pl.col("score").is_finite().fill_null(value=False)),
        ("each item once per user", table.select("user", "item").is_duplicated()),
    ):
        if found := table.filter(is_fault).head(1).to_dicts():
            user, item, score = (found[0][name] for name in ("user_id", "item_id", "score"))
            raise DataError(
                f"`{path}`: expected {fault}, got item {item!r} with score {score!r} for user "
                f"{user!r}; mend the file"
            )
    table = table.sort("user", "rank")
    users = table["user"].to_numpy()
    counts = np.bincount(users, minlength=len(user_ids))
    place = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = max(int(counts.max(initial=0)), 1)
    items = np.full((len(user_ids), width), -1, np.int32)
    scores = np.full((len(user_ids), width), -np.inf, np.float32)
    items[users, place] = table["item"].to_numpy()
    scores[users, place] = table["score"].to_numpy()
    return Rankings(items=items, scores=scores)


def _read_table(path: Path) -> pl.DataFrame:
    try:
        if told_of(path) is not None:
            require(path, made_by="evaluate")
        elif path.is_file():
            vet_parquet([path])
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as err:
        raise DataError(f"`{path}`: expected a Parquet file, got {err}; check the path") from err
    wanted = ["user_id", "rank", "item_id", "score"]
    if missing := [name for name in wanted if name not in table.columns]:
        raise DataError(
            f"`{path}`: expected the columns {wanted}, {missing} missing; "
            "write it as `evaluation/rankings/*.parquet` of a run are"
        )
    return table.select(
        pl.col("user_id", "item_id").cast(pl.String),
        pl.col("rank"),
        pl.col("score").cast(pl.Float32),
    )


def _gather(ids: Sequence[str], rows: np.ndarray) -> pl.Series:
    return pl.Series(list(ids), dtype=pl.String).gather(rows)
