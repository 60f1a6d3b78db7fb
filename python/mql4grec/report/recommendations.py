"""Recommendations as JSON lines or Parquet, written while they come."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from mql4grec.artifacts import atomic_path, scratch_folder
from mql4grec.errors import ConfigError, DataError, plain

LINES = (".jsonl", ".ndjson", ".json")
PART = 1 << 14  # histories whose recommendations are in memory together
COLUMNS = {
    "request": pl.Int64,
    "user_id": pl.String,
    "rank": pl.Int32,
    "item_id": pl.String,
    "title": pl.String,
    "score": pl.Float32,
    "certified": pl.Boolean,
}


@dataclass(frozen=True)
class Recommendation:
    """The items recommended for one history, best first; fewer than asked for where no more fit.

    Attributes:
        history: Item ids that were given, oldest first.
        item_ids: Source keys of the items.
        titles: Of the items, "" where missing.
        scores: Of the items: log-probabilities, or what the fusion made of two.
        user_id: As it was given.
        unknown: Item ids of the history that the shop does not have and that were left out.
        certified: Whether the list is provably what scoring every item would give; of a fused one,
            whether that holds for both lists that were fused.
    """

    history: tuple[str, ...]
    item_ids: tuple[str, ...]
    titles: tuple[str, ...]
    scores: tuple[float, ...]
    user_id: str | None = None
    unknown: tuple[str, ...] = ()
    certified: bool = False


def check_suffix(path: Path) -> None:
    """Refuse the name of a file that `write_recommendations` could not write.

    Raises:
        ConfigError: If the suffix is none of .jsonl, .ndjson, .json and .parquet, or there is a
            folder of that name.
    """
    if path.suffix not in (*LINES, ".parquet"):
        raise ConfigError(
            f"`{path}`: expected a name ending in {', '.join(LINES)} (JSON lines) or .parquet, "
            f"got {path.name!r}; rename it"
        )
    if path.is_dir():
        raise ConfigError(f"`{path}`: expected the name of a file, got a folder; add a name")


def as_json(found: Recommendation) -> str:
    """Spell a recommendation as one line of JSON, without the line break.

    Returns:
        An object with `user_id` (if given), `history`, `certified` (true or false) and `items`,
        each with `item_id`, `title` and `score`.
    """
    items = [
        {"item_id": item_id, "title": title, "score": round(score, 6)}
        for item_id, title, score in zip(found.item_ids, found.titles, found.scores, strict=True)
    ]
    user = {} if found.user_id is None else {"user_id": found.user_id}
    about = {**user, "history": found.history, "certified": found.certified}
    return plain(json.dumps({**about, "items": items}, ensure_ascii=False))  # escapes are JSON's


def write_recommendations(path: Path, recommendations: Iterable[Recommendation]) -> int:
    """Write recommendations to a file that is there only once it is whole.

    They are taken one by one, so that an iterator is never in memory at once.

    Args:
        path: JSON lines as `as_json` spells them, or Parquet with a row per recommended item:
            request (int64, place among the histories, from 0), user_id (string), rank (int32, from
            1), item_id (string), title (string), score (float32), certified (bool, the same in all
            rows of a request). A history without any has no row.
        recommendations: In the order of the histories.

    Returns:
        Number of histories.

    Raises:
        ConfigError: If the suffix is another one.
        DataError: If the file cannot be written.
    """
    check_suffix(path)
    try:
        with atomic_path(path) as temporary:
            if path.suffix == ".parquet":
                return _write_parquet(temporary, recommendations)
            return _write_lines(temporary, recommendations)
    except OSError as err:
        raise DataError(
            f"`{path}`: expected a place to write to, got {err}; choose another"
        ) from err


def _write_lines(path: Path, recommendations: Iterable[Recommendation]) -> int:
    done = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for found in recommendations:
            file.write(as_json(found) + "\n")
            done += 1
    return done


def _write_parquet(path: Path, recommendations: Iterable[Recommendation]) -> int:
    """Write parts beside `path`, then one file of all of them."""
    numbered = iter(enumerate(recommendations))
    parts = iter(lambda: list(itertools.islice(numbered, PART)), [])
    done = 0
    with scratch_folder(path.parent) as folder:
        # The first part is empty, so that a file of no rows has its columns too.
        for number, part in enumerate(itertools.chain([[]], parts)):
            _table(part).write_parquet(folder / f"{number:06d}.parquet")
            done += len(part)
        pl.scan_parquet(folder / "*.parquet").sink_parquet(path)
    return done


def _table(part: list[tuple[int, Recommendation]]) -> pl.DataFrame:
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for number, found in part:
        count = len(found.item_ids)
        columns["request"] += [number] * count
        columns["user_id"] += [found.user_id] * count
        columns["rank"] += range(1, count + 1)
        columns["item_id"] += found.item_ids
        columns["title"] += found.titles
        columns["score"] += found.scores
        columns["certified"] += [found.certified] * count
    return pl.DataFrame(columns, schema=COLUMNS)
