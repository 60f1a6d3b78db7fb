"""The authors' files: histories and items by row, and what the rows are called outside.

`NAME.inter.json` is {"user row": [item row, ...]} in time order; `NAME.item.json` is {"item row":
{"title", "description", ...}}, in our files with "image", the picture's path, relative to the file
where possible; `NAME.item2id` and `NAME.user2id` have lines of a source key, a tab, and a row.
Files of others may lack all but the first.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mql4grec.artifacts import require, write_json
from mql4grec.catalog.ids import is_row, read_ids, write_ids
from mql4grec.catalog.records import Catalog, Histories
from mql4grec.catalog.source import Source
from mql4grec.catalog.tables import Column, as_text
from mql4grec.catalog.text import join_texts
from mql4grec.errors import DataError, short

MADE_BY = "prepare"
MOST_UNNAMED = 10_000_000  # items without `.item2id`: one row of 2^31 would name as many


def load(folder: Path, name: str) -> Catalog:
    """Read a shop that `prepare` has written.

    Args:
        folder: `RUN/catalog/NAME`.
        name: Of the data set.

    Raises:
        ArtifactError: If a file is missing.
        DataError: If a file is not as `prepare` writes it.
    """
    parts = ("inter.json", "item.json", "item2id", "user2id")
    inter, item, item2id, user2id = (
        require(folder / f"{name}.{part}", made_by=MADE_BY) for part in parts
    )
    _, lengths, rows = _read_histories(inter)
    item_ids = read_ids(item2id)
    records = [record for _, record in sorted(_read_items(item).items())]
    if len(records) != len(item_ids) or rows.max(initial=-1) >= len(item_ids):
        raise DataError(
            f"`{inter}`: expected the rows of the {len(item_ids)} items of `{item2id}`, "
            f"got {len(records)} in `{item}`, {rows.max(initial=-1)} as the largest here; "
            f"delete `{folder}` and run `mql4grec {MADE_BY}` again"
        )
    return Catalog(
        name=name,
        item_ids=tuple(item_ids),
        user_ids=tuple(read_ids(user2id)),
        titles=tuple(record.get("title", "") for record in records),
        texts=tuple(join_texts((r.get("title", ""), r.get("description", ""))) for r in records),
        images=tuple(folder / r["image"] if r.get("image") else None for r in records),
        histories=Histories(offsets=_offsets(lengths), items=rows.astype(np.int32)),
    )


def save(catalog: Catalog, *, descriptions: Sequence[str], folder: Path) -> None:
    """Write a shop as the authors lay it out, each file atomically.

    Args:
        catalog: The shop.
        descriptions: The texts without the titles (N).
        folder: `RUN/catalog/NAME`; pictures inside it are named relative to it.
    """
    stem = folder / catalog.name
    offsets, items = catalog.histories.offsets.tolist(), catalog.histories.items.tolist()
    histories = {str(u): items[a:b] for u, (a, b) in enumerate(itertools.pairwise(offsets))}
    rows = zip(catalog.titles, descriptions, catalog.images, strict=True)
    records = {
        str(row): {"title": title, "description": text, "image": _relative(image, folder)}
        for row, (title, text, image) in enumerate(rows)
    }
    write_ids(stem.with_name(f"{catalog.name}.item2id"), catalog.item_ids)
    write_ids(stem.with_name(f"{catalog.name}.user2id"), catalog.user_ids)
    write_json(stem.with_name(f"{catalog.name}.item.json"), records)
    write_json(stem.with_name(f"{catalog.name}.inter.json"), histories, indent=None)


def read_authors(
    folder: Path, *, name: str, columns: Mapping[str, Column], image_pattern: str | None
) -> Source:
    """Read a shop in the authors' layout; rows stay the rows of the files.

    Args:
        folder: ROOT/NAME.
        name: Of the data set.
        columns: What to take of the items in `NAME.item.json`, by the name it gets.
        image_pattern: Path of the pictures of items without an image of their own.

    Raises:
        DataError: If a file is missing or malformed.
    """
    inter, item, item2id, user2id = (
        folder / f"{name}.{part}" for part in ("inter.json", "item.json", "item2id", "user2id")
    )
    users, lengths, rows = _read_histories(inter)
    records = _read_items(item) if item.exists() else {}
    if item2id.exists():
        item_ids = read_ids(item2id)
    else:
        item_ids = _row_names(inter, max(records, default=int(rows.max(initial=-1))) + 1)
    if records and max(records) >= len(item_ids):
        raise DataError(
            f"`{item}`: expected rows below {len(item_ids)} as in `{item2id}`, "
            f"got {max(records)}; use files that belong together"
        )
    events = pl.DataFrame({"user": _name_users(users, user2id)}).select(
        pl.col("user").repeat_by(pl.Series(lengths)).explode(empty_as_null=False)
    )
    events = events.with_columns(item=pl.Series(rows).cast(pl.String))
    offsets = _offsets(lengths)
    position = np.arange(len(rows)) - np.repeat(offsets[:-1], lengths) + 1
    return Source(
        events=events.with_columns(row=pl.Series(position)),
        items=_item_table(item_ids, records, columns, file=item),
        events_file=inter,
        items_file=item if records else item2id,
        where="user {user}, event {row}",
        image_folder=folder,
        image_pattern=image_pattern,
        complete=True,
    )


def _row_names(inter: Path, n_items: int) -> list[str]:
    if n_items > MOST_UNNAMED:
        raise DataError(
            f"`{inter}`: expected at most {MOST_UNNAMED:,} items without an `.item2id`, got row "
            f"{n_items - 1}; correct the row or add the file"
        )
    return [str(row) for row in range(n_items)]


def _name_users(users: list[int], user2id: Path) -> list[str]:
    if not user2id.exists():
        return [str(user) for user in users]
    names = read_ids(user2id)
    if max(users, default=-1) >= len(names):
        raise DataError(
            f"`{user2id}`: expected all users, got {len(names)}, without user {max(users)}; "
            "use files that belong together"
        )
    return [names[user] for user in users]


def _item_table(
    item_ids: list[str],
    records: Mapping[int, Mapping[str, Any]],
    columns: Mapping[str, Column],
    *,
    file: Path,
) -> pl.DataFrame:
    rows = range(len(item_ids))
    table: dict[str, Sequence[Any]] = {
        "row": [row + 1 for row in rows],
        "key": [str(row) for row in rows],
        "item_id": item_ids,
    }
    for to, column in columns.items():
        if any(column.name in record for record in records.values()):
            table[to] = [as_text(records.get(row, {}).get(column.name)) for row in rows]
        elif column.required:
            raise DataError(
                f"`{file}`: expected items with {column.name!r}, got none; set `{column.setting}`"
            )
    return pl.DataFrame(table)


def _read_histories(path: Path) -> tuple[list[int], NDArray[np.int64], NDArray[np.int64]]:
    """Give the user rows (U), the lengths int64 (U,), and all item rows int64 (E,)."""
    found = _read_object(path)
    users = [_row(path, "user", key) for key in found]
    for user, history in found.items():
        if not isinstance(history, list):
            raise DataError(
                f"`{path}`, user {short(user)}: expected a list of item rows, got "
                f"{short(history)}; correct it"
            )
        if not all(type(item) is int and 0 <= item < 2**31 for item in history):
            bad = next(i for i in history if type(i) is not int or not 0 <= i < 2**31)
            place = history.index(bad) + 1
            raise DataError(
                f"`{path}`, user {short(user)}, event {place}: expected the row of an item, a "
                f"whole number from 0, got {short(bad)}; correct it"
            )
    lengths = np.fromiter((len(history) for history in found.values()), np.int64, len(found))
    rows = np.fromiter(itertools.chain.from_iterable(found.values()), np.int64, lengths.sum())
    return users, lengths, rows


def _read_items(path: Path) -> dict[int, dict[str, Any]]:
    records = _read_object(path)
    for key, record in records.items():
        if not isinstance(record, dict):
            raise DataError(
                f"`{path}`, item {short(key)}: expected an object, got {short(record)}; correct it"
            )
    return {_row(path, "item", key): record for key, record in records.items()}


def _read_object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"`{path}`: no such file; check the path, it is relative to {Path.cwd()}")
    twice: list[str] = []

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs) and not twice:
            names = [name for name, _ in pairs]
            twice.append(next(name for name in found if names.count(name) > 1))
        return found

    try:
        value = json.loads(path.read_bytes(), object_pairs_hook=once)
    except RecursionError as err:
        raise DataError(f"`{path}`: expected JSON, got one nested too deep; correct it") from err
    except ValueError as err:
        raise DataError(f"`{path}`: expected JSON, got {err}; correct the file") from err
    if twice:
        raise DataError(f"`{path}`: expected every key once, got {short(twice[0])} twice; drop one")
    if not isinstance(value, dict):
        raise DataError(f"`{path}`: expected one JSON object, got {type(value).__name__}")
    return value


def _row(path: Path, what: str, key: str) -> int:
    if not is_row(key):
        raise DataError(
            f"`{path}`, {what} {short(key)}: expected a row, a whole number from 0, as the key; "
            "put the names into `.item2id` and `.user2id`"
        )
    return int(key)


def _relative(image: Path | None, folder: Path) -> str | None:
    if image is None:
        return None
    return str(image.relative_to(folder) if image.is_relative_to(folder) else image)


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
